//! Keys and values from words and files: ConfigMaps and Secrets.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::error::CliError;

/// Where keys and values come from.
#[derive(Args)]
pub(super) struct Data {
    /// KEY=VALUE
    #[arg(long)]
    from_literal: Vec<String>,
    /// [KEY=]FILE, or a directory whose files are all taken
    #[arg(long)]
    from_file: Vec<String>,
    /// File of KEY=VALUE lines
    #[arg(long)]
    from_env_file: Vec<String>,
}

/// Kinds of Secrets.
#[derive(Subcommand)]
pub(super) enum SecretKind {
    /// From literals and files
    Generic {
        name: String,
        #[command(flatten)]
        data: Data,
        /// The type
        #[arg(long = "type", default_value = "Opaque")]
        ty: String,
    },
    /// A certificate with its key
    Tls {
        name: String,
        /// File of the certificate, PEM
        #[arg(long)]
        cert: String,
        /// File of the key, PEM
        #[arg(long)]
        key: String,
    },
    /// Credentials for an image registry
    DockerRegistry {
        name: String,
        /// The registry
        #[arg(long, default_value = "https://index.docker.io/v1/")]
        docker_server: String,
        /// Name of the user
        #[arg(long)]
        docker_username: String,
        /// Password of the user
        #[arg(long)]
        docker_password: String,
        /// Address of the user
        #[arg(long, default_value = "")]
        docker_email: String,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|e| CliError::Io(path.display().to_string(), e))
}

impl Data {
    fn pairs(&self) -> Result<Vec<(String, Vec<u8>)>, CliError> {
        let mut pairs = Vec::new();
        for literal in &self.from_literal {
            let wrong = || CliError::usage(format!("invalid literal source {literal}, expected key=value"));
            let (key, value) = literal.split_once('=').ok_or_else(wrong)?;
            pairs.push((key.to_owned(), value.as_bytes().to_vec()));
        }
        for file in &self.from_file {
            let (key, path) = file.split_once('=').map_or((None, file.as_str()), |(key, path)| (Some(key), path));
            let path = Path::new(path);
            let base = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if key.is_none() && path.is_dir() {
                let failed = |e| CliError::Io(path.display().to_string(), e);
                let entries =
                    std::fs::read_dir(path).and_then(|d| d.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>());
                for inner in entries.map_err(failed)?.iter().filter(|inner| inner.is_file()) {
                    pairs.push((base(inner), read(inner)?));
                }
                continue;
            }
            pairs.push((key.map_or_else(|| base(path), str::to_owned), read(path)?));
        }
        for file in &self.from_env_file {
            let text = String::from_utf8_lossy(&read(Path::new(file))?).into_owned();
            let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
            // A name alone takes its value from our own environment.
            pairs.extend(lines.map(|line| match line.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.as_bytes().to_vec()),
                None => (line.to_owned(), std::env::var(line).unwrap_or_default().into_bytes()),
            }));
        }
        let mut keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
        keys.sort();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                Err(CliError::usage(format!("cannot add key {}, another key by that name already exists", pair[0])))
            }
            None => Ok(pairs),
        }
    }

    /// `data`, and `binaryData` for what is no text; neither where there is nothing.
    pub(super) fn of_config_map(&self) -> Result<Value, CliError> {
        let (mut texts, mut others) = (Map::new(), Map::new());
        for (key, value) in self.pairs()? {
            match String::from_utf8(value) {
                Ok(text) => texts.insert(key, json!(text)),
                Err(error) => others.insert(key, json!(STANDARD.encode(error.as_bytes()))),
            };
        }
        let filled = [("data", texts), ("binaryData", others)].into_iter().filter(|(_, map)| !map.is_empty());
        Ok(filled.map(|(name, map)| (name.to_owned(), Value::Object(map))).collect::<Map<_, _>>().into())
    }
}

impl SecretKind {
    pub(super) fn manifest(&self) -> Result<Value, CliError> {
        let (name, ty, pairs) = match self {
            Self::Generic { name, data, ty } => (name, ty.as_str(), data.pairs()?),
            Self::Tls { name, cert, key } => {
                let of = |name: &str, path: &str| Ok::<_, CliError>((name.to_owned(), read(Path::new(path))?));
                (name, "kubernetes.io/tls", vec![of("tls.crt", cert)?, of("tls.key", key)?])
            }
            Self::DockerRegistry { name, docker_server, docker_username, docker_password, docker_email } => {
                let both = STANDARD.encode(format!("{docker_username}:{docker_password}"));
                let entry = json!({"username": docker_username, "password": docker_password, "email": docker_email, "auth": both});
                let config = json!({"auths": {docker_server: entry}}).to_string();
                (name, "kubernetes.io/dockerconfigjson", vec![(".dockerconfigjson".to_owned(), config.into_bytes())])
            }
        };
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": ty});
        if !pairs.is_empty() {
            secret["data"] = pairs
                .into_iter()
                .map(|(key, value)| (key, json!(STANDARD.encode(value))))
                .collect::<Map<_, _>>()
                .into();
        }
        Ok(secret)
    }
}
