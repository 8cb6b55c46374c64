//! Encryption at rest: what the store holds of some resources cannot be read without a key (upstream:
//! `k8s.io/apiserver/pkg/storage/value`).
//!
//! A [`Keyring`] stands between server and store ([`sealed`]): values are encrypted on their way in, and decrypted once
//! when the cache reads them. The layout is upstream's, so that a cluster on etcd can change servers.

mod cipher;
mod config;
mod kms;
mod sealed;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use skiff_meta::{GroupResource, WorldRef};

pub use config::EncryptionConfig;
use config::{Kind, Pattern, ProviderConfig};
use kms::Kms;
pub(crate) use sealed::Sealed;

/// How encrypted values begin.
const PREFIX: &str = "k8s:enc:";
/// Begins, towards the cache, a value that none of its resource's providers can read though it is not encrypted.
const UNPROTECTED: &[u8] = b"k8s:enc:none:";

/// Something cannot be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionError {
    /// The file is not good.
    #[error("the encryption configuration is not good: {0}")]
    Config(String),
    /// The plug-in does not do its work.
    #[error("KMS plug-in {name:?}: {why}")]
    Kms {
        /// Its name.
        name: String,
        /// What it says.
        why: String,
    },
    /// The key does not fit, or the value was changed.
    #[error("the value cannot be decrypted")]
    Cipher,
}

/// One way to encrypt, with its key.
enum Way {
    Identity,
    Key(Kind, Vec<u8>),
    Kms(Box<Kms>),
}

struct Provider {
    /// How its values begin.
    prefix: Vec<u8>,
    way: Way,
}

/// Resources and their providers.
struct Ring {
    resources: Vec<Pattern>,
    providers: Vec<Provider>,
}

/// All keys, which can be exchanged while the server runs.
pub struct Keyring {
    rings: ArcSwap<Vec<Ring>>,
    world: WorldRef,
    /// Built-in resources by the start of their keys.
    places: HashMap<String, GroupResource>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

impl Keyring {
    /// Of a configuration.
    pub fn new(config: EncryptionConfig, world: WorldRef) -> Arc<Self> {
        let kinds = skiff_api::kinds::KINDS.iter().filter(|kind| kind.is_stored());
        let places = kinds.map(|kind| (kind.key_prefix(), GroupResource::new(kind.group, kind.plural))).collect();
        let rings = ArcSwap::from_pointee(rings(config, &world));
        Arc::new(Self { rings, world, places })
    }

    /// Goes on with another configuration. What is stored stays as it is until it is written again.
    pub fn replace(&self, config: EncryptionConfig) {
        self.rings.store(Arc::new(rings(config, &self.world)));
    }

    fn random(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.world.random().to_ne_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }

    /// The resource whose objects have such keys.
    fn resource(&self, key: &[u8]) -> Option<GroupResource> {
        const ROOT: &str = crate::cache::feed::ROOT;
        let key = std::str::from_utf8(key).ok()?;
        let mut ends = key.strip_prefix(ROOT)?.match_indices('/').map(|(at, _)| ROOT.len() + at + 1);
        let (first, second) = (ends.next()?, ends.next());
        let built_in = |end: usize| self.places.get(&key[..end]).cloned();
        second.and_then(built_in).or_else(|| built_in(first)).or_else(|| {
            let group = &key[ROOT.len()..first - 1];
            let plural = &key[first..second? - 1];
            group.contains('.').then(|| GroupResource::new(group, plural))
        })
    }

    /// A value as it is to be stored.
    async fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, EncryptionError> {
        let Some(resource) = self.resource(key) else { return Ok(value) };
        let rings = self.rings.load_full();
        let ring = rings.iter().find(|ring| ring.resources.iter().any(|r| r.covers(&resource)));
        let Some(writer) = ring.and_then(|ring| ring.providers.first()) else { return Ok(value) };
        let random = |bytes: &mut [u8]| self.random(bytes);
        let sealed = match &writer.way {
            Way::Identity => return Ok(value),
            Way::Key(kind, secret) => {
                cipher::seal(*kind, secret, &value, key, &random).map_err(|_| EncryptionError::Cipher)?
            }
            Way::Kms(kms) => kms.seal(&value, key, &random).await?,
        };
        Ok([&writer.prefix[..], &sealed].concat().into())
    }

    /// A value as it was before; as it is when nobody here can read it, which whoever wants it is told.
    async fn open(&self, key: &[u8], value: Bytes) -> Bytes {
        let sealed = value.starts_with(PREFIX.as_bytes());
        let Some(resource) = self.resource(key) else { return value };
        let rings = self.rings.load_full();
        let Some(ring) = rings.iter().find(|ring| ring.resources.iter().any(|r| r.covers(&resource))) else {
            return value;
        };
        if !sealed {
            let allowed = ring.providers.iter().any(|provider| matches!(provider.way, Way::Identity));
            return if allowed { value } else { [UNPROTECTED, &value].concat().into() };
        }
        for provider in &ring.providers {
            let Some(inner) = value.strip_prefix(&provider.prefix[..]).filter(|_| !provider.prefix.is_empty()) else {
                continue;
            };
            let opened = match &provider.way {
                Way::Identity => continue,
                Way::Key(kind, secret) => cipher::open(*kind, secret, inner, key).map_err(|_| EncryptionError::Cipher),
                Way::Kms(kms) => kms.open(inner, key).await,
            };
            match opened {
                Ok(plain) => return plain.into(),
                Err(error) => tracing::error!(key = %String::from_utf8_lossy(key), "{error}"),
            }
        }
        value
    }
}

fn rings(config: EncryptionConfig, world: &WorldRef) -> Vec<Ring> {
    let ring = |entry: config::Entry| {
        let providers = entry.providers.into_iter().flat_map(|provider| match provider {
            ProviderConfig::Identity => vec![Provider { prefix: Vec::new(), way: Way::Identity }],
            ProviderConfig::Keys(kind, keys) => keys
                .into_iter()
                .map(|(name, secret)| {
                    let prefix = format!("{PREFIX}{}:v1:{name}:", kind.as_str()).into_bytes();
                    Provider { prefix, way: Way::Key(kind, secret) }
                })
                .collect(),
            ProviderConfig::Kms { name, socket, timeout } => {
                let prefix = format!("{PREFIX}kms:v2:{name}:").into_bytes();
                let kms = Kms::new(name, &socket, timeout, world.clone());
                vec![Provider { prefix, way: Way::Kms(Box::new(kms)) }]
            }
        });
        Ring { resources: entry.resources, providers: providers.collect() }
    };
    config.entries.into_iter().map(ring).collect()
}
