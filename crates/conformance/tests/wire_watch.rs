//! Watches: where they begin, what they tell and of what, how they end, in every form, and under many writers at once.
//! Against the API of `CONFORMANCE_KUBECONFIG`, or against a server that is started for it; without controllers, which would
//! put config maps of their own into namespaces.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_client::Body;
use skiff_client::ws::{self, Message};
use skiff_conformance::{Answer, Credentials};
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Outcome, accepted, expect};

const CASES: &[Case<Run>] = &[
    ("a_watch_from_a_version_tells_what_followed", from_a_version),
    ("a_watch_without_a_version_begins_with_the_state", from_the_state),
    ("a_watch_can_be_a_list_that_goes_on", initial_events),
    ("what_a_watch_may_not_ask_is_refused", refusals),
    ("bookmarks_come_before_the_end", bookmarks),
    ("objects_enter_and_leave_what_labels_select", labels),
    ("objects_enter_and_leave_what_fields_select", fields),
    ("one_object_can_be_watched", one_object),
    ("one_connection_carries_many_watches_of_nothing", many_of_nothing),
    ("tables_have_their_columns_once", tables),
    ("metadata_can_be_watched", metadata),
    ("frames_of_protobuf_have_their_length", protobuf),
    ("web_sockets_carry_watches", web_sockets),
    ("what_is_deleted_together_is_told_one_by_one", collection_goes),
    ("watches_of_a_custom_kind_end_with_it", custom_kinds),
    ("nothing_is_lost_doubled_or_reordered", many_writers),
];

fn main() {
    let run = Run::start_without(78, "agent,scheduler,controller-manager,proxy,dns", &[]);
    std::process::exit(cases::run_with(run, CASES));
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open watch.
struct Watch {
    handle: tokio::runtime::Handle,
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// The bytes that come next; none when it has ended.
    fn more(&mut self) -> Result<Option<Bytes>, String> {
        let next = async { tokio::time::timeout(PATIENCE, self.body.frame()).await };
        match self.handle.block_on(next).map_err(|_| "nothing more comes")? {
            None => Ok(None),
            Some(frame) => Ok(Some(frame.map_err(|e| e.to_string())?.into_data().unwrap_or_default())),
        }
    }

    /// The next event, once it comes; none when the watch has ended.
    fn next(&mut self) -> Result<Option<Value>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|e| e.to_string());
            }
            match self.more()? {
                Some(bytes) => self.buffer.extend(bytes),
                None => return Ok(None),
            }
        }
    }

    fn told(&mut self, count: usize) -> Result<Vec<Value>, String> {
        (0..count).map(|at| self.next()?.ok_or(format!("ended after {at} of {count} events"))).collect()
    }

    fn rest(mut self) -> Result<Vec<Value>, String> {
        std::iter::from_fn(|| self.next().transpose()).collect()
    }

    /// The same without bookmarks, which may come at any time.
    fn changes(&mut self, count: usize) -> Result<Vec<Value>, String> {
        let mut changes = Vec::new();
        while changes.len() < count {
            changes.extend(self.told(1)?.into_iter().filter(|event| event["type"] != "BOOKMARK"));
        }
        Ok(changes)
    }
}

impl Run {
    fn get(&self, path: &str) -> Result<Answer, String> {
        self.json(Method::GET, path, &Value::Null)
    }

    fn watch_as(&self, accept: &str, path: &str) -> Result<Watch, String> {
        let headers = [("accept", accept)];
        let opened = self.wire.open(Credentials::Own, &Method::GET, path, &headers, Bytes::new());
        let response = self.runtime.block_on(opened)?;
        if response.status() != 200 {
            return Err(format!("{path}: {}", response.status()));
        }
        let handle = self.runtime.handle().clone();
        Ok(Watch { handle, body: response.into_body(), buffer: Vec::new() })
    }

    fn watch(&self, path: &str) -> Result<Watch, String> {
        self.watch_as("application/json", path)
    }

    /// Config maps of a namespace of one's own, and the version before any of them.
    fn maps(&mut self) -> Result<(String, String), String> {
        let maps = format!("{}/configmaps", self.namespace(json!({}))?);
        let list = self.get(&maps)?;
        Ok((maps, version(&list.tree())))
    }

