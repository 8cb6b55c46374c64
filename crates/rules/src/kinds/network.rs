//! Services, what is behind them, and who may talk to whom.

use std::net::IpAddr;

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use super::pod_spec::port_or_name;
use crate::Part;
use crate::faults::{At, label_selector};
use skiff_meta::names::NameForm;

use crate::kind::{AGE, KindRules, NAME};
use crate::show::{created, name, selector};
use crate::tree::{fill, items, items_mut, members, number, object, put, text};

pub(crate) static SERVICE: KindRules = KindRules {
    default: default_service,
    first_status: Some(|| json!({"loadBalancer": {}})),
    validate: service,
    validate_change: |new, old, faults| {
        let (new, old) = (new.get("spec"), old.get("spec"));
        let external = |at: &At<'_>| at.get("type").text() == "ExternalName";
        if !external(&new) && !external(&old) && !old.get("clusterIP").is_empty() {
            new.get("clusterIP").immutable(&old.get("clusterIP"), faults);
        }
    },
    carry: carry_service,
    columns: &[
        NAME,
        ("Type", "string", 0, "How the Service is reached"),
        ("Cluster-IP", "string", 0, "Address inside the cluster"),
        ("External-IP", "string", 0, "Address outside the cluster"),
        ("Port(s)", "string", 0, "Ports, with node ports behind a colon"),
        AGE,
        ("Selector", "string", 1, "Labels of the pods behind it"),
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let ip = items(&spec["clusterIPs"]).first().unwrap_or(&spec["clusterIP"]);
        vec![
            name(object),
            spec["type"].clone(),
            crate::show::or_none(ip),
            external_ip(object).into(),
            ports(spec).into(),
            created(object, now),
            crate::show::labels(&spec["selector"]),
        ]
    },
    fields: |object| {
        vec![
            ("spec.clusterIP", text(&object["spec"]["clusterIP"]).to_owned()),
            ("spec.type", text(&object["spec"]["type"]).to_owned()),
        ]
    },
    name: NameForm::Label1035,
    ..KindRules::new("", "Service")
};

fn default_service(service: &mut Value) {
    let spec = object(service, "spec");
    fill(spec, "sessionAffinity", "None");
    fill(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" {
        fill(object(object(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10_800);
    } else {
        put(spec, "sessionAffinityConfig", Value::Null);
    }
    for port in spec.get_mut("ports").into_iter().flat_map(items_mut) {
        fill(port, "protocol", "TCP");
        let unset = port["targetPort"].is_null() || port["targetPort"] == 0 || port["targetPort"] == "";
        if unset {
            port["targetPort"] = port["port"].clone();
        }
    }
    let ty = text(&spec["type"]).to_owned();
    if matches!(&*ty, "NodePort" | "LoadBalancer") {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if ty != "ExternalName" {
        fill(spec, "internalTrafficPolicy", "Cluster");
        fill(spec, "ipFamilyPolicy", "SingleStack");
    }
    if ty == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Addresses and node ports stay what they are unless the update says otherwise.
fn carry_service(new: &mut Value, old: &Value, part: Part) {
    if part != Part::Main {
        return;
    }
    let before = &old["spec"];
    let spec = object(new, "spec");
    let external = text(&spec["type"]) == "ExternalName";
    if external {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            put(spec, field, Value::Null);
        }
        return;
    }
    if text(&spec["clusterIP"]).is_empty() && text(&before["type"]) != "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            put(spec, field, before[field].clone());
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
        if spec[field].is_null() {
            put(spec, field, before[field].clone());
        }
    }
    let wants_ports = matches!(text(&spec["type"]), "NodePort" | "LoadBalancer");
    for port in spec.get_mut("ports").into_iter().flat_map(items_mut) {
        let same =
            items(&before["ports"]).iter().find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]);
        if !wants_ports {
            put(port, "nodePort", Value::Null);
        } else if number(&port["nodePort"]) == 0
            && let Some(same) = same
        {
            put(port, "nodePort", same["nodePort"].clone());
        }
    }
    if !wants_ports {
        put(spec, "externalTrafficPolicy", Value::Null);
    }
}

