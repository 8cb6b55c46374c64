//! How much of a device's capacities a request takes: what it asks for, rounded up to what the device's policies allow.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, Device, DeviceCapacity};
use skiff_meta::Quantity;
use skiff_meta::quantity::Format;

use super::taken::{Capacity, quantity};

/// What a request takes of each capacity; `None`: the device does not have such, or does not give so little, so much, or
/// such an amount.
pub(super) fn taken_by(asked: &BTreeMap<String, Quantity>, device: &Device) -> Option<Capacity> {
    let has = device.capacity.as_ref();
    if !asked.keys().all(|name| has.is_some_and(|has| has.contains_key(name))) {
        return None;
    }
    let each = has.into_iter().flatten().map(|(name, capacity)| {
        let amount = rounded(asked.get(name).copied(), capacity);
        is_allowed(amount, capacity.request_policy.as_ref()).then(|| (name.clone(), amount))
    });
    each.collect()
}

/// Whether a device has enough for this much more beside what is held.
pub(super) fn is_enough(device: &Device, held: [Option<&Capacity>; 2], more: &Capacity) -> bool {
    let of = |name: &str| {
        held.iter().flatten().filter_map(|held| held.get(name)).fold(Quantity::default(), |a, b| a.plus(*b))
    };
    let has = device.capacity.iter().flatten();
    has.into_iter().all(|(name, has)| more.get(name).is_none_or(|more| of(name).plus(*more) <= quantity(&has.value)))
}

fn rounded(asked: Option<Quantity>, capacity: &DeviceCapacity) -> Quantity {
    let policy = capacity.request_policy.as_ref();
    let Some(asked) = asked else {
        return quantity(policy.and_then(|policy| policy.default.as_ref()).unwrap_or(&capacity.value));
    };
    let Some(policy) = policy else { return asked };
    if let Some(range) = &policy.valid_range {
        let least = quantity(&range.min);
        if asked < least {
            return least;
        }
        let Some(step) = range.step.as_ref().map(|step| quantity(step).value()).filter(|step| *step > 0) else {
            return asked;
        };
        // What does not fit into a number is more than any device has.
        let beyond = asked.value().saturating_sub(least.value());
        let steps = beyond.div_euclid(step).saturating_add(i64::from(beyond.rem_euclid(step) != 0));
        return Quantity::new(least.value().saturating_add(step.saturating_mul(steps)), Format::BinarySi);
    }
    let values = policy.valid_values.iter().flatten().map(quantity);
    values.into_iter().find(|value| asked <= *value).unwrap_or(asked)
}

fn is_allowed(amount: Quantity, policy: Option<&CapacityRequestPolicy>) -> bool {
    let Some(policy) = policy else { return true };
    if policy.default.as_ref().is_some_and(|default| quantity(default) == amount) {
        return true;
    }
    match (&policy.valid_range, policy.valid_values.as_deref()) {
        (Some(range), _) => {
            let beyond = amount.value().saturating_sub(quantity(&range.min).value());
            let on_step = |step: i64| step <= 0 || beyond.rem_euclid(step) == 0;
            range.max.as_ref().is_none_or(|most| amount <= quantity(most))
                && range.step.as_ref().is_none_or(|step| on_step(quantity(step).value()))
        }
        (None, Some(values)) if !values.is_empty() => values.iter().any(|value| quantity(value) == amount),
        _ => true,
    }
}
