//! Slices, and the pools that they make up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{CounterSet, Device, ResourceSlice};
use skiff_api::affinity::{self, NodeView};
use skiff_meta::Quantity;

use super::selectors::Verdicts;
use super::taken::{PoolId, quantity};

/// A slice, with what selectors said of its devices.
#[derive(Debug)]
pub(super) struct Slice {
    object: Arc<ResourceSlice>,
    pub(super) verdicts: Verdicts,
}

impl Slice {
    pub(super) fn new(object: Arc<ResourceSlice>) -> Self {
        Self { object, verdicts: Verdicts::default() }
    }
    pub(super) fn pool(&self) -> PoolId {
        (self.object.spec.driver.clone(), self.object.spec.pool.name.clone())
    }
    pub(super) fn driver(&self) -> &str {
        &self.object.spec.driver
    }
    pub(super) fn devices(&self) -> &[Device] {
        self.object.spec.devices.as_deref().unwrap_or_default()
    }
    fn generation(&self) -> i64 {
        self.object.spec.pool.generation
    }
    fn counters(&self) -> &[CounterSet] {
        self.object.spec.shared_counters.as_deref().unwrap_or_default()
    }
    /// The only node that can reach its devices.
    pub(super) fn only_node(&self) -> Option<&str> {
        self.object.spec.node_name.as_deref().filter(|name| !name.is_empty() && self.counters().is_empty())
    }
    fn each_device_has_nodes(&self) -> bool {
        self.object.spec.per_device_node_selection == Some(true)
    }

    /// Whether it has anything to do with a node.
    fn reaches(&self, node: NodeView<'_>) -> bool {
        let spec = &self.object.spec;
        let whole = nodes_match(&spec.node_name, spec.all_nodes, spec.node_selector.as_ref(), node);
        !self.counters().is_empty()
            || whole
            || (self.each_device_has_nodes() && (0..self.devices().len()).any(|place| self.device_reaches(place, node)))
    }

    /// Whether a node that the slice reaches can reach one of its devices.
    pub(super) fn device_reaches(&self, place: usize, node: NodeView<'_>) -> bool {
        let device = &self.devices()[place];
        !self.each_device_has_nodes()
            || nodes_match(&device.node_name, device.all_nodes, device.node_selector.as_ref(), node)
    }

    /// What names the nodes that can reach a device: one by name, or a selector; nothing: all can.
    pub(super) fn nodes_of(&self, place: usize) -> (Option<&str>, Option<&NodeSelector>) {
        let (name, selector) = match self.each_device_has_nodes() {
            true => (&self.devices()[place].node_name, &self.devices()[place].node_selector),
            false => (&self.object.spec.node_name, &self.object.spec.node_selector),
        };
        (name.as_deref(), selector.as_ref())
    }
}

fn nodes_match(name: &Option<String>, all: Option<bool>, selector: Option<&NodeSelector>, node: NodeView<'_>) -> bool {
    match name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name == node.name,
        None => all == Some(true) || selector.is_some_and(|selector| affinity::selects(selector, node)),
    }
}

/// The slices of a pool's newest generation.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// By name.
    pub(super) slices: Vec<Arc<Slice>>,
    /// Counter sets that its devices draw from.
    pub(super) counters: BTreeMap<String, BTreeMap<String, Quantity>>,
    /// Its counters make no sense.
    pub(super) is_broken: bool,
    /// No two of its devices have the same name.
    has_unique_names: bool,
    /// How many slices there are to be.
    expected: i64,
}

impl Pool {
    /// From all known slices of the pool, in the order of their names; `None` if there are none.
    pub(super) fn new<'a>(slices: impl Iterator<Item = &'a Arc<Slice>> + Clone) -> Option<Self> {
        let newest = slices.clone().map(|slice| slice.generation()).max()?;
        let slices: Vec<Arc<Slice>> = slices.filter(|slice| slice.generation() == newest).cloned().collect();
        let mut counters = BTreeMap::new();
        let mut is_broken = false;
        for set in slices.iter().flat_map(|slice| slice.counters()) {
            let amounts = set.counters.iter().map(|(name, counter)| (name.clone(), quantity(&counter.value))).collect();
            is_broken |= counters.insert(set.name.clone(), amounts).is_some();
        }
        for drawn in slices.iter().flat_map(|slice| slice.devices()).flat_map(|d| d.consumes_counters.iter().flatten())
        {
            let set: Option<&BTreeMap<String, Quantity>> = counters.get(&drawn.counter_set);
            is_broken |= set.is_none_or(|set| drawn.counters.keys().any(|name| !set.contains_key(name)));
        }
        let mut names = BTreeSet::new();
        let has_unique_names = slices.iter().flat_map(|slice| slice.devices()).all(|device| names.insert(&device.name));
        let expected = slices.first().map_or(0, |slice| slice.object.spec.pool.resource_slice_count);
        Some(Self { has_unique_names, counters, is_broken, expected, slices })
    }

    /// The slices that reach a node, and those with counters.
    pub(super) fn on(&self, node: NodeView<'_>) -> Vec<&Slice> {
        self.slices.iter().map(|slice| &**slice).filter(|slice| slice.reaches(node)).collect()
    }

    /// Whether all slices are known, or at least as many as there are to be reach the node.
    pub(super) fn is_complete(&self, on_node: usize) -> bool {
        self.expected == self.slices.len() as i64 || self.expected == on_node as i64
    }

    /// Whether of the devices that a node reaches two have the same name.
    pub(super) fn names_clash(&self, on_node: &[&Slice]) -> bool {
        if self.has_unique_names {
            return false;
        }
        let mut names = BTreeSet::new();
        !on_node.iter().flat_map(|slice| slice.devices()).all(|device| names.insert(&device.name))
    }
}

/// Whether drivers ask for a device to be waited for.
pub(super) fn is_awaited(device: &Device) -> bool {
    device.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty())
}
