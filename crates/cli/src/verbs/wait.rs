//! `wait`: until a condition holds, or an object is gone.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::output::jsonpath::JsonPath;
use crate::session::Session;
use crate::targets::{Target, Targets, with_query};

/// Wait for a specific condition on one or many resources.
#[derive(Args)]
pub struct Wait {
    #[command(flatten)]
    targets: Targets,
    /// condition=NAME[=VALUE], jsonpath={...}[=VALUE], delete or create
    #[arg(long = "for")]
    until: String,
    /// How long at most, such as 30s
    #[arg(long, default_value = "30s")]
    timeout: String,
}

enum Until {
    Condition(String, String),
    Path(JsonPath, Option<String>),
    Delete,
    Create,
}

impl Wait {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let until = Until::parse(&self.until)?;
        let limit = session.world.sleep(Duration::from_secs(seconds(&self.timeout)?));
        let work = self.wait(session, &until);
        futures::pin_mut!(work);
        match futures::future::select(work, limit).await {
            futures::future::Either::Left((done, _)) => done,
            futures::future::Either::Right(_) => {
                Err(CliError::usage(format!("timed out waiting for the condition on {}", self.targets.words.join(" "))))
            }
        }
    }

    async fn wait(&self, session: &mut Session, until: &Until) -> Result<(), CliError> {
        let found = match until {
            Until::Delete | Until::Create => {
                let targets = self.targets.resolve(session).await?;
                if targets.iter().all(|t| t.name.is_some()) { targets } else { self.fetched(session).await? }
            }
            _ => self.fetched(session).await?,
        };
        if found.is_empty() {
            return if matches!(until, Until::Delete) {
                Ok(())
            } else {
                Err(CliError::usage("no matching resources found"))
            };
        }
        for target in found {
            until.reached(session, &target).await?;
            let word = match until {
                Until::Delete => "deleted",
                _ => "condition met",
            };
            session.line(format!("{} {word}", target.shown()))?;
        }
        Ok(())
    }

    async fn fetched(&self, session: &mut Session) -> Result<Vec<Target>, CliError> {
        Ok(self.targets.fetch(session).await?.into_iter().map(|(target, _)| target).collect())
    }
}

impl Until {
    fn parse(text: &str) -> Result<Self, CliError> {
        let lower = text.to_ascii_lowercase();
        if lower == "delete" {
            return Ok(Self::Delete);
        }
        if lower == "create" {
            return Ok(Self::Create);
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Self::Condition(name.to_owned(), value.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            let (path, value) = match rest.split_once("}=") {
                Some((path, value)) => (format!("{path}}}"), Some(value.to_owned())),
                None => (rest.to_owned(), None),
            };
            return Ok(Self::Path(JsonPath::parse(path.trim_matches('\''))?, value));
        }
        Err(CliError::usage(format!("unrecognized condition: \"{text}\"")))
    }

    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Delete, found) => found.is_none(),
            (Self::Create, found) => found.is_some(),
            (_, None) => false,
            (Self::Condition(name, value), Some(object)) => {
                let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|c| {
                    let text = |field: &str| c[field].as_str().unwrap_or_default();
                    text("type").eq_ignore_ascii_case(name) && text("status").eq_ignore_ascii_case(value)
                })
            }
            (Self::Path(path, value), Some(object)) => match value {
                Some(value) => path.select(object).iter().any(|v| path_text(v) == *value),
                None => !path.select(object).is_empty(),
            },
        }
    }

    async fn reached(&self, session: &Session, target: &Target) -> Result<(), CliError> {
        loop {
            let fields = format!("metadata.name={}", target.name.as_deref().unwrap_or_default());
            let collection = with_query(&target.kind.path(&target.namespace), &[("fieldSelector", &fields)]);
            let list = session.wire.get(&collection).await?;
            if self.holds(list["items"].get(0)) {
                return Ok(());
            }
            let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let mut lines = session
                .wire
                .watch(&with_query(&collection, &[("watch", "true"), ("resourceVersion", version)]), "application/json")
                .await?;
            while let Some(event) = lines.next().await? {
                let object = &event["object"];
                match event["type"].as_str() {
                    Some("ADDED" | "MODIFIED") if self.holds(Some(object)) => return Ok(()),
                    Some("DELETED") if self.holds(None) => return Ok(()),
                    Some("ERROR") => break,
                    _ => {}
                }
            }
        }
    }
}

fn path_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Seconds of `90`, `90s`, `2m`, `1h30m`.
pub fn seconds(text: &str) -> Result<u64, CliError> {
    if let Ok(plain) = text.parse() {
        return Ok(plain);
    }
    let parsed = skiff_meta::duration::parse(text).map(|length| length.as_secs());
    parsed.ok_or_else(|| CliError::usage(format!("\"{text}\" is no duration; write it like 30s, 5m or 1h30m")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations() {
        for (text, expected) in [("0", 0), ("30s", 30), ("1h30m", 5400), ("2m", 120)] {
            assert_eq!(seconds(text).unwrap(), expected);
        }
        for bad in ["", "x", "5y", "m"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions() {
        let pod = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        for (text, expected) in [
            ("condition=Ready", true),
            ("condition=ready=false", false),
            ("jsonpath={.status.phase}=Running", true),
            ("delete", false),
            ("jsonpath={.status.podIP}", false),
        ] {
            assert_eq!(Until::parse(text).unwrap().holds(Some(&pod)), expected, "{text}");
        }
        assert!(Until::parse("delete").unwrap().holds(None));
    }
}
