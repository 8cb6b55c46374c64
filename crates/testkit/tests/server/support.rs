//! A server without nodes, and short words for what is done with it.

use std::process::Command;

use serde_json::Value;
use skiff_testkit::process::{Process, Setup, binary};

/// A server that runs nothing but the API and controllers.
pub(crate) fn server(number: u8, flags: &[&str]) -> Process {
    let mut all = vec!["--disable".to_owned(), "agent,proxy,dns".to_owned()];
    all.extend(flags.iter().map(|&flag| flag.to_owned()));
    Process::start(&Setup { number, flags: all, images: Vec::new() }).expect("a server")
}

/// `skiff` with some words: its exit code, and what it said on stdout and stderr.
pub(crate) fn skiff(words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).args(words).output().expect("the binary");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// One object as JSON.
pub(crate) fn get(server: &Process, words: &[&str]) -> Value {
    let mut all = vec!["get"];
    all.extend(words);
    all.extend(["-o", "json"]);
    serde_json::from_str(&server.kubectl(&all).expect("it is there")).expect("JSON")
}

/// Sets a ConfigMap's only value; its new version.
pub(crate) fn set(server: &Process, name: &str, value: &str) -> String {
    let patch = format!(r#"{{"data":{{"key":"{value}"}}}}"#);
    if server.kubectl(&["get", "configmap", name]).is_err() {
        server.kubectl(&["create", "configmap", name, &format!("--from-literal=key={value}")]).expect("created");
    } else {
        server.kubectl(&["patch", "configmap", name, "--type=merge", "-p", &patch]).expect("patched");
    }
    version(server, name)
}

/// A ConfigMap's version.
pub(crate) fn version(server: &Process, name: &str) -> String {
    get(server, &["configmap", name])["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

/// Where it listens.
pub(crate) fn url(server: &Process) -> String {
    let config = std::fs::read_to_string(server.kubeconfig()).expect("a kubeconfig");
    let url = config.lines().find_map(|line| line.trim().strip_prefix("server: ")).expect("a URL");
    url.trim_matches('"').to_owned()
}

/// What a path answers the bearer of a token, or nobody: the status code.
pub(crate) fn code(server: &Process, path: &str, token: Option<&str>) -> String {
    let url = url(server);
    let mut curl = Command::new("curl");
    curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", &format!("{url}{path}")]);
    if let Some(token) = token {
        curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let output = curl.output().expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
