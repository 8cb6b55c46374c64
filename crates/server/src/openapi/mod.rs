//! OpenAPI documents: what kinds there are, what they look like, and which paths and parameters reach them.
//!
//! kubectl reads them to explain fields, to learn whether the server validates fields, and to merge; generators of
//! clients read them whole. They are made from the same tables as everything else: rows of kinds give paths, the type
//! graph gives schemas, definitions of custom kinds give theirs. A document is written when somebody asks, and kept for
//! a moment ([`kept`]); its address carries its hash, so that clients keep it for as long as it holds. What fields mean is told in Skiff's own words (`words/`).
//!
//! The server mounts
//! - `/openapi/v3` -> [`v3_index`],
//! - `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION` -> [`v3_document`], with [`hash`] as its entity tag, and
//!   `Cache-Control: public, immutable` when the request's `hash` parameter is that hash,
//! - `/openapi/v2` -> [`v2_document`], with [`hash_of_all`] as its entity tag,
//!
//! each in JSON and in protobuf ([`serve`]).

mod components;
mod custom;
pub(crate) mod kept;
mod operations;
mod paths;
mod protobuf;
pub(crate) mod serve;
mod v2;
mod words;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use skiff_api::kinds;
use skiff_meta::GroupVersion;

use components::Components;

/// A served version of a custom kind, as its definition describes it.
#[derive(Clone, Copy, Debug)]
pub struct CustomKind<'a> {
    /// `spec.group`.
    pub group: &'a str,
    /// `spec.versions[].name`.
    pub version: &'a str,
    /// `status.acceptedNames.kind`.
    pub kind: &'a str,
    /// `status.acceptedNames.listKind`.
    pub list_kind: &'a str,
    /// `status.acceptedNames.plural`.
    pub plural: &'a str,
    /// Whether `spec.scope` is `Namespaced`.
    pub namespaced: bool,
    /// `spec.versions[].schema.openAPIV3Schema`.
    pub schema: Option<&'a Value>,
    /// Whether it has the status subresource.
    pub status: bool,
    /// Whether it has the scale subresource.
    pub scale: bool,
}

impl CustomKind<'_> {
    fn is_of(&self, gv: &GroupVersion) -> bool {
        self.group == gv.group && self.version == gv.version
    }
}

/// The list of documents: an address with a hash for each group and version.
pub fn v3_index(custom: &[CustomKind<'_>]) -> Value {
    let entry = |gv: GroupVersion| {
        let path = paths::base(&gv);
        let address = format!("/openapi/v3{path}?hash={}", hash(&gv, custom));
        (path.trim_start_matches('/').to_owned(), json!({ "serverRelativeURL": address }))
    };
    json!({ "paths": group_versions(custom).into_iter().map(entry).collect::<Map<_, _>>() })
}

/// Changes whenever the document of this group and version does; cheaper than the document.
pub fn hash(gv: &GroupVersion, custom: &[CustomKind<'_>]) -> String {
    let mut sha = Sha256::new();
    sha.update(env!("CARGO_PKG_VERSION"));
    sha.update(skiff_api::facts::digest().to_le_bytes());
    sha.update(words::digest());
    sha.update(gv.to_string());
    for kind in custom.iter().filter(|c| c.is_of(gv)) {
        sha.update(format!("{kind:?}"));
    }
    text(sha)
}

/// Changes whenever the document of everything does.
pub fn hash_of_all(custom: &[CustomKind<'_>]) -> String {
    let mut sha = Sha256::new();
    group_versions(custom).iter().for_each(|gv| sha.update(hash(gv, custom)));
    text(sha)
}

fn text(sha: Sha256) -> String {
    sha.finalize().iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}

fn group_versions(custom: &[CustomKind<'_>]) -> BTreeSet<GroupVersion> {
    kinds::group_versions().chain(custom.iter().map(|c| GroupVersion::new(c.group, c.version))).collect()
}

/// The document of one group and version, `None` where nothing is served under it.
pub fn v3_document(gv: &GroupVersion, custom: &[CustomKind<'_>]) -> Option<Value> {
    let mut components = Components::new(gv);
    let mut all_paths = Map::new();
    let built_in = kinds::in_group_version(&gv.group, &gv.version).map(|kind| paths::Resource::built_in(kind, gv));
    let own = custom.iter().filter(|c| c.is_of(gv)).map(|c| custom::resource(c, &mut components));
    let resources: Vec<paths::Resource> = built_in.chain(own.collect::<Vec<_>>()).collect();
    if resources.is_empty() {
        return None;
    }
    for resource in &resources {
        resource.write(&mut all_paths, &mut components);
    }
    paths::write_discovery(gv, &mut all_paths, &mut components);
    let token = json!({"type": "apiKey", "name": "authorization", "in": "header"});
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": all_paths,
        "components": {"schemas": components.finish(), "securitySchemes": {"BearerToken": token}},
    }))
}

/// All groups and versions in one document of the older form.
pub fn v2_document(custom: &[CustomKind<'_>]) -> Value {
    v2::join(group_versions(custom).iter().filter_map(|gv| v3_document(gv, custom)))
}

#[cfg(test)]
mod tests;
