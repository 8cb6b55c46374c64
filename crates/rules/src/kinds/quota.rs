//! What a namespace may use in all, and what one of its objects may.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::{Quantity, names};

use crate::age;
use crate::at::At;
use crate::podspec::{may_overcommit, quantity, resource_name, round};
use crate::row::{EMPTY, Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;

pub(crate) const LIMIT_RANGE: Row = Row {
    default: |range| {
        let limits = range.child("spec").items_mut("limits").iter_mut();
        for limit in limits {
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                round(limit.existing(list));
            }
            if limit.text("type") == "Container" {
                default_limit(limit);
            }
        }
    },
    validate: |range, out| {
        let spec = At::member(range, "spec");
        spec.items("limits").for_each(|limit| validate_limit(&limit, out));
        spec.unique("limits", "type", out);
    },
    ..Row::new("", "LimitRange")
};

fn default_limit(limit: &mut Value) {
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let amounts: Vec<_> = limit.entries(from).map(|(name, amount)| (name.to_owned(), amount.clone())).collect();
        for (name, amount) in amounts {
            limit.child(to).default_to(&name, amount);
        }
    }
}

fn validate_limit(limit: &At<'_>, out: &mut FieldErrors) {
    let kind = limit.text("type");
    let faults = names::qualified_name(kind);
    limit.faults("type", &faults, out);
    if faults.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        limit.invalid("type", "must be a standard limit type or fully qualified", out);
    }
    let mut resources = BTreeSet::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if kind == "Pod" && list.starts_with("default") {
            if limit.value.count(list) > 0 {
                limit.forbidden(list, "may not be specified when `type` is 'Pod'", out);
            }
            continue;
        }
        for (name, at) in limit.entries(list) {
            resource_name(name, &at, matches!(kind, "Pod" | "Container"), out);
            resources.insert(name);
        }
    }
    if kind == "PersistentVolumeClaim" && !limit.get("min").has("storage") && !limit.get("max").has("storage") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        limit.missing("limits", why, out);
    }
    resources.into_iter().for_each(|name| bounds(limit, name, out));
}

/// The bounds for one resource must not contradict each other.
fn bounds(limit: &At<'_>, name: &str, out: &mut FieldErrors) {
    let amount = |list: &str| {
        let ignored = limit.text("type") == "Pod" && list.starts_with("default");
        Quantity::from_json(limit.value.at(list).get_or_null(name)).ok().filter(|_| !ignored)
    };
    for (low, high, blamed, shown, words) in [
        ("min", "max", "min", "min", ("min", "max")),
        ("min", "defaultRequest", "defaultRequest", "defaultRequest", ("min", "default request")),
        ("defaultRequest", "max", "defaultRequest", "defaultRequest", ("default request", "max")),
        ("defaultRequest", "default", "defaultRequest", "defaultRequest", ("default request", "default limit")),
        ("min", "default", "default", "min", ("min", "default")),
        ("default", "max", "default", "max", ("default", "max")),
    ] {
        let (Some(least), Some(most)) = (amount(low), amount(high)) else { continue };
        if least > most {
            let why = format!("{} value {least} is greater than {} value {most}", words.0, words.1);
            let path = limit.path(blamed).key(name);
            out.push(FieldError::invalid(&path, limit.value.at(shown).get_or_null(name).clone(), &why));
        }
    }
    if let Some(ratio) = amount("maxLimitRequestRatio") {
        let at = At {
            value: limit.value.at("maxLimitRequestRatio").get_or_null(name),
            path: limit.path("maxLimitRequestRatio").key(name),
        };
        if ratio.as_f64() < 1.0 {
            at.wrong(&format!("ratio {ratio} is less than 1"), out);
        }
        if let (Some(min), Some(max)) = (amount("min"), amount("max")) {
            let most = max.as_f64() / min.as_f64();
            if ratio.as_f64() > most {
                at.wrong(&format!("ratio {ratio} is greater than max/min = {most:.6}"), out);
            }
        }
    }
    if let (Some(given), Some(asked)) = (amount("default"), amount("defaultRequest"))
        && !may_overcommit(name)
        && given != asked
    {
        let path = limit.path("defaultRequest").key(name);
        let why = format!("default value {given} must equal to defaultRequest value {asked} in {name}");
        out.push(FieldError::invalid(&path, asked.to_string(), &why));
    }
}

pub(crate) const RESOURCE_QUOTA: Row = Row {
    status: EMPTY,
    default: |quota| {
        round(quota.existing("spec").and_then(|spec| spec.existing("hard")));
        for list in ["hard", "used"] {
            round(quota.existing("status").and_then(|status| status.existing(list)));
        }
    },
    validate: |quota, out| {
        let spec = At::member(quota, "spec");
        for (name, amount) in spec.entries("hard") {
            quota_resource(name, &amount, out);
            quantity(name, &amount, out);
        }
        scopes(&spec, out);
        scope_selector(&spec, out);
    },
    validate_update: |new, old, out| {
        let set = |quota: &Value| -> BTreeSet<String> { quota.at("spec").texts("scopes").map(str::to_owned).collect() };
        if set(new) != set(old) {
            At::member(new, "spec").invalid("scopes", "field is immutable", out);
        }
    },
    validate_part: |new, _, _, out| {
        let status = At::member(new, "status");
        for (name, amount) in status.entries("hard").chain(status.entries("used")) {
            quota_resource(name, &amount, out);
            quantity(name, &amount, out);
        }
    },
    warnings: warnings::of_resource_quota,
    columns: "Name,Request,Limit,Age",
    cells: |quota, now| {
        let status = quota.get_or_null("status");
        let shown = |limits: bool| -> Value {
            let all = status.entries("hard").filter(|(name, _)| name.starts_with("limits.") == limits);
            let each = all.map(|(name, hard)| {
                let used = status.at("used").get_or_null(name).as_str().unwrap_or("0");
                format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
            });
            each.collect::<Vec<_>>().join(", ").into()
        };
        vec![name_cell(quota), shown(false), shown(true), age::cell(quota, now)]
    },
    ..Row::new("", "ResourceQuota")
};

