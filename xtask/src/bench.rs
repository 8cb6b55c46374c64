//! `cargo xtask bench`: what is promised about speed and size, measured on the built binary and printed as one table.
//!
//! The load comes from `wrk` with the scripts in `bench/`, and from a compiled reader of watches. Everything runs on
//! this machine, server and load on the same cores, so figures of two machines say nothing about each other.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time, of a process with its own clock")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::Failure;
use crate::install::{self, TESTS};
use crate::run::{cargo, command, output, run, target};

/// Which bench.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Bench {
    /// Start, memory, writes, reads, watches of one server
    First,
}

const TOKEN: &str = "bench";
const OBJECTS: u64 = 30_000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONTROL_PLANE: &str = "agent,scheduler,controller-manager,proxy,dns";

/// Builds, measures, prints.
pub(crate) fn bench(which: Bench) -> Result<(), Failure> {
    install::ensure(TESTS)?;
    run(&mut cargo(["build", "--locked", "--release", "-p", "skiff"]))?;
    run(&mut cargo(["build", "--locked", "--release", "-p", "skiff-testkit", "--example", "watchers"]))?;
    let rows = match which {
        Bench::First => first()?,
    };
    let width = rows.iter().map(|(what, _)| what.len()).max().unwrap_or_default();
    println!();
    for (what, figure) in rows {
        println!("{what:width$}  {figure}");
    }
    Ok(())
}

type Row = (String, String);

fn first() -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let mut row = |what: &str, figure: String| {
        println!("{what}: {figure}");
        rows.push((what.to_owned(), figure));
    };
    let all = Server::start("agent")?;
    row("idle memory, with controllers and scheduler", all.memory()?);
    drop(all);
    let server = Server::start(CONTROL_PLANE)?;
    row("exec to /readyz ok, fresh store", format!("{} ms", server.ready.as_millis()));
    row("idle memory, API server and store", server.memory()?);
    let mut made = 0;
    while made < OBJECTS {
        made += server.load(32, 1, MAPS, Some("create.lua"))?.requests;
    }
    row(&format!("memory after {made} ConfigMaps of 1 KiB"), server.memory()?);
    for connections in [1, 16, 32, 128] {
        let load = server.load(connections, 5, MAPS, Some("create.lua"))?;
        row(&format!("create, durable, {connections} connections"), load.told());
    }
    let name = server.some_name()?;
    row("GET, 32 connections", server.load(32, 5, &format!("{MAPS}/{name}"), None)?.told());
    row("LIST limit=500, 16 connections", server.load(16, 5, &format!("{MAPS}?limit=500"), None)?.told());
    let list = server.load(2, 10, &format!("{MAPS}?resourceVersion=0"), None)?;
    row("LIST of all from cache, 2 connections", format!("{} a second", list.transfer));
    let reader = target().join("release/examples/watchers");
    row("one write seen by 1,000 watchers", output(Command::new(reader).arg(server.kubeconfig()))?.trim().to_owned());
    row("memory at the end", server.memory()?);
    Ok(rows)
}

/// A server of the bench's own; gone with its data when dropped.
struct Server {
    child: Child,
    data: PathBuf,
    url: String,
    ready: Duration,
}

impl Server {
    fn start(disabled: &str) -> Result<Self, Failure> {
        let data = target().join(format!("bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        let log = std::fs::File::create(data.join("server.log")).map_err(|e| e.to_string())?;
        let port = free_port()?;
        let begin = Instant::now();
        let child = Command::new(target().join("release/skiff"))
            .args(["server", "--bind-address", "127.0.0.1", "--token", TOKEN, "--disable", disabled])
            .arg("--secure-port")
            .arg(port.to_string())
            .arg("--data-dir")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start the server: {e}"))?;
        let url = format!("https://127.0.0.1:{port}");
        let mut server = Self { child, data, url, ready: Duration::ZERO };
        while !server.is_ready() {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err(format!("the server is not ready; see {}", server.data.join("server.log").display()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        server.ready = begin.elapsed();
        Ok(server)
    }

    fn is_ready(&self) -> bool {
        let answer = Command::new("curl").args(["-sk", "--max-time", "5", &format!("{}/readyz", self.url)]).output();
        answer.is_ok_and(|answer| answer.stdout == b"ok")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    /// Resident memory.
    fn memory(&self) -> Result<String, Failure> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let kib =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
        Ok(format!("{:.1} MiB", kib.ok_or("no VmRSS in /proc")? / 1024.0))
    }

    /// The name of some object that is there.
    fn some_name(&self) -> Result<String, Failure> {
        let url = format!("{}{MAPS}?limit=1&fieldSelector=metadata.name!%3Dkube-root-ca.crt&pretty=false", self.url);
        let text = output(&mut command("curl", ["-sk", "-H", &format!("Authorization: Bearer {TOKEN}"), &url]))?;
        let name = text.split("\"name\":\"").nth(1).and_then(|rest| rest.split('"').next());
        name.map(str::to_owned).ok_or_else(|| format!("no object in {text:.200}"))
    }

    fn load(&self, connections: u32, seconds: u32, path: &str, script: Option<&str>) -> Result<Load, Failure> {
        let mut wrk = command("wrk", ["-t1", "--latency", "--timeout", "30s"]);
        wrk.arg(format!("-c{connections}")).arg(format!("-d{seconds}s"));
        wrk.args(["-H", &format!("Authorization: Bearer {TOKEN}"), "-H", "Content-Type: application/json"]);
        if let Some(script) = script {
            wrk.arg("-s").arg(Path::new("bench").join(script));
        }
        let text = output(wrk.arg(format!("{}{path}", self.url)))?;
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(format!("{path} was refused:\n{text}"));
        }
        Load::read(&text).ok_or_else(|| format!("wrk said:\n{text}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn free_port() -> Result<u16, Failure> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    socket.local_addr().map(|address| address.port()).map_err(|e| e.to_string())
}

/// What wrk measured.
#[derive(Debug, PartialEq)]
struct Load {
    requests: u64,
    rate: f64,
    p50: String,
    p99: String,
    transfer: String,
}

impl Load {
    fn read(text: &str) -> Option<Self> {
        let after = |mark: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(mark))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let requests = text.lines().find(|line| line.contains(" requests in "))?.split_whitespace().next()?;
        Some(Self {
            requests: requests.parse().ok()?,
            rate: after("Requests/sec:")?.parse().ok()?,
            p50: after("50%")?,
            p99: after("99%")?,
            transfer: after("Transfer/sec:")?,
        })
    }

    fn told(&self) -> String {
        format!("{:.0} a second, p50 {}, p99 {}, {} a second", self.rate, self.p50, self.p99, self.transfer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let text = "Running 3s test @ https://127.0.0.1:1/\n  Latency Distribution\n     50%  427.00us\n     99%   35.85ms\n  \
                    2197 requests in 3.10s, 3.41MB read\nRequests/sec:    709.80\nTransfer/sec:      1.10MB\n";
        let load = Load::read(text).expect("all figures are there");
        assert_eq!((load.requests, load.rate), (2197, 709.8));
        assert_eq!((load.p50.as_str(), load.p99.as_str(), load.transfer.as_str()), ("427.00us", "35.85ms", "1.10MB"));
    }
}
