//! Endpoints of Services, in slices and in the old form.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use crate::age;
use crate::at::At;
use crate::cells::{NONE, or_unset, some_of};
use crate::podspec::endpoint_ip;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(crate) const ENDPOINT_SLICE: Row = Row {
    generation: &["addressType", "endpoints", "ports", "metadata.labels"],
    default: |slice| {
        for port in slice.items_mut("ports") {
            port.default_to("name", "");
            port.default_to("protocol", "TCP");
        }
    },
    prepare_create: without_topology,
    prepare_update: |new, old, _| {
        if new.get_or_null("endpoints") != old.get_or_null("endpoints") {
            // What is dropped counts as a change.
            let generation = old.at("metadata.generation").as_i64().unwrap_or_default();
            new.child("metadata").put("generation", generation.saturating_add(1).into());
            without_topology(new);
        }
    },
    validate: validate_slice,
    validate_update: |new, old, out| {
        let path = FieldPath::new("addressType");
        crate::metadata::immutable(new.get_or_null("addressType"), old.get_or_null("addressType"), &path, out);
    },
    warnings: warnings::of_endpoint_slice,
    columns: "Name,AddressType,Ports,Endpoints,Age",
    cells: |slice, now| {
        let port = |port: &Value| match (port.int("port"), port.has("name")) {
            (Some(number), _) => number.to_string(),
            (None, true) => port.text("name").to_owned(),
            (None, false) => "*".to_owned(),
        };
        let ports: Vec<String> = slice.items("ports").iter().map(port).collect();
        let addresses: Vec<String> =
            slice.items("endpoints").iter().flat_map(|e| e.texts("addresses")).map(str::to_owned).collect();
        vec![
            name_cell(slice),
            slice.text("addressType").into(),
            or_unset(&some_of(&ports, 3)).into(),
            or_unset(&some_of(&addresses, 3)).into(),
            age::cell(slice, now),
        ]
    },
    ..Row::new("discovery.k8s.io", "EndpointSlice")
};

/// What an older version said of places is kept where it is, and written no more.
fn without_topology(slice: &mut Value) {
    slice.items_mut("endpoints").iter_mut().for_each(|endpoint| endpoint.drop_member("deprecatedTopology"));
}

pub(crate) const ENDPOINTS: Row = Row {
    default: |endpoints| {
        for subset in endpoints.items_mut("subsets") {
            for port in subset.items_mut("ports") {
                port.default_text("protocol", "TCP");
            }
        }
    },
    validate: validate_endpoints,
    warnings: warnings::of_endpoints,
    columns: "Name,Endpoints,Age",
    cells: |endpoints, now| vec![name_cell(endpoints), shown(endpoints).into(), age::cell(endpoints, now)],
    ..Row::new("", "Endpoints")
};

fn validate_slice(slice: &Value, out: &mut FieldErrors) {
    let kind = slice.text("addressType");
    let supported = &["FQDN", "IPv4", "IPv6"];
    let path = FieldPath::new("addressType");
    if kind.is_empty() {
        out.push(FieldError::required(&path, ""));
    } else if !supported.contains(&kind) {
        out.push(FieldError::not_supported(&path, kind, supported));
    }
    slice_ports(slice, out);
    let endpoints = slice.items("endpoints");
    let path = FieldPath::new("endpoints");
    if endpoints.len() > 1000 {
        return out.push(FieldError::too_many(&path, endpoints.len(), 1000));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        validate_endpoint(&At { value: endpoint, path: path.index(i) }, kind, out);
    }
}

fn validate_endpoint(endpoint: &At<'_>, kind: &str, out: &mut FieldErrors) {
    match endpoint.value.count("addresses") {
        0 => endpoint.missing("addresses", "must contain at least 1 address", out),
        count if count > 100 => out.push(FieldError::too_many(&endpoint.path("addresses"), count, 100)),
        _ => {}
    }
    for address in endpoint.items("addresses") {
        let text = address.value.as_str().unwrap_or_default();
        match (kind, text.parse::<std::net::IpAddr>()) {
            ("IPv4" | "IPv6", ip) => {
                if ip.is_ok_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                    let why = format!("must be an {kind} address");
                    out.push(FieldError::invalid(&endpoint.path("addresses"), text, &why));
                }
                endpoint_ip(&address, out);
            }
            ("FQDN", _) => {
                for why in names::dns1123_subdomain(text.strip_suffix('.').unwrap_or(text)) {
                    address.wrong(&why, out);
                }
            }
            _ => {}
        }
    }
    endpoint.form_if_set("nodeName", names::dns1123_subdomain, out);
    if endpoint.value.count("deprecatedTopology") > 16 {
        let count = endpoint.value.count("deprecatedTopology");
        out.push(FieldError::too_many(&endpoint.path("deprecatedTopology"), count, 16));
    }
    endpoint.labels("deprecatedTopology", out);
    endpoint.form("hostname", names::dns1123_label, out);
    let hints = endpoint.get("hints");
    for (list, form) in [("forZones", names::label_value as crate::at::Form), ("forNodes", names::dns1123_subdomain)] {
        if hints.value.count(list) > 8 {
            out.push(FieldError::too_many(&hints.path(list), hints.value.count(list), 8));
        }
        for hint in hints.items(list) {
            hint.form("name", form, out);
        }
    }
}