    fn put(&self, maps: &str, name: &str, labels: Value) -> Result<Answer, String> {
        let body = json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "1"}});
        let made = self.post(maps, &body)?;
        accepted(&made).map(|()| made)
    }

    fn change(&self, maps: &str, name: &str, patch: Value) -> Result<Answer, String> {
        let changed = self.merge(&format!("{maps}/{name}"), &patch)?;
        accepted(&changed).map(|()| changed)
    }

    fn remove(&self, maps: &str, name: &str) -> Outcome {
        accepted(&self.json(Method::DELETE, &format!("{maps}/{name}"), &Value::Null)?)
    }
}

fn version(tree: &Value) -> String {
    tree["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

fn number(tree: &Value) -> u64 {
    version(tree).parse().unwrap_or_default()
}

fn text<'a>(tree: &'a Value, path: &str) -> &'a str {
    tree.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// Type, name and data of an event.
fn short(event: &Value) -> String {
    let parts = ["/type", "/object/metadata/name", "/object/data/k"].map(|path| text(event, path));
    parts.join(" ").trim_end().to_owned()
}

fn shorts(events: &[Value]) -> Vec<String> {
    events.iter().map(short).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(got: T, wanted: T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{got:?}\nwanted {wanted:?}")) }
}

fn from_a_version(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    let a = run.put(&maps, "a", json!({}))?;
    let b = run.put(&maps, "b", json!({}))?;
    let changed = run.change(&maps, "a", json!({"data": {"k": "2"}}))?;
    run.remove(&maps, "b")?;
    let wanted = ["ADDED a 1", "ADDED b 1", "MODIFIED a 2", "DELETED b 1"];
    let all = run.watch(&format!("{maps}?watch=true&resourceVersion={before}"))?.told(4)?;
    same(shorts(&all), wanted.map(str::to_owned).to_vec())?;
    let versions: Vec<u64> = all.iter().map(|event| number(&event["object"])).collect();
    same(&versions[..3], &[number(&a.tree()), number(&b.tree()), number(&changed.tree())])?;
    same(versions.is_sorted_by(|one, next| one < next), true)?;
    // From each event's version the rest follows; asked otherwise the answer is the same.
    for (at, from) in versions.iter().enumerate() {
        let rest = run.watch(&format!("{maps}?watch=1&resourceVersion={from}&timeoutSeconds=1"))?.rest()?;
        same(shorts(&rest), wanted[at + 1..].iter().map(|text| (*text).to_owned()).collect())?;
    }
    let collection = maps.replace("/api/v1/", "/api/v1/watch/");
    let old = run.watch(&format!("{collection}?resourceVersion={before}&timeoutSeconds=1"))?.rest()?;
    same(shorts(&old), wanted.map(str::to_owned).to_vec())?;
    // What has not happened yet is waited for.
    let future = run.watch(&format!("{maps}?watch=1&resourceVersion={}&timeoutSeconds=1", versions[3] + 1_000_000))?;
    same(future.rest()?, Vec::new())
}

fn from_the_state(run: &mut Run) -> Outcome {
    let (maps, _) = run.maps()?;
    run.put(&maps, "a", json!({}))?;
    run.put(&maps, "b", json!({}))?;
    for (at, query) in ["", "&resourceVersion=", "&resourceVersion=0", "&allowWatchBookmarks=true"].iter().enumerate() {
        let mut watch = run.watch(&format!("{maps}?watch=true{query}"))?;
        let mut state = shorts(&watch.changes(2 + at)?);
        state.sort();
        let mut wanted = vec!["ADDED a 1".to_owned(), "ADDED b 1".to_owned()];
        wanted.extend((0..at).map(|n| format!("ADDED c{n} 1")));
        same(state, wanted)?;
        run.put(&maps, &format!("c{at}"), json!({}))?;
        same(shorts(&watch.changes(1)?), vec![format!("ADDED c{at} 1")])?;
    }
    Ok(())
}

const WATCH_LIST: &str = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";

fn initial_events(run: &mut Run) -> Outcome {
    let (maps, _) = run.maps()?;
    run.put(&maps, "a", json!({}))?;
    let last = number(&run.put(&maps, "b", json!({}))?.tree());
    for from in ["".to_owned(), "&resourceVersion=0".to_owned(), format!("&resourceVersion={last}")] {
        let mut watch = run.watch(&format!("{maps}?{WATCH_LIST}&allowWatchBookmarks=true{from}"))?;
        let mut events = watch.told(3)?;
        let end = events.pop().unwrap_or_default();
        same(shorts(&events), vec!["ADDED a 1".to_owned(), "ADDED b 1".to_owned()])?;
        let marked = json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata":
            {"resourceVersion": version(&end["object"]), "annotations": {"k8s.io/initial-events-end": "true"}}}});
        same(&end, &marked)?;
        same(number(&end["object"]) >= last, true)?;
        run.change(&maps, "a", json!({"data": {"k": from.clone() + "x"}}))?;
        same(shorts(&watch.changes(1)?), vec![format!("MODIFIED a {from}x")])?;
        run.change(&maps, "a", json!({"data": {"k": "1"}}))?;
    }
    // Whoever takes no bookmarks hears the state all the same; nobody hears it who says so.
    let plain = run.watch(&format!("{maps}?{WATCH_LIST}&timeoutSeconds=1"))?.rest()?;
    same(shorts(&plain), vec!["ADDED a 1".to_owned(), "ADDED b 1".to_owned()])?;
    let none = format!("{maps}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&timeoutSeconds=1");
    same(run.watch(&none)?.rest()?, Vec::new())
}

