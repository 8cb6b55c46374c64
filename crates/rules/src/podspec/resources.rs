//! Amounts of resources that containers and pods ask for.

use serde_json::Value;
use skiff_meta::Quantity;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::at::At;
use crate::view::View;

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources of which more can be promised than there is.
pub(crate) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether only whole units make sense.
fn is_counted(name: &str) -> bool {
    is_extended(name)
        || matches!(
            name,
            "pods"
                | "services"
                | "secrets"
                | "configmaps"
                | "resourcequotas"
                | "replicationcontrollers"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        )
}

fn is_standard(name: &str) -> bool {
    is_huge_page(name)
        || is_counted(name)
        || matches!(
            name,
            "cpu"
                | "memory"
                | "ephemeral-storage"
                | "storage"
                | "requests.cpu"
                | "requests.memory"
                | "requests.storage"
                | "requests.ephemeral-storage"
                | "limits.cpu"
                | "limits.memory"
                | "limits.ephemeral-storage"
        )
}

/// Faults of a resource's name; containers know fewer resources than quotas.
pub(crate) fn resource_name(name: &str, at: &At<'_>, for_container: bool, out: &mut FieldErrors) {
    let fault = |why: &str| FieldError::invalid(&at.path, name, why);
    let faults = names::qualified_name(name);
    out.extend(faults.iter().map(|why| fault(why)));
    if !name.contains('/') {
        if faults.is_empty() && !is_standard(name) {
            out.push(fault("must be a standard resource type or fully qualified"));
        }
        if for_container && !(matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)) {
            out.push(fault("must be a standard resource for containers"));
        }
    } else if for_container && !is_native(name) && !is_extended(name) {
        out.push(fault("doesn't follow extended resource name standard"));
    }
}

/// Faults of an amount of the resource `name`.
pub(crate) fn quantity(name: &str, at: &At<'_>, out: &mut FieldErrors) {
    let Ok(quantity) = Quantity::from_json(at.value) else {
        return at.wrong("must be a quantity", out);
    };
    if quantity.is_negative() {
        at.wrong("must be greater than or equal to 0", out);
    }
    if is_counted(name) && quantity.milli() % 1000 != 0 {
        at.wrong("must be an integer", out);
    }
}

/// Faults of `resources`, limits and requests against each other.
pub(crate) fn requirements(at: &At<'_>, out: &mut FieldErrors) {
    let read = |list: &str, name: &str| Quantity::from_json(at.value.get_or_null(list).get_or_null(name)).ok();
    for (name, limit) in at.entries("limits") {
        resource_name(name, &limit, true, out);
        quantity(name, &limit, out);
    }
    for (name, request) in at.entries("requests") {
        resource_name(name, &request, true, out);
        quantity(name, &request, out);
        let (Some(asked), limit) = (read("requests", name), read("limits", name)) else { continue };
        let path = at.path("requests");
        match limit {
            Some(limit) if asked != limit && !may_overcommit(name) => {
                let why = format!("must be equal to {name} limit of {limit}");
                out.push(FieldError::invalid(&path, asked.to_string(), &why));
            }
            Some(limit) if asked > limit => {
                let why = format!("must be less than or equal to {name} limit of {limit}");
                out.push(FieldError::invalid(&path, asked.to_string(), &why));
            }
            None if !may_overcommit(name) => {
                at.missing("limits", "Limit must be set for non overcommitable resources", out);
            }
            _ => {}
        }
    }
    let has =
        |wanted: fn(&str) -> bool| ["limits", "requests"].iter().any(|l| at.value.entries(l).any(|(n, _)| wanted(n)));
    if has(is_huge_page) && !has(|name| matches!(name, "cpu" | "memory")) {
        out.push(FieldError::forbidden(&at.path, "HugePages require cpu or memory"));
    }
}

/// Faults of the resources of a pod as a whole.
pub(super) fn pod_level(spec: &At<'_>, out: &mut FieldErrors) {
    let own = spec.get("resources");
    if !own.is_set() {
        return;
    }
    if own.has("claims") {
        own.forbidden("claims", "claims may not be set for Resources at pod-level", out);
        super::containers::claims(spec, &own, out);
    }
    for (name, amount) in ["limits", "requests"].into_iter().flat_map(|list| own.entries(list).collect::<Vec<_>>()) {
        if !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
            out.push(FieldError::not_supported(&amount.path, name, &["cpu", "hugepages-", "memory"]));
        }
    }
    requirements(&own, out);
    for (name, request) in own.entries("requests") {
        let (Ok(asked), Some(total)) =
            (Quantity::from_json(request.value), super::qos::total_requests(spec.value, name))
        else {
            continue;
        };
        if total > asked {
            let why = format!("must be greater than or equal to aggregate container requests of {total}");
            request.wrong(&why, out);
        }
    }
    container_limits(spec.value, &own, out);
}

fn container_limits(spec: &Value, own: &At<'_>, out: &mut FieldErrors) {
    for (i, container) in spec.items("containers").iter().enumerate() {
        for (name, limit) in container.get_or_null("resources").entries("limits") {
            let of_pod = Quantity::from_json(own.value.get_or_null("limits").get_or_null(name));
            if let (Ok(of_container), Ok(of_pod)) = (Quantity::from_json(limit), of_pod)
                && of_container > of_pod
            {
                let path = own.path("containers").index(i).key(name).child("limits");
                let why = format!("must be less than or equal to pod limits of {of_pod}");
                out.push(FieldError::invalid(&path, of_container.to_string(), &why));
            }
        }
    }
}
