//! Noise: requests that nobody would send but a fault or an enemy. Each is answered, quickly and by a refusal where it is
//! one, and the API is as well as before. Against the API of `CONFORMANCE_KUBECONFIG`, or against a server that is
//! started for it; `SKIFF_SEEDS` asks for more than the short run's seeds.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_client::http::{Raw, raw};
use skiff_conformance::{Answer, Credentials, Wire};
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Outcome, accepted, expect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CASES: &[Case<Run>] = &[
    ("bombs_do_not_go_off", bombs),
    ("long_selectors_are_read", long_selectors),
    ("queries_that_mean_nothing_are_refused", queries),
    ("damaged_requests_are_answered", damaged),
    ("slow_writers_are_nobodys_burden", slow_writers),
    ("slow_readers_are_cut_off_or_told_all", slow_readers),
    ("half_open_upgrades_are_let_go", half_open_upgrades),
];

fn main() {
    std::process::exit(cases::run_with(Run::start(76), CASES));
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Far more than any of these takes, and far less than one that went off would.
const PATIENCE: Duration = Duration::from_secs(20);

impl Run {
    fn send(&self, method: &Method, path: &str, media: &str, body: impl Into<bytes::Bytes>) -> Result<Answer, String> {
        let begun = Instant::now();
        let answer = self.wire.send(Credentials::Own, method, path, (media, "application/json"), body);
        let answer = self.runtime.block_on(answer)?;
        let took = begun.elapsed();
        if took > PATIENCE { Err(format!("{method} {path} took {took:?}")) } else { Ok(answer) }
    }

    fn map(&mut self, name: &str) -> Result<String, String> {
        let name = format!("{name}-{}", std::process::id());
        self.make(
            MAPS,
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}}),
        )
    }
}

fn bombs(run: &mut Run) -> Outcome {
    let path = run.map("bombs")?;
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let mut aliases =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (before, letter) in ('a'..='j').zip('b'..='k') {
        let nine = vec![format!("*{before}"); 9].join(", ");
        aliases.push_str(&format!("{letter}: &{letter} [{nine}]\n"));
    }
    let add = json!({"op": "add", "path": "/data", "value": {"a": "x".repeat(1_000)}});
    let many = Value::from(vec![add.clone(); 10_001]).to_string();
    let copy = |i: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/c{i}")});
    let copies = Value::from([add].into_iter().chain((0..25).map(copy)).collect::<Vec<Value>>()).to_string();
    let apply = format!("{path}?fieldManager=m");
    for (method, path, media, body, codes) in [
        (Method::POST, MAPS, "application/json", &deep, &[400][..]),
        (Method::PATCH, &path, "application/merge-patch+json", &deep, &[400]),
        (Method::PATCH, &path, "application/strategic-merge-patch+json", &deep, &[400]),
        (Method::POST, MAPS, "application/yaml", &aliases, &[400]),
        (Method::PATCH, &apply, "application/apply-patch+yaml", &aliases, &[400]),
        (Method::PATCH, &path, "application/json-patch+json", &many, &[413]),
        (Method::PATCH, &path, "application/json-patch+json", &copies, &[413, 422]),
    ] {
        let answer = run.send(&method, path, media, body.clone())?;
        let head: String = body.chars().take(60).collect();
        expect(codes.contains(&answer.code), &answer).map_err(|got| format!("{media} {head}: {got}"))?;
    }
    let kept = run.json(Method::GET, &path, &Value::Null)?;
    expect(kept.tree()["data"] == json!({"k": "v"}), &kept)
}

/// Controllers list by many names at once.
fn long_selectors(run: &mut Run) -> Outcome {
    let values: Vec<String> = (0..5_000).map(|i| format!("v{i}")).collect();
    let path = format!("{MAPS}?labelSelector=a%20in%20({})", values.join(","));
    accepted(&run.send(&Method::GET, &path, "", "")?)
}

fn queries(run: &mut Run) -> Outcome {
    for (query, code, words) in [
        ("limit=99999999999999999999", 400, "strconv.ParseInt: parsing \"99999999999999999999\": value out of range"),
        ("limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("timeoutSeconds=1.5", 400, "strconv.ParseInt: parsing \"1.5\": invalid syntax"),
        ("resourceVersion=-1", 400, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ("fieldSelector=a==b==c", 400, "unescaped character in value: 61"),
        ("continue=%00", 400, "illegal base64 data at input byte 0"),
    ] {
        let answer = run.send(&Method::GET, &format!("{MAPS}?{query}"), "", "")?;
        let fits = answer.code == code && answer.text("message").contains(words);
        expect(fits, &answer).map_err(|got| format!("{query}: {got}"))?;
    }
    Ok(())
}

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }

    /// Bytes that are changed, left out, repeated or put in.
    fn damage(&mut self, text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len());
            match self.roll(5) {
                0 => bytes[at] = self.roll(256) as u8,
                1 => drop(bytes.drain(at..(at + 1 + self.roll(8)).min(bytes.len()))),
                2 => bytes.extend_from_slice(&bytes[at..].to_vec()),
                3 => {
                    let put_in = [&b"null"[..], b"{}", b"[", b"\"", b"-1", b"1e999", b"\0", b"\xff"];
                    drop(bytes.splice(at..at, self.of(&put_in).iter().copied()));
                }
                _ => bytes.truncate(at.max(1)),
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        bytes
    }
}

