//! Who owns an object, and who manages it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skiff_meta::GroupVersionKind;

/// The owner that manages the object, where it has one: there is at most one.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Whether the object with UID `owner` manages this one. UIDs, not names: a namesake of a deleted owner is another.
pub fn is_controlled_by(meta: &ObjectMeta, owner: &str) -> bool {
    controller_of(meta).is_some_and(|o| o.uid == owner)
}

/// A reference that makes `owner` the manager, and its foreground deletion wait.
pub fn controller_reference(gvk: &GroupVersionKind, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: gvk.api_version(),
        kind: gvk.kind.clone(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_from_other_owners() {
        let owner = ObjectMeta { name: Some("web".into()), uid: Some("u-1".into()), ..ObjectMeta::default() };
        let reference = controller_reference(&GroupVersionKind::new("apps", "v1", "ReplicaSet"), &owner);
        assert_eq!((&*reference.api_version, &*reference.kind), ("apps/v1", "ReplicaSet"));
        let plain = OwnerReference { uid: "u-0".into(), controller: None, ..reference.clone() };
        let owned = ObjectMeta { owner_references: Some(vec![plain, reference]), ..ObjectMeta::default() };
        assert_eq!(controller_of(&owned).unwrap().name, "web");
        assert!(is_controlled_by(&owned, "u-1") && !is_controlled_by(&owned, "u-0"));
        assert!(controller_of(&owner).is_none());
    }
}
