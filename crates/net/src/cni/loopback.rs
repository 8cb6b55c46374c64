//! The `loopback` plugin: containerd calls one of that name before any other, to bring up `lo` in a new sandbox.

use std::io::{Read, Write};

use serde_json::{Value, json};

use super::effects::loopback_up;
use super::{PluginError, namespace, required};

/// containerd asks in an old version, whatever our own configuration says.
const VERSIONS: [&str; 6] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.2.0"];

/// Runs the plugin as a process, as [`super::main`] does.
pub fn main(env: impl Fn(&str) -> Option<String>, mut stdin: impl Read, mut stdout: impl Write) -> i32 {
    let mut input = Vec::new();
    let asked = stdin.read_to_end(&mut input).ok().and_then(|_| serde_json::from_slice::<Value>(&input).ok());
    let version = asked.as_ref().and_then(|v| v["cniVersion"].as_str()).unwrap_or("1.0.0").to_owned();
    let (answer, code) = match command(&env, &version) {
        Ok(answer) => (answer, 0),
        Err(error) => (Some(error.to_json(&version)), 1),
    };
    let written = answer.map_or(Ok(()), |answer| writeln!(stdout, "{answer}"));
    if written.is_err() { 1 } else { code }
}

fn command(env: &impl Fn(&str) -> Option<String>, version: &str) -> Result<Option<Value>, PluginError> {
    match required(env, "CNI_COMMAND")?.as_str() {
        "VERSION" => Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS}))),
        "ADD" => {
            let sandbox = namespace(env)?;
            loopback_up(&sandbox)?;
            let place = sandbox.display().to_string();
            let device = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": place});
            let address = json!({"version": "4", "address": "127.0.0.1/8", "interface": 0});
            Ok(Some(json!({"cniVersion": version, "interfaces": [device], "ips": [address], "dns": {}})))
        }
        // The device goes with its namespace.
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str, netns: Option<&str>) -> (i32, String) {
        let env = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_NETNS" => netns.map(str::to_owned),
            _ => None,
        };
        let mut out = Vec::new();
        let code = main(env, &b"{\"cniVersion\":\"0.3.1\"}"[..], &mut out);
        (code, String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn answers_in_the_version_asked() {
        let (code, said) = call("VERSION", None);
        assert!(code == 0 && said.contains("\"cniVersion\":\"0.3.1\""), "{said}");
        assert_eq!(call("DEL", None), (0, String::new()));
        let (code, said) = call("ADD", Some("/no/such/namespace"));
        assert!(code == 1 && said.contains("/no/such/namespace"), "{said}");
    }
}
