//! List-watch over HTTP: a stream that neither ends nor fails.
//!
//! Lists once, then watches from the list's version with bookmarks. A broken watch goes on from the last version seen;
//! a version the server no longer knows (410) means listing anew, which readers see as [`Event::Replace`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use skiff_meta::world::WorldExt;
use skiff_meta::{Object, Status, WorldRef};

use crate::api::{List, collection_path};
use crate::backend::{Backend, Body, ClientError, Event, ListTarget};
use crate::client::{Call, Client};

/// Back-off between attempts, doubled at each failure.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// How long a watch may be silent past the end it was promised.
const GRACE: Duration = Duration::from_secs(30);

/// The endless stream of events of `target`.
pub(super) fn events(backend: impl Backend, world: WorldRef, target: ListTarget) -> BoxStream<'static, Event> {
    let watcher =
        Watcher { client: Client::new(Arc::new(backend)), world, target, version: None, watch: None, failures: 0 };
    stream::unfold(watcher, |mut watcher| async move { Some((watcher.next().await, watcher)) }).boxed()
}

struct Watcher {
    client: Client,
    world: WorldRef,
    target: ListTarget,
    /// Where the next watch begins; `None`: list first.
    version: Option<String>,
    watch: Option<Lines>,
    failures: u32,
}

impl Watcher {
    async fn next(&mut self) -> Event {
        loop {
            match self.step().await {
                Ok(Some(event)) => {
                    self.failures = 0;
                    return event;
                }
                Ok(None) => {}
                Err(error) => self.failed(error).await,
            }
        }
    }

    async fn failed(&mut self, error: ClientError) {
        self.watch = None;
        if matches!(&error, ClientError::Api(status) if status.code == 410) {
            self.version = None;
            return;
        }
        let delay = FIRST_DELAY.saturating_mul(1 << self.failures.min(10)).min(LONGEST_DELAY);
        let delay = delay + delay.mul_f64((self.world.random() % 1000) as f64 / 1000.0);
        if self.failures > 0 {
            let resource = self.target.resource.group_resource();
            tracing::warn!(%resource, "list-watch broke, again in {delay:.1?}: {error}");
        }
        self.failures += 1;
        self.world.sleep(delay).await;
    }

    async fn step(&mut self) -> Result<Option<Event>, ClientError> {
        let Some(version) = &self.version else {
            let (objects, version) = self.list().await?;
            self.version = Some(version);
            return Ok(Some(Event::Replace(objects)));
        };
        let Some(watch) = &mut self.watch else {
            // Between 5 and 10 minutes, so that not all watches end at once.
            let seconds = 300 + self.world.random() % 300;
            let call = self.call().with("watch", "true").with("allowWatchBookmarks", "true");
            let call = call.with("resourceVersion", &**version).with("timeoutSeconds", seconds.to_string());
            let body = self.client.stream(call).await?.into_body();
            let silence = Duration::from_secs(seconds) + GRACE;
            self.watch = Some(Lines { body, buffer: BytesMut::new(), silence, seen: false });
            return Ok(None);
        };
        match watch.next(&self.world).await? {
            Some(line) => self.take(&line),
            None if watch.seen => {
                self.watch = None;
                Ok(None)
            }
            None => Err(ClientError::Transport("the watch ended at once".into())),
        }
    }

    fn call(&self) -> Call {
        Call::get(collection_path(&self.target.resource, &self.target.namespace))
            .with("labelSelector", &*self.target.selection.labels)
            .with("fieldSelector", &*self.target.selection.fields)
    }

