//! `events`: what happened, oldest first.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::describe::age;
use crate::error::CliError;
use crate::output::{Format, items, list_of, table};
use crate::session::Session;
use crate::targets::with_query;

/// List events.
#[derive(Args)]
pub struct Events {
    /// Only those of this object: TYPE/NAME
    #[arg(long = "for")]
    about: Option<String>,
    /// Only of these types: Normal, Warning
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Go on showing new ones
    #[arg(short = 'w', long)]
    watch: bool,
    /// Leave out the heading
    #[arg(long)]
    no_headers: bool,
    /// yaml, json, name, ...
    #[arg(short = 'o', long, default_value = "")]
    output: String,
}

impl Events {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let format = Format::parse(&self.output)?;
        let kinds = session.kinds().await?;
        let kind = kinds.0.iter().find(|k| k.plural == "events" && k.group_version.group.is_empty());
        let kind = kind.ok_or_else(|| CliError::usage("the server has no events"))?;
        let selector = match &self.about {
            None => String::new(),
            Some(word) => {
                let wrong = || CliError::usage("--for must be in resource/name form");
                let (about, name) = word.split_once('/').ok_or_else(wrong)?;
                let about = kinds.find(about)?;
                let (version, about) = (&about.group_version, &about.kind);
                format!("involvedObject.kind={about},involvedObject.apiVersion={version},involvedObject.name={name}")
            }
        };
        let path = with_query(&kind.path(session.list_namespace()), &[("fieldSelector", &selector)]);
        let list = session.wire.get(&path).await?;
        let mut events = items(&list);
        events.retain(|event| self.is_wanted(event));
        events.sort_by_cached_key(last_seen);
        if events.is_empty() && !self.watch {
            let place =
                if session.all_namespaces { String::new() } else { format!(" in {} namespace", session.namespace) };
            session.warn(&format!("No events found{place}."));
            return Ok(());
        }
        let mut widths = Vec::new();
        if format.is_table() {
            let headings = ["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(str::to_owned);
            let headings = headings[usize::from(!session.all_namespaces)..].to_vec();
            let rows = events.iter().map(|event| row(event, session));
            let rows: Vec<_> = (!self.no_headers).then_some(headings).into_iter().chain(rows).collect();
            session.print(&table::align_to(&rows, &mut widths))?;
        } else {
            for event in &mut events {
                event["apiVersion"] = "v1".into();
                event["kind"] = "Event".into();
            }
            session.print(&format.render(kind, &list_of(events))?)?;
        }
        if !self.watch {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let path = with_query(&path, &[("watch", "true"), ("resourceVersion", version)]);
        let mut changes = session.wire.watch(&path, "application/json").await?;
        while let Some(change) = changes.next().await? {
            let event = &change["object"];
            match change["type"].as_str() {
                Some("ADDED" | "MODIFIED") if self.is_wanted(event) => {
                    let text = if format.is_table() {
                        table::align_to(&[row(event, session)], &mut widths)
                    } else {
                        format.render(kind, event)?
                    };
                    session.print(&text)?;
                }
                Some("ERROR") => return Err(CliError::usage(event["message"].as_str().unwrap_or("watch failed"))),
                _ => {}
            }
        }
        Ok(())
    }

    fn is_wanted(&self, event: &Value) -> bool {
        let ty = event["type"].as_str().unwrap_or_default();
        self.types.is_empty() || self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(ty))
    }
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// When an event was last seen, and when first.
fn seen(event: &Value) -> (Option<Timestamp>, Option<Timestamp>) {
    let first = time(&event["eventTime"]).or(time(&event["firstTimestamp"]));
    let last = time(&event["series"]["lastObservedTime"]).or(time(&event["lastTimestamp"]));
    (last.or(first), first)
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    seen(event).0
}

fn row(event: &Value, session: &Session) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let since = |time: Option<Timestamp>| match time {
        Some(time) => age(&time.to_string(), session.world.now()),
        None => "<unknown>".to_owned(),
    };
    let (last, first) = seen(event);
    let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
    let when = if event["series"].is_object() || count > 1 {
        format!("{} (x{count} over {})", since(last), since(first))
    } else {
        since(first)
    };
    let object = &event["involvedObject"];
    let object = format!("{}/{}", text(&object["kind"]), text(&object["name"]));
    let cells = [when, text(&event["type"]), text(&event["reason"]), object, text(&event["message"]).trim().to_owned()];
    session.all_namespaces.then(|| text(&event["metadata"]["namespace"])).into_iter().chain(cells).collect()
}