fn refusals(run: &mut Run) -> Outcome {
    let (maps, _) = run.maps()?;
    let forbidden = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch";
    for (query, code, words) in [
        (
            "watch=1&resourceVersionMatch=Exact&resourceVersion=1",
            422,
            format!("{forbidden} unless sendInitialEvents is provided"),
        ),
        (
            "watch=1&sendInitialEvents=true",
            422,
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
          resourceVersionMatch to NotOlderThan"
                .to_owned(),
        ),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=1",
            422,
            "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"".to_owned(),
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            422,
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list".to_owned(),
        ),
        ("watch=1&resourceVersion=x", 500, "resourceVersion: Invalid value: \"x\": ".to_owned()),
        ("watch=1&labelSelector=a%20in", 400, "unable to parse requirement".to_owned()),
        (
            "watch=1&fieldSelector=data.k=1",
            400,
            "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"".to_owned(),
        ),
        ("watch=1&timeoutSeconds=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()),
    ] {
        let answer = run.get(&format!("{maps}?{query}"))?;
        let fits = answer.code == code && answer.text("message").contains(&words);
        expect(fits, &answer).map_err(|got| format!("{query}: {got}"))?;
    }
    for accept in ["application/yaml", "text/html"] {
        let path = format!("{maps}?watch=1&timeoutSeconds=1");
        let sent = run.wire.send(Credentials::Own, &Method::GET, &path, ("", accept), Bytes::new());
        let answer = run.runtime.block_on(sent)?;
        expect(answer.code == 406, &answer)?;
    }
    Ok(())
}

fn bookmarks(run: &mut Run) -> Outcome {
    let (maps, _) = run.maps()?;
    let last = number(&run.put(&maps, "a", json!({}))?.tree());
    let begun = Instant::now();
    let events = run.watch(&format!("{maps}?watch=1&timeoutSeconds=3&allowWatchBookmarks=true"))?.rest()?;
    same((Duration::from_secs(2)..Duration::from_secs(20)).contains(&begun.elapsed()), true)?;
    same(short(&events[0]), "ADDED a 1".to_owned())?;
    // The first one ends the state, asked for or not.
    for (at, event) in events[1..].iter().enumerate() {
        let mut metadata = json!({"resourceVersion": version(&event["object"])});
        if at == 0 {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata});
        same(event, &json!({"type": "BOOKMARK", "object": object}))?;
        same(number(&event["object"]) >= last, true)?;
    }
    same(events.len() > 1, true)?;
    let without = run.watch(&format!("{maps}?watch=1&timeoutSeconds=3"))?.rest()?;
    same(shorts(&without), vec!["ADDED a 1".to_owned()])
}

