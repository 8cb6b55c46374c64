//! Debian's etcdctl looks into the embedded store.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::support::{server, set, skiff};

/// `etcdctl` on a running server.
struct Etcdctl(String);

impl Etcdctl {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.0]).args(words);
        command
    }

    /// What it says, and whether it succeeded; with something on its standard input.
    fn run(&self, words: &[&str], input: &str) -> (bool, String) {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl; `cargo xtask test` installs it");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.success(), said.concat())
    }

    fn ok(&self, words: &[&str]) -> String {
        let (succeeded, said) = self.run(words, "");
        assert!(succeeded, "{words:?}: {said}");
        said
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn etcdctl_works_on_the_embedded_store() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let mut server = server(124, &["--etcd-listen", &address]);
    let etcdctl = Etcdctl(address.clone());
    set(&server, "x", "one");

    let keys = etcdctl.ok(&["get", "--prefix", "/registry", "--keys-only"]);
    assert!(
        keys.contains("/registry/configmaps/default/x\n") && keys.contains("/registry/namespaces/default\n"),
        "{keys}"
    );
    let value = etcdctl.ok(&["get", "/registry/configmaps/default/x", "--print-value-only"]);
    assert!(value.contains(r#""data":{"key":"one"}"#), "{value}");

    let status = etcdctl.ok(&["endpoint", "status", "-w", "json"]);
    assert!(status.contains(r#""version":"3.5.21+skiff"#) && status.contains(r#""raftTerm":1"#), "{status}");
    assert!(etcdctl.ok(&["endpoint", "health"]).contains("is healthy"));
    assert!(etcdctl.ok(&["member", "list"]).contains("skiff"));

    // A watch sees what the API server writes, in order.
    let mut watch = etcdctl.command(&["watch", "--prefix", "/registry/configmaps/default/", "--prev-kv"]);
    let mut watch = Killed(watch.stdout(Stdio::piped()).spawn().expect("etcdctl"));
    let mut lines = BufReader::new(watch.0.stdout.take().expect("a pipe")).lines();
    let mut until = |mark: &str| {
        let mut seen = Vec::new();
        for line in lines.by_ref().map_while(Result::ok) {
            seen.push(line);
            if seen.last().is_some_and(|line| line.contains(mark)) {
                break;
            }
        }
        seen
    };
    // The watch has begun once it tells of something.
    let begun = "/registry/configmaps/default/begun";
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (ctl, written) = (Etcdctl(address.clone()), begun.to_owned());
    let nudging = std::thread::spawn(move || {
        while stopped.try_recv().is_err() {
            ctl.ok(&["put", &written, "{}"]);
        }
    });
    until(begun);
    stop.send(()).expect("it listens");
    nudging.join().expect("it ends");
    set(&server, "x", "two");
    server.kubectl(&["delete", "configmap", "x"]).expect("deleted");
    let seen = until("DELETE");
    assert!(seen.iter().any(|line| line.contains(r#""data":{"key":"two"}"#)), "{seen:?}");
    assert_eq!(until("two")[0], "/registry/configmaps/default/x", "what was removed is told as well");
    drop(watch);

    let txn =
        "mod(\"/registry/none\") = \"0\"\nver(\"/t/a\") = \"0\"\n\nput /t/a 1\nput /t/b 2\nget /t/a\n\nget /t/a\n\n";
    let (succeeded, said) = etcdctl.run(&["txn"], txn);
    assert!(succeeded && said.starts_with("SUCCESS\n\nOK\n\nOK\n\n/t/a\n1\n"), "{said}");
    let (succeeded, said) = etcdctl.run(&["txn"], txn);
    assert!(succeeded && said.starts_with("FAILURE\n\n/t/a\n1\n"), "{said}");
    assert_eq!(etcdctl.ok(&["get", "--prefix", "/t/", "--order=DESCEND"]), "/t/b\n2\n/t/a\n1\n");
    assert_eq!(etcdctl.ok(&["del", "--prefix", "/t/"]), "2\n");

    let lease = etcdctl.ok(&["lease", "grant", "300"]);
    let id = lease.split(' ').nth(1).expect("a name");
    etcdctl.ok(&["put", "--lease", id, "/t/leased", "v"]);
    assert!(etcdctl.ok(&["lease", "timetolive", id, "--keys"]).contains("attached keys([/t/leased])"));
    assert!(etcdctl.ok(&["lease", "list"]).contains(id));
    etcdctl.ok(&["lease", "revoke", id]);
    assert_eq!(etcdctl.ok(&["get", "/t/leased"]), "");
    let (succeeded, said) = etcdctl.run(&["put", "--lease", id, "/t/leased", "v"], "");
    assert!(!succeeded && said.contains("requested lease not found"), "{said}");

    // The past that is compacted for etcd's clients is there for ours.
    let first = set(&server, "y", "one");
    let newest = set(&server, "y", "two");
    etcdctl.ok(&["compact", &newest]);
    let (succeeded, said) = etcdctl.run(&["get", "/registry/x", "--rev", &first], "");
    assert!(!succeeded && said.contains("required revision has been compacted"), "{said}");
    let past =
        server.kubectl(&["get", "configmap", "y", "--at", &first, "-o", "jsonpath={.data.key}"]).expect("history");
    assert_eq!(past, "one");

    // What etcdctl saves, Skiff restores.
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("snapshot").display().to_string();
    etcdctl.ok(&["snapshot", "save", &file]);
    server.stop().expect("it stops");
    std::fs::remove_dir_all(server.data_dir().join("store")).expect("a store");
    let data = server.data_dir().display().to_string();
    let (exit, _, err) = skiff(&["snapshot", "restore", &file, "--data-dir", &data]);
    assert_eq!(exit, Some(0), "{err}");
    server.launch().expect("it starts on what was restored");
    let restored = server.kubectl(&["get", "configmap", "y", "-o", "jsonpath={.data.key}"]).expect("restored");
    assert_eq!(restored, "two");
}

#[test]
fn only_this_machine_may_look() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data").display().to_string();
    let words = ["server", "--data-dir", &data, "--disable", "agent", "--secure-port", "0"];
    let (exit, _, err) = skiff(&[&words[..], &["--etcd-listen", "0.0.0.0:0"]].concat());
    assert!(exit == Some(2) && err.contains("is no loopback address"), "{err}");
}
