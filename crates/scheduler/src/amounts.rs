//! Amounts of resources as the scheduler adds them up: plain integers, since they are summed millions of times.

use std::collections::BTreeMap;

use skiff_api::resources::ResourceList;
use skiff_meta::Quantity;
use skiff_meta::quantity::Format;

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

/// What containers that ask for nothing are scored as, so that they spread too: a tenth of a core, 200 MiB.
pub fn unasked() -> ResourceList {
    let amounts =
        [("cpu", Quantity::from_milli(100, Format::DecimalSi)), ("memory", Quantity::new(200 << 20, Format::BinarySi))];
    amounts.into_iter().map(|(name, amount)| (name.to_owned(), amount)).collect()
}

impl Amounts {
    /// From a resource list.
    pub fn of(list: &ResourceList) -> Self {
        let mut amounts = Self::default();
        for (name, amount) in list {
            match name.as_str() {
                "cpu" => amounts.cpu = amount.milli(),
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
