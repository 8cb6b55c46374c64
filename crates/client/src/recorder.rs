//! The event recorder: what happened to objects, told to people, without ever holding up the work.
//!
//! Events are handed to one background task, which writes them and counts repetitions as upstream's correlator does: the
//! same event again raises `count`; more than 10 that differ only in their message become one "combined" event for ten
//! minutes; and one object may cause 25 events at once, then one every five minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use skiff_meta::{TraceContext, WorldRef};
use tokio::sync::mpsc;

use crate::api::{Kind, Patch};
use crate::client::Client;
use crate::trace;

/// Events that wait to be written; beyond it new ones are dropped, since events are for people.
const BACKLOG: usize = 1000;
/// How many event series and objects are remembered.
const REMEMBERED: usize = 4096;
const COMBINE_AFTER: usize = 10;
const COMBINE_WITHIN: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// What an event is about.
pub type Involved = ObjectReference;

/// A reference to an object, for events.
pub fn involved<K: Kind>(object: &K) -> Involved {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[derive(Clone, Debug)]
struct Report {
    about: Involved,
    kind: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
    cause: Option<TraceContext>,
}

/// Records events as one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    world: WorldRef,
    send: mpsc::Sender<Report>,
}

impl Recorder {
    /// A recorder for `component` on `host` (empty: not bound to a host). Its task ends with its last clone.
    pub fn new(client: Client, world: WorldRef, component: &str, host: &str) -> Self {
        let (send, mut receive) = mpsc::channel::<Report>(BACKLOG);
        let mut source = EventSource { component: Some(component.to_owned()), host: None };
        if !host.is_empty() {
            source.host = Some(host.to_owned());
        }
        let mut writer = Writer { client, source, correlator: Correlator::default(), world: world.clone() };
        let work = async move {
            while let Some(report) = receive.recv().await {
                trace::within(report.cause, writer.write(report)).await;
            }
        };
        world.spawn("events", Box::pin(work));
        Self { world, send }
    }

    /// Something went as it should.
    pub fn normal(&self, about: &Involved, reason: &str, message: impl Into<String>) {
        self.record(about, "Normal", reason, message.into());
    }

    /// Something did not.
    pub fn warning(&self, about: &Involved, reason: &str, message: impl Into<String>) {
        self.record(about, "Warning", reason, message.into());
    }

    fn record(&self, about: &Involved, kind: &'static str, reason: &str, message: String) {
        let (about, reason, cause) = (about.clone(), reason.to_owned(), trace::current());
        let report = Report { about, kind, reason, message, at: self.world.now(), cause };
        if self.send.try_send(report).is_err() {
            tracing::debug!("an event was dropped: too many are waiting");
        }
    }
}

struct Writer {
    client: Client,
    source: EventSource,
    correlator: Correlator,
    world: WorldRef,
}

impl Writer {
    async fn write(&mut self, report: Report) {
        let Some(series) = self.correlator.take(report, self.world.random()) else { return };
        let namespace = series.report.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api = self.client.namespaced::<Event>(&namespace);
        if series.count > 1 {
            let body = json!({"count": series.count, "message": series.report.message,
                "lastTimestamp": Time(series.report.at)});
            match api.patch(&series.name, &Patch::Strategic(body)).await {
                Ok(_) => return,
                Err(error) if error.is_not_found() => {}
                Err(error) => return tracing::debug!("an event was not written: {error}"),
            }
        }
        if let Err(error) = api.create(&series.event(&namespace, &self.source)).await {
            tracing::debug!("an event was not written: {error}");
        }
    }
}

/// One event with its repetitions.
#[derive(Clone, Debug)]
struct Series {
    name: String,
    count: i32,
    first: Timestamp,
    report: Report,
}

impl Series {
    fn event(&self, namespace: &str, source: &EventSource) -> Event {
        let report = &self.report;
        Event {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: report.about.clone(),
            reason: Some(report.reason.clone()),
            message: Some(report.message.clone()),
            type_: Some(report.kind.to_owned()),
            source: Some(source.clone()),
            reporting_component: source.component.clone(),
            reporting_instance: source.host.clone(),
            first_timestamp: Some(Time(self.first)),
            last_timestamp: Some(Time(report.at)),
            count: Some(self.count),
            ..Event::default()
        }
    }
}

