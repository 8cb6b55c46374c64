//! Who may talk to which pods.

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::addresses::cidr;
use crate::at::At;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{age, cells};

pub(crate) const NETWORK_POLICY: Row = Row {
    generation: &["spec"],
    default,
    validate: |policy, out| {
        let spec = At::member(policy, "spec");
        spec.get("podSelector").label_selector(out);
        for (list, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.items(list) {
                rule.items("ports").for_each(|at| port(&at, out));
                rule.items(peers).for_each(|at| peer(&at, out));
            }
        }
        if spec.value.count("policyTypes") > 2 {
            return spec.invalid("policyTypes", "may not specify more than two policyTypes", out);
        }
        for kind in spec.items("policyTypes").filter(|kind| *kind.value != "Ingress" && *kind.value != "Egress") {
            out.push(FieldError::not_supported(&kind.path, kind.value.clone(), &["Egress", "Ingress"]));
        }
    },
    warnings: warnings::of_network_policy,
    columns: "Name,Pod-Selector,Age",
    cells: |policy, now| {
        vec![name_cell(policy), cells::selector(policy.at("spec.podSelector")), age::cell(policy, now)]
    },
    ..Row::new("networking.k8s.io", "NetworkPolicy")
};

fn default(policy: &mut Value) {
    let spec = policy.child("spec");
    if spec.count("policyTypes") == 0 {
        let types = if spec.count("egress") > 0 { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.put("policyTypes", types);
    }
    for list in ["ingress", "egress"] {
        for port in spec.items_mut(list).iter_mut().flat_map(|rule| rule.items_mut("ports")) {
            port.default_to("protocol", "TCP");
        }
    }
}

fn port(at: &At<'_>, out: &mut FieldErrors) {
    at.optional_one_of("protocol", &["SCTP", "TCP", "UDP"], out);
    let end = at.int("endPort");
    match at.value.get_or_null("port") {
        Value::String(name) => {
            if end.is_some() {
                at.invalid("endPort", "may not be specified when `port` is non-numeric", out);
            }
            at.faults("port", &names::port_name(name), out);
        }
        Value::Number(number) => {
            at.port("port", out);
            let Some(end) = end else { return };
            if Some(end) < number.as_i64() {
                let why = "must be greater than or equal to `port`";
                out.push(FieldError::invalid(&at.path("endPort"), number.clone(), why));
            }
            at.port("endPort", out);
        }
        _ if end.is_some() => at.invalid("endPort", "may not be specified when `port` is not specified", out),
        _ => {}
    }
}

fn peer(at: &At<'_>, out: &mut FieldErrors) {
    at.get("podSelector").label_selector(out);
    at.get("namespaceSelector").label_selector(out);
    let by_selector = at.has("podSelector") || at.has("namespaceSelector");
    match (by_selector, at.has("ipBlock")) {
        (false, false) => out.push(FieldError::required(&at.path, "must specify a peer")),
        (true, true) => {
            ip_block(&at.get("ipBlock"), out);
            out.push(FieldError::forbidden(&at.path, "may not specify both ipBlock and another peer"));
        }
        (false, true) => ip_block(&at.get("ipBlock"), out),
        (true, false) => {}
    }
}

fn ip_block(at: &At<'_>, out: &mut FieldErrors) {
    if !at.require("cidr", out) {
        return;
    }
    cidr(&at.get("cidr"), out);
    let parse = |text: &str| text.parse::<ipnet::IpNet>().ok();
    let Some(whole) = parse(at.text("cidr")) else { return };
    for except in at.items("except") {
        cidr(&except, out);
        let part = except.value.as_str().and_then(parse);
        if part.is_some_and(|part| !whole.contains(&part.network()) || whole.prefix_len() >= part.prefix_len()) {
            except.wrong("must be a strict subset of `cidr`", out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    #[test]
    fn policies() {
        let mut policy =
            json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}});
        NETWORK_POLICY.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(NETWORK_POLICY.validate_create(&policy), []);
        assert_eq!(NETWORK_POLICY.cells(&policy, jiff::Timestamp::UNIX_EPOCH)[1], "<none>");
    }

    #[test]
    fn faults() {
        let bad = json!({"spec": {"policyTypes": ["Sideways"], "ingress": [{
            "ports": [{"port": "web", "endPort": 9}, {"port": 80, "endPort": 70}, {"endPort": 9}],
            "from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}, "podSelector": {}}]}]}});
        let found: Vec<_> = NETWORK_POLICY.validate_create(&bad).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 9: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[1].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[2].endPort: Invalid value: 9: may not be specified when `port` is not specified",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
                "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Egress\", \"Ingress\"",
            ]
        );
    }
}