    async fn list(&mut self) -> Result<(Vec<Arc<Object>>, String), ClientError> {
        let call = self.call().with("resourceVersion", "0");
        let bytes = self.client.bytes(call).await?;
        let head: Head = parse(&bytes)?;
        let list: List<Value> = parse(&bytes)?;
        let kind = head.kind.strip_suffix("List").unwrap_or_default();
        let version = list.metadata.resource_version.unwrap_or_default();
        let objects = list.items.into_iter().map(|mut item| {
            // Items of lists leave out what the list says.
            if let Some(fields) = item.as_object_mut() {
                fields.entry("apiVersion").or_insert_with(|| head.api_version.clone().into());
                fields.entry("kind").or_insert_with(|| kind.into());
            }
            object(item)
        });
        Ok((objects.collect::<Result<_, _>>()?, version))
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Event>, ClientError> {
        let (kind, json) = envelope(line)?;
        let object = match kind {
            "ERROR" => return Err(parse::<Status>(json)?.into()),
            "ADDED" | "MODIFIED" | "DELETED" => Arc::new(Object::from_wire_json(json).map_err(unreadable)?),
            _ => {
                self.version = Some(parse::<VersionOnly>(json)?.metadata.resource_version);
                return Ok(None);
            }
        };
        self.version = Some(match object.revision() {
            // Not a number: somebody else's way to count.
            0 => parse::<VersionOnly>(json)?.metadata.resource_version,
            revision => revision.to_string(),
        });
        Ok(Some(if kind == "DELETED" { Event::Delete(object) } else { Event::Apply(object) }))
    }
}

/// The type of a watch event, and its object's JSON. Servers write the one before the other, which spares us from looking
/// for the object's end.
fn envelope(line: &[u8]) -> Result<(&str, &[u8]), ClientError> {
    let usual = || {
        let rest = line.strip_prefix(br#"{"type":""#)?.strip_suffix(b"}")?;
        let (kind, rest) = rest.split_at(rest.iter().position(|byte| *byte == b'"')?);
        Some((std::str::from_utf8(kind).ok()?, rest.strip_prefix(br#"","object":"#)?))
    };
    match usual() {
        Some(found) => Ok(found),
        None => parse(line).map(|WatchEvent { kind, object }| (kind, object.get().as_bytes())),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct VersionOnly {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    resource_version: String,
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(unreadable)
}

fn unreadable(error: impl std::fmt::Display) -> ClientError {
    ClientError::BadAnswer(error.to_string())
}

fn object(value: Value) -> Result<Arc<Object>, ClientError> {
    Object::from_wire(value).map(Arc::new).map_err(unreadable)
}

/// A body, line by line.
struct Lines {
    body: Body,
    buffer: BytesMut,
    silence: Duration,
    /// Whether there was a line at all.
    seen: bool,
}

impl Lines {
    async fn next(&mut self, world: &WorldRef) -> Result<Option<Bytes>, ClientError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(searched + end).freeze();
                self.buffer.advance(1);
                self.seen = true;
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            let frame = world.timeout(self.silence, self.body.frame()).await;
            let frame = frame.ok_or_else(|| ClientError::Transport("the watch fell silent".into()))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Transport(format!("the watch broke off: {error}"))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use http::{Request, Response};
    use http_body_util::Full;
    use parking_lot::Mutex;
    use serde_json::json;
    use skiff_meta::world::RealWorld;

    /// Answers requests one after the other from a script, and notes their targets.
    struct Script {
        answers: Mutex<Vec<String>>,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Backend for Script {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
            self.asked.lock().push(request.uri().to_string());
            let mut answers = self.answers.lock();
            if answers.is_empty() {
                return Box::pin(futures::future::pending());
            }
            let body = Full::new(Bytes::from(answers.remove(0))).map_err(|never| match never {}).boxed_unsync();
            Box::pin(async { Ok(Response::new(body)) })
        }
        fn list_watch(&self, _: ListTarget) -> BoxStream<'static, Event> {
            stream::pending().boxed()
        }
        fn remote(&self) -> Option<Arc<crate::config::Remote>> {
            None
        }
    }

    fn pod(name: &str, version: u32) -> Value {
        json!({"metadata": {"name": name, "uid": name, "resourceVersion": version.to_string()}})
    }

    fn list(version: u32, items: &[Value]) -> String {
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": items})
            .to_string()
    }

    fn lines(events: &[(&str, Value)]) -> String {
        // As every server writes them, and in another order.
        let usual = |kind: &str, object: &Value| format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        let sorted = |kind: &str, object: &Value| format!("{}\n", json!({"type": kind, "object": object}));
        let write = |(number, (kind, object)): (usize, &(&str, Value))| match number % 2 {
            0 => usual(kind, object),
            _ => sorted(kind, object),
        };
        events.iter().enumerate().map(write).collect()
    }

    #[tokio::test]
    async fn watches_go_on_where_they_broke_and_list_anew_when_expired() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = vec![
            list(5, &[pod("a", 3)]),
            lines(&[("ADDED", pod("b", 6)), ("BOOKMARK", json!({"metadata": {"resourceVersion": "9"}}))]),
            lines(&[("DELETED", pod("b", 10)), ("ERROR", json!(Status::expired("too old")))]),
            list(20, &[]),
        ];
        let script = Script { answers: Mutex::new(answers), asked: asked.clone() };
        let target = ListTarget {
            resource: skiff_meta::GroupVersionResource::new("", "v1", "pods"),
            namespace: "ns".into(),
            selection: crate::Selection { labels: "a=b".into(), fields: String::new() },
        };
        let events: Vec<Event> = events(script, RealWorld::shared(), target).take(4).collect().await;
        let told: Vec<String> = events
            .iter()
            .map(|event| match event {
                Event::Replace(all) => format!("all {:?}", all.iter().map(|o| &*o.meta().name).collect::<Vec<_>>()),
                Event::Apply(o) => format!("apply {}@{}", o.meta().name, o.revision()),
                Event::Delete(o) => format!("delete {}@{}", o.meta().name, o.revision()),
            })
            .collect();
        assert_eq!(told, ["all [\"a\"]", "apply b@6", "delete b@10", "all []"]);
        if let Event::Replace(all) = &events[0] {
            assert_eq!(all[0].to_value().unwrap()["kind"], "Pod");
        }
        let versions: Vec<String> = asked
            .lock()
            .iter()
            .map(|uri| {
                assert!(uri.starts_with("/api/v1/namespaces/ns/pods?labelSelector=a%3Db"), "{uri}");
                uri.split('&').find(|p| p.starts_with("resourceVersion=")).unwrap_or_default().to_owned()
            })
            .collect();
        assert_eq!(versions, ["resourceVersion=0", "resourceVersion=5", "resourceVersion=9", "resourceVersion=0"]);
    }
}