/// What a watcher of `path` was told of changes between; the object told as deleted is the one that was selected.
fn labels(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    run.put(&maps, "never", json!({"x": "2"}))?;
    run.put(&maps, "a", json!({"x": "2"}))?;
    run.change(&maps, "a", json!({"metadata": {"labels": {"x": "1"}}}))?;
    run.change(&maps, "a", json!({"data": {"k": "2"}}))?;
    let left = run.change(&maps, "a", json!({"metadata": {"labels": {"x": "3"}}, "data": {"k": "3"}}))?;
    run.change(&maps, "a", json!({"data": {"k": "4"}}))?;
    run.change(&maps, "a", json!({"metadata": {"labels": {"x": "1"}}}))?;
    run.remove(&maps, "a")?;
    let wanted = ["ADDED a 1", "MODIFIED a 2", "DELETED a 2", "ADDED a 4", "DELETED a 4"].map(str::to_owned);
    let selected = format!("{maps}?watch=1&labelSelector=x%3D1&timeoutSeconds=1&resourceVersion={before}");
    let events = run.watch(&selected)?.rest()?;
    same(shorts(&events), wanted.to_vec())?;
    let gone = &events[2]["object"];
    same((text(gone, "/metadata/labels/x"), number(gone)), ("1", number(&left.tree())))
}

fn fields(run: &mut Run) -> Outcome {
    let namespace = run.namespace(json!({}))?;
    // Where nobody makes one, pods need this account.
    let account = run.post(&format!("{namespace}/serviceaccounts"), &json!({"metadata": {"name": "default"}}))?;
    expect(matches!(account.code, 201 | 409), &account)?;
    let pods = format!("{namespace}/pods");
    let before = version(&run.get(&pods)?.tree());
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "example.com/none"}]}});
    accepted(&run.post(&pods, &pod)?)?;
    let phase = |phase: &str| {
        let patch = json!({"status": {"phase": phase}});
        accepted(&run.merge(&format!("{pods}/a/status"), &patch)?)
    };
    phase("Running")?;
    phase("Failed")?;
    accepted(&run.json(Method::DELETE, &format!("{pods}/a"), &json!({"gracePeriodSeconds": 0}))?)?;
    for (selector, wanted) in [
        ("status.phase=Running", &["ADDED Running", "DELETED Running"][..]),
        ("status.phase!=Running", &["ADDED Pending", "DELETED Pending", "ADDED Failed", "DELETED Failed"]),
        ("spec.nodeName=", &["ADDED Pending", "MODIFIED Running", "MODIFIED Failed", "DELETED Failed"]),
        ("spec.nodeName=n", &[]),
    ] {
        let selector = selector.replace('=', "%3D");
        let path = format!("{pods}?watch=1&fieldSelector={selector}&timeoutSeconds=1&resourceVersion={before}");
        let events = run.watch(&path)?.rest()?;
        let told = |event: &Value| format!("{} {}", text(event, "/type"), text(event, "/object/status/phase"));
        // Upstream first writes that it goes, even where it goes at once.
        let going = |event: &&Value| {
            event["type"] == "MODIFIED" && event.pointer("/object/metadata/deletionTimestamp").is_some()
        };
        let events = events.iter().filter(|event| !going(event));
        same(events.map(told).collect::<Vec<_>>(), wanted.iter().map(|text| (*text).to_owned()).collect())?;
    }
    Ok(())
}

/// Whoever counts frames without data, as HTTP/2 in Rust does, leaves after a hundred of them.
fn many_of_nothing(run: &mut Run) -> Outcome {
    let (maps, _) = run.maps()?;
    let path = format!("{maps}?watch=1&fieldSelector=metadata.name%3Dnone&timeoutSeconds=1");
    let watch = || run.wire.send(Credentials::Own, &Method::GET, &path, ("", "application/json"), Bytes::new());
    let ended = run.runtime.block_on(futures::future::try_join_all((0..150).map(|_| watch())))?;
    same(ended.iter().all(|answer| answer.code == 200 && answer.bytes.is_empty()), true)
}

fn one_object(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    for name in ["a", "b", "ab"] {
        run.put(&maps, name, json!({}))?;
    }
    run.remove(&maps, "a")?;
    run.put(&maps, "a", json!({}))?;
    let wanted = ["ADDED a 1", "DELETED a 1", "ADDED a 1"].map(str::to_owned).to_vec();
    let old = maps.replace("/api/v1/", "/api/v1/watch/");
    let all = format!(
        "/api/v1/configmaps?watch=1&fieldSelector=metadata.name%3Da,metadata.namespace%3D{}&",
        maps.split('/').nth(4).unwrap_or_default()
    );
    for path in [format!("{maps}?watch=1&fieldSelector=metadata.name%3Da&"), format!("{old}/a?"), all] {
        let Ok(watch) = run.watch(&format!("{path}resourceVersion={before}&timeoutSeconds=1")) else {
            return Err(path);
        };
        let events = watch.rest().map_err(|error| format!("{path}: {error}"))?;
        same(shorts(&events), wanted.clone()).map_err(|got| format!("{path}: {got}"))?;
    }
    Ok(())
}

