//! `describe`: an object as people read it, with its events.
//!
//! Pods, nodes, workloads and Services have a view of their own; every other kind, custom ones included, is shown field
//! by field.

mod generic;
mod views;

use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::output::{items, table};
use crate::session::Session;
use crate::targets::{Target, Targets, with_query};

/// Show details of a specific resource or group of resources.
#[derive(Args)]
pub struct Describe {
    #[command(flatten)]
    targets: Targets,
    /// Show the object's events
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    show_events: bool,
}

impl Describe {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let mut targets = self.targets.clone();
        targets.all = true;
        let found = targets.fetch(session).await?;
        if found.is_empty() {
            session.warn(&format!("No resources found in {} namespace.", session.namespace));
        }
        for (i, (target, object)) in found.iter().enumerate() {
            if i > 0 {
                session.print("\n\n")?;
            }
            let text = page(&target.kind.kind, object);
            session.print(&text)?;
            if self.show_events {
                let events = events(session, target, object).await?;
                session.print(&events)?;
            }
        }
        Ok(())
    }
}

fn page(kind: &str, object: &Value) -> String {
    let mut page = Page::default();
    match kind {
        "Pod" => views::pod(&mut page, object),
        "Node" => views::node(&mut page, object),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => views::workload(&mut page, kind, object),
        "Service" => views::service(&mut page, object),
        "Secret" => views::secret(&mut page, object),
        _ => generic::object(&mut page, object),
    }
    page.finish()
}

/// Lines of `Name:  value`, aligned per level at the end.
#[derive(Default)]
pub(crate) struct Page {
    lines: Vec<(usize, String, Option<String>)>,
}

impl Page {
    fn pair(&mut self, level: usize, name: &str, value: impl Into<String>) {
        self.lines.push((level, format!("{name}:"), Some(value.into())));
    }
    fn heading(&mut self, level: usize, name: &str) {
        self.lines.push((level, format!("{name}:"), None));
    }
    fn text(&mut self, level: usize, text: impl Into<String>) {
        self.lines.push((level, text.into(), None));
    }
    /// A pair only where there is something to say.
    fn known(&mut self, level: usize, name: &str, value: &Value) {
        if let Some(text) = generic::scalar(value)
            && !text.is_empty()
        {
            self.pair(level, name, text);
        }
    }
    /// A map, one entry a line.
    fn map(&mut self, level: usize, name: &str, value: &Value) {
        let entries: Vec<String> = value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect();
        self.several(level, name, &entries);
    }
    fn several(&mut self, level: usize, name: &str, entries: &[String]) {
        self.pair(level, name, entries.first().cloned().unwrap_or_else(|| "<none>".to_owned()));
        for entry in entries.iter().skip(1) {
            self.lines.push((level, String::new(), Some(entry.clone())));
        }
    }
    /// A table under a heading.
    fn table(&mut self, level: usize, name: &str, rows: &[Vec<String>]) {
        self.heading(level, name);
        for line in table::align(rows).lines() {
            self.text(level + 1, line);
        }
    }

    fn finish(self) -> String {
        let mut widths = std::collections::BTreeMap::new();
        for (level, name, value) in &self.lines {
            if value.is_some() {
                let width: &mut usize = widths.entry(*level).or_default();
                *width = (*width).max(name.chars().count() + 2);
            }
        }
        let mut out = String::new();
        for (level, name, value) in self.lines {
            let indent = "  ".repeat(level);
            match value {
                None => out.push_str(&format!("{indent}{name}\n")),
                Some(value) => {
                    let width = widths.get(&level).copied().unwrap_or_default();
                    out.push_str(format!("{indent}{name:<width$}{value}").trim_end());
                    out.push('\n');
                }
            }
        }
        out
    }
}

async fn events(session: &Session, target: &Target, object: &Value) -> Result<String, CliError> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let fields = format!("involvedObject.name={},involvedObject.uid={uid}", target.name.as_deref().unwrap_or_default());
    let namespace = if target.namespace.is_empty() { "default" } else { &target.namespace };
    // The node agent has always named nodes, not UIDs, in the events about them.
    let fields = if target.kind.kind == "Node" {
        format!("involvedObject.kind=Node,involvedObject.name={}", target.name.as_deref().unwrap_or_default())
    } else {
        fields
    };
    let path = with_query(&format!("/api/v1/namespaces/{namespace}/events"), &[("fieldSelector", &fields)]);
    let mut events = items(&session.wire.get(&path).await?);
    if events.is_empty() {
        return Ok("Events:  <none>\n".to_owned());
    }
    events.sort_by_cached_key(|e| time_of(e).to_owned());
    let mut rows = vec![
        ["Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec(),
        ["----", "------", "----", "----", "-------"].map(str::to_owned).to_vec(),
    ];
    let now = session.world.now();
    for event in &events {
        let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
        let from = if event["source"]["component"].is_string() {
            &event["source"]["component"]
        } else {
            &event["reportingComponent"]
        };
        let count = event["count"].as_i64().unwrap_or(1);
        let age = age(time_of(event), now);
        let age = if count > 1 {
            format!("{age} (x{count} over {})", self::age(event["firstTimestamp"].as_str().unwrap_or_default(), now))
        } else {
            age
        };
        rows.push(vec![text(&event["type"]), text(&event["reason"]), age, text(from), text(&event["message"])]);
    }
    let lines: String = table::align(&rows).lines().map(|l| format!("  {l}\n")).collect();
    Ok(format!("Events:\n{lines}"))
}

fn time_of(event: &Value) -> &str {
    let times =
        [&event["lastTimestamp"], &event["series"]["lastObservedTime"], &event["eventTime"], &event["firstTimestamp"]];
    times.into_iter().find_map(Value::as_str).unwrap_or_default()
}

/// `5s`, `3m12s`, `2d`: the time since `time`, as tables show it.
pub(crate) fn age(time: &str, now: jiff::Timestamp) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => {
            if seconds % 60 == 0 {
                format!("{}m", seconds / 60)
            } else {
                format!("{}m{}s", seconds / 60, seconds % 60)
            }
        }
        600..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_object_can_be_described() {
        let text = page(
            "Widget",
            &json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "namespace": "x"}, "spec": {"size": 3, "tags": ["p", "q"], "parts": [{"name": "n"}]}}),
        );
        assert_eq!(
            text,
            "Name:         a\nNamespace:    x\nLabels:       <none>\nAnnotations:  <none>\nAPI Version:  example.com/v1\nKind:         Widget\nSpec:\n  Parts:\n    Name:  n\n  Size:  3\n  Tags:\n    p\n    q\n"
        );
    }

    #[test]
    fn ages() {
        let now: jiff::Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for (then, expected) in [
            ("2026-01-01T23:59:55Z", "5s"),
            ("2026-01-01T23:56:48Z", "3m12s"),
            ("2026-01-01T00:00:00Z", "24h"),
            ("x", "<unknown>"),
        ] {
            assert_eq!(age(then, now), expected);
        }
    }
}