/// Which events are new, which repeat, which are too many. Pure but for its memory.
#[derive(Default)]
struct Correlator {
    series: BTreeMap<String, Series>,
    /// Different messages of the same kind of event, and since when they are collected.
    similar: BTreeMap<String, (Timestamp, Vec<String>)>,
    /// Tokens left for an object, and when they were counted.
    buckets: BTreeMap<String, (f64, Timestamp)>,
}

impl Correlator {
    fn take(&mut self, mut report: Report, random: u64) -> Option<Series> {
        let about = &report.about;
        let parts = [&about.kind, &about.namespace, &about.name, &about.uid, &about.field_path];
        let object = parts.map(|part| part.as_deref().unwrap_or_default()).join("\n");
        let similar = format!("{object}\n{}\n{}", report.kind, report.reason);
        let key = if self.combine(&similar, &report) {
            report.message = format!("(combined from similar events): {}", report.message);
            similar
        } else {
            format!("{similar}\n{}", report.message)
        };
        if !self.allow(&format!("{object}\n{}", report.kind), report.at) {
            return None;
        }
        self.shed();
        let name = report.about.name.clone().unwrap_or_default();
        let entry = self.series.entry(key).or_insert_with(|| Series {
            // Upstream puts nanoseconds here; randomness keeps names apart also where the clock stands still.
            name: format!("{name}.{random:016x}"),
            count: 0,
            first: report.at,
            report: report.clone(),
        });
        entry.count += 1;
        entry.report = report;
        Some(entry.clone())
    }

    /// Whether there were so many different messages lately that this one is folded into one event with them.
    fn combine(&mut self, similar: &str, report: &Report) -> bool {
        let (since, messages) = self.similar.entry(similar.to_owned()).or_insert_with(|| (report.at, Vec::new()));
        if report.at.duration_since(*since).unsigned_abs() > COMBINE_WITHIN {
            (*since, *messages) = (report.at, Vec::new());
        }
        if !messages.contains(&report.message) {
            if messages.len() >= COMBINE_AFTER {
                return true;
            }
            messages.push(report.message.clone());
        }
        false
    }

    fn allow(&mut self, key: &str, now: Timestamp) -> bool {
        let (tokens, counted) = self.buckets.entry(key.to_owned()).or_insert((BURST, now));
        let refilled = now.duration_since(*counted).as_secs_f64().max(0.0) * REFILL_PER_SECOND;
        (*tokens, *counted) = ((*tokens + refilled).min(BURST), now);
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    /// Forgets everything when too much is remembered: repetitions then begin to count anew, nothing else is lost.
    fn shed(&mut self) {
        if self.series.len() > REMEMBERED {
            self.series.clear();
        }
        if self.similar.len() > REMEMBERED {
            self.similar.clear();
        }
        if self.buckets.len() > REMEMBERED {
            self.buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, message: &str, second: i64) -> Report {
        Report {
            about: ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() },
            kind: "Normal",
            reason: "Because".into(),
            message: message.into(),
            at: Timestamp::from_second(second).unwrap(),
            cause: None,
        }
    }

    #[test]
    fn repetitions_are_counted() {
        let mut correlator = Correlator::default();
        let first = correlator.take(report("a", "m", 1), 1).unwrap();
        let again = correlator.take(report("a", "m", 5), 2).unwrap();
        assert_eq!((first.count, again.count, &again.name), (1, 2, &first.name));
        assert_eq!(again.first.as_second(), 1);
        assert_eq!(correlator.take(report("b", "m", 5), 3).unwrap().count, 1);
    }

    #[test]
    fn many_similar_ones_are_combined() {
        let mut correlator = Correlator::default();
        for n in 0..10 {
            assert_eq!(correlator.take(report("a", &n.to_string(), 1), n).unwrap().count, 1);
        }
        let combined = correlator.take(report("a", "ten", 2), 10).unwrap();
        assert_eq!(combined.report.message, "(combined from similar events): ten");
        assert_eq!(correlator.take(report("a", "eleven", 3), 11).unwrap().count, 2);
        let later = correlator.take(report("a", "later", 10_000), 12).unwrap();
        assert_eq!(later.report.message, "later");
    }

    #[test]
    fn one_object_cannot_flood() {
        let mut correlator = Correlator::default();
        let written = (0..40).filter(|_| correlator.take(report("a", "m", 1), 1).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.take(report("b", "m", 1), 1).is_some());
        assert!(correlator.take(report("a", "m", 302), 1).is_some());
    }
}
