//! Which resources are encrypted and how (apiserver.config.k8s.io/v1, `EncryptionConfiguration`).

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use skiff_meta::GroupResource;

use super::EncryptionError;
use crate::config_file;
use crate::request::go_words;

/// The file.
#[derive(Clone, Debug)]
pub struct EncryptionConfig {
    pub(super) entries: Vec<Entry>,
}

/// Resources, and who writes (the first) and reads (all) them.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) resources: Vec<Pattern>,
    pub(super) providers: Vec<ProviderConfig>,
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group) or `*.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Everything,
    Group(String),
    One(GroupResource),
}

impl Pattern {
    fn new(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        match (resource, group) {
            ("*", "*") => Self::Everything,
            ("*", group) => Self::Group(group.to_owned()),
            (resource, group) => Self::One(GroupResource::new(group, resource)),
        }
    }

    pub(super) fn covers(&self, resource: &GroupResource) -> bool {
        match self {
            Self::Everything => true,
            Self::Group(group) => *group == resource.group,
            Self::One(one) => one == resource,
        }
    }
}

/// One provider.
#[derive(Clone, Debug)]
pub(super) enum ProviderConfig {
    /// As it is.
    Identity,
    /// With keys that are in the file, in their order.
    Keys(Kind, Vec<(String, Vec<u8>)>),
    /// With keys of a plug-in's.
    Kms { name: String, socket: PathBuf, timeout: Duration },
}

/// How a key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AesGcm,
    AesCbc,
    Secretbox,
}

impl Kind {
    /// As values begin that are encrypted by it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::Secretbox => "secretbox",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    resources: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    resources: Vec<String>,
    providers: Vec<FileProvider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileProvider {
    Identity(Empty),
    AesGcm(FileKeys),
    AesCbc(FileKeys),
    Secretbox(FileKeys),
    Kms(FileKms),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKeys {
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileKms {
    #[serde(default)]
    api_version: String,
    name: String,
    endpoint: String,
    #[serde(default)]
    timeout: String,
    #[serde(default, rename = "cachesize")]
    _cache_size: i64,
}

impl EncryptionConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is none, or keys are not what they must be.
    pub fn read(text: &str) -> Result<Self, EncryptionError> {
        let bad = |why: String| EncryptionError::Config(why);
        let versions = ["apiserver.config.k8s.io/v1"];
        let file: File = config_file::read(text, "EncryptionConfiguration", &versions).map_err(bad)?;
        let mut entries = Vec::new();
        for (place, entry) in file.resources.into_iter().enumerate() {
            let at = |why: String| bad(format!("resources[{place}]: {why}"));
            if entry.resources.is_empty() || entry.providers.is_empty() {
                return Err(at("it must name resources and providers".to_owned()));
            }
            if entry.resources.iter().any(|r| r == "*" || r.is_empty() || r.starts_with("*.*.")) {
                return Err(at("use *.* for all resources, *. for those of the core group".to_owned()));
            }
            let providers: Result<Vec<_>, _> = entry.providers.into_iter().map(provider).collect();
            let resources = entry.resources.iter().map(|text| Pattern::new(text)).collect();
            entries.push(Entry { resources, providers: providers.map_err(at)? });
        }
        Ok(Self { entries })
    }
}

fn provider(provider: FileProvider) -> Result<ProviderConfig, String> {
    match provider {
        FileProvider::Identity(Empty {}) => Ok(ProviderConfig::Identity),
        FileProvider::AesGcm(keys) => keyed(Kind::AesGcm, keys, &[16, 24, 32]),
        FileProvider::AesCbc(keys) => keyed(Kind::AesCbc, keys, &[16, 24, 32]),
        FileProvider::Secretbox(keys) => keyed(Kind::Secretbox, keys, &[32]),
        FileProvider::Kms(kms) => {
            if kms.api_version != "v2" {
                return Err(format!("kms {:?}: only apiVersion v2 is served", kms.name));
            }
            if kms.name.is_empty() || kms.name.contains(':') {
                return Err(format!("kms: {:?} is no name; it must not be empty or have a colon", kms.name));
            }
            let socket = kms.endpoint.strip_prefix("unix://").filter(|path| path.starts_with(['/', '@']));
            let socket = socket.ok_or(format!("kms {:?}: endpoint must be unix:///path", kms.name))?.into();
            let timeout = go_words::duration(&kms.timeout)?.unwrap_or(Duration::from_secs(3));
            Ok(ProviderConfig::Kms { name: kms.name, socket, timeout })
        }
    }
}

fn keyed(kind: Kind, keys: FileKeys, sizes: &[usize]) -> Result<ProviderConfig, String> {
    let about = kind.as_str();
    if keys.keys.is_empty() {
        return Err(format!("{about}: it must have a key"));
    }
    let read = |key: FileKey| {
        let secret = base64::engine::general_purpose::STANDARD.decode(key.secret.trim());
        let secret = secret.map_err(|_| format!("{about}: the secret of key {:?} is not base64", key.name))?;
        if !sizes.contains(&secret.len()) {
            return Err(format!("{about}: key {:?} has {} bytes, not one of {sizes:?}", key.name, secret.len()));
        }
        if key.name.is_empty() || key.name.contains(':') {
            return Err(format!("{about}: {:?} is no name of a key; it must not be empty or have a colon", key.name));
        }
        Ok((key.name, secret))
    };
    Ok(ProviderConfig::Keys(kind, keys.keys.into_iter().map(read).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_groups_and_everything() {
        let covers = |pattern: &str, group: &str, resource: &str| {
            Pattern::new(pattern).covers(&GroupResource::new(group, resource))
        };
        assert!(covers("secrets", "", "secrets") && !covers("secrets", "a.b", "secrets"));
        assert!(covers("things.a.b", "a.b", "things") && !covers("things.a.b", "a.b", "others"));
        assert!(covers("*.a.b", "a.b", "others") && !covers("*.a.b", "", "pods"));
        assert!(covers("*.", "", "pods") && !covers("*.", "apps", "deployments"));
        assert!(covers("*.*", "", "pods") && covers("*.*", "apps", "deployments"));
    }

    #[test]
    fn files_that_cannot_work_are_refused() {
        let file = |providers: &str| {
            format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
                 - resources: [secrets]\n  providers: [{providers}]\n"
            )
        };
        assert!(EncryptionConfig::read(&file("{identity: {}}")).is_ok());
        for (providers, why) in [
            ("{aesgcm: {keys: []}}", "must have a key"),
            ("{aesgcm: {keys: [{name: a, secret: AAAA}]}}", "has 3 bytes"),
            ("{aescbc: {keys: [{name: a, secret: '?'}]}}", "not base64"),
            ("{secretbox: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}}", "has 16 bytes"),
            ("{kms: {name: k, endpoint: 'unix:///a'}}", "only apiVersion v2"),
            ("{kms: {apiVersion: v2, name: k, endpoint: 'tcp://a'}}", "unix:///path"),
            ("{rot13: {}}", "unknown variant"),
        ] {
            let error = EncryptionConfig::read(&file(providers)).unwrap_err().to_string();
            assert!(error.contains(why), "{providers}: {error}");
        }
    }
}
