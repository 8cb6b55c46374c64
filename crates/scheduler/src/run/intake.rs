//! What happens in the cluster, taken into the scheduler's view of it, and told to pods that it can help.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use skiff_api::pods;
use skiff_client::{Event as Told, Kind as _};
use skiff_meta::Object;

use super::Scheduler;
use super::sources::{Source, read, take};
use crate::cluster::PodInfo;
use crate::events::{Change, Event, matters};
use crate::profile::Plugins;

/// Whether a pod differs in nothing that decisions look at.
fn same(old: &Pod, new: &Pod) -> bool {
    let resources = |pod: &Pod| {
        let status = pod.status.as_ref();
        let all = status.iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]).flatten().flatten();
        all.map(|s| (s.name.clone(), s.resources.clone(), s.allocated_resources.clone())).collect::<Vec<_>>()
    };
    let resize = |pod: &Pod| pods::condition(pod, "PodResizePending").map(|c| c.reason.clone());
    old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && old.spec == new.spec
        && resize(old) == resize(new)
        && resources(old) == resources(new)
}

impl Scheduler {
    /// Takes a change in.
    pub(super) fn take(&mut self, source: Source, event: Told) {
        if matches!(event, Told::Replace(_)) {
            self.missing.remove(&source);
        }
        let objects = &mut self.cluster.objects;
        macro_rules! kept {
            ($field:ident, $event:ident) => {{
                let changed = take(&mut objects.$field, event);
                for (old, new) in &changed {
                    self.wake(&Event::$event(Change { old: old.as_deref(), new: new.as_deref() }));
                }
                !changed.is_empty()
            }};
        }
        match source {
            Source::Pods => self.pod_event(event),
            Source::Nodes => self.node_event(event),
            Source::Namespaces => self.namespace_event(event),
            Source::Budgets => drop(take(&mut objects.budgets, event)),
            Source::Services => drop(take(&mut objects.services, event)),
            Source::Controllers => drop(take(&mut objects.controllers, event)),
            Source::ReplicaSets => drop(take(&mut objects.replica_sets, event)),
            Source::StatefulSets => drop(take(&mut objects.stateful_sets, event)),
            Source::Claims => {
                if kept!(claims, Claim) {
                    self.look_at_prepared();
                }
            }
            Source::Volumes => drop(kept!(volumes, Volume)),
            Source::Classes => drop(kept!(classes, Class)),
            Source::CsiNodes => drop(kept!(csi_nodes, CsiNode)),
            Source::CsiDrivers => drop(kept!(csi_drivers, CsiDriver)),
            Source::Capacities => drop(kept!(capacities, Capacity)),
            Source::Attachments => drop(kept!(attachments, Attachment)),
            Source::ResourceClaims | Source::DeviceClasses | Source::ResourceSlices => {
                self.devices_event(source, event)
            }
        }
    }

    /// Tells waiting pods what happened, where a plugin that refused them hears of such things.
    pub(super) fn wake(&mut self, event: &Event<'_>) {
        let kind = event.kind();
        let hearing: Vec<Plugins> = self.profiles.iter().map(|profile| profile.hearing(kind)).collect();
        let (profiles, cluster) = (&self.profiles, &self.cluster);
        self.queue.wake(self.world.elapsed(), &hearing, |pod, (place, by)| {
            let heard = by.iter().filter(|plugin| hearing[place].has(*plugin));
            heard.into_iter().any(|plugin| profiles[place].slots[plugin].plugin.hint(pod, event, cluster))
        });
    }

    fn namespace_event(&mut self, event: Told) {
        match event {
            Told::Replace(objects) => objects.iter().for_each(|object| self.namespace(object)),
            Told::Apply(object) => self.namespace(&object),
            Told::Delete(object) => self.cluster.set_namespace(&object.meta().name, None),
        }
    }

    fn namespace(&mut self, object: &Object) {
        if let Some(namespace) = read::<Namespace>(object) {
            self.cluster.set_namespace(namespace.name(), Some(namespace.metadata.labels.clone().unwrap_or_default()));
        }
    }

    fn node_event(&mut self, event: Told) {
        match event {
            Told::Replace(objects) => {
                let gone = self.cluster.names().filter(|name| !objects.iter().any(|o| o.meta().name == *name));
                let gone: Vec<String> = gone.map(str::to_owned).collect();
                gone.iter().for_each(|name| self.node_gone(name));
                objects.iter().for_each(|object| self.node(object));
            }
            Told::Apply(object) => self.node(&object),
            Told::Delete(object) => self.node_gone(&object.meta().name),
        }
    }

    fn node(&mut self, object: &Object) {
        let Some(node) = read::<Node>(object) else { return };
        let old = self.cluster.node(node.name()).and_then(|info| info.node.clone());
        if old.as_ref().is_some_and(|old| !matters(old, &node)) {
            return self.cluster.refresh_node(node);
        }
        self.cluster.set_node(node.clone());
        self.wake(&Event::Node(Change { old: old.as_deref(), new: Some(&node) }));
    }

