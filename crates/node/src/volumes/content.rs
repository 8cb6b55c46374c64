//! What is in volumes that are made from objects of the API.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Secret, Volume};

use super::tokens::Tokens;
use super::{Sources, VolumeError, file};
use crate::make::{ConfigError, fields};
use crate::os::Content;
use crate::pod::facts;

/// Permission bits where nothing is said.
const MODE: i32 = 0o644;

type Listing = BTreeMap<String, Content>;
type Texts = BTreeMap<String, Vec<u8>>;

/// A volume's files; `None` when it is of a kind not made from files.
pub(super) fn files(sources: &Sources<'_>, volume: &Volume, tokens: &Tokens) -> Result<Option<Listing>, VolumeError> {
    let volumes = Making { sources, volume: &volume.name, tokens };
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE);
        return volumes.config_map(&source.name, source.items.as_deref(), source.optional, mode).map(Some);
    }
    if let Some(source) = &volume.secret {
        let (name, mode) = (source.secret_name.as_deref().unwrap_or_default(), source.default_mode.unwrap_or(MODE));
        return volumes.secret(name, source.items.as_deref(), source.optional, mode).map(Some);
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(MODE);
        return volumes.downward(source.items.as_deref().unwrap_or_default(), mode).map(Some);
    }
    volume.projected.as_ref().map(|source| volumes.projected(source)).transpose()
}

struct Making<'a> {
    sources: &'a Sources<'a>,
    volume: &'a str,
    tokens: &'a Tokens,
}

impl Making<'_> {
    fn fault(&self, source: ConfigError) -> VolumeError {
        VolumeError::Content { volume: self.volume.to_owned(), source }
    }

    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<Listing, VolumeError> {
        let found = self.sources.referenced.config_maps.get(name);
        if found.is_none() && optional != Some(true) {
            return Err(self.fault(ConfigError::NoConfigMap(name.to_owned())));
        }
        self.select(found.map(|map| texts(map)).unwrap_or_default(), items, optional, mode)
    }

    fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<Listing, VolumeError> {
        let found = self.sources.referenced.secrets.get(name);
        if found.is_none() && optional != Some(true) {
            return Err(self.fault(ConfigError::NoSecret(name.to_owned())));
        }
        self.select(found.map(|secret| bytes(secret)).unwrap_or_default(), items, optional, mode)
    }

    /// All keys under their own names, or the listed ones where they are wanted.
    fn select(
        &self,
        mut texts: Texts,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<Listing, VolumeError> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return Ok(texts.into_iter().map(|(key, bytes)| (key, file(bytes, mode))).collect());
        };
        let mut listing = Listing::new();
        for item in items {
            match texts.get_mut(&item.key) {
                Some(bytes) => {
                    listing.insert(item.path.clone(), file(bytes.clone(), item.mode.unwrap_or(mode)));
                }
                None if optional == Some(true) => {}
                None => return Err(VolumeError::NoKey { volume: self.volume.to_owned(), key: item.key.clone() }),
            }
        }
        Ok(listing)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Listing, VolumeError> {
        let Sources { pod, addresses, allocatable, .. } = self.sources;
        let mut listing = Listing::new();
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => fields::field(pod, &field.field_path, addresses),
                (None, Some(selector)) => fields::resource(pod, None, selector, allocatable),
                (None, None) => continue,
            };
            let text = text.map_err(|error| self.fault(error))?;
            listing.insert(item.path.clone(), file(text.into_bytes(), item.mode.unwrap_or(mode)));
        }
        Ok(listing)
    }

    fn projected(&self, source: &ProjectedVolumeSource) -> Result<Listing, VolumeError> {
        let mode = source.default_mode.unwrap_or(MODE);
        let mut listing = Listing::new();
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                listing.extend(self.config_map(&map.name, map.items.as_deref(), map.optional, mode)?);
            }
            if let Some(secret) = &part.secret {
                listing.extend(self.secret(&secret.name, secret.items.as_deref(), secret.optional, mode)?);
            }
            if let Some(fields) = &part.downward_api {
                listing.extend(self.downward(fields.items.as_deref().unwrap_or_default(), mode)?);
            }
            if let Some(token) = &part.service_account_token
                && let Some(text) = self.tokens.get(token)
            {
                listing.insert(token.path.clone(), self.token_file(text, mode));
            }
            if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
                return Err(VolumeError::Unsupported { volume: self.volume.to_owned() });
            }
        }
        Ok(listing)
    }

    /// A token is for the pod's own user only, where it is known who that is.
    fn token_file(&self, text: &str, mode: i32) -> Content {
        let context = facts::spec(self.sources.pod).security_context.as_ref();
        let owner = common_user(self.sources).and_then(|user| u32::try_from(user).ok());
        let restricted = owner.is_some() || context.is_some_and(|context| context.fs_group.is_some());
        Content { owner, ..file(text.as_bytes().to_vec(), if restricted { 0o600 } else { mode }) }
    }
}

/// The user that all containers run as, if the specification says so.
fn common_user(sources: &Sources<'_>) -> Option<i64> {
    let pod_user = facts::spec(sources.pod).security_context.as_ref().and_then(|context| context.run_as_user);
    let containers = facts::containers(sources.pod);
    let mut users = containers
        .iter()
        .map(|(_, container)| container.security_context.as_ref().and_then(|context| context.run_as_user).or(pod_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

fn texts(map: &ConfigMap) -> Texts {
    let plain = map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
    plain.chain(map.binary_data.iter().flatten().map(byte_pair)).collect()
}

fn bytes(secret: &Secret) -> Texts {
    secret.data.iter().flatten().map(byte_pair).collect()
}

fn byte_pair((key, bytes): (&String, &ByteString)) -> (String, Vec<u8>) {
    (key.clone(), bytes.0.clone())
}
