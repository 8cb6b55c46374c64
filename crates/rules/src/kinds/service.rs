//! Services.
//!
//! Addresses and node ports are handed out by the server within its transaction; here stands what needs no allocation.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names::{self, NameForm};

use super::load_balancer;
use super::service_addresses as allocated;
use crate::addresses;
use crate::at::At;
use crate::cells::{self, or_none};
use crate::podspec::endpoint_ip;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{Part, age};

pub(crate) const SERVICE: Row = Row {
    name: NameForm::Label,
    status: Some(|| json!({"loadBalancer": {}})),
    default,
    prepare_update,
    validate,
    validate_update,
    validate_part: |new, old, _, out| load_balancer::of_service(new, old, out),
    warnings: warnings::of_service,
    selectable: |service| {
        let spec = service.get_or_null("spec");
        vec![("spec.clusterIP", spec.text("clusterIP").to_owned()), ("spec.type", spec.text("type").to_owned())]
    },
    columns: "Name,Type,Cluster-IP,External-IP,Port(s),Age,+Selector",
    cells,
    ..Row::new("", "Service")
};

pub(super) fn kind(spec: &Value) -> &str {
    spec.text("type")
}

pub(super) fn is_headless(spec: &Value) -> bool {
    spec.texts("clusterIPs").eq(["None"]) || spec.text("clusterIP") == "None"
}

fn is_external(spec: &Value) -> bool {
    matches!(kind(spec), "LoadBalancer" | "NodePort") || kind(spec) == "ClusterIP" && spec.count("externalIPs") > 0
}

