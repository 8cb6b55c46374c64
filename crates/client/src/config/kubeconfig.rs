//! Kubeconfig files: loading, merging, and choosing a context, with the rules of kubectl.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Remote, read};
use crate::backend::ClientError;

/// A kubeconfig, or several merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kubeconfig {
    /// `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `Config`.
    pub kind: String,
    /// The context to use where none is asked for.
    pub current_context: String,
    /// Servers.
    #[serde(deserialize_with = "null_as_empty")]
    pub clusters: Vec<Named<Cluster>>,
    /// Credentials.
    #[serde(deserialize_with = "null_as_empty")]
    pub users: Vec<Named<User>>,
    /// Which server with which credentials.
    #[serde(deserialize_with = "null_as_empty")]
    pub contexts: Vec<NamedContext>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
}

/// A named cluster or user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Named<T> {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(alias = "cluster", alias = "user")]
    pub value: T,
}

/// A named context.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedContext {
    /// Its name.
    pub name: String,
    /// What it is.
    pub context: Context,
}

/// Which server, which credentials, which namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the user.
    pub user: String,
    /// Namespace where none is asked for.
    pub namespace: String,
}

/// A server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    /// Its address.
    pub server: String,
    /// File of the authorities to trust.
    pub certificate_authority: Option<PathBuf>,
    /// The same inline, in base64; wins over the file.
    pub certificate_authority_data: Option<String>,
    /// Do not verify the server.
    pub insecure_skip_tls_verify: bool,
    /// Name to verify instead of the host.
    pub tls_server_name: Option<String>,
}

/// Credentials.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct User {
    /// File of the certificate chain.
    pub client_certificate: Option<PathBuf>,
    /// The same inline, in base64.
    pub client_certificate_data: Option<String>,
    /// File of its key.
    pub client_key: Option<PathBuf>,
    /// The same inline, in base64.
    pub client_key_data: Option<String>,
    /// Bearer token; wins over the file.
    pub token: Option<String>,
    /// File of the bearer token.
    #[serde(rename = "tokenFile")]
    pub token_file: Option<PathBuf>,
    /// A program that makes credentials; not supported yet, and refused when it is needed.
    #[serde(skip_serializing)]
    pub exec: Option<serde_json::Value>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User(..)")
    }
}

impl Kubeconfig {
    /// Reads one file; file names inside it are relative to its folder.
    ///
    /// # Errors
    /// When it cannot be read or is no kubeconfig.
    pub fn load(path: &Path) -> Result<Self, ClientError> {
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let mut config = Self::parse(&text).map_err(|e| ClientError::Config(format!("{}: {e}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for cluster in &mut config.clusters {
            relative_to(folder, &mut cluster.value.certificate_authority);
        }
        for user in &mut config.users {
            relative_to(folder, &mut user.value.client_certificate);
            relative_to(folder, &mut user.value.client_key);
            relative_to(folder, &mut user.value.token_file);
        }
        Ok(config)
    }

    /// Reads the text of a kubeconfig, YAML or JSON.
    ///
    /// # Errors
    /// When it is no kubeconfig.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|e| ClientError::Config(format!("not a kubeconfig: {e}")))
    }

    /// As kubectl does: `explicit` where given; else the files in `$KUBECONFIG`, merged (missing ones are left out); else
    /// `~/.kube/config`.
    ///
    /// # Errors
    /// When a file is no kubeconfig, or `explicit` is missing.
    pub fn discover(explicit: Option<&Path>) -> Result<Self, ClientError> {
        if let Some(path) = explicit {
            return Self::load(path);
        }
        let mut merged = Self::default();
        for path in Self::default_paths().iter().filter(|path| path.exists()) {
            merged.merge(Self::load(path)?);
        }
        Ok(merged)
    }

    /// The files [`Kubeconfig::discover`] reads where none is named.
    pub fn default_paths() -> Vec<PathBuf> {
        match std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
            Some(list) => std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(),
            None => std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
        }
    }

    /// Adds what `other` has and we have not: the first file to name something wins.
    fn merge(&mut self, other: Self) {
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        extend(&mut self.clusters, other.clusters, |item| &item.name);
        extend(&mut self.users, other.users, |item| &item.name);
        extend(&mut self.contexts, other.contexts, |item| &item.name);
    }

