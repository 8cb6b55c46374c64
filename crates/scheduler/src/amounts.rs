//! Amounts of resources as the scheduler adds them up: plain integers, since they are summed millions of times.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_meta::quantity;

/// What a pod asks for, or a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// Everything else, by name, in whole units.
    pub extended: BTreeMap<String, i64>,
}

/// What a container that asks for no CPU is scored as, thousandths of a core.
pub const SCORED_CPU: i64 = 100;
/// What a container that asks for no memory is scored as, bytes.
pub const SCORED_MEMORY: i64 = 200 * 1024 * 1024;

impl Amounts {
    /// From a resource list. Quantities that cannot be read count as nothing: validation has refused them long ago.
    pub fn of(list: &BTreeMap<String, Quantity>) -> Self {
        let mut amounts = Self::default();
        for (name, amount) in list {
            let Ok(amount) = amount.0.parse::<quantity::Quantity>() else { continue };
            match name.as_str() {
                "cpu" => amounts.cpu = amount.milli_value(),
                "memory" => amounts.memory = amount.value(),
                "ephemeral-storage" => amounts.ephemeral = amount.value(),
                "pods" => {}
                other => {
                    amounts.extended.insert(other.to_owned(), amount.value());
                }
            }
        }
        amounts
    }

    /// Adds (`sign` 1) or takes away (-1).
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu += sign * other.cpu;
        self.memory += sign * other.memory;
        self.ephemeral += sign * other.ephemeral;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() += sign * amount;
        }
    }
}
