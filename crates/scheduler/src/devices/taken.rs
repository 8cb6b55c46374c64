//! What claims hold: devices of their own, and shares of devices that several may have.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::AllocationResult;
use skiff_meta::Quantity;

/// A pool: its driver and its name.
pub type PoolId = (String, String);

/// Amounts by name.
pub(super) type Capacity = BTreeMap<String, Quantity>;

/// How much of a device is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// By how many that have it for themselves.
    pub(super) dedicated: usize,
    /// By how many that share it.
    shares: usize,
    /// What these have of its capacities.
    pub(super) capacity: Capacity,
}

impl Use {
    /// Whether anybody shares it.
    pub(super) fn is_shared(&self) -> bool {
        self.shares > 0
    }
}

/// What is held in each pool, by the device's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken(BTreeMap<PoolId, BTreeMap<String, Use>>);

pub(super) fn quantity(text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Quantity {
    text.0.parse().unwrap_or_default()
}

impl Taken {
    /// What is held of a pool.
    pub(super) fn of(&self, pool: &PoolId) -> Option<&BTreeMap<String, Use>> {
        self.0.get(pool)
    }

    /// An allocation holds (1), or no longer holds (-1), its devices. Administrators look at devices without holding them.
    pub(super) fn count(&mut self, allocation: &AllocationResult, sign: isize) {
        for result in allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten()) {
            if result.admin_access == Some(true) {
                continue;
            }
            let id = (result.driver.clone(), result.pool.clone());
            let pool = self.0.entry(id.clone()).or_default();
            let held = pool.entry(result.device.clone()).or_default();
            match result.share_id {
                Some(_) => {
                    held.shares = held.shares.saturating_add_signed(sign);
                    for (name, amount) in result.consumed_capacity.iter().flatten() {
                        add(&mut held.capacity, name, quantity(amount), sign);
                    }
                }
                None => held.dedicated = held.dedicated.saturating_add_signed(sign),
            }
            if held.dedicated == 0 && held.shares == 0 {
                pool.remove(&result.device);
            }
            if pool.is_empty() {
                self.0.remove(&id);
            }
        }
    }
}

pub(super) fn add(capacity: &mut Capacity, name: &str, amount: Quantity, sign: isize) {
    let amount = if sign < 0 { amount.negated() } else { amount };
    match capacity.get_mut(name) {
        Some(known) => *known = known.plus(amount),
        None => drop(capacity.insert(name.to_owned(), amount)),
    }
}
