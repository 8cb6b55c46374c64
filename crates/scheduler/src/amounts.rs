//! Amounts of resources as the scheduler adds them up: plain integers, since they are summed millions of times.

use std::sync::Arc;

use skiff_api::resources::ResourceList;
use skiff_meta::Quantity;
use skiff_meta::quantity::Format;

/// What a container that asks for no CPU is scored as, in thousandths of a core.
pub const UNASKED_CPU: i64 = 100;
/// What a container that asks for no memory is scored as, in bytes.
pub const UNASKED_MEMORY: i64 = 200 << 20;

/// What a pod asks for, or a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// Everything else in whole units, sorted by name.
    pub scalars: Vec<(Arc<str>, i64)>,
}

/// What containers that ask for nothing are scored as, so that they spread too.
pub fn unasked() -> ResourceList {
    let amounts = [
        ("cpu", Quantity::from_milli(UNASKED_CPU, Format::DecimalSi)),
        ("memory", Quantity::new(UNASKED_MEMORY, Format::BinarySi)),
    ];
    amounts.into_iter().map(|(name, amount)| (name.to_owned(), amount)).collect()
}

impl Amounts {
    /// From a resource list; `pods` is counted elsewhere.
    pub fn of(list: &ResourceList) -> Self {
        let mut amounts = Self::default();
        for (name, amount) in list {
            match name.as_str() {
                "cpu" => amounts.cpu = amount.milli(),
                "memory" => amounts.memory = amount.value(),
                "ephemeral-storage" => amounts.ephemeral = amount.value(),
                "pods" => {}
                other => amounts.scalars.push((other.into(), amount.value())),
            }
        }
        amounts
    }

    /// Adds (`sign` 1) or takes away (-1).
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu += sign * other.cpu;
        self.memory += sign * other.memory;
        self.ephemeral += sign * other.ephemeral;
        for (name, amount) in &other.scalars {
            match self.scalars.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(place) => self.scalars[place].1 += sign * amount,
                Err(place) => self.scalars.insert(place, (name.clone(), sign * amount)),
            }
        }
    }

    /// The amount of a scalar resource.
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.binary_search_by(|(known, _)| (**known).cmp(name)).map_or(0, |place| self.scalars[place].1)
    }

    /// The amount of any resource.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            other => self.scalar(other),
        }
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.cpu == 0 && self.memory == 0 && self.ephemeral == 0 && self.scalars.iter().all(|(_, amount)| *amount == 0)
    }
}
