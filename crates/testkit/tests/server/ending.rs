//! A server that is asked to end: who came before is answered, who comes after is not taken.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skiff_testkit::process::{Process, eventually};

use crate::support::{get, server, url};

/// A ConfigMap whose body is half sent.
struct Half {
    curl: Child,
    rest: String,
}

impl Half {
    fn send(server: &Process, name: &str, protocol: &str) -> Self {
        let url = format!("{}/api/v1/namespaces/default/configmaps", url(server));
        let mut curl = Command::new("curl");
        curl.args(["-sk", protocol, "--noproxy", "*", "-w", "%{http_code}", "-o", "/dev/null", "-X", "POST", "-N"]);
        curl.args([
            "-H",
            "Authorization: Bearer t",
            "-H",
            "Content-Type: application/json",
            "-H",
            "Expect:",
            "-T",
            "-",
        ]);
        let mut curl = curl.arg(url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl");
        let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
        let (first, rest) = body.split_at(body.len() / 2);
        curl.stdin.as_mut().expect("a pipe").write_all(first.as_bytes()).expect("half of it");
        Self { curl, rest: rest.to_owned() }
    }

    /// Sends the other half; the status code.
    fn finish(mut self) -> String {
        let sent = self.curl.stdin.take().expect("a pipe").write_all(self.rest.as_bytes());
        sent.expect("the other half");
        let output = self.curl.wait_with_output().expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn requests_on_their_way_are_answered_at_the_end() {
    let mut server = server(150, &["--token", "t"]);
    let halves = [("one", "--http1.1"), ("two", "--http2")].map(|(name, protocol)| Half::send(&server, name, protocol));
    let writing = || server.kubectl(&["get", "--raw", "/metrics"]).unwrap_or_default();
    let both = "apiserver_current_inflight_requests{request_kind=\"mutating\"} 2\n";
    assert!(eventually(Duration::from_secs(10), || writing().contains(both)), "both have begun:\n{}", writing());
    let pid = server.pid().expect("it runs").to_string();
    assert!(Command::new("kill").arg(&pid).status().expect("kill").success());
    let ready = || server.kubectl(&["get", "--raw", "/readyz"]);
    assert!(eventually(Duration::from_secs(10), || ready().is_err()), "nobody new is taken");
    let line = format!("/proc/{pid}/cmdline");
    let ended = || std::fs::read(&line).map_or(true, |line| line.is_empty());
    assert!(!eventually(Duration::from_secs(3), ended), "it waits for them");
    let codes = halves.map(Half::finish);
    assert_eq!(codes, ["201", "201"], "{}", server.log_end());
    server.stop().expect("it ends");
    server.launch().expect("it starts again");
    for name in ["one", "two"] {
        assert_eq!(get(&server, &["configmap", name])["metadata"]["name"], name);
    }
}
