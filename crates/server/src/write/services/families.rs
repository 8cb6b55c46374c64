//! Which address families a Service has, and under which policy. Pure; the rules are upstream's
//! (`pkg/registry/core/service/storage/alloc.go`).
//!
//! A Service never changes between one family and two by itself: that takes a change of its policy, its families or its
//! addresses.

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_rules::service_addresses;

use super::kind;
use crate::tree;

const BOTH: [&str; 2] = ["IPv4", "IPv6"];

pub(super) fn named(family: &str) -> &'static str {
    if family == BOTH[1] { BOTH[1] } else { BOTH[0] }
}

fn other(family: &str) -> &'static str {
    if family == BOTH[1] { BOTH[0] } else { BOTH[1] }
}

/// The family of an address or a range.
pub(super) fn of(text: &str) -> &'static str {
    if text.contains(':') { BOTH[1] } else { BOTH[0] }
}

/// Headless and without a selector: anybody may point such a Service anywhere.
fn is_free(service: &Value) -> bool {
    let selector = tree::at(service, &["spec", "selector"]).and_then(Value::as_object);
    tree::text(service, &["spec", "clusterIP"]) == "None" && selector.is_none_or(|s| s.is_empty())
}

pub(super) fn list<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    tree::texts(service, &["spec", field])
}

fn policy(service: &Value) -> &str {
    tree::text(service, &["spec", "ipFamilyPolicy"])
}

/// Completes policy and families, the cluster's own families being those of `cluster`, the first one first; or says why
/// they cannot be had.
pub(super) fn settle(service: &mut Value, old: Option<&Value>, cluster: &[&str]) -> Result<(), FieldErrors> {
    if kind(service) == "ExternalName" || old.is_some_and(|old| stays_as_it_is(service, old)) {
        return Ok(());
    }
    if policy(service).is_empty() {
        let before = old.map(policy).filter(|policy| !policy.is_empty());
        let default = if is_free(service) { "RequireDualStack" } else { "SingleStack" };
        let policy = json!(before.unwrap_or(default));
        tree::child(service, "spec").insert("ipFamilyPolicy".to_owned(), policy);
    }
    refuse(service_addresses::faults(service))?;
    let mut faults = FieldErrors::new();
    if let Some(old) = old {
        release(service, old, &mut faults);
    }
    count(service, &mut faults);
    infer(service, cluster, &mut faults);
    refuse(std::mem::take(&mut faults))?;
    let single = policy(service) == "SingleStack";
    let mut families: Vec<&str> = list(service, "ipFamilies");
    if is_free(service) {
        if families.is_empty() {
            families.push(cluster[0]);
        }
        if families.len() == 1 && !single {
            families.push(other(families[0]));
        }
    } else {
        configured(service, &families, cluster, &mut faults);
        refuse(faults)?;
        if families.is_empty() {
            families.push(cluster[0]);
        }
        if families.len() == 1 && !single && cluster.len() == 2 {
            families.push(other(families[0]));
        }
    }
    let families = json!(families);
    tree::child(service, "spec").insert("ipFamilies".to_owned(), families);
    Ok(())
}

fn refuse(faults: FieldErrors) -> Result<(), FieldErrors> {
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// A Service that prefers both families and does not touch what it has: whatever the cluster has become, it keeps that.
fn stays_as_it_is(service: &Value, old: &Value) -> bool {
    let prefers = |policy: &str| policy == "PreferDualStack";
    kind(service) == kind(old)
        && prefers(policy(service))
        && (policy(old).is_empty() || prefers(policy(old)))
        && ["clusterIPs", "ipFamilies"].iter().all(|field| list(service, field) == list(old, field))
}

/// The second address and family go when the policy says so, and only then.
fn release(service: &mut Value, old: &Value, faults: &mut FieldErrors) {
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (before, after) = (list(old, field), list(service, field));
        if policy(service) != "SingleStack" {
            if !after.is_empty() && after.len() < before.len() {
                let why = format!("must be 'SingleStack' to release the secondary {what}");
                faults.push(wrong_policy(service, &why));
            }
        } else if after == before && after.len() > 1 {
            let first = json!([after[0]]);
            tree::child(service, "spec").insert(field.to_owned(), first);
        }
    }
}

fn count(service: &Value, faults: &mut FieldErrors) {
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if policy(service) == "SingleStack" && list(service, field).len() == 2 {
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            faults.push(wrong_policy(service, &why));
        }
    }
}

/// Families that are not named are those of the addresses.
fn infer(service: &mut Value, cluster: &[&str], faults: &mut FieldErrors) {
    let addresses = list(service, "clusterIPs");
    if addresses.first() == Some(&"None") {
        return;
    }
    let mut families = list(service, "ipFamilies");
    for (at, address) in addresses.iter().enumerate().skip(families.len()) {
        let family = of(address);
        if cluster.contains(&family) {
            families.push(family);
        } else {
            let why = format!("{family} is not configured on this cluster");
            faults.push(FieldError::invalid(&FieldPath::new("spec.clusterIPs").index(at), json!(addresses), &why));
        }
    }
    let families = json!(families);
    tree::child(service, "spec").insert("ipFamilies".to_owned(), families);
}

fn configured(service: &Value, families: &[&str], cluster: &[&str], faults: &mut FieldErrors) {
    if policy(service) == "RequireDualStack" && cluster.len() < 2 {
        faults.push(wrong_policy(service, "this cluster is not configured for dual-stack services"));
    }
    for (at, family) in families.iter().enumerate().filter(|(_, family)| !cluster.contains(family)) {
        let path = FieldPath::new("spec.ipFamilies").index(at);
        faults.push(FieldError::invalid(&path, *family, "not configured on this cluster"));
    }
}

