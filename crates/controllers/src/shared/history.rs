//! ControllerRevisions: the templates an owner has had, so that it can tell its pods apart by them and go back.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};
use skiff_client::{Api, Client, ClientError, DeleteOptions, Kind};

use super::{controller_ref, is_controlled_by};
use crate::deployment::template_hash;

/// The label by which pods (and revisions) say which template they have.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// What a template leads to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Revision {
    /// This is its revision.
    Known(Arc<ControllerRevision>),
    /// It had this revision before, which becomes the newest again.
    Again(ControllerRevision),
    /// It is new.
    New(ControllerRevision),
}

/// A template in the form in which revisions keep it: a strategic merge patch that replaces the owner's.
fn patch(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

/// The template a revision keeps; `None` when it is not one of ours.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash in a revision's label.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).map(String::as_str).unwrap_or_default()
}

/// Oldest first.
pub(crate) fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| (a.revision, a.name()).cmp(&(b.revision, b.name())));
}

/// Finds the revision of `template` among those there are (oldest first).
pub(crate) fn find<O: Kind>(
    owner: &O,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    revisions: &[Arc<ControllerRevision>],
) -> Revision {
    let data = patch(template);
    let same = |revision: &&Arc<ControllerRevision>| revision.data.as_ref().is_some_and(|known| known.0 == data);
    let newest = revisions.last();
    if let Some(newest) = newest.filter(same) {
        return Revision::Known(newest.clone());
    }
    let next = newest.map_or(0, |newest| newest.revision) + 1;
    if let Some(known) = revisions.iter().rev().find(same) {
        return Revision::Again(ControllerRevision { revision: next, ..(**known).clone() });
    }
    let hash = template_hash(template, collisions);
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.clone());
    Revision::New(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name().get(..223).unwrap_or(owner.name()))),
            namespace: owner.metadata().namespace.clone(),
            labels: Some(labels),
            annotations: owner.metadata().annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        revision: next,
        data: Some(RawExtension(data)),
    })
}

/// Revisions beyond `limit` that no pod has: the oldest first.
pub(crate) fn expired(
    revisions: &[Arc<ControllerRevision>],
    limit: usize,
    in_use: &BTreeSet<String>,
) -> Vec<Arc<ControllerRevision>> {
    let unused = |r: &&Arc<ControllerRevision>| !in_use.contains(r.name()) && !in_use.contains(hash_of(r));
    let unused: Vec<_> = revisions.iter().filter(unused).cloned().collect();
    let surplus = unused.len().saturating_sub(limit);
    unused.into_iter().take(surplus).collect()
}

/// What became of writing a revision.
pub(crate) enum Written {
    /// It is stored, at this revision of the store.
    At(u64),
    /// Its name is taken by something else: another one is needed.
    Collision,
}

/// Stores a revision that is new, or newest again.
///
/// # Errors
/// What the server says.
pub(crate) async fn write<O: Kind>(
    client: &Client,
    owner: &O,
    revision: &ControllerRevision,
) -> Result<Written, ClientError> {
    let api: Api<ControllerRevision> = client.namespaced(owner.namespace());
    if !revision.uid().is_empty() {
        return Ok(Written::At(super::revision_of(&api.update(revision).await?)));
    }
    match api.create(revision).await {
        Ok(written) => Ok(Written::At(super::revision_of(&written))),
        Err(error) if error.is_already_exists() => {
            let taken = api.get(revision.name()).await?;
            let same = taken.data == revision.data && is_controlled_by(&taken, owner);
            Ok(if same { Written::At(super::revision_of(&taken)) } else { Written::Collision })
        }
        Err(error) => Err(error),
    }
}

/// Deletes revisions; those that are gone already are fine.
///
/// # Errors
/// What the server says.
pub(crate) async fn delete(client: &Client, revisions: &[Arc<ControllerRevision>]) -> Result<(), ClientError> {
    for revision in revisions {
        let api: Api<ControllerRevision> = client.namespaced(revision.namespace());
        match api.delete(revision.name(), &DeleteOptions::uid(revision.uid())).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    #[test]
    fn new_known_and_again() {
        let owner: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "web", "uid": "u"}})).unwrap();
        let new = |image: &str, known: &[Arc<ControllerRevision>]| match find(&owner, &template(image), None, known) {
            Revision::New(revision) => Arc::new(revision),
            other => panic!("{other:?}"),
        };
        let first = new("v1", &[]);
        let second = new("v2", std::slice::from_ref(&first));
        assert_eq!((first.revision, second.revision), (1, 2));
        assert_eq!(second.name(), format!("web-{}", hash_of(&second)));
        assert_eq!(template_of(&second), Some(template("v2")));
        let both = [first.clone(), second.clone()];
        assert_eq!(find(&owner, &template("v2"), None, &both), Revision::Known(second.clone()));
        let Revision::Again(again) = find(&owner, &template("v1"), None, &both) else { panic!("known before") };
        assert_eq!((again.name(), again.revision), (first.name(), 3));
        assert_eq!(expired(&both, 0, &[second.name().to_owned()].into()), std::slice::from_ref(&first));
        assert!(expired(&both, 1, &[second.name().to_owned()].into()).is_empty());
    }
}