fn damaged(run: &mut Run) -> Outcome {
    let seeds: u64 = std::env::var("SKIFF_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(400);
    let path = run.map("damaged")?;
    // Where no controller makes it, each pod would wait a second for it.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let made = run.json(Method::POST, "/api/v1/namespaces/default/serviceaccounts", &account)?;
    expect(made.code == 201 || made.code == 409, &made)?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec":
        {"containers": [{"name": "c", "image": "example.com/none", "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": "100m"}}}], "tolerations": [{"operator": "Exists"}]}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}});
    let operations =
        json!([{"op": "replace", "path": "/data/k", "value": "w"}, {"op": "test", "path": "/data/k", "value": "w"}]);
    let (pods, apply) = ("/api/v1/namespaces/default/pods", format!("{path}?fieldManager=m"));
    let requests = [
        (Method::POST, pods, "application/json", pod.to_string()),
        (Method::POST, pods, "application/yaml", pod.to_string()),
        (
            Method::POST,
            MAPS,
            "application/vnd.kubernetes.protobuf",
            "k8s\0\n\u{f}\n\u{2}v1\u{12}\u{9}ConfigMap".to_owned(),
        ),
        (Method::PATCH, path.as_str(), "application/json-patch+json", operations.to_string()),
        (Method::PATCH, path.as_str(), "application/merge-patch+json", map.to_string()),
        (Method::PATCH, path.as_str(), "application/strategic-merge-patch+json", map.to_string()),
        (Method::PATCH, apply.as_str(), "application/apply-patch+yaml", map.to_string()),
        (Method::PUT, path.as_str(), "application/json", map.to_string()),
    ];
    let queries =
        ["dryRun=All", "dryRun=All&fieldValidation=Strict", "dryRun=All&fieldValidation=x", "dryRun=All&pretty=1"];
    for seed in 0..seeds {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (method, path, media, body) = dice.of(&requests).clone();
        let join = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{join}{}", dice.of(&queries));
        let body = dice.damage(&body);
        let told = format!("seed {seed}: {method} {path} {media} {:?}", String::from_utf8_lossy(&body));
        let answer = run.send(&method, &path, media, body).map_err(|error| format!("{told}: {error}"))?;
        // What does not fit its schema is no client's fault to apply, as upstream has it: a Status all the same.
        let answered = answer.code < 500 || answer.code == 500 && answer.text("kind") == "Status";
        let calm = !String::from_utf8_lossy(&answer.bytes).to_lowercase().contains("panic");
        expect(answered && calm, &answer).map_err(|got| format!("{told}: {got}"))?;
    }
    let after = run.json(Method::GET, &path, &Value::Null)?;
    expect(after.tree()["data"] == json!({"k": "v"}), &after)
}

/// Connections that half-said requests are left on.
const CONNECTIONS: usize = 40;

impl Run {
    /// A connection on which `text` was written, and nothing more; credentials stand in for `AUTH`.
    async fn half_said(&self, text: &str) -> Result<Raw, String> {
        let remote = self.wire.remote();
        let mut connection = raw(&remote).await.map_err(|e| e.to_string())?;
        let token = remote.token.as_deref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let text = text.replace("AUTH", token.as_deref().unwrap_or_default());
        connection.write_all(text.as_bytes()).await.map_err(|e| e.to_string())?;
        connection.flush().await.map_err(|e| e.to_string())?;
        Ok(connection)
    }

    /// That many connections, each left with what `text` says for its number.
    fn leave(&self, text: impl Fn(usize) -> String) -> Result<Vec<Raw>, String> {
        let all = (0..CONNECTIONS).map(|n| {
            let text = text(n);
            async move { self.half_said(&text).await }
        });
        self.runtime.block_on(futures::future::try_join_all(all))
    }
}