fn wrong_policy(service: &Value, why: &str) -> FieldError {
    FieldError::invalid(&FieldPath::new("spec.ipFamilyPolicy"), policy(service), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: &[&str] = &["IPv4"];
    const TWO: &[&str] = &["IPv4", "IPv6"];

    fn settled(spec: &Value, old: Option<&Value>, cluster: &[&str]) -> String {
        let (mut service, old) = (json!({"spec": spec}), old.map(|spec| json!({"spec": spec})));
        service_addresses::sync(&mut service, old.as_ref().unwrap_or(&Value::Null));
        match settle(&mut service, old.as_ref(), cluster) {
            Ok(()) => {
                let addresses = list(&service, "clusterIPs").join(" ");
                format!("{} {} [{addresses}]", policy(&service), list(&service, "ipFamilies").join("+"))
            }
            Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        }
    }

    /// As upstream answers on clusters with one family and with both.
    #[test]
    fn new_services() {
        let both = ["10.97.0.9", "fd97::9"];
        let two = r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple"#;
        for (spec, single, dual) in [
            (json!({}), "SingleStack IPv4 []", "SingleStack IPv4 []"),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4 []", "PreferDualStack IPv4+IPv6 []"),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
                "RequireDualStack IPv4+IPv6 []",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#,
                "SingleStack IPv6 []",
            ),
            (
                json!({"clusterIP": both[0], "clusterIPs": both}),
                &format!(
                    r#"{two} cluster IPs are specified; spec.clusterIPs[1]: Invalid value: ["10.97.0.9","fd97::9"]: IPv6 is not configured on this cluster"#
                ),
                &format!("{two} cluster IPs are specified"),
            ),
            (
                json!({"clusterIP": both[0], "clusterIPs": both, "ipFamilyPolicy": "PreferDualStack"}),
                r#"spec.clusterIPs[1]: Invalid value: ["10.97.0.9","fd97::9"]: IPv6 is not configured on this cluster"#,
                "PreferDualStack IPv4+IPv6 [10.97.0.9 fd97::9]",
            ),
            (json!({"clusterIP": "None"}), "RequireDualStack IPv4+IPv6 [None]", "RequireDualStack IPv4+IPv6 [None]"),
            (
                json!({"clusterIP": "None", "selector": {"a": "b"}}),
                "SingleStack IPv4 [None]",
                "SingleStack IPv4 [None]",
            ),
            (
                json!({"clusterIP": "None", "ipFamilies": ["IPv6"]}),
                "RequireDualStack IPv6+IPv4 [None]",
                "RequireDualStack IPv6+IPv4 [None]",
            ),
            (
                json!({"clusterIP": "None", "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}),
                "SingleStack IPv6 [None]",
                "SingleStack IPv6 [None]",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                &format!("{two} IP families are specified"),
                &format!("{two} IP families are specified"),
            ),
            (
                json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}),
                r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#,
                "PreferDualStack IPv6+IPv4 []",
            ),
            (
                json!({"clusterIP": "fd97::42"}),
                r#"spec.clusterIPs[0]: Invalid value: ["fd97::42"]: IPv6 is not configured on this cluster"#,
                "SingleStack IPv6 [fd97::42]",
            ),
        ] {
            assert_eq!(settled(&spec, None, FOUR), single, "{spec}");
            assert_eq!(settled(&spec, None, TWO), dual, "{spec}");
        }
    }

    #[test]
    fn changes_of_the_policy_add_and_release_the_second_family() {
        let spec = |policy: &str, addresses: &[&str]| {
            let families: Vec<&str> = addresses.iter().map(|address| of(address)).collect();
            json!({"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": families, "ipFamilyPolicy": policy})
        };
        let (one, two) = (["10.97.0.9"], ["10.97.0.9", "fd97::9"]);
        let mut fewer = spec("PreferDualStack", &one);
        fewer["ipFamilies"] = json!(["IPv4", "IPv6"]);
        let mut typed = spec("PreferDualStack", &one);
        typed["type"] = json!("NodePort");
        for (old, new, cluster, expected) in [
            (spec("SingleStack", &one), spec("PreferDualStack", &one), TWO, "PreferDualStack IPv4+IPv6 [10.97.0.9]"),
            (spec("SingleStack", &one), spec("PreferDualStack", &one), FOUR, "PreferDualStack IPv4 [10.97.0.9]"),
            // Neither does it follow the cluster by itself.
            (spec("PreferDualStack", &one), spec("PreferDualStack", &one), TWO, "PreferDualStack IPv4 [10.97.0.9]"),
            (
                spec("PreferDualStack", &two),
                spec("PreferDualStack", &two),
                FOUR,
                "PreferDualStack IPv4+IPv6 [10.97.0.9 fd97::9]",
            ),
            (spec("PreferDualStack", &one), typed, TWO, "PreferDualStack IPv4+IPv6 [10.97.0.9]"),
            (spec("RequireDualStack", &two), spec("SingleStack", &two), TWO, "SingleStack IPv4 [10.97.0.9]"),
            (spec("RequireDualStack", &two), spec("SingleStack", &one), TWO, "SingleStack IPv4 [10.97.0.9]"),
            (
                spec("PreferDualStack", &two),
                fewer,
                TWO,
                r#"spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be 'SingleStack' to release the secondary cluster IP"#,
            ),
            (
                spec("PreferDualStack", &two),
                json!({"clusterIP": "10.97.0.9", "clusterIPs": two, "ipFamilies": ["IPv4"]}),
                TWO,
                r#"spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be 'SingleStack' to release the secondary IP family"#,
            ),
        ] {
            assert_eq!(settled(&new, Some(&old), cluster), expected, "{old} to {new}");
        }
    }
}