    /// The server and credentials of a context; `None`: the current one.
    ///
    /// # Errors
    /// When the context or what it names is missing, or a file or inline data cannot be read.
    pub fn remote(&self, context: Option<&str>) -> Result<Remote, ClientError> {
        let name = context.unwrap_or(&self.current_context);
        let missing = |what: &str, name: &str| ClientError::Config(format!("{what} \"{name}\" does not exist"));
        let context = match self.contexts.iter().find(|c| c.name == name) {
            Some(found) => found.context.clone(),
            None if name.is_empty() => {
                return Err(ClientError::Config(
                    "no kubeconfig with a current context; name one with --kubeconfig".into(),
                ));
            }
            None => return Err(missing("context", name)),
        };
        let cluster = self.clusters.iter().find(|c| c.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.value;
        let user = self.users.iter().find(|u| u.name == context.user).map(|u| u.value.clone());
        let user = match user {
            Some(user) => user,
            None if context.user.is_empty() => User::default(),
            None => return Err(missing("user", &context.user)),
        };
        let (client_certificate, client_key) = user.pair()?;
        let remote = Remote {
            server: cluster.server.clone(),
            certificate_authority: data(&cluster.certificate_authority_data, &cluster.certificate_authority)?,
            insecure: cluster.insecure_skip_tls_verify,
            tls_server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
            client_certificate,
            client_key,
            token_file: user.token_file.filter(|_| user.token.is_none()),
            token: user.token.filter(|token| !token.is_empty()),
            namespace: context.namespace,
        };
        if user.exec.is_some() && remote.client_certificate.is_empty() && remote.token.is_none() {
            return Err(ClientError::Config(format!(
                "user \"{}\" wants an exec plugin, which is not supported yet",
                context.user
            )));
        }
        Ok(remote)
    }
}

impl User {
    /// The client certificate and its key, PEM; empty where there is none.
    ///
    /// # Errors
    /// When a file or inline data cannot be read.
    pub fn pair(&self) -> Result<(Vec<u8>, Vec<u8>), ClientError> {
        let certificate = data(&self.client_certificate_data, &self.client_certificate)?;
        Ok((certificate, data(&self.client_key_data, &self.client_key)?))
    }
}

fn relative_to(folder: &Path, path: &mut Option<PathBuf>) {
    if let Some(inner) = path.as_mut() {
        *inner = folder.join(&*inner);
    }
}

fn extend<T>(ours: &mut Vec<T>, theirs: Vec<T>, name: impl Fn(&T) -> &String) {
    for item in theirs {
        if !ours.iter().any(|known| name(known) == name(&item)) {
            ours.push(item);
        }
    }
}

/// Inline data, else the file's content, else nothing.
fn data(inline: &Option<String>, file: &Option<PathBuf>) -> Result<Vec<u8>, ClientError> {
    match (inline.as_deref().filter(|text| !text.is_empty()), file) {
        (Some(text), _) => {
            STANDARD.decode(text.trim()).map_err(|e| ClientError::Config(format!("bad base64 in kubeconfig: {e}")))
        }
        (None, Some(file)) => read(file),
        (None, None) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: here
clusters:
- name: c
  cluster: {server: 'https://h:6443', certificate-authority-data: UEVN, tls-server-name: kubernetes}
users:
- name: u
  user: {token: secret}
- name: plugin
  user: {exec: {command: x}}
contexts:
- name: here
  context: {cluster: c, user: u, namespace: dev}
- name: there
  context: {cluster: c, user: nobody}
- name: plugged
  context: {cluster: c, user: plugin}
";

    #[test]
    fn contexts_are_resolved() {
        let config = Kubeconfig::parse(TEXT).unwrap();
        let remote = config.remote(None).unwrap();
        assert_eq!((&*remote.server, &*remote.certificate_authority), ("https://h:6443", &b"PEM"[..]));
        assert_eq!((remote.token.as_deref(), &*remote.namespace), (Some("secret"), "dev"));
        assert_eq!(remote.tls_server_name.as_deref(), Some("kubernetes"));
        let faults = [("there", "user \"nobody\" does not exist"), ("gone", "context \"gone\" does not exist")];
        for (context, fault) in faults {
            assert_eq!(config.remote(Some(context)).unwrap_err().to_string(), fault);
        }
        assert!(config.remote(Some("plugged")).is_err());
        assert!(Kubeconfig::parse("").unwrap().remote(None).is_err());
    }

    #[test]
    fn the_first_file_wins() {
        let mut first = Kubeconfig::parse("{users: [{name: u, user: {token: first}}]}").unwrap();
        first.merge(Kubeconfig::parse(TEXT).unwrap());
        assert_eq!(first.remote(None).unwrap().token.as_deref(), Some("first"));
    }
}
