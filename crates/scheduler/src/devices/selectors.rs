//! Selectors: compiled once, and asked once per device as long as its slice stays as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceSelector};
use parking_lot::Mutex;
use skiff_cel::device::{self, Attribute};
use skiff_cel::{Env, Program};

use super::slices::Slice;
use super::taken::quantity;

/// How many compiled selectors are kept; beyond it all are dropped.
const MOST: usize = 1024;

/// A selector that was compiled, or why it cannot be.
#[derive(Debug)]
pub(super) struct Selector {
    /// Verdicts are kept by it.
    number: usize,
    program: Result<Program, String>,
}

/// Compiled selectors, by their text.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    known: BTreeMap<String, Arc<Selector>>,
    next: usize,
    env: Option<Env>,
}

impl Selectors {
    pub(super) fn compile(&mut self, selector: &DeviceSelector) -> Arc<Selector> {
        let text = selector.cel.as_ref().map(|cel| cel.expression.as_str()).unwrap_or_default();
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() == MOST {
            self.known.clear();
        }
        let program = self.env.get_or_insert_with(device::env).compile(text).map_err(|issues| issues.failure());
        self.next += 1;
        let selector = Arc::new(Selector { number: self.next, program });
        self.known.insert(text.to_owned(), selector.clone());
        selector
    }
}

/// What selectors said of the devices of a slice: by the selector's number, one place per device.
pub(super) type Verdicts = Mutex<BTreeMap<usize, Vec<Option<bool>>>>;

impl Selector {
    /// Whether it selects a device. The error says what went wrong, and how.
    pub(super) fn selects(&self, slice: &Slice, place: usize) -> Result<bool, (&'static str, String)> {
        let mut verdicts = slice.verdicts.lock();
        // Selectors that nobody uses any more leave their verdicts behind.
        if verdicts.len() > MOST {
            verdicts.clear();
        }
        let known = verdicts.entry(self.number).or_insert_with(|| vec![None; slice.devices().len()]);
        if let Some(verdict) = known[place] {
            return Ok(verdict);
        }
        let program = self.program.as_ref().map_err(|why| ("compile", why.clone()))?;
        let verdict = ask(program, slice.driver(), &slice.devices()[place]).map_err(|why| ("runtime", why))?;
        known[place] = Some(verdict);
        Ok(verdict)
    }
}

fn ask(program: &Program, driver: &str, device: &Device) -> Result<bool, String> {
    let attributes = device.attributes.iter().flatten().map(|(name, value)| (name.as_str(), attribute(value)));
    let capacity = device.capacity.iter().flatten().map(|(name, has)| (name.as_str(), quantity(&has.value)));
    let shareable = device.allow_multiple_allocations == Some(true);
    device::selects(program, device::Device { driver, shareable, attributes, capacity }).map_err(|e| e.to_string())
}

/// An attribute's value; lists of values are not supported, as upstream has it by default.
pub(super) fn attribute(attribute: &DeviceAttribute) -> Option<Attribute<'_>> {
    let number = attribute.int.map(Attribute::Int);
    let flag = || attribute.bool.map(Attribute::Bool);
    let text = || attribute.string.as_deref().map(Attribute::Text);
    number.or_else(flag).or_else(text).or_else(|| attribute.version.as_deref().map(Attribute::Version))
}