fn needs_health_check(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

fn default(service: &mut Value) {
    let spec = service.child("spec");
    spec.default_text("sessionAffinity", "None");
    if spec.text("sessionAffinity") == "None" {
        spec.drop_member("sessionAffinityConfig");
    }
    if spec.text("sessionAffinity") == "ClientIP" {
        spec.child("sessionAffinityConfig").child("clientIP").default_to("timeoutSeconds", 10_800);
    }
    spec.default_text("type", "ClusterIP");
    for port in spec.items_mut("ports") {
        port.default_text("protocol", "TCP");
        if matches!(port.get_or_null("targetPort"), Value::Null) || port["targetPort"] == 0 || port["targetPort"] == ""
        {
            port.put("targetPort", port.get_or_null("port").clone());
        }
    }
    if is_external(spec) {
        spec.default_text("externalTrafficPolicy", "Cluster");
    }
    if matches!(kind(spec), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.default_to("internalTrafficPolicy", "Cluster");
    }
    if kind(spec) == "LoadBalancer" {
        spec.default_to("allocateLoadBalancerNodePorts", true);
        for ingress in service.child("status").child("loadBalancer").items_mut("ingress") {
            if !ingress.text("ip").is_empty() {
                ingress.default_to("ipMode", "VIP");
            }
        }
    }
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

/// What upstream does before it allocates, and what it does after, for the parts that need no allocator.
fn prepare_update(new: &mut Value, old: &Value, part: Part) {
    if part != Part::Main {
        return;
    }
    carry_over(new.child("spec"), old.get_or_null("spec"));
    allocated::sync(new, old);
    drop_unfit(new.child("spec"), old.get_or_null("spec"));
}

/// What was handed out stays, unless the client says otherwise.
fn carry_over(spec: &mut Value, old: &Value) {
    if kind(spec) != "ExternalName" && kind(old) != "ExternalName" {
        if spec.text("clusterIP").is_empty() {
            spec.put("clusterIP", old.get_or_null("clusterIP").clone());
        }
        if spec.count("clusterIPs") == 0 {
            spec.put("clusterIPs", old.get_or_null("clusterIPs").clone());
        }
    }
    let allocates = |spec: &Value| match kind(spec) {
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        kind => kind == "NodePort",
    };
    if allocates(old) && allocates(spec) {
        let given: BTreeSet<i64> = node_ports_of(spec).collect();
        for port in spec.items_mut("ports").iter_mut().filter(|port| port.int("nodePort").unwrap_or_default() == 0) {
            let before = old.items("ports").iter().rfind(|p| p.text("name") == port.text("name"));
            let before = before.and_then(|p| p.int("nodePort")).filter(|node| *node != 0 && !given.contains(node));
            if let Some(node) = before {
                port.put("nodePort", node.into());
            }
        }
    }
    if needs_health_check(spec) && needs_health_check(old) && spec.int("healthCheckNodePort").unwrap_or_default() == 0 {
        spec.put("healthCheckNodePort", old.get_or_null("healthCheckNodePort").clone());
    }
}

fn node_ports_of(spec: &Value) -> impl Iterator<Item = i64> {
    spec.items("ports").iter().filter_map(|port| port.int("nodePort")).filter(|node| *node != 0)
}

/// What the type no longer fits, and the client did not change at the same time, goes.
fn drop_unfit(spec: &mut Value, old: &Value) {
    let drop_same = |spec: &mut Value, field: &str| {
        if spec.get(field) == old.get(field) {
            spec.drop_member(field);
        }
    };
    if kind(spec) == "ExternalName" && kind(old) != "ExternalName" {
        if ["clusterIP", "clusterIPs"].iter().all(|field| spec.get(*field) == old.get(*field)) {
            ["clusterIP", "clusterIPs"].iter().for_each(|field| spec.drop_member(field));
        }
        ["ipFamilies", "ipFamilyPolicy"].iter().for_each(|field| drop_same(spec, field));
    }
    if has_node_ports(old) && !has_node_ports(spec) {
        let before: BTreeSet<i64> = node_ports_of(old).collect();
        if node_ports_of(spec).all(|node| before.contains(&node)) {
            spec.items_mut("ports").iter_mut().for_each(|port| port.drop_member("nodePort"));
        }
    }
    if needs_health_check(old) && !needs_health_check(spec) {
        drop_same(spec, "healthCheckNodePort");
    }
    if kind(old) == "LoadBalancer" && kind(spec) != "LoadBalancer" {
        drop_same(spec, "allocateLoadBalancerNodePorts");
        drop_same(spec, "loadBalancerClass");
    }
    if is_external(old) && !is_external(spec) {
        drop_same(spec, "externalTrafficPolicy");
    }
}

fn validate(service: &Value, out: &mut FieldErrors) {
    let spec = At::member(service, "spec");
    if spec.value.count("ports") == 0 && !is_headless(spec.value) && kind(spec.value) != "ExternalName" {
        spec.missing("ports", "", out);
    }
    by_type(&spec, out);
    ports(&spec, out);
    spec.labels("selector", out);
    spec.one_of("sessionAffinity", &["ClientIP", "None"], out);
    session_affinity(&spec, out);
    out.extend(allocated::faults(service));
    spec.items("externalIPs").for_each(|address| endpoint_ip(&address, out));
    spec.one_of("type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], out);
    node_ports(&spec, out);
    load_balancer(&spec, out);
    traffic(&spec, out);
}

fn by_type(spec: &At<'_>, out: &mut FieldErrors) {
    match kind(spec.value) {
        shown @ ("LoadBalancer" | "NodePort") if is_headless(spec.value) => {
            let path = spec.path("clusterIPs").index(0);
            let why = format!("may not be set to 'None' for {shown} services");
            out.push(FieldError::invalid(&path, "None", &why));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies"] {
                if spec.value.count(field) > 0 {
                    spec.forbidden(field, "may not be set for ExternalName services", out);
                }
            }
            if spec.has("ipFamilyPolicy") {
                spec.forbidden("ipFamilyPolicy", "may not be set for ExternalName services", out);
            }
            let name = spec.text("externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                spec.missing("externalName", "", out);
            }
            for why in names::dns1123_subdomain(name).iter().filter(|_| !name.is_empty()) {
                out.push(FieldError::invalid(&spec.path("externalName"), name, why));
            }
        }
        _ => {}
    }
}

fn ports(spec: &At<'_>, out: &mut FieldErrors) {
    let (mut seen, several) = (BTreeSet::new(), spec.value.count("ports") > 1);
    for port in spec.items("ports") {
        let name = port.text("name");
        if several && name.is_empty() {
            port.missing("name", "", out);
        } else if !name.is_empty() {
            port.form("name", names::dns1123_label, out);
            if !seen.insert(name) {
                out.push(FieldError::duplicate(&port.path("name"), name));
            }
        }
        port.port("port", out);
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], out);
        port.port_or_name("targetPort", out);
        port.form_if_set("appProtocol", names::qualified_name, out);
    }
}

