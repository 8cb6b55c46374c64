//! Streams into and out of containers over WebSockets: commands, a terminal, a running process, logs, ports.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use http::Method;
use serde_json::{Value, json};
use skiff_client::ws::channel::{CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT};
use skiff_client::ws::{self, Message, Socket};

use crate::support::{Api as Run, Outcome, expect, is_ready};
use crate::table::{BUSYBOX, phase, pod, server};

/// Longer than any of these streams takes.
const LONG: Duration = Duration::from_secs(60);
/// The newest.
const V5: &str = ws::COMMANDS[0];

/// What came out of a socket, by channel.
type Said = BTreeMap<u8, String>;

fn text(said: &Said, channel: u8) -> &str {
    said.get(&channel).map(String::as_str).unwrap_or_default()
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

/// Reads until `enough`, or until the end.
async fn hear(socket: &mut Socket, enough: impl Fn(&Said) -> bool) -> Result<Said, String> {
    let mut said = Said::new();
    while let Some(next) = socket.next().await {
        let data = match next.map_err(|e| e.to_string())? {
            Message::Binary(data) => data,
            Message::Close(_) => break,
            _ => continue,
        };
        if let Some((channel, bytes)) = data.split_first() {
            said.entry(*channel).or_default().push_str(&String::from_utf8_lossy(bytes));
        }
        if enough(&said) {
            break;
        }
    }
    Ok(said)
}

/// All bytes of a socket without channels.
async fn whole(socket: &mut Socket) -> Result<String, String> {
    let mut all = String::new();
    while let Some(next) = socket.next().await {
        match next.map_err(|e| e.to_string())? {
            Message::Binary(data) => all.push_str(&String::from_utf8_lossy(&data)),
            Message::Text(data) => {
                let bytes = STANDARD.decode(data.as_str()).map_err(|e| e.to_string())?;
                all.push_str(&String::from_utf8_lossy(&bytes));
            }
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(all)
}

impl Run {
    /// Opens a socket that speaks `protocol`, writes what is to be written, and reads.
    #[allow(clippy::disallowed_methods, reason = "a real server answers in real time")]
    fn talk<T>(
        &self,
        path: &str,
        protocol: &str,
        write: Vec<Message>,
        read: impl AsyncFnOnce(&mut Socket) -> Result<T, String>,
    ) -> Result<T, String> {
        let work = async {
            let opened = ws::connect(&self.wire.remote(), path, &[protocol]).await;
            let (mut socket, chosen) = opened.map_err(|error| error.to_string())?;
            if chosen != protocol {
                return Err(format!("chose {chosen:?}"));
            }
            for message in write {
                socket.send(message).await.map_err(|error| error.to_string())?;
            }
            read(&mut socket).await
        };
        let done = self.runtime.block_on(async { tokio::time::timeout(LONG, work).await });
        done.unwrap_or_else(|_| Err("not in time".to_owned())).map_err(|error| format!("{path} as {protocol}: {error}"))
    }

    /// What a command in a container says.
    pub(crate) fn exec(&self, home: &str, pod: &str, container: &str, script: &str) -> Result<String, String> {
        let command = escaped(script);
        let path = format!(
            "{home}/pods/{pod}/exec?container={container}&stdout=1&stderr=1&command=sh&command=-c&command={command}"
        );
        let mut said = self.talk(&path, V5, Vec::new(), async |socket| hear(socket, |_| false).await)?;
        if text(&said, ERROR).contains("Failure") {
            return Err(format!("{script}: {said:?}"));
        }
        Ok(said.remove(&STDOUT).unwrap_or_default())
    }
}

/// As part of a query.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

fn command(script: &str) -> Value {
    json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]})
}

