//! Load on an API server, ours or another, and what it made of it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Failure;
use crate::run::{command, output};

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// An API server and a token for it.
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) token: String,
}

impl Target {
    /// The first cluster and the first token of a kubeconfig.
    pub(crate) fn from_kubeconfig(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let value = |key: &str| {
            let found = text.lines().find_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key));
            found.map(|rest| rest.trim().trim_matches('"').to_owned())
        };
        let missing = |what: &str| format!("{} names no {what}; wrk needs a bearer token", path.display());
        let (url, token) = (value("server:"), value("token:"));
        Ok(Self { url: url.ok_or_else(|| missing("server"))?, token: token.ok_or_else(|| missing("token"))? })
    }

    /// One request by curl; its body.
    pub(crate) fn fetch(&self, path: &str) -> Result<String, Failure> {
        output(&mut self.curl(path, &["--max-time", "30"]))
    }

    /// curl on a path, not started yet.
    pub(crate) fn curl(&self, path: &str, flags: &[&str]) -> Command {
        let mut curl = command("curl", ["-sk", "-H", &format!("Authorization: Bearer {}", self.token)]);
        curl.args(flags).arg(format!("{}{path}", self.url)).stderr(Stdio::null());
        curl
    }

    /// The name of some object that the load made.
    pub(crate) fn some_name(&self) -> Result<String, Failure> {
        let text =
            self.fetch(&format!("{MAPS}?limit=1&fieldSelector=metadata.name!%3Dkube-root-ca.crt&pretty=false"))?;
        let name = text.split("\"name\":\"").nth(1).and_then(|rest| rest.split('"').next());
        name.map(str::to_owned).ok_or_else(|| format!("no object in {text:.200}"))
    }

    /// `wrk` for some seconds.
    pub(crate) fn load(&self, load: &Wrk) -> Result<Load, Failure> {
        let mut wrk = command("wrk", ["-t1", "--latency", "--timeout", "30s"]);
        wrk.arg(format!("-c{}", load.connections)).arg(format!("-d{}s", load.seconds));
        wrk.args(["-H", &format!("Authorization: Bearer {}", self.token), "-H", "Content-Type: application/json"]);
        if let Some(script) = load.script {
            wrk.arg("-s").arg(Path::new("bench").join(script));
        }
        let text = output(wrk.arg(format!("{}{}", self.url, load.path)))?;
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(format!("{} was refused:\n{text}", load.path));
        }
        Load::read(&text).ok_or_else(|| format!("wrk said:\n{text}"))
    }
}

/// What `wrk` shall do.
pub(crate) struct Wrk<'a> {
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    pub(crate) path: &'a str,
    pub(crate) script: Option<&'a str>,
}

/// What wrk measured.
#[derive(Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) rate: f64,
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

    /// For a table; with the same of another server, the ratio of the rates.
    pub(crate) fn told(&self, other: Option<&Self>) -> String {
        let own = format!("{:.0} a second, p50 {}, p99 {}, {} a second", self.rate, self.p50, self.p99, self.transfer);
        match other {
            Some(other) => {
                format!("{own}; the other {:.0}, p50 {}: {:.1}x", other.rate, other.p50, self.rate / other.rate)
            }
            None => own,
        }
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
        assert!(load.told(Some(&Load { rate: 70.98, ..load_of(text) })).ends_with(": 10.0x"));
    }

    fn load_of(text: &str) -> Load {
        Load::read(text).expect("all figures are there")
    }
}
