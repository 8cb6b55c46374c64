//! What there is: pools, classes, and what claims hold or are about to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, DeviceSelector, ResourceClaim, ResourceSlice};
use parking_lot::Mutex;

use super::selectors::{Selector, Selectors};
use super::slices::{Pool, Slice};
use super::taken::{PoolId, Taken};

/// Any class can be asked for as a resource of this group.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";

/// An allocation that is on its way to the API.
#[derive(Clone, Debug)]
struct Pending {
    allocation: Arc<AllocationResult>,
    /// It was written: to the claim with this UID, at this revision.
    written: Option<(String, u64)>,
}

/// What there is. Kept as slices, classes and claims change.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    slices: BTreeMap<String, Arc<Slice>>,
    by_pool: BTreeMap<PoolId, BTreeMap<String, Arc<Slice>>>,
    pools: BTreeMap<PoolId, Pool>,
    /// Pools of which some slices are for one node alone, by that node.
    local: BTreeMap<String, BTreeMap<PoolId, usize>>,
    /// Pools with slices that several nodes may reach, and how many these are.
    shared: BTreeMap<PoolId, usize>,
    classes: BTreeMap<String, Arc<DeviceClass>>,
    /// Classes that stand for an extended resource, by its name; of several the newest, of equals the first.
    by_resource: BTreeMap<String, BTreeSet<(std::cmp::Reverse<jiff::Timestamp>, String)>>,
    pub(super) taken: Taken,
    /// By the claim's UID, or the pod's where the claim has yet to be made.
    pending: BTreeMap<String, Pending>,
    selectors: Arc<Mutex<Selectors>>,
}

impl Stock {
    /// A slice is there, has changed, or is gone.
    pub fn set_slice(&mut self, name: &str, slice: Option<Arc<ResourceSlice>>) {
        if let Some(old) = self.slices.remove(name) {
            self.place(&old, false);
            let id = old.pool();
            if let Some(known) = self.by_pool.get_mut(&id) {
                known.remove(name);
            }
            self.rebuild(id);
        }
        if let Some(new) = slice.map(|object| Arc::new(Slice::new(object))) {
            self.place(&new, true);
            let id = new.pool();
            self.by_pool.entry(id.clone()).or_default().insert(name.to_owned(), new.clone());
            self.rebuild(id);
            self.slices.insert(name.to_owned(), new);
        }
    }

    fn place(&mut self, slice: &Slice, here: bool) {
        let pools = match slice.only_node() {
            Some(node) => self.local.entry(node.to_owned()).or_default(),
            None => &mut self.shared,
        };
        let count = pools.entry(slice.pool()).or_default();
        *count = count.saturating_add_signed(if here { 1 } else { -1 });
        pools.retain(|_, count| *count > 0);
        if let Some(node) = slice.only_node()
            && self.local.get(node).is_some_and(BTreeMap::is_empty)
        {
            self.local.remove(node);
        }
    }

    fn rebuild(&mut self, id: PoolId) {
        match self.by_pool.get(&id).and_then(|slices| Pool::new(slices.values())) {
            Some(pool) => drop(self.pools.insert(id, pool)),
            None => {
                self.by_pool.remove(&id);
                self.pools.remove(&id);
            }
        }
    }

    /// The pools that a node may reach, by driver and name.
    pub(super) fn pools_for<'a>(&'a self, node: &str) -> impl Iterator<Item = (&'a PoolId, &'a Pool)> {
        let local = self.local.get(node).into_iter().flat_map(BTreeMap::keys);
        let ids: BTreeSet<&PoolId> = local.chain(self.shared.keys()).collect();
        ids.into_iter().filter_map(|id| self.pools.get_key_value(id))
    }

    /// A class is there, has changed, or is gone.
    pub fn set_class(&mut self, name: &str, class: Option<Arc<DeviceClass>>) {
        let resource = |class: &DeviceClass| class.spec.extended_resource_name.clone();
        let rank = |class: &DeviceClass| {
            let created = class.metadata.creation_timestamp.as_ref().map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0);
            (std::cmp::Reverse(created), name.to_owned())
        };
        if let Some(old) = self.classes.remove(name)
            && let Some(resource) = resource(&old)
            && let Some(known) = self.by_resource.get_mut(&resource)
        {
            known.remove(&rank(&old));
            if known.is_empty() {
                self.by_resource.remove(&resource);
            }
        }
        if let Some(new) = class {
            if let Some(resource) = resource(&new) {
                self.by_resource.entry(resource).or_default().insert(rank(&new));
            }
            self.classes.insert(name.to_owned(), new);
        }
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<DeviceClass>> {
        self.classes.get(name)
    }

    /// The class that stands for a resource of pods.
    pub fn class_for(&self, resource: &str) -> Option<&Arc<DeviceClass>> {
        match resource.strip_prefix(IMPLICIT) {
            Some(class) => self.classes.get(class),
            None => self.by_resource.get(resource)?.first().and_then(|(_, class)| self.classes.get(class)),
        }
    }

    pub(super) fn selector(&self, selector: &DeviceSelector) -> Arc<Selector> {
        self.selectors.lock().compile(selector)
    }

    /// A claim is there, has changed, or is gone.
    pub fn set_claim(&mut self, old: Option<&ResourceClaim>, new: Option<&ResourceClaim>) {
        let allocation = |claim: &ResourceClaim| claim.status.as_ref().and_then(|status| status.allocation.clone());
        if let Some(allocation) = old.and_then(allocation) {
            self.taken.count(&allocation, -1);
        }
        if let Some(allocation) = new.and_then(allocation) {
            self.taken.count(&allocation, 1);
        }
        let Some(metadata) = new.or(old).map(|claim| &claim.metadata) else { return };
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let revision = metadata.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        // What was written here is seen, or was undone since.
        let gone = new.is_none();
        let seen =
            |pending: &Pending| pending.written.as_ref().is_some_and(|(to, at)| to == uid && (gone || *at <= revision));
        let seen: Vec<String> =
            self.pending.iter().filter(|(_, pending)| seen(pending)).map(|(key, _)| key.clone()).collect();
        seen.iter().for_each(|key| self.settle(key));
        if gone {
            self.settle(uid);
        }
    }

    /// Whether somebody is about to allocate a claim.
    pub fn is_pending(&self, claim: &str) -> bool {
        self.pending.contains_key(claim)
    }

    /// An allocation is on its way: what it holds is held from now on.
    pub fn promise(&mut self, key: &str, allocation: Arc<AllocationResult>) {
        self.taken.count(&allocation, 1);
        self.pending.insert(key.to_owned(), Pending { allocation, written: None });
    }

    /// It was written, to the claim with this UID, at a revision. What it holds stays held here until the claim is seen
    /// so; `known` is the revision at which it was seen last.
    pub fn written(&mut self, key: &str, claim: &str, revision: u64, known: u64) {
        if known >= revision {
            self.settle(key);
        } else if let Some(pending) = self.pending.get_mut(key) {
            pending.written = Some((claim.to_owned(), revision));
        }
    }

    /// It will not be written, unless it was.
    pub fn withdraw(&mut self, key: &str) {
        if self.pending.get(key).is_some_and(|pending| pending.written.is_none()) {
            self.settle(key);
        }
    }

    fn settle(&mut self, key: &str) {
        if let Some(pending) = self.pending.remove(key) {
            self.taken.count(&pending.allocation, -1);
        }
    }
}