pub(crate) fn commands(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let mut listener = command("echo alive; while read x; do echo \"got $x\"; done");
    listener["stdin"] = true.into();
    run.add(&home, "pods", &pod("one", listener, json!({})))?;
    run.pod_when("it runs", &home, "one", is_ready)?;
    let at = |rest: &str| format!("{home}/pods/one/{rest}");
    let script = escaped("read x; echo \"$x\"; echo bad >&2; exit 3");
    let exec = |flags: &str, script: &str| at(&format!("exec?{flags}&command=sh&command=-c&command={script}"));
    // Input, both outputs, and how it ended; the oldest protocol has no word for the end of the input.
    for protocol in ws::COMMANDS {
        let input = vec![message(STDIN, b"hello\n")];
        let said = run.talk(&exec("stdin=1&stdout=1&stderr=1", &script), protocol, input, async |socket| {
            hear(socket, |said| said.contains_key(&ERROR)).await
        })?;
        same(protocol, (text(&said, STDOUT), text(&said, STDERR)), ("hello\n", "bad\n"))?;
        let ended: Value = serde_json::from_str(text(&said, ERROR)).map_err(|e| format!("{e}: {said:?}"))?;
        let (reason, causes) = (json!("NonZeroExitCode"), json!([{"reason": "ExitCode", "message": "3"}]));
        same(protocol, (&ended["reason"], &ended["details"]["causes"]), (&reason, &causes))?;
    }
    let good = at("exec?container=c&stdout=1&stderr=1&command=echo&command=remote%20execution");
    let said = run.talk(&good, "channel.k8s.io", Vec::new(), async |socket| hear(socket, |_| false).await)?;
    same("the oldest", text(&said, STDOUT), "remote execution\n")?;
    let input = vec![message(STDIN, b"all of it"), message(CLOSE, &[STDIN])];
    let counts = exec("stdin=1&stdout=1", &escaped("wc -c"));
    let said = run.talk(&counts, V5, input, async |socket| hear(socket, |_| false).await)?;
    same("an end of input", text(&said, STDOUT).trim(), "9")?;
    same("a good end", text(&said, ERROR).contains("Success"), true)?;
    // A terminal is as large as it is told to be.
    let sized = escaped(
        "until busybox stty size 2>/dev/null | grep -qx '33 99'; do sleep 0.1; done; tty >/dev/null && echo sized",
    );
    let size = vec![message(RESIZE, br#"{"Width":99,"Height":33}"#)];
    let said = run.talk(&exec("stdin=1&stdout=1&tty=1", &sized), V5, size, async |socket| {
        hear(socket, |said| said.contains_key(&ERROR)).await
    })?;
    same("a terminal", text(&said, STDOUT), "sized\r\n")?;
    // What runs already hears and answers.
    let input = vec![message(STDIN, b"me\n")];
    let said = run.talk(&at("attach?container=c&stdin=1&stdout=1"), V5, input, async |socket| {
        hear(socket, |said| text(said, STDOUT).ends_with("got me\n")).await
    })?;
    same("attached", text(&said, STDOUT).ends_with("got me\n"), true)?;
    // Who is not there is told of before anything is upgraded.
    let nobody = [(exec("container=none&stdout=1", "x"), 400), (format!("{home}/pods/none/attach?stdout=1"), 404)];
    for (path, code) in nobody {
        let plain = run.json(Method::GET, &path, &Value::Null)?;
        expect(plain.code == code, &plain)?;
        same(&path, run.talk(&path, V5, Vec::new(), async |_| Ok(())).is_err(), true)?;
    }
    Ok(())
}

pub(crate) fn logs(run: &mut Run) -> Outcome {
    let home = run.home()?;
    run.add(&home, "pods", &pod("talks", command("echo one; echo two; echo three; sleep 600"), json!({})))?;
    let twice = command("echo again; exit 1");
    run.add(&home, "pods", &pod("twice", twice, json!({"restartPolicy": "Always"})))?;
    run.pod_when("it talks", &home, "talks", is_ready)?;
    run.ask_log(&home, "talks", "", |said| said.ends_with("three\n"))?;
    for protocol in ["binary.k8s.io", "base64.binary.k8s.io"] {
        let path = format!("{home}/pods/talks/log?container=c");
        let said = run.talk(&path, protocol, Vec::new(), async |socket| whole(socket).await)?;
        same(protocol, said.as_str(), "one\ntwo\nthree\n")?;
    }
    for (query, expected) in [
        ("tailLines=1", "three\n"),
        ("tailLines=0", ""),
        ("limitBytes=5", "one\nt"),
        ("tailLines=2&limitBytes=4", "two\n"),
        ("sinceSeconds=600", "one\ntwo\nthree\n"),
        ("sinceTime=2100-01-01T00:00:00Z", ""),
    ] {
        run.ask_log(&home, "talks", query, |said| said == expected)?;
    }
    let stamped = run.ask_log(&home, "talks", "timestamps=true&tailLines=1", |_| true)?;
    let (time, rest) = stamped.split_once(' ').unwrap_or_default();
    same("when", (time.parse::<jiff::Timestamp>().is_ok(), rest), (true, "three\n"))?;
    // The container before, once there is one; none of another name.
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0);
    run.pod_when("it has begun again", &home, "twice", restarted)?;
    run.ask_log(&home, "twice", "previous=true", |said| said == "again\n")?;
    for query in ["container=none", "previous=true", "tailLines=-1"] {
        let refused = run.json(Method::GET, &format!("{home}/pods/talks/log?{query}"), &Value::Null)?;
        expect(matches!(refused.code, 400 | 422), &refused)?;
    }
    // Following ends with the container.
    run.add(&home, "pods", &pod("ends", command("echo first; sleep 1; echo last"), json!({})))?;
    run.pod_when("it began", &home, "ends", |pod| phase(pod) != "Pending")?;
    run.ask_log(&home, "ends", "follow=true", |said| said == "first\nlast\n").map(drop)
}

impl Run {
    /// What a container has said, once it suits: it may have begun without having said all yet.
    fn ask_log(&self, home: &str, pod: &str, query: &str, suits: impl Fn(&str) -> bool) -> Result<String, String> {
        let mut last = String::new();
        let held = skiff_testkit::process::eventually(LONG, || {
            let answer = self.json(Method::GET, &format!("{home}/pods/{pod}/log?{query}"), &Value::Null);
            let good = answer.as_ref().is_ok_and(|answer| answer.code == 200);
            last = answer.map_or_else(|error| error, |answer| String::from_utf8_lossy(&answer.bytes).into_owned());
            good && suits(&last)
        });
        if held { Ok(last) } else { Err(format!("the log of {pod} with {query:?}: {last:?}")) }
    }
}

pub(crate) fn ports(run: &mut Run) -> Outcome {
    let home = run.home()?;
    run.serve(&home, &[server("served", &[])])?;
    // Two channels for each port: data, and why there are none; each begins with the number of the port.
    let path = format!("{home}/pods/served/portforward?ports=8080&ports=8");
    let ask = b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let said = run.talk(&path, "v4.channel.k8s.io", vec![message(0, ask)], async |socket| {
        hear(socket, |said| text(said, 0).ends_with("served") && text(said, 3).len() > 2).await
    })?;
    let port = |channel: u8| text(&said, channel).bytes().take(2).collect::<Vec<_>>();
    // 8080 is no text in two bytes: 0x90 is told as a replacement.
    same(&format!("the second port of {said:?}"), port(2), vec![8, 0])?;
    same("a page", text(&said, 0).contains(" 200 OK"), true)?;
    same("nobody listens there", text(&said, 3).is_empty(), false)
}