/// Pods' resources that quotas can bound in a scope.
const OF_PODS: &[&str] = &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const OF_CLAIMS: &[&str] = &["persistentvolumeclaims", "requests.storage"];
const OTHERS: &[&str] = &[
    "ephemeral-storage",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const EXCLUSIVE: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["NotTerminating", "Terminating"]];

fn is_standard(name: &str) -> bool {
    [OF_PODS, OF_CLAIMS, OTHERS].iter().any(|list| list.contains(&name))
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

fn quota_resource(name: &str, at: &At<'_>, out: &mut FieldErrors) {
    resource_name(name, at, false, out);
    if !name.contains('/') && !is_standard(name) {
        out.push(FieldError::invalid(&at.path, name, "must be a standard resource for quota"));
    }
}

fn is_scope(scope: &str) -> bool {
    let standard = ["PriorityClass", "VolumeAttributesClass", "CrossNamespacePodAffinity"];
    EXCLUSIVE.as_flattened().contains(&scope) || standard.contains(&scope)
}

/// Whether a quota's resource can be counted in a scope.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => OF_CLAIMS.contains(&resource),
        _ => !is_scope(scope) || OF_PODS.contains(&resource),
    }
}

fn scopes(spec: &At<'_>, out: &mut FieldErrors) {
    for scope in spec.value.texts("scopes") {
        if !is_scope(scope) {
            spec.invalid("scopes", "unsupported scope", out);
        }
        for (resource, _) in spec.value.entries("hard") {
            if is_standard(resource) && !fits(scope, resource) {
                spec.invalid("scopes", "unsupported scope applied to resource", out);
            }
        }
    }
    let given: BTreeSet<&str> = spec.value.texts("scopes").collect();
    conflicts(&given, spec, out);
}

fn conflicts(given: &BTreeSet<&str>, spec: &At<'_>, out: &mut FieldErrors) {
    for pair in EXCLUSIVE {
        if pair.iter().all(|scope| given.contains(scope)) {
            spec.invalid("scopes", "conflicting scopes", out);
        }
    }
}

fn scope_selector(spec: &At<'_>, out: &mut FieldErrors) {
    let selector = spec.get("scopeSelector");
    let path = selector.path("matchExpressions");
    for expression in selector.value.items("matchExpressions") {
        // Upstream's paths leave out which expression it is.
        let at = At { value: expression, path: path.clone() };
        let (scope, operator) = (at.text("scopeName"), at.text("operator"));
        if !is_scope(scope) {
            at.invalid("scopeName", "unsupported scope", out);
        }
        for (resource, _) in spec.value.entries("hard") {
            if is_standard(resource) && !fits(scope, resource) {
                out.push(FieldError::invalid(&path, selector.value.clone(), "unsupported scope applied to resource"));
            }
        }
        let by_existence = EXCLUSIVE.as_flattened().contains(&scope) || scope == "CrossNamespacePodAffinity";
        if by_existence && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                       ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort \
                       or ResourceQuotaScopeCrossNamespacePodAffinity";
            at.invalid("operator", why, out);
        }
        match (operator, at.value.count("values")) {
            ("In" | "NotIn", 0) => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                at.missing("values", why, out);
            }
            ("Exists" | "DoesNotExist", 1..) => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                at.invalid("values", why, out);
            }
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            _ => at.invalid("operator", "not a valid selector operator", out),
        }
    }
    let given: BTreeSet<&str> = selector.value.items("matchExpressions").iter().map(|e| e.text("scopeName")).collect();
    conflicts(&given, spec, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};
    use serde_json::json;

    fn texts(faults: &FieldErrors) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn limits() {
        let mut range =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        LIMIT_RANGE.default(&mut range);
        let limit = &range["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert_eq!(LIMIT_RANGE.validate_create(&range), []);
        let bad = json!({"spec": {"limits": [
            {"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}},
            {"type": "PersistentVolumeClaim"}, {"type": "Odd"}, {"type": "Pod"}]}});
        assert_eq!(
            texts(&LIMIT_RANGE.validate_create(&bad)),
            [
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[1].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                "spec.limits[2].type: Invalid value: \"Odd\": must be a standard limit type or fully qualified",
                "spec.limits[3].type: Duplicate value: \"Pod\"",
            ]
        );
    }

    #[test]
    fn quotas() {
        let mut quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5", "limits.cpu": "4"}}});
        assert_eq!(RESOURCE_QUOTA.validate_create(&quota), []);
        quota["status"] = json!({"hard": {"pods": "5", "limits.cpu": "4"}, "used": {"pods": "1"}});
        let cells = RESOURCE_QUOTA.cells(&quota, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], ["pods: 1/5", "limits.cpu: 0/4"].map(Value::from));
        let mut scoped = quota.clone();
        scoped["spec"]["scopes"] = json!(["BestEffort", "NotBestEffort"]);
        let found = texts(&RESOURCE_QUOTA.validate_update(&scoped, &quota, Part::Main));
        assert_eq!(found.len(), 3, "{found:?}");
        let odd = json!({"spec": {"hard": {"wishes": "3", "pods": "1.5"}}});
        assert_eq!(RESOURCE_QUOTA.validate_create(&odd).len(), 3);
    }
}
