//! How much of a capacity may be asked for, where several claims share it.

use serde_json::Value;
use skiff_meta::Quantity;
use skiff_meta::field::{FieldError, FieldErrors};

use crate::at::At;
use crate::view::View;

const MOST_VALUES: usize = 10;

/// Faults of the policy of a capacity.
pub(super) fn requests(capacity: &At<'_>, out: &mut FieldErrors) {
    let policy = capacity.get("requestPolicy");
    let Some(most) = amount(&capacity.get("value")) else { return };
    match (policy.value.count("validValues") > 0, policy.has("validRange")) {
        (true, true) => {
            let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same \
                       time";
            out.push(FieldError::forbidden(&policy.path, why));
        }
        (true, false) => match amount(&policy.get("default")) {
            None => policy.missing("default", "required when validValues is defined", out),
            Some(default) => values(&policy, default, most, out),
        },
        (false, true) => match amount(&policy.get("default")) {
            None => policy.missing("default", "required when validRange is defined", out),
            Some(default) => range(&policy.get("validRange"), default, most, out),
        },
        (false, false) => {}
    }
}

fn amount(at: &At<'_>) -> Option<Quantity> {
    at.value.as_str().and_then(|_| Quantity::from_json(at.value).ok())
}

fn shown(quantity: Quantity) -> Value {
    quantity.to_string().into()
}

fn values(policy: &At<'_>, default: Quantity, most: Quantity, out: &mut FieldErrors) {
    let all: Vec<(At<'_>, Quantity)> =
        policy.items("validValues").filter_map(|value| amount(&value).map(|amount| (value, amount))).collect();
    for pair in all.windows(2) {
        if let [(_, before), (at, value)] = pair
            && before > value
        {
            out.push(FieldError::invalid(&at.path, shown(*value), "values must be sorted in ascending order"));
        }
    }
    if all.len() > MOST_VALUES {
        out.push(FieldError::too_many(&policy.path("validValues"), all.len(), MOST_VALUES));
    } else {
        for (at, value) in all.iter().filter(|(_, value)| *value > most) {
            let why = format!("option is larger than capacity value: {most}");
            out.push(FieldError::invalid(&at.path, shown(*value), &why));
        }
        for (i, (at, value)) in all.iter().enumerate() {
            if all.iter().take(i).any(|(_, before)| before.value() == value.value()) {
                out.push(FieldError::duplicate(&at.path, value.value().to_string()));
            }
        }
    }
    if all.len() > MOST_VALUES || all.iter().all(|(_, value)| *value != default) {
        let why = "default value is not valid according to the requestPolicy";
        out.push(FieldError::invalid(&policy.path("validValues"), shown(default), why));
    }
}

fn range(range: &At<'_>, default: Quantity, most: Quantity, out: &mut FieldErrors) {
    let Some(min) = amount(&range.get("min")) else {
        return range.missing("min", "required when validRange is defined", out);
    };
    let (max, step) = (amount(&range.get("max")), amount(&range.get("step")));
    let mut wrong = |name: &str, value: Quantity, why: String| {
        out.push(FieldError::invalid(&range.path(name), shown(value), &why));
    };
    if min > most {
        wrong("min", min, format!("min is larger than capacity value: {most}"));
    }
    if default < min {
        wrong("min", default, format!("default is less than min: {min}"));
    }
    if let Some(max) = max {
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > most {
            wrong("max", max, format!("max is larger than capacity value: {most}"));
        }
        if default > max {
            wrong("max", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = step else { return };
    let first = min.plus(step);
    if first > most {
        wrong("step", step, format!("one step {first} is larger than capacity value: {most}"));
    }
    for value in std::iter::once(default).chain(max) {
        // No step at all leads nowhere.
        let rest = value.value().wrapping_sub(min.value()).checked_rem(step.value());
        if rest != Some(0) {
            wrong("step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_asked_for() {
        for (policy, expected) in [
            (json!({}), ""),
            (json!({"default": "1Gi"}), ""),
            (json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]}), ""),
            (json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}}), ""),
            (json!({"validValues": ["1Gi"]}), "default"),
            (json!({"validRange": {"min": "1Gi"}}), "default"),
            (json!({"default": "1Gi", "validValues": ["1Gi"], "validRange": {}}), ""),
            (json!({"default": "1Gi", "validValues": ["2Gi", "1Gi", "1Gi"]}), "validValues[1] validValues[2]"),
            (json!({"default": "3Gi", "validValues": ["1Gi", "9Gi"]}), "validValues[1] validValues"),
            (json!({"default": "1Gi", "validRange": {"max": "4Gi"}}), "validRange.min"),
            (json!({"default": "1Gi", "validRange": {"min": "2Gi", "max": "1Gi"}}), "validRange.min validRange.max"),
            (json!({"default": "3Gi", "validRange": {"min": "1Gi", "max": "9Gi"}}), "validRange.max"),
            (json!({"default": "3Gi", "validRange": {"min": "2Gi", "step": "2Gi"}}), "validRange.step"),
            (json!({"default": "3Gi", "validRange": {"min": "2Gi", "step": "0"}}), "validRange.step"),
        ] {
            let capacity = json!({"value": "8Gi", "requestPolicy": policy});
            let mut found = FieldErrors::new();
            requests(&At::root(&capacity), &mut found);
            let paths: Vec<String> = found.iter().map(|fault| fault.path.to_string()).collect();
            let both = policy["validValues"].is_array() && policy["validRange"].is_object();
            let expected = match expected {
                "" if both => "requestPolicy".to_owned(),
                "" => String::new(),
                paths => paths.split(' ').map(|path| format!("requestPolicy.{path}")).collect::<Vec<_>>().join(" "),
            };
            assert_eq!(paths.join(" "), expected, "{policy}");
        }
    }
}