fn tables(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    run.put(&maps, "a", json!({}))?;
    run.change(&maps, "a", json!({"data": {"l": "2"}}))?;
    run.remove(&maps, "a")?;
    let path = format!("{maps}?watch=1&resourceVersion={before}&timeoutSeconds=1");
    let events = run.watch_as(TABLE, &path)?.rest()?;
    let told: Vec<String> = events
        .iter()
        .map(|event| {
            let row = &event["object"]["rows"][0];
            let object = &row["object"];
            format!("{} {} {} {}", text(event, "/type"), text(event, "/object/kind"), row["cells"][1], object["kind"])
        })
        .collect();
    let wanted = ["ADDED Table 1", "MODIFIED Table 2", "DELETED Table 2"];
    same(told, wanted.map(|text| format!("{text} \"PartialObjectMetadata\"")).to_vec())?;
    let columns: Vec<Value> = events.iter().map(|event| event["object"]["columnDefinitions"].clone()).collect();
    let names: Vec<&str> = columns[0].as_array().into_iter().flatten().map(|column| text(column, "/name")).collect();
    same(names, vec!["Name", "Data", "Age"])?;
    same(&columns[1..], &[Value::Null, Value::Null])?;
    let versions = |event: &Value| (version(&event["object"]), version(&event["object"]["rows"][0]["object"]));
    same(events.iter().map(versions).all(|(table, object)| table == object && !table.is_empty()), true)?;
    let whole = run.watch_as(TABLE, &format!("{path}&includeObject=Object"))?.rest()?;
    same(text(&whole[0], "/object/rows/0/object/data/k"), "1")?;
    let none = run.watch_as(TABLE, &format!("{path}&includeObject=None"))?.rest()?;
    same(&none[0]["object"]["rows"][0]["object"], &Value::Null)?;
    let path = format!("{maps}?{WATCH_LIST}&allowWatchBookmarks=true&timeoutSeconds=1");
    let mark = run.watch_as(TABLE, &path)?.told(1)?.remove(0);
    let table = &mark["object"];
    same((text(&mark, "/type"), text(table, "/kind"), version(table).is_empty()), ("BOOKMARK", "Table", false))?;
    let row = &table["rows"][0]["object"];
    same(text(row, "/metadata/annotations/k8s.io~1initial-events-end"), "true")
}

