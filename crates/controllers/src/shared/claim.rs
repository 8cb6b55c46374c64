//! Adoption and release: which objects a controller manages, by its selector and their references.
//!
//! Pure part: [`claims`] sorts candidates into ours, to adopt, to release. Before the first adoption the owner is read
//! afresh, since adopting for an owner that is being deleted would let its dependents outlive it.

use std::sync::Arc;

use serde_json::json;
use skiff_client::{Api, ClientError, Kind, Patch};

use super::{Selector, controller_of, controller_ref, selects};

/// What to do with the candidates of an owner.
#[derive(Clone, Debug)]
pub(crate) struct Claim<K> {
    /// Managed by us, and the selector matches.
    pub(crate) ours: Vec<Arc<K>>,
    /// Orphans that the selector matches.
    pub(crate) adopt: Vec<Arc<K>>,
    /// Managed by us, but the selector no longer matches.
    pub(crate) release: Vec<Arc<K>>,
    /// What the adopted get besides their reference.
    pub(crate) finalizer: Option<&'static str>,
}

/// Sorts the candidates of `owner`.
pub(crate) fn claims<O: Kind, K: Kind>(
    owner: &O,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claim<K> {
    let mut claim = Claim { ours: Vec::new(), adopt: Vec::new(), release: Vec::new(), finalizer: None };
    for object in candidates {
        let matches = selects(selector, object.metadata().labels.as_ref());
        match controller_of(&*object) {
            Some(reference) if reference.uid != owner.uid() => {}
            Some(_) if matches => claim.ours.push(object),
            Some(_) if !owner.deleting() => claim.release.push(object),
            None if matches && !owner.deleting() && !object.deleting() => claim.adopt.push(object),
            _ => {}
        }
    }
    claim
}

/// Adopts and releases; answers with whether anything was written, so that the caller waits for it to be seen.
///
/// # Errors
/// What the server says, but for objects that are gone or were released by somebody else.
pub(crate) async fn execute_claims<O: Kind, K: Kind>(
    owners: &Api<O>,
    objects: &Api<K>,
    owner: &O,
    claim: &Claim<K>,
) -> Result<bool, ClientError> {
    if !claim.adopt.is_empty() {
        let fresh = owners.get(owner.name()).await?;
        if fresh.uid() != owner.uid() || fresh.deleting() {
            return Ok(false);
        }
    }
    for object in &claim.adopt {
        let finalizers: Vec<_> = claim.finalizer.iter().collect();
        let owners = [controller_ref(owner)];
        let body = json!({"metadata": {"uid": object.uid(), "ownerReferences": owners, "finalizers": finalizers}});
        match objects.patch(object.name(), &Patch::Strategic(body)).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    for object in &claim.release {
        let gone = json!([{"$patch": "delete", "uid": owner.uid()}]);
        let body = json!({"metadata": {"uid": object.uid(), "ownerReferences": gone}});
        match objects.patch(object.name(), &Patch::Strategic(body)).await {
            Ok(_) => {}
            // Gone, replaced by another of the same name, or released already.
            Err(error) if error.is_not_found() || error.reason() == "Invalid" || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(!claim.adopt.is_empty() || !claim.release.is_empty())
}