fn service(at: &At<'_>, faults: &mut FieldErrors) {
    let spec = at.get("spec");
    let ty = spec.get("type");
    ty.one_of(faults, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    spec.get("sessionAffinity").one_of(faults, &["ClientIP", "None"]);
    let headless = spec.get("clusterIP").text() == "None";
    let ports = spec.get("ports");
    match ty.text() {
        "ExternalName" => {
            let external = spec.get("externalName");
            if external.required(faults, "") {
                let name = external.text().trim_end_matches('.');
                names::dns1123_subdomain(name).iter().for_each(|fault| external.invalid(faults, fault));
            }
        }
        _ if !headless => {
            ports.required(faults, "");
        }
        _ => {}
    }
    if headless && matches!(ty.text(), "NodePort" | "LoadBalancer") {
        spec.get("clusterIP").invalid(faults, &format!("may not be set to 'None' for {} services", ty.text()));
    }
    for (key, value) in members(spec.get("selector").value) {
        let path = spec.get("selector").path;
        names::qualified_name(key).iter().for_each(|f| faults.push(FieldError::invalid(&path, key.clone(), f)));
        names::label_value(text(value)).iter().for_each(|f| faults.push(FieldError::invalid(&path, text(value), f)));
    }
    let single = ports.items().count() == 1;
    let (mut seen_names, mut seen_ports) = (Vec::new(), Vec::new());
    for port in ports.items() {
        service_port(&port, single, faults);
        let name = port.get("name");
        if !name.is_empty() && seen_names.contains(&name.text()) {
            faults.push(FieldError::duplicate(&name.path, name.text()));
        }
        seen_names.push(name.text());
        let key = (port.get("port").number(), port.get("protocol").text());
        if seen_ports.contains(&key) {
            faults.push(FieldError::duplicate(&port.path, json!({"port": key.0, "protocol": key.1})));
        }
        seen_ports.push(key);
        let node_port = port.get("nodePort");
        if node_port.number().is_some_and(|n| n != 0) && !matches!(ty.text(), "NodePort" | "LoadBalancer") {
            node_port.forbidden(faults, "may not be used when `type` is 'ClusterIP'");
        }
    }
    spec.get("externalTrafficPolicy").one_of(faults, &["Cluster", "Local"]);
    spec.get("internalTrafficPolicy").one_of(faults, &["Cluster", "Local"]);
    for ip in spec.get("externalIPs").items() {
        if ip.text().parse::<IpAddr>().is_err() {
            ip.invalid(faults, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
}

fn service_port(port: &At<'_>, single: bool, faults: &mut FieldErrors) {
    let name = port.get("name");
    if !name.is_empty() {
        name.named(faults, names::dns1123_label);
    } else if !single {
        name.required(faults, "");
    }
    let number = port.get("port");
    number.required(faults, "");
    number.port(faults);
    port.get("protocol").one_of(faults, &["SCTP", "TCP", "UDP"]);
    if port.get("targetPort").exists() {
        port_or_name(&port.get("targetPort"), faults);
    }
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let externals: Vec<&str> = items(&spec["externalIPs"]).iter().map(text).collect();
    let ingress: Vec<&str> = items(&service["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|i| if i["ip"].is_string() { text(&i["ip"]) } else { text(&i["hostname"]) })
        .collect();
    match text(&spec["type"]) {
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        "LoadBalancer" if !ingress.is_empty() || !externals.is_empty() => [ingress, externals].concat().join(","),
        "LoadBalancer" => "<pending>".to_owned(),
        _ if !externals.is_empty() => externals.join(","),
        _ => "<none>".to_owned(),
    }
}

fn ports(spec: &Value) -> String {
    let all: Vec<String> = items(&spec["ports"])
        .iter()
        .map(|p| match number(&p["nodePort"]) {
            0 => format!("{}/{}", number(&p["port"]), text(&p["protocol"])),
            node => format!("{}:{node}/{}", number(&p["port"]), text(&p["protocol"])),
        })
        .collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

fn more(mut shown: Vec<String>, limit: usize) -> String {
    if shown.is_empty() {
        return "<none>".to_owned();
    }
    let rest = shown.len().saturating_sub(limit);
    shown.truncate(limit);
    if rest > 0 { format!("{} + {rest} more...", shown.join(",")) } else { shown.join(",") }
}

pub(crate) static ENDPOINTS: KindRules = KindRules {
    default: |endpoints| {
        for subset in endpoints.get_mut("subsets").into_iter().flat_map(items_mut) {
            for port in subset.get_mut("ports").into_iter().flat_map(items_mut) {
                fill(port, "protocol", "TCP");
            }
        }
    },
    validate: |at, faults| {
        for subset in at.get("subsets").items() {
            for address in subset.get("addresses").items() {
                ip(&address.get("ip"), faults);
            }
            for port in subset.get("ports").items() {
                port.get("port").port(faults);
            }
        }
    },
    columns: &[NAME, ("Endpoints", "string", 0, "Addresses with ports"), AGE],
    cells: |object, now| {
        let mut all = Vec::new();
        for subset in items(&object["subsets"]) {
            for address in items(&subset["addresses"]) {
                let ip = text(&address["ip"]);
                let ports = items(&subset["ports"]);
                all.extend(ports.iter().map(|p| format!("{ip}:{}", number(&p["port"]))));
                if ports.is_empty() {
                    all.push(ip.to_owned());
                }
            }
        }
        vec![name(object), more(all, 3).into(), created(object, now)]
    },
    ..KindRules::new("", "Endpoints")
};

fn ip(at: &At<'_>, faults: &mut FieldErrors) {
    if at.text().parse::<IpAddr>().is_err() {
        at.invalid(faults, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

pub(crate) static ENDPOINT_SLICE: KindRules = KindRules {
    default: |slice| {
        for port in slice.get_mut("ports").into_iter().flat_map(items_mut) {
            fill(port, "name", "");
            fill(port, "protocol", "TCP");
        }
    },
    counts_generation: true,
    validate: |at, faults| {
        let ty = at.get("addressType");
        if ty.required(faults, "") {
            ty.one_of(faults, &["FQDN", "IPv4", "IPv6"]);
        }
        for endpoint in at.get("endpoints").items() {
            let addresses = endpoint.get("addresses");
            if addresses.required(faults, "must contain at least 1 address") && ty.text() != "FQDN" {
                addresses.items().for_each(|address| ip(&address, faults));
            }
        }
        for port in at.get("ports").items().filter(|p| p.get("port").exists()) {
            port.get("port").port(faults);
        }
    },
    validate_change: |new, old, faults| new.get("addressType").immutable(&old.get("addressType"), faults),
    columns: &[
        NAME,
        ("AddressType", "string", 0, "Kind of the addresses"),
        ("Ports", "string", 0, "Ports of all endpoints"),
        ("Endpoints", "string", 0, "Addresses"),
        AGE,
    ],
    cells: |object, now| {
        let ports = items(&object["ports"])
            .iter()
            .map(|p| p["port"].as_i64().map_or_else(|| "*".to_owned(), |n| n.to_string()))
            .collect();
        let addresses = items(&object["endpoints"])
            .iter()
            .flat_map(|e| items(&e["addresses"]))
            .map(|a| text(a).to_owned())
            .collect();
        let unset = |text: String| if text == "<none>" { "<unset>".to_owned() } else { text };
        vec![
            name(object),
            object["addressType"].clone(),
            unset(more(ports, 3)).into(),
            unset(more(addresses, 3)).into(),
            created(object, now),
        ]
    },
    ..KindRules::new("discovery.k8s.io", "EndpointSlice")
};

pub(crate) static INGRESS: KindRules = KindRules {
    first_status: Some(|| json!({"loadBalancer": {}})),
    counts_generation: true,
    validate: |at, faults| {
        let spec = at.get("spec");
        if spec.get("rules").is_empty() && spec.get("defaultBackend").is_empty() {
            spec.invalid(faults, "either `defaultBackend` or `rules` must be specified");
        }
        for rule in spec.get("rules").items() {
            for path in rule.walk("http.paths").items() {
                if path.get("pathType").required(faults, "pathType must be specified") {
                    path.get("pathType").one_of(faults, &["Exact", "ImplementationSpecific", "Prefix"]);
                }
                if path.get("pathType").text() != "ImplementationSpecific" && !path.get("path").text().starts_with('/')
                {
                    path.get("path").invalid(faults, "must be an absolute path");
                }
            }
        }
    },
    columns: &[
        NAME,
        ("Class", "string", 0, "Class of the controller that serves it"),
        ("Hosts", "string", 0, "Hosts it is for"),
        ("Address", "string", 0, "Address it is reached at"),
        ("Ports", "string", 0, "Ports it listens on"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let hosts: Vec<String> =
            items(&spec["rules"]).iter().map(|r| text(&r["host"]).to_owned()).filter(|h| !h.is_empty()).collect();
        let hosts = if hosts.is_empty() { "*".to_owned() } else { more(hosts, 3) };
        let addresses: Vec<&str> = items(&object["status"]["loadBalancer"]["ingress"])
            .iter()
            .map(|i| if i["ip"].is_string() { text(&i["ip"]) } else { text(&i["hostname"]) })
            .collect();
        let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            crate::show::or_none(&spec["ingressClassName"]),
            hosts.into(),
            addresses.join(",").into(),
            ports.into(),
            created(object, now),
        ]
    },
    ..KindRules::new("networking.k8s.io", "Ingress")
};

pub(crate) static INGRESS_CLASS: KindRules = KindRules {
    counts_generation: true,
    validate: |at, faults| {
        at.walk("spec.controller").required(faults, "");
    },
    columns: &[
        NAME,
        ("Controller", "string", 0, "Controller that serves the class"),
        ("Parameters", "string", 0, "Where its parameters are"),
        AGE,
    ],
    cells: |object, now| {
        let parameters = &object["spec"]["parameters"];
        let shown = if parameters.is_object() {
            format!("{}/{}", text(&parameters["kind"]), text(&parameters["name"]))
        } else {
            "<none>".to_owned()
        };
        vec![name(object), object["spec"]["controller"].clone(), shown.into(), created(object, now)]
    },
    ..KindRules::new("networking.k8s.io", "IngressClass")
};

pub(crate) static NETWORK_POLICY: KindRules = KindRules {
    default: |policy| {
        let spec = object(policy, "spec");
        for direction in ["ingress", "egress"] {
            for rule in spec.get_mut(direction).into_iter().flat_map(items_mut) {
                for port in rule.get_mut("ports").into_iter().flat_map(items_mut) {
                    fill(port, "protocol", "TCP");
                }
            }
        }
        let both = spec["egress"].is_array();
        fill(spec, "policyTypes", if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    },
    counts_generation: true,
    validate: |at, faults| {
        let spec = at.get("spec");
        label_selector(&spec.get("podSelector"), faults);
        for ty in spec.get("policyTypes").items() {
            ty.one_of(faults, &["Egress", "Ingress"]);
        }
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.get(direction).items() {
                for peer in rule.get(peers).items() {
                    if members(peer.value).count() == 0 {
                        peer.required(faults, "must specify a peer");
                    }
                    label_selector(&peer.get("podSelector"), faults);
                    label_selector(&peer.get("namespaceSelector"), faults);
                }
            }
        }
    },
    columns: &[NAME, ("Pod-Selector", "string", 0, "Pods it applies to"), AGE],
    cells: |object, now| vec![name(object), selector(&object["spec"]["podSelector"]), created(object, now)],
    ..KindRules::new("networking.k8s.io", "NetworkPolicy")
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    #[test]
    fn a_service_from_little() {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "type": "NodePort", "ports": [{"port": 80}]}});
        Rules::default(&SERVICE, &mut object);
        assert_eq!(object["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(object["spec"]["externalTrafficPolicy"], "Cluster");
        assert!(SERVICE.validate_create(&object).is_empty());
        object["spec"]["ports"] = json!([{"port": 80, "nodePort": 30_080, "protocol": "TCP"}]);
        object["spec"]["clusterIP"] = json!("10.43.0.7");
        let row = SERVICE.cells(&object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!((row[2].as_str(), row[4].as_str()), (Some("10.43.0.7"), Some("80:30080/TCP")));
    }

    #[test]
    fn addresses_survive_an_update_that_does_not_name_them() {
        let old = json!({"metadata": {}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30_080}]}, "status": {}});
        let mut new = json!({"metadata": {}, "spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}});
        SERVICE.prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new["spec"]["clusterIP"], "10.43.0.7");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30_080);
        new["spec"]["type"] = json!("ClusterIP");
        SERVICE.prepare_update(&mut new, &old, Part::Main);
        assert!(new["spec"]["ports"][0]["nodePort"].is_null());
    }

    #[test]
    fn faults() {
        let bad = json!({"spec": {"type": "Odd", "ports": [{"port": 0}, {"port": 80, "nodePort": 1}]}});
        let faults: Vec<String> = SERVICE.validate_create(&bad).iter().map(ToString::to_string).collect();
        for part in ["spec.type", "spec.ports[0].port", "spec.ports[0].name", "spec.ports[1].nodePort"] {
            assert!(faults.iter().any(|f| f.starts_with(part)), "{part} in {faults:?}");
        }
    }
}
