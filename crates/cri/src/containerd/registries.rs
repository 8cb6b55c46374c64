//! Mirrors and credentials of registries: a file in the form that k3s made common, put into containerd's own words.
//!
//! A host's mirrors become `certs.d/HOST/hosts.toml`, which containerd reads at every pull; credentials have to be in its
//! configuration.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skiff_meta::codec::yaml;

use super::config::quoted;

/// The file as its author wrote it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registries {
    /// By the host in an image's name; `*`: all others.
    mirrors: BTreeMap<String, Mirror>,
    /// By the host that is spoken to.
    configs: BTreeMap<String, Host>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    /// Addresses, the first to be asked first.
    endpoint: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Host {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Auth {
    username: String,
    password: String,
    auth: String,
    #[serde(rename = "identity_token")]
    identity_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tls {
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

impl Registries {
    /// Reads the file; none is an empty one.
    ///
    /// # Errors
    /// When it is not what it should be, in words.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|error| error.to_string())?,
        };
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value = yaml::decode(bytes).map_err(|error| error.to_string())?.value;
        let written: Option<Self> = serde_json::from_value(value).map_err(|error| error.to_string())?;
        Ok(written.unwrap_or_default())
    }

    /// The files below containerd's directory of hosts.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut hosts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, mirror) in &self.mirrors {
            hosts.insert(name, mirror.endpoint.iter().map(String::as_str).collect());
        }
        // One that is spoken to in a way of its own needs a file even without mirrors.
        for (name, _) in self.configs.iter().filter(|(_, host)| host.tls.is_some()) {
            hosts.entry(name).or_default();
        }
        let file = |(name, endpoints): (&str, Vec<&str>)| {
            let directory = if name == "*" { "_default" } else { name };
            (Path::new(directory).join("hosts.toml"), self.hosts(name, &endpoints))
        };
        hosts.into_iter().map(file).collect()
    }

    fn hosts(&self, name: &str, endpoints: &[&str]) -> String {
        let mut out = String::from("# Written at every start.\n");
        let own = format!("https://{name}");
        let endpoints = if endpoints.is_empty() { &[own.as_str()][..] } else { endpoints };
        for endpoint in endpoints {
            let address = if endpoint.contains("://") { (*endpoint).to_owned() } else { format!("https://{endpoint}") };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "[host.{}]\ncapabilities = [\"pull\", \"resolve\"]", quoted(Path::new(&address)));
            let host = address.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
            let Some(tls) = self.configs.get(host).and_then(|host| host.tls.as_ref()) else { continue };
            if let Some(ca) = &tls.ca_file {
                let _ = writeln!(out, "ca = {}", quoted(ca));
            }
            if let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) {
                let _ = writeln!(out, "client = [[{}, {}]]", quoted(certificate), quoted(key));
            }
            if tls.insecure_skip_verify {
                let _ = writeln!(out, "skip_verify = true");
            }
        }
        out
    }

    /// The part of containerd's configuration that has the credentials.
    pub(crate) fn credentials(&self) -> String {
        let mut out = String::new();
        for (name, auth) in self.configs.iter().filter_map(|(name, host)| Some((name, host.auth.as_ref()?))) {
            let name = quoted(Path::new(name));
            let _ = writeln!(out, "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.{name}.auth]");
            for (key, value) in [
                ("username", &auth.username),
                ("password", &auth.password),
                ("auth", &auth.auth),
                ("identitytoken", &auth.identity_token),
            ] {
                if !value.is_empty() {
                    let _ = writeln!(out, "{key} = {}", quoted(Path::new(value)));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["http://127.0.0.1:5000", "mirror.example.com"]
  "*":
    endpoint: ["https://mirror.example.com"]
configs:
  mirror.example.com:
    auth: {username: "u", password: "p\"w"}
    tls: {ca_file: /ca.pem, insecure_skip_verify: true}
  plain.example.com:
    tls: {cert_file: /c.pem, key_file: /k.pem}
"#;

    #[test]
    fn mirrors_and_credentials_in_containerds_words() {
        let registries = Registries::parse(FILE.as_bytes()).expect("a file");
        let files = registries.files();
        let names: Vec<String> = files.keys().filter_map(|path| Some(path.parent()?.display().to_string())).collect();
        assert_eq!(names, ["_default", "docker.io", "mirror.example.com", "plain.example.com"]);
        let lines = |name: &str| files[Path::new(name)].lines().skip(1).collect::<Vec<_>>().join("\n");
        assert_eq!(
            lines("docker.io/hosts.toml"),
            "[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
             [host.\"https://mirror.example.com\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"/ca.pem\"\nskip_verify = true"
        );
        assert!(lines("plain.example.com/hosts.toml").contains("client = [[\"/c.pem\", \"/k.pem\"]]"));
        let expected = "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"mirror.example.com\".auth]\n\
                        username = \"u\"\npassword = \"p\\\"w\"\n";
        assert_eq!(registries.credentials(), expected);
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(Registries::parse(b"mirors: {}").expect_err("a typing error").contains("mirors"));
        assert!(Registries::parse(b"# nothing yet").expect("an empty file").files().is_empty());
        assert!(Registries::read(Path::new("/none")).expect("no file").files().is_empty());
    }
}