fn session_affinity(spec: &At<'_>, out: &mut FieldErrors) {
    let config = spec.get("sessionAffinityConfig");
    match spec.text("sessionAffinity") {
        "ClientIP" => {
            let client = config.get("clientIP");
            if !config.is_set() {
                spec.missing("sessionAffinityConfig", "when session affinity type is ClientIP", out);
            } else if !client.is_set() {
                config.missing("clientIP", "when session affinity type is ClientIP", out);
            } else if !client.int("timeoutSeconds").is_some_and(|s| (1..=86_400).contains(&s)) {
                client.invalid("timeoutSeconds", "must be greater than 0 and less than 86400", out);
            }
        }
        "None" if config.is_set() => {
            spec.forbidden("sessionAffinityConfig", "must not be set when session affinity is None", out);
        }
        _ => {}
    }
}

fn node_ports(spec: &At<'_>, out: &mut FieldErrors) {
    let (mut nodes, mut pairs) = (BTreeSet::new(), BTreeSet::new());
    for port in spec.items("ports") {
        let node = port.int("nodePort").unwrap_or_default();
        if node != 0 && kind(spec.value) == "ClusterIP" {
            port.forbidden("nodePort", "may not be used when `type` is 'ClusterIP'", out);
        }
        if node != 0 && !nodes.insert((port.text("protocol"), node)) {
            out.push(FieldError::duplicate(&port.path("nodePort"), node));
        }
        if !pairs.insert((port.text("protocol"), port.int("port"))) {
            let shown = json!({"protocol": port.text("protocol"), "port": port.int("port")});
            out.push(FieldError::duplicate(&port.path, shown));
        }
    }
}

fn load_balancer(spec: &At<'_>, out: &mut FieldErrors) {
    let balanced = kind(spec.value) == "LoadBalancer";
    if spec.value.count("loadBalancerSourceRanges") > 0 && !balanced {
        spec.forbidden("LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'", out);
    }
    // The annotation they once were had spaces between them.
    for (i, range) in spec.items("loadBalancerSourceRanges").enumerate() {
        addresses::range(
            &spec.path("LoadBalancerSourceRanges").index(i),
            range.value.as_str().unwrap_or_default().trim(),
            out,
        );
    }
    if spec.has("allocateLoadBalancerNodePorts") && !balanced {
        spec.forbidden("allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'", out);
    }
    if spec.has("loadBalancerClass") {
        if balanced {
            spec.form("loadBalancerClass", names::qualified_name, out);
        } else {
            spec.forbidden("loadBalancerClass", "may only be used when `type` is 'LoadBalancer'", out);
        }
    }
}

fn traffic(spec: &At<'_>, out: &mut FieldErrors) {
    if is_external(spec.value) {
        spec.one_of("externalTrafficPolicy", &["Cluster", "Local"], out);
    } else if !spec.text("externalTrafficPolicy").is_empty() {
        spec.invalid("externalTrafficPolicy", "may only be set for externally-accessible services", out);
    }
    if !needs_health_check(spec.value) && spec.int("healthCheckNodePort").unwrap_or_default() != 0 {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        spec.invalid("healthCheckNodePort", why, out);
    }
    spec.optional_one_of("internalTrafficPolicy", &["Cluster", "Local"], out);
    let spread = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    spec.optional_one_of("trafficDistribution", spread, out);
}

fn validate_update(new: &Value, old: &Value, out: &mut FieldErrors) {
    let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
    allocated::update_faults(&spec, before, out);
    if kind(before) == "LoadBalancer" && kind(spec.value) == "LoadBalancer" {
        let changed = spec.value.get("loadBalancerClass") != before.get("loadBalancerClass");
        if changed {
            spec.invalid("loadBalancerClass", "may not change once set", out);
        }
    }
}

