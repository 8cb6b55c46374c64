//! Controller references: who manages an object, and how a change of it wakes up its manager.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skiff_api::owners;
use skiff_client::{Change, Informer, Key, Kind, WorkQueue};

use skiff_meta::GroupVersionKind;

use super::{Selector, selects};

/// The reference to the managing controller, where there is one.
pub(crate) fn controller_of<K: Kind>(object: &K) -> Option<&OwnerReference> {
    owners::controller_of(object.metadata())
}

/// Whether `owner` manages `object`.
pub(crate) fn is_controlled_by<K: Kind, O: Kind>(object: &K, owner: &O) -> bool {
    owners::is_controlled_by(object.metadata(), owner.uid())
}

/// A reference that makes `owner` the managing controller.
pub(crate) fn controller_ref<O: Kind>(owner: &O) -> OwnerReference {
    owners::controller_reference(&GroupVersionKind::new(O::GROUP, O::VERSION, O::KIND), owner.metadata())
}

/// Enqueues an owner whenever an object it manages changes, and whenever an orphan appears or changes its labels that the
/// owner's selector matches, so that it can be adopted.
pub(crate) fn enqueue_owners<O: Kind, K: Kind>(
    owners: &Informer<O>,
    dependents: &Informer<K>,
    queue: &WorkQueue<Key>,
    selector: impl Fn(&O) -> Selector + Send + Sync + 'static,
) {
    let (store, queue) = (owners.store(), queue.clone());
    dependents.on(move |change: &Change<'_, K>| {
        for state in change.states() {
            if let Some(owner) = controller_of(&**state).filter(|owner| is_kind::<O>(owner)) {
                queue.add(Key::new(state.namespace(), &*owner.name), change.trace);
            }
        }
        let Some(orphan) = change.new.filter(|new| controller_of(&***new).is_none() && !new.deleting()) else { return };
        let labels = orphan.metadata().labels.as_ref();
        let news =
            change.old.is_none_or(|old| old.metadata().labels.as_ref() != labels || controller_of(&**old).is_some());
        if !news || labels.is_none_or(std::collections::BTreeMap::is_empty) {
            return;
        }
        for owner in store.in_namespace(orphan.namespace()) {
            if selects(&selector(&owner), labels) {
                queue.add(Key::of(&*owner), change.trace);
            }
        }
    });
}

fn is_kind<O: Kind>(owner: &OwnerReference) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    owner.kind == O::KIND && group == O::GROUP
}