fn slow_writers(run: &mut Run) -> Outcome {
    let path = run.map("slow-writers")?;
    let parts = [
        "POST MAPS HTTP/1.1\r\nHost: x\r\nAUTHContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{\"data\":",
        "POST MAPS HTTP/1.1\r\nHost: x\r\nAUTHTransfer-Encoding: chunked\r\n\r\n5\r\n{\"dat",
        "GET MAPS HTTP/1.1\r\nHost: x\r\nX-Half: ",
        "GE",
    ];
    let left = run.leave(|n| parts[n % parts.len()].replace("MAPS", MAPS))?;
    for n in 0..20 {
        let query = format!("{path}?fieldManager=m{n}");
        accepted(&run.send(
            &Method::PATCH,
            &query,
            "application/merge-patch+json",
            format!("{{\"data\":{{\"k\":\"{n}\"}}}}"),
        )?)?;
    }
    drop(left);
    accepted(&run.send(&Method::GET, &path, "", "")?)
}

/// A watcher who does not read is told all that happened when he does, or is cut off; nothing is left out on the way.
fn slow_readers(run: &mut Run) -> Outcome {
    let path = run.map("slow-readers")?;
    let name = path.rsplit('/').next().unwrap_or_default();
    let (last, filling) = (120, "x".repeat(200_000));
    let big = json!({"data": {"k": "0", "filling": filling}}).to_string();
    let changed = run.send(&Method::PATCH, &path, "application/merge-patch+json", big)?;
    let from = changed.tree()["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let watch = format!("{MAPS}?watch=1&fieldSelector=metadata.name%3D{name}&resourceVersion={from}&timeoutSeconds=60");
    // Each has a connection of its own: what waits in one stream would hold up all others beside it.
    let open = || {
        let _inside = run.runtime.enter();
        let wire = Wire::new(run.kubeconfig())?;
        run.runtime.block_on(wire.open(Credentials::Own, &Method::GET, &watch, &[], Bytes::new()))
    };
    let watches = (0..4).map(|_| open()).collect::<Result<Vec<_>, String>>()?;
    // Answers that nobody takes.
    let left = run.leave(|_| format!("GET {MAPS} HTTP/1.1\r\nHost: x\r\nAUTH\r\n"))?;
    for n in 1..=last {
        let body = json!({"data": {"k": n.to_string(), "filling": filling}}).to_string();
        accepted(&run.send(&Method::PATCH, &path, "application/merge-patch+json", body)?)?;
    }
    for watch in watches {
        let mut body = watch.into_body();
        let (mut text, mut told) = (Vec::new(), Vec::new());
        while told.last() != Some(&last) {
            let frame = run.runtime.block_on(async { tokio::time::timeout(PATIENCE, body.frame()).await });
            let Some(Ok(frame)) = frame.map_err(|_| format!("silence after {told:?}"))? else { break };
            text.extend(frame.into_data().unwrap_or_default());
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).map_err(|e| e.to_string())?;
                told.extend(event["object"]["data"]["k"].as_str().and_then(|k| k.parse::<usize>().ok()));
            }
        }
        if !told.iter().copied().eq(1..=told.len()) {
            return Err(format!("told of {told:?}"));
        }
    }
    drop(left);
    accepted(&run.send(&Method::GET, &path, "", "")?)
}

fn half_open_upgrades(run: &mut Run) -> Outcome {
    let path = run.map("upgrades")?;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://x\r\nSec-WebSocket-Version: 13\r\n";
    let key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    // The last of them waits for a node that is not there.
    let exec = "/api/v1/namespaces/default/pods/none/exec?command=x&stdout=1";
    let left = run.leave(|n| match n % 4 {
        0 => format!("GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nAUTH{upgrade}{key}\r\n"),
        1 => format!("GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nAUTH{upgrade}{key}\r\n\u{1}\u{2}\u{3}"),
        2 => format!("GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nAUTH{upgrade}"),
        _ => format!("GET {exec} HTTP/1.1\r\nHost: x\r\nAUTH{upgrade}{key}\r\n"),
    })?;
    accepted(&run.send(&Method::GET, &path, "", "")?)?;
    drop(left);
    // Who says no key is told so.
    for (said, code) in [(upgrade.to_owned(), "400"), (format!("{upgrade}{key}"), "101")] {
        let text = format!("GET {MAPS}?watch=1&timeoutSeconds=1 HTTP/1.1\r\nHost: x\r\nAUTH{said}\r\n");
        let answer = run.runtime.block_on(async {
            let mut connection = run.half_said(&text).await?;
            let mut head = [0; 12];
            let read = tokio::time::timeout(PATIENCE, connection.read_exact(&mut head)).await;
            read.map_err(|_| "no answer")?.map_err(|e| e.to_string())?;
            Ok::<_, String>(String::from_utf8_lossy(&head).into_owned())
        })?;
        if answer != format!("HTTP/1.1 {code}") {
            return Err(format!("{text}: {answer}"));
        }
    }
    accepted(&run.send(&Method::GET, &path, "", "")?)
}
