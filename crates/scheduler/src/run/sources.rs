//! What is watched: one stream of changes of eighteen kinds.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use skiff_client::{Client, Event, Kind, Selection};
use skiff_meta::Object;

use crate::cluster::objects::All;

/// What changed: a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Pods,
    Nodes,
    Namespaces,
    Budgets,
    Services,
    Controllers,
    ReplicaSets,
    StatefulSets,
    Claims,
    Volumes,
    Classes,
    CsiNodes,
    CsiDrivers,
    Capacities,
    Attachments,
    ResourceClaims,
    DeviceClasses,
    ResourceSlices,
}

/// All changes, each with its kind.
pub(super) type Sources = SelectAll<BoxStream<'static, (Source, Event)>>;

fn of<K: Kind>(client: &Client, source: Source) -> BoxStream<'static, (Source, Event)> {
    client.list_watch(client.all::<K>().target(Selection::default())).map(move |event| (source, event)).boxed()
}

/// Begins to watch. Returns also what has to be heard of before anything is decided.
pub(super) fn watch(client: &Client) -> (Sources, BTreeSet<Source>) {
    let streams = [
        (Source::Nodes, of::<Node>(client, Source::Nodes)),
        (Source::Pods, of::<Pod>(client, Source::Pods)),
        (Source::Namespaces, of::<Namespace>(client, Source::Namespaces)),
        (Source::Budgets, of::<PodDisruptionBudget>(client, Source::Budgets)),
        (Source::Services, of::<Service>(client, Source::Services)),
        (Source::Controllers, of::<ReplicationController>(client, Source::Controllers)),
        (Source::ReplicaSets, of::<ReplicaSet>(client, Source::ReplicaSets)),
        (Source::StatefulSets, of::<StatefulSet>(client, Source::StatefulSets)),
        (Source::Claims, of::<PersistentVolumeClaim>(client, Source::Claims)),
        (Source::Volumes, of::<PersistentVolume>(client, Source::Volumes)),
        (Source::Classes, of::<StorageClass>(client, Source::Classes)),
        (Source::CsiNodes, of::<CSINode>(client, Source::CsiNodes)),
        (Source::CsiDrivers, of::<CSIDriver>(client, Source::CsiDrivers)),
        (Source::Capacities, of::<CSIStorageCapacity>(client, Source::Capacities)),
        (Source::Attachments, of::<VolumeAttachment>(client, Source::Attachments)),
        (Source::ResourceClaims, of::<ResourceClaim>(client, Source::ResourceClaims)),
        (Source::DeviceClasses, of::<DeviceClass>(client, Source::DeviceClasses)),
        (Source::ResourceSlices, of::<ResourceSlice>(client, Source::ResourceSlices)),
    ];
    let missing = streams.iter().map(|(source, _)| *source).collect();
    (select_all(streams.into_iter().map(|(_, stream)| stream)), missing)
}

/// One object's change: as it was, as it is.
pub(super) type Changed<K> = (Option<Arc<K>>, Option<Arc<K>>);

fn typed<K: Kind>(object: &Object) -> Option<Arc<K>> {
    object
        .typed_by(skiff_api::read::fitting::<K>)
        .inspect_err(|error| tracing::warn!(kind = K::KIND, "an object cannot be read: {error}"))
        .ok()
}

/// Takes a change into a collection; returns what changed.
pub(super) fn take<K: Kind>(all: &mut All<K>, event: Event) -> Vec<Changed<K>> {
    let key = |object: &Object| (object.meta().namespace.clone(), object.meta().name.clone());
    let put = |all: &mut All<K>, object: &Object| {
        let new = typed::<K>(object)?;
        Some((all.insert(key(object), new.clone()), Some(new)))
    };
    match event {
        Event::Replace(objects) => {
            let now: BTreeSet<_> = objects.iter().map(|object| key(object)).collect();
            let gone: Vec<_> = all.keys().filter(|key| !now.contains(key)).cloned().collect();
            let mut changed: Vec<Changed<K>> = gone.iter().map(|key| (all.remove(key), None)).collect();
            changed.extend(objects.iter().filter_map(|object| put(all, object)));
            changed
        }
        Event::Apply(object) => put(all, &object).into_iter().collect(),
        Event::Delete(object) => vec![(all.remove(&key(&object)), None)],
    }
}

/// An object of a kind that is kept elsewhere.
pub(super) fn read<K: Kind>(object: &Object) -> Option<Arc<K>> {
    typed(object)
}
