//! What becomes of an object, from its owners as they are. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::graph::{FOREGROUND, ORPHAN, View};

/// What an owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There, and not waiting for this object to go.
    Solid,
    /// There, deleted, and waiting for its dependents to go.
    Waiting,
    /// Not there.
    Dangling,
}

/// What to do with an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing.
    Keep,
    /// It lives on with these references only.
    Reduce(Vec<OwnerReference>),
    /// Delete it with this propagation; first take `block` away from its references, where some are given, since a
    /// circle would wait for itself for ever.
    Delete { propagation: &'static str, unblock: Option<Vec<OwnerReference>> },
}

/// Whether the object's metadata carries this finalizer.
pub(crate) fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|found| found == finalizer)
}

/// What an owner is, from its metadata.
pub(crate) fn owner_of(meta: &ObjectMeta) -> Owner {
    if meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND) { Owner::Waiting } else { Owner::Solid }
}

/// The verdict on an object whose references lead to `owners`, one for one.
pub(crate) fn verdict(meta: &ObjectMeta, owners: &[Owner], view: &View) -> Verdict {
    let references = meta.owner_references.as_deref().unwrap_or_default();
    if references.is_empty() {
        return Verdict::Keep;
    }
    let any = |kind| owners.contains(&kind);
    if any(Owner::Solid) {
        if !any(Owner::Waiting) && !any(Owner::Dangling) {
            return Verdict::Keep;
        }
        let solid = references.iter().zip(owners).filter(|(_, owner)| **owner == Owner::Solid);
        return Verdict::Reduce(solid.map(|(reference, _)| reference.clone()).collect());
    }
    if any(Owner::Waiting) && !view.dependents.is_empty() {
        // Its own dependents go before it, as they do for its owner.
        let unblocked =
            |reference: &OwnerReference| OwnerReference { block_owner_deletion: Some(false), ..reference.clone() };
        let circle = view.dependent_waits && references.iter().any(|r| r.block_owner_deletion == Some(true));
        let unblock = circle.then(|| references.iter().map(unblocked).collect());
        return Verdict::Delete { propagation: "Foreground", unblock };
    }
    let propagation = if has_finalizer(meta, ORPHAN) {
        "Orphan"
    } else if has_finalizer(meta, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    Verdict::Delete { propagation, unblock: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::graph::Place;
    use Owner::{Dangling, Solid, Waiting};
    use serde_json::json;

    fn meta(owners: usize, finalizer: &str) -> ObjectMeta {
        let references: Vec<_> = (0..owners)
            .map(|n| json!({"apiVersion": "v1", "kind": "K", "name": "o", "uid": n.to_string(), "blockOwnerDeletion": true}))
            .collect();
        serde_json::from_value(json!({"ownerReferences": references, "finalizers": [finalizer]})).expect("metadata")
    }

    fn view(dependents: usize, dependent_waits: bool) -> View {
        View {
            place: Place::default(),
            is_virtual: false,
            deleting: false,
            foreground: false,
            dependents: (0..dependents).map(|n| n.to_string().into()).collect(),
            blocking: Vec::new(),
            dependent_waits,
        }
    }

    #[test]
    fn table() {
        let delete = |propagation| Verdict::Delete { propagation, unblock: None };
        let table = [
            ("no references", "", vec![], view(0, false), Verdict::Keep),
            ("owner there", "", vec![Solid], view(0, false), Verdict::Keep),
            ("owner gone", "", vec![Dangling], view(0, false), delete("Background")),
            ("owner gone, wants to orphan", ORPHAN, vec![Dangling], view(1, false), delete("Orphan")),
            ("owner gone, wants foreground", FOREGROUND, vec![Dangling], view(1, false), delete("Foreground")),
            ("owner waits", "", vec![Waiting], view(0, false), delete("Background")),
            ("owner waits, with dependents", "", vec![Waiting, Dangling], view(1, false), delete("Foreground")),
        ];
        for (name, finalizer, owners, view, expected) in table {
            assert_eq!(verdict(&meta(owners.len(), finalizer), &owners, &view), expected, "{name}");
        }
    }

    #[test]
    fn some_owners_stay() {
        let meta = meta(3, "");
        let Verdict::Reduce(left) = verdict(&meta, &[Dangling, Solid, Waiting], &view(1, false)) else {
            panic!("one owner is solid");
        };
        assert_eq!(left.iter().map(|reference| &*reference.uid).collect::<Vec<_>>(), ["1"]);
    }

    #[test]
    fn circles_are_broken() {
        let Verdict::Delete { propagation, unblock: Some(references) } =
            verdict(&meta(1, ""), &[Waiting], &view(1, true))
        else {
            panic!("a circle");
        };
        assert_eq!(propagation, "Foreground");
        assert!(references.iter().all(|reference| reference.block_owner_deletion == Some(false)));
    }
}
