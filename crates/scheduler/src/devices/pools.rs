//! What a node can reach: its pools, those whose devices have to be waited for last.

use std::cell::RefCell;
use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::Device;
use skiff_api::affinity::NodeView;
use skiff_meta::Quantity;

use super::slices::{Pool, Slice, is_awaited};
use super::stock::Stock;
use super::taken::{PoolId, Use, quantity};

/// Amounts of counters, by set and name.
pub(super) type Counters<'a> = BTreeMap<(&'a str, &'a str), Quantity>;

/// A pool as a node sees it.
pub(super) struct Reached<'a> {
    pub(super) id: &'a PoolId,
    pub(super) pool: &'a Pool,
    slices: Vec<&'a Slice>,
    pub(super) is_complete: bool,
    pub(super) is_invalid: bool,
    taken: Option<&'a BTreeMap<String, Use>>,
    free: RefCell<Option<Counters<'a>>>,
}

/// A device that a node can reach.
pub(super) struct Candidate<'a> {
    /// Its pool's place among those of the node.
    pub(super) pool: usize,
    pub(super) slice: &'a Slice,
    /// Its place in its slice.
    pub(super) place: usize,
    pub(super) device: &'a Device,
    /// How much of it others hold.
    pub(super) taken: Option<&'a Use>,
}

/// Everything that a node can reach.
pub struct Site<'a> {
    pub(super) node: NodeView<'a>,
    pub(super) pools: Vec<Reached<'a>>,
    /// Devices of pools that are complete and make sense, in the order in which they are tried.
    pub(super) candidates: Vec<Candidate<'a>>,
}

impl<'a> Site<'a> {
    /// Looks around from a node.
    pub fn new(stock: &'a Stock, node: NodeView<'a>) -> Self {
        let mut pools: Vec<Reached<'a>> = Vec::new();
        for (id, pool) in stock.pools_for(node.name) {
            let slices = pool.on(node);
            if slices.is_empty() {
                continue;
            }
            let is_complete = pool.is_complete(slices.len());
            let is_invalid = is_complete && (pool.is_broken || pool.names_clash(&slices));
            let taken = stock.taken.of(id);
            pools.push(Reached { id, pool, slices, is_complete, is_invalid, taken, free: RefCell::default() });
        }
        // The sort is stable: by driver and name among equals.
        pools.sort_by_key(|pool| pool.slices.iter().any(|slice| slice.devices().iter().any(is_awaited)));
        let mut candidates = Vec::new();
        for (number, pool) in pools.iter().enumerate().filter(|(_, pool)| pool.is_complete && !pool.is_invalid) {
            for slice in &pool.slices {
                candidates.extend(slice.devices().iter().enumerate().map(|(place, device)| Candidate {
                    pool: number,
                    slice,
                    place,
                    device,
                    taken: pool.taken.and_then(|taken| taken.get(&device.name)),
                }));
            }
        }
        Self { node, pools, candidates }
    }
}

impl<'a> Reached<'a> {
    /// Asks what allocated devices, wherever they are, have left of the pool's counters; below nothing is nothing.
    pub(super) fn free<T>(&self, ask: impl FnOnce(&Counters<'a>) -> T) -> T {
        let mut free = self.free.borrow_mut();
        ask(free.get_or_insert_with(|| {
            let sets = self.pool.counters.iter();
            let mut free: Counters<'a> =
                sets.flat_map(|(set, all)| all.iter().map(move |(name, n)| ((&**set, &**name), *n))).collect();
            for device in self.pool.slices.iter().flat_map(|slice| slice.devices()) {
                if self.taken.is_some_and(|taken| taken.contains_key(&device.name)) {
                    draw(&mut free, device, -1);
                }
            }
            free
        }))
    }
}

/// A device draws (1 or -1) from counters.
pub(super) fn draw<'a>(counters: &mut Counters<'a>, device: &'a Device, sign: i64) {
    for drawn in device.consumes_counters.iter().flatten() {
        for (name, counter) in &drawn.counters {
            let held = counters.entry((&drawn.counter_set, name)).or_default();
            *held = held.plus(quantity(&counter.value).times(sign));
        }
    }
}