fn metadata(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    run.put(&maps, "a", json!({"x": "1"}))?;
    let path = format!("{maps}?watch=1&resourceVersion={before}&timeoutSeconds=1");
    let events = run.watch_as(METADATA, &path)?.rest()?;
    let object = &events[0]["object"];
    let head = (text(object, "/kind"), text(object, "/apiVersion"), text(object, "/metadata/labels/x"));
    same(head, ("PartialObjectMetadata", "meta.k8s.io/v1", "1"))?;
    same((short(&events[0]).as_str(), object.get("data")), ("ADDED a", None))?;
    let path = format!("{maps}?{WATCH_LIST}&allowWatchBookmarks=true&timeoutSeconds=1");
    let mark = run.watch_as(METADATA, &path)?.told(2)?.remove(1);
    let marked = json!({"type": "BOOKMARK", "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version(&mark["object"]), "annotations": {"k8s.io/initial-events-end": "true"}}}});
    same(mark, marked)
}

fn protobuf(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    run.put(&maps, "a", json!({}))?;
    run.remove(&maps, "a")?;
    let path = format!("{maps}?watch=1&resourceVersion={before}&timeoutSeconds=1");
    let headers = [("accept", PROTOBUF)];
    let opened = run.wire.open(Credentials::Own, &Method::GET, &path, &headers, Bytes::new());
    let response = run.runtime.block_on(opened)?;
    same(response.headers().get("content-type").and_then(|value| value.to_str().ok()), Some(PROTOBUF))?;
    let bytes = run.runtime.block_on(response.into_body().collect()).map_err(|e| e.to_string())?.to_bytes();
    let mut rest = &bytes[..];
    for ty in ["ADDED", "DELETED"] {
        let (length, after) = rest.split_first_chunk::<4>().ok_or("no length")?;
        let (frame, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or("too short")?;
        rest = after;
        // Type, and the object in an envelope of its own.
        let start = [&[10, ty.len() as u8], ty.as_bytes()].concat();
        let enveloped = frame.windows(4).any(|part| part == b"k8s\0");
        let named = frame.windows(9).any(|part| part == b"ConfigMap");
        same((frame.starts_with(&start), enveloped, named), (true, true, true))?;
    }
    same(rest.len(), 0)
}

fn web_sockets(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    run.put(&maps, "a", json!({}))?;
    let remote = run.wire.remote();
    let path = format!("{maps}?watch=1&resourceVersion={before}&timeoutSeconds=5");
    let received = |protocols: &[&str], count: usize| {
        run.runtime.block_on(async {
            let (mut socket, _) = ws::connect(&remote, &path, protocols).await.map_err(|e| e.to_string())?;
            let mut messages = Vec::new();
            while messages.len() < count {
                let next = tokio::time::timeout(PATIENCE, socket.next()).await.map_err(|_| "nothing comes")?;
                match next.ok_or("it ended")?.map_err(|e| e.to_string())? {
                    Message::Ping(_) | Message::Pong(_) => {}
                    message => messages.push(message),
                }
            }
            Ok::<_, String>(messages)
        })
    };
    let messages = received(&[], 1)?;
    let Message::Text(text) = &messages[0] else { return Err(format!("{messages:?}")) };
    let event: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    same(short(&event), "ADDED a 1".to_owned())?;
    // It ends with the watch.
    let ended = received(&[], 2)?;
    same(matches!(ended[1], Message::Close(_)), true)
}

fn collection_goes(run: &mut Run) -> Outcome {
    let (maps, _) = run.maps()?;
    for n in 0..20 {
        run.put(&maps, &format!("m{n}"), json!({"even": (n % 2).to_string()}))?;
    }
    let from = version(&run.get(&maps)?.tree());
    let mut watch = run.watch(&format!("{maps}?watch=1&resourceVersion={from}"))?;
    accepted(&run.json(Method::DELETE, &format!("{maps}?labelSelector=even%3D0"), &Value::Null)?)?;
    let events = watch.told(10)?;
    let mut told = shorts(&events);
    told.sort();
    let mut wanted: Vec<String> = (0..20).step_by(2).map(|n| format!("DELETED m{n} 1")).collect();
    wanted.sort();
    same(told, wanted)?;
    same(events.is_sorted_by_key(|event| number(&event["object"])), true)?;
    let left = run.get(&maps)?;
    expect(left.tree()["items"].as_array().map(Vec::len) == Some(10), &left)
}

fn custom_kinds(run: &mut Run) -> Outcome {
    let plural = format!("watched{}", std::process::id());
    let group = "watch.example.com";
    let definition = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {"group": group, "scope": "Namespaced",
        "names": {"plural": plural, "singular": plural, "kind": "Watched", "listKind": "WatchedList"}, "versions": [
        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
        "properties": {"data": {"type": "object", "properties": {"k": {"type": "string"}, "l": {"type": "string"}}}}}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let path = run.make(definitions, &definition)?;
    let objects = format!("/apis/{group}/v1/namespaces/default/{plural}");
    run.until(|| run.get(&objects), |answer| answer.code == 200)?;
    let object =
        json!({"apiVersion": format!("{group}/v1"), "kind": "Watched", "metadata": {"name": "a"}, "data": {"k": "1"}});
    accepted(&run.post(&objects, &object)?)?;
    // The store knows of no such objects at that time.
    let old = run.watch(&format!("{objects}?watch=1&resourceVersion=1&timeoutSeconds=2"))?.rest()?;
    let status = &old[0]["object"];
    let head = (text(&old[0], "/type"), text(status, "/reason"), status["code"].as_u64());
    same(head, ("ERROR", "Expired", Some(410)))?;
    same(text(status, "/message").starts_with("too old resource version: 1 ("), true)?;
    let mut watch = run.watch(&format!("{objects}?{WATCH_LIST}&allowWatchBookmarks=true"))?;
    let events = watch.told(2)?;
    same(short(&events[0]), "ADDED a 1".to_owned())?;
    same(text(&events[1], "/object/kind"), "Watched")?;
    accepted(&run.json(Method::DELETE, &path, &Value::Null)?)?;
    let rest: Vec<Value> = watch.rest()?.into_iter().filter(|event| event["type"] != "BOOKMARK").collect();
    same(shorts(&rest), vec!["DELETED a 1".to_owned()])
}

/// Names that writers fight for, and how many writes each of them does.
const NAMES: usize = 5;
const WRITERS: usize = 6;
const WRITES: usize = 30;

fn many_writers(run: &mut Run) -> Outcome {
    let (maps, before) = run.maps()?;
    let all = format!("{maps}?watch=1&resourceVersion={before}");
    let mut early = run.watch(&all)?;
    let mut state = run.watch(&format!("{maps}?watch=1"))?;
    let mut odd = run.watch(&format!("{all}&labelSelector=odd%3D1"))?;
    let writer = async |me: usize| {
        let mut versions = Vec::new();
        for n in 0..WRITES {
            let (name, odd) = (format!("m{}", (me * 7 + n * 3) % NAMES), (n % 2).to_string());
            let body = json!({"metadata": {"name": name, "labels": {"odd": odd}}, "data": {"k": format!("{me}-{n}")}});
            let one = format!("{maps}/{name}");
            let answer = match n % 5 {
                4 => run.wire.json(Method::DELETE, &one, &Value::Null).await?,
                1 => run.wire.json(Method::POST, &maps, &body).await?,
                _ => {
                    let types = ("application/merge-patch+json", "application/json");
                    run.wire.send(Credentials::Own, &Method::PATCH, &one, types, body.to_string()).await?
                }
            };
            expect(matches!(answer.code, 200 | 201 | 404 | 409), &answer)?;
            if answer.code < 300 && n % 5 != 4 {
                versions.push(number(&answer.tree()));
            }
        }
        Ok::<_, String>(versions)
    };
    let writers = futures::future::join_all((0..WRITERS).map(writer));
    let written = run.runtime.block_on(writers).into_iter().collect::<Result<Vec<_>, _>>()?;
    run.put(&maps, "end", json!({"odd": "1"}))?;
    let until_end = |watch: &mut Watch| {
        let mut events = Vec::new();
        while events.last().is_none_or(|event| text(event, "/object/metadata/name") != "end") {
            events.extend(watch.told(1)?);
        }
        Ok::<_, String>(events)
    };
    let told = until_end(&mut early)?;
    follows(&told)?;
    let mut seen: Vec<u64> = told.iter().filter(|e| e["type"] != "DELETED").map(|e| number(&e["object"])).collect();
    let mut versions: Vec<u64> = written.into_iter().flatten().collect();
    versions.sort_unstable();
    seen.pop();
    same(seen, versions)?;
    same(shorts(&until_end(&mut state)?), shorts(&told))?;
    let late = until_end(&mut run.watch(&all)?)?;
    same(&late, &told)?;
    let middle = version(&told[told.len() / 2]["object"]);
    let resumed = until_end(&mut run.watch(&format!("{maps}?watch=1&resourceVersion={middle}"))?)?;
    same(&resumed[..], &told[told.len() / 2 + 1..])?;
    // The selected ones are the same story seen through the selector.
    let selected = until_end(&mut odd)?;
    follows(&selected)?;
    same(selected.iter().all(|event| text(event, "/object/metadata/labels/odd") == "1"), true)?;
    let adds = |events: &[Value]| {
        let chosen = events.iter().filter(|e| e["type"] != "DELETED" && text(e, "/object/metadata/labels/odd") == "1");
        chosen.map(|event| number(&event["object"])).collect::<Vec<_>>()
    };
    same(adds(&selected), adds(&told))
}

/// Versions rise, and each object comes before it changes or goes.
fn follows(events: &[Value]) -> Outcome {
    same(events.is_sorted_by(|one, next| number(&one["object"]) < number(&next["object"])), true)?;
    let mut there = BTreeMap::new();
    for event in events {
        let was = there.insert(text(event, "/object/metadata/name"), event["type"] != "DELETED").unwrap_or(false);
        same(was, event["type"] != "ADDED")
            .map_err(|_| format!("{}: {event}", if was { "there" } else { "not there" }))?;
    }
    Ok(())
}