fn external_ip(service: &Value) -> String {
    let spec = service.get_or_null("spec");
    let given: Vec<&str> = spec.texts("externalIPs").collect();
    match kind(spec) {
        "ClusterIP" | "NodePort" => or_none(&given.join(",")).to_owned(),
        "LoadBalancer" => {
            let ingress = service.at("status.loadBalancer").items("ingress").iter();
            let address =
                |i: &Value| [i.text("ip"), i.text("hostname")].into_iter().find(|t| !t.is_empty()).map(str::to_owned);
            let mut all: Vec<String> = ingress.filter_map(address).collect::<BTreeSet<_>>().into_iter().collect();
            all.extend(given.iter().map(|ip| (*ip).to_owned()));
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = service.get_or_null("spec");
    let port = |port: &Value| {
        let (number, protocol) = (port.int("port").unwrap_or_default(), port.text("protocol"));
        match port.int("nodePort").filter(|n| *n > 0) {
            Some(node) => format!("{number}:{node}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    };
    let ports: Vec<String> = spec.items("ports").iter().map(port).collect();
    vec![
        name_cell(service),
        kind(spec).into(),
        spec.texts("clusterIPs").next().unwrap_or(or_none(spec.text("clusterIP"))).into(),
        external_ip(service).into(),
        or_none(&ports.join(",")).into(),
        age::cell(service, now),
        cells::labels(spec, "selector"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    fn service(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec});
        SERVICE.default(&mut object);
        object
    }

    #[test]
    fn defaults() {
        let object = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(
            object["spec"],
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
        assert_eq!(SERVICE.validate_create(&object), []);
        let balanced = service(json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}));
        assert_eq!(balanced["spec"]["externalTrafficPolicy"], "Cluster");
        assert_eq!(balanced["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
    }

    #[test]
    fn faults() {
        for (spec, expected) in [
            (json!({}), "spec.ports: Required value"),
            (
                json!({"ports": [{"port": 0}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (json!({"ports": [{"port": 1}, {"port": 2}]}), "spec.ports[0].name: Required value"),
            (
                json!({"ports": [{"port": 1, "nodePort": 30000}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
                "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"type": "Magic", "ports": [{"port": 1}]}),
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (
                json!({"clusterIP": "x", "clusterIPs": ["x"], "ports": [{"port": 1}]}),
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address",
            ),
            (json!({"clusterIP": "10.0.0.1", "ports": [{"port": 1}]}), "spec.clusterIPs: Required value"),
            (
                json!({"externalIPs": ["127.0.0.1"], "ports": [{"port": 1}]}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 1}]}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
        ] {
            let found: Vec<_> =
                SERVICE.validate_create(&service(spec.clone())).iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.starts_with(expected)), "{spec}: {found:?}");
        }
    }

    #[test]
    fn updates_keep_what_was_handed_out() {
        let mut old =
            service(json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30001}]}));
        allocated::sync(&mut old, &Value::Null);
        assert_eq!(old["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "name": "x"}]}));
        SERVICE.prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        let mut plain = old.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        SERVICE.prepare_update(&mut plain, &old, Part::Main);
        assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
        assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
        assert_eq!(SERVICE.validate_update(&plain, &old, Part::Main), []);
        let mut moved = old.clone();
        moved["spec"]["clusterIP"] = json!("10.0.0.2");
        SERVICE.prepare_update(&mut moved, &old, Part::Main);
        let found = SERVICE.validate_update(&moved, &old, Part::Main);
        assert_eq!(found[0].to_string(), "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set");
    }

    #[test]
    fn rows() {
        for (spec, expected) in [
            (
                json!({"clusterIPs": ["10.0.0.1"], "ports": [{"port": 80}]}),
                ["ClusterIP", "10.0.0.1", "<none>", "80/TCP"],
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}),
                ["NodePort", "<none>", "<none>", "80:30000/TCP"],
            ),
            (
                json!({"type": "LoadBalancer", "ports": [{"port": 80}]}),
                ["LoadBalancer", "<none>", "<pending>", "80/TCP"],
            ),
            (json!({"type": "ExternalName", "externalName": "a.b"}), ["ExternalName", "<none>", "a.b", "<none>"]),
        ] {
            let cells = SERVICE.cells(&service(spec), Timestamp::UNIX_EPOCH);
            assert_eq!(cells[1..5], expected.map(Value::from));
            assert_eq!(cells.len(), SERVICE.columns().len());
        }
    }
}