    fn node_gone(&mut self, name: &str) {
        let old = self.cluster.node(name).and_then(|info| info.node.clone());
        self.cluster.remove_node(name);
        if old.is_some() {
            self.wake(&Event::Node(Change { old: old.as_deref(), new: None }));
        }
    }

    fn pod_event(&mut self, event: Told) {
        match event {
            Told::Replace(objects) => {
                let now: std::collections::BTreeSet<&str> = objects.iter().map(|o| o.meta().uid.as_str()).collect();
                let known = self.queue.uids().chain(self.cluster.pods().map(|pod| &pod.uid));
                let gone: Vec<String> = known.filter(|uid| !now.contains(uid.as_str())).cloned().collect();
                gone.iter().for_each(|uid| self.pod_gone(uid));
                objects.iter().for_each(|object| self.pod(object));
            }
            Told::Apply(object) => self.pod(&object),
            Told::Delete(object) => self.pod_gone(&object.meta().uid),
        }
    }

    /// A pod is gone, or has finished: it takes no room any more, and waits for none.
    fn pod_gone(&mut self, uid: &str) {
        let waited = self.queue.get(uid).cloned();
        self.queue.forget(uid);
        self.confirmed(uid);
        let nominated = self.nominated.node_of(uid).map(str::to_owned);
        self.nominated.remove(uid);
        let node = self.cluster.place(uid).map(str::to_owned);
        let held = self.cluster.remove_pod(uid);
        // A pod that waited for room kept it from others.
        if let (Some(pod), Some(node)) = (held.or(waited), node.or(nominated)) {
            self.wake(&Event::Pod(Change { old: Some(&pod), new: None }, &node));
        }
        self.making_room.remove(uid);
        self.leaves(uid);
    }

    fn pod(&mut self, object: &Object) {
        let Some(pod) = read::<Pod>(object) else { return };
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        if pods::is_finished(&pod) {
            self.pod_gone(&object.meta().uid);
        } else if !node.is_empty() {
            self.placed(pod, &node);
        } else if self.assumed.contains_key(&object.meta().uid) {
            // The binding is on its way, and this is news from before it; unless the pod is to go.
            if pods::is_terminating(&pod) {
                self.pod_gone(&object.meta().uid);
            }
        } else {
            self.unplaced(pod);
        }
    }

    /// A pod has a node, as the API says.
    fn placed(&mut self, pod: Arc<Pod>, node: &str) {
        let uid = pod.uid().to_owned();
        self.queue.forget(&uid);
        self.nominated.remove(&uid);
        let assumed = self.confirmed(&uid);
        let old = self.cluster.pod(&uid).cloned();
        let stays = self.cluster.place(&uid) == Some(node);
        if let Some(old) = &old
            && stays
            && !assumed
            && same(&old.pod, &pod)
        {
            return self.cluster.refresh_pod(Arc::new(PodInfo { pod, ..(**old).clone() }));
        }
        let info = Arc::new(PodInfo::new(pod));
        self.cluster.set_pod(info.clone(), node);
        if info.is_terminating() {
            self.leaves(&uid);
        }
        // That it was assumed here was told to nobody.
        let old = old.filter(|_| !assumed);
        self.wake(&Event::Pod(Change { old: old.as_deref(), new: Some(&info) }, node));
    }

    /// A pod has no node yet.
    fn unplaced(&mut self, pod: Arc<Pod>) {
        let uid = pod.uid().to_owned();
        let old = self.queue.get(&uid).cloned();
        let info = Arc::new(match &old {
            Some(old) if same(&old.pod, &pod) => PodInfo { pod, ..(**old).clone() },
            _ => PodInfo::new(pod),
        });
        if info.is_terminating() || self.profile_of(&info).is_none() {
            return self.pod_gone(&uid);
        }
        let wanted = info.nominated_node().to_owned();
        let before = old.as_ref().map(|old| old.nominated_node().to_owned()).unwrap_or_default();
        if !wanted.is_empty() {
            self.nominated.set(info.clone(), &wanted);
        } else if !before.is_empty() && self.nominated.remove(&uid) {
            self.wake(&Event::Pod(Change { old: Some(&info), new: None }, &before));
        } else if let Some(node) = self.nominated.node_of(&uid).map(str::to_owned) {
            self.nominated.set(info.clone(), &node);
        }
        let Some(old) = old else { return self.queue.add(info) };
        let event = Event::Own(Change { old: Some(&*old), new: Some(&*info) });
        let changed = !same(&old.pod, &info.pod)
            || old.pod.status.as_ref().map(claim_statuses) != info.pod.status.as_ref().map(claim_statuses);
        let (profiles, cluster) = (&self.profiles, &self.cluster);
        self.queue.update(info.clone(), self.world.elapsed(), |(place, by)| {
            changed
                && (by.is_empty()
                    || by.iter().any(|plugin| profiles[place].slots[plugin].plugin.hint(&info, &event, cluster)))
        });
    }
}

fn claim_statuses(
    status: &k8s_openapi::api::core::v1::PodStatus,
) -> &Option<Vec<k8s_openapi::api::core::v1::PodResourceClaimStatus>> {
    &status.resource_claim_statuses
}