fn slice_ports(slice: &Value, out: &mut FieldErrors) {
    let (ports, path) = (slice.items("ports"), FieldPath::new("ports"));
    if ports.len() > 20_000 {
        return out.push(FieldError::too_many(&path, ports.len(), 20_000));
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let port = At { value: port, path: path.index(i) };
        port.form("name", names::dns1123_label, out);
        if !seen.insert(port.text("name")) {
            out.push(FieldError::duplicate(&port.path("name"), port.text("name")));
        }
        if !PROTOCOLS.contains(&port.text("protocol")) {
            out.push(FieldError::not_supported(&port.path("protocol"), port.text("protocol"), &PROTOCOLS));
        }
        port.form_if_set("appProtocol", names::qualified_name, out);
    }
}

fn validate_endpoints(endpoints: &Value, out: &mut FieldErrors) {
    for (i, subset) in endpoints.items("subsets").iter().enumerate() {
        let subset = At { value: subset, path: FieldPath::new("subsets").index(i) };
        let count = |list: &str| subset.value.count(list);
        if count("addresses") + count("notReadyAddresses") == 0 {
            out.push(FieldError::required(&subset.path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for address in subset.items("addresses").chain(subset.items("notReadyAddresses")) {
            let ip = address.get("ip");
            endpoint_ip(&ip, out);
            // The older check says so as well.
            if ip.value.as_str().is_none_or(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
                ip.wrong("must be a valid IP address", out);
            }
            address.form("hostname", names::dns1123_label, out);
            address.form_if_set("nodeName", names::dns1123_subdomain, out);
        }
        for port in subset.items("ports") {
            if count("ports") > 1 && port.text("name").is_empty() {
                port.missing("name", "", out);
            }
            port.form("name", names::dns1123_label, out);
            port.port("port", out);
            port.one_of("protocol", &PROTOCOLS, out);
            port.form_if_set("appProtocol", names::qualified_name, out);
        }
    }
}

fn shown(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in endpoints.items("subsets") {
        let addresses = || subset.items("addresses").iter().map(|a| a.text("ip"));
        if subset.count("ports") == 0 {
            all.extend(addresses().map(str::to_owned));
        }
        for port in subset.items("ports") {
            let port = port.int("port").unwrap_or_default();
            let with_port = |ip: &str| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            all.extend(addresses().map(with_port));
        }
    }
    if endpoints.count("subsets") == 0 { NONE.to_owned() } else { some_of(&all, 3) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};
    use serde_json::json;

    #[test]
    fn slices() {
        let mut slice = json!({"metadata": {"name": "s", "generation": 1}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2", "10.0.0.3", "10.0.0.4"]}]});
        ENDPOINT_SLICE.default(&mut slice);
        assert_eq!(ENDPOINT_SLICE.validate_create(&slice), []);
        let cells = ENDPOINT_SLICE.cells(&slice, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], ["IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more..."].map(Value::from));
        let mut new = slice.clone();
        new["endpoints"] = json!([{"addresses": ["::1", "10.0.0.1"]}, {"addresses": []}]);
        new["addressType"] = json!("IPv6");
        let found: Vec<_> =
            ENDPOINT_SLICE.validate_update(&new, &slice, Part::Main).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "endpoints[0].addresses[0]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "addressType: Invalid value: \"IPv6\": field is immutable",
            ]
        );
        ENDPOINT_SLICE.prepare_update(&mut new, &slice, Part::Main);
        assert_eq!(new["metadata"]["generation"], 2);
    }

    #[test]
    fn endpoints() {
        let mut object =
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]});
        ENDPOINTS.default(&mut object);
        assert_eq!(ENDPOINTS.validate_create(&object), []);
        assert_eq!(shown(&object), "10.0.0.1:80,[fd00::1]:80");
        assert_eq!(shown(&json!({})), "<none>");
        let bad = json!({"subsets": [{"ports": [{"port": 1}]}]});
        assert_eq!(ENDPOINTS.validate_create(&bad).len(), 2);
    }
}
