//! Ways into the cluster for HTTP, and who provides them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use super::load_balancer;
use super::storage::marked_default;
use crate::age;
use crate::at::At;
use crate::cells::NONE;
use crate::podspec::{is_ip, object_name};
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const NOT_IN_PATHS: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const NOT_AT_END: &[&str] = &["/..", "/."];
/// Longest list of addresses that a narrow table shows.
const WIDEST: usize = 16;

pub(crate) const INGRESS: Row = Row {
    status: Some(|| json!({"loadBalancer": {}})),
    generation: &["spec"],
    validate,
    validate_create: |ingress, out| {
        let class = ingress.at("spec").get_or_null("ingressClassName");
        let annotation = ingress.at("metadata.annotations").get_or_null(CLASS_ANNOTATION);
        if !class.is_null() && !annotation.is_null() && class != annotation {
            let path = FieldPath::new("annotations").child(CLASS_ANNOTATION);
            let why = "must match `ingressClassName` when both are specified";
            out.push(FieldError::invalid(&path, annotation.clone(), why));
        }
    },
    validate_part: |new, _, _, out| {
        for entry in At::member(new, "status").get("loadBalancer").items("ingress") {
            if !entry.text("ip").is_empty() {
                crate::addresses::ip(&entry.get("ip"), out);
            }
            load_balancer::hostname(&entry, out);
        }
    },
    warnings: warnings::of_ingress,
    columns: "Name,Class,Hosts,Address,Ports,Age",
    cells,
    ..Row::new("networking.k8s.io", "Ingress")
};

pub(crate) const INGRESS_CLASS: Row = Row {
    generation: &["spec"],
    default: |class| {
        if let Some(parameters) = class.existing("spec").and_then(|s| s.existing("parameters")) {
            parameters.default_to("scope", "Cluster");
        }
    },
    validate: |class, out| {
        let spec = At::member(class, "spec");
        if spec.text("controller").len() > 250 {
            out.push(FieldError::too_long(&spec.path("controller"), 250));
        }
        spec.domain_prefixed_path("controller", out);
        if spec.has("parameters") {
            parameters(&spec.get("parameters"), out);
        }
    },
    validate_update: |new, old, out| At::member(new, "spec").immutable("controller", old.get_or_null("spec"), out),
    columns: "Name,Controller,Parameters,Age",
    cells: |class, now| {
        let spec = class.get_or_null("spec");
        let parameters = spec.get_or_null("parameters");
        let shown = match (parameters.is_null(), parameters.text("apiGroup")) {
            (true, _) => NONE.to_owned(),
            (_, "") => format!("{}/{}", parameters.text("kind"), parameters.text("name")),
            (_, group) => format!("{}.{group}/{}", parameters.text("kind"), parameters.text("name")),
        };
        vec![
            marked_default(class, &["ingressclass.kubernetes.io/"], "is-default-class"),
            spec.text("controller").into(),
            shown.into(),
            age::cell(class, now),
        ]
    },
    ..Row::new("networking.k8s.io", "IngressClass")
};

fn validate(ingress: &Value, out: &mut FieldErrors) {
    let spec = At::member(ingress, "spec");
    if spec.value.count("rules") == 0 && !spec.has("defaultBackend") {
        let why = "either `defaultBackend` or `rules` must be specified";
        out.push(FieldError::invalid(&spec.path, json!([]), why));
    }
    if spec.has("defaultBackend") {
        backend(&spec.get("defaultBackend"), out);
    }
    for rule in spec.items("rules") {
        not_ip(&rule, "host", out);
        rule.form("host", host_form, out);
        let http = rule.get("http");
        if http.is_set() && http.value.count("paths") == 0 {
            http.missing("paths", "", out);
        }
        http.items("paths").for_each(|path| http_path(&path, out));
    }
    for tls in spec.items("tls") {
        for host in tls.items("hosts") {
            for why in host_form(host.value.as_str().unwrap_or_default()) {
                host.wrong(&why, out);
            }
        }
        tls.form("secretName", object_name, out);
    }
    if spec.has("ingressClassName") {
        spec.faults("ingressClassName", &names::dns1123_subdomain(spec.text("ingressClassName")), out);
    }
}

fn host_form(host: &str) -> Vec<String> {
    if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns1123_subdomain(host) }
}

pub(super) fn not_ip(at: &At<'_>, name: &str, out: &mut FieldErrors) {
    if is_ip(at.text(name)) {
        at.invalid(name, "must be a DNS name, not an IP address", out);
    }
}

fn http_path(at: &At<'_>, out: &mut FieldErrors) {
    if !at.has("pathType") {
        return at.missing("pathType", "pathType must be specified", out);
    }
    let path = at.text("path");
    match at.text("pathType") {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                at.invalid("path", "must be an absolute path", out);
            }
            for bad in NOT_IN_PATHS.iter().filter(|bad| path.contains(**bad)) {
                at.invalid("path", &format!("must not contain '{bad}'"), out);
            }
            for bad in NOT_AT_END.iter().filter(|bad| path.ends_with(**bad)) {
                at.invalid("path", &format!("cannot end with '{bad}'"), out);
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                at.invalid("path", "must be an absolute path", out);
            }
        }
        _ => at.optional_one_of("pathType", &["Exact", "ImplementationSpecific", "Prefix"], out),
    }
    backend(&at.get("backend"), out);
}

fn backend(at: &At<'_>, out: &mut FieldErrors) {
    let mut wrong = |why: &str| out.push(FieldError::invalid(&at.path, "", why));
    match (at.has("resource"), at.has("service")) {
        (true, true) => wrong("cannot set both resource and service backends"),
        (false, false) => wrong("resource or service backend is required"),
        (true, false) => reference(&at.get("resource"), out),
        (false, true) => {
            let service = at.get("service");
            service.require_form("name", names::dns1123_label, out);
            let port = service.get("port");
            let number = port.int("number").unwrap_or_default();
            match (port.text("name").is_empty(), number) {
                (true, 0) => out.push(FieldError::required(&at.path, "port name or number is required")),
                (true, _) => port.port("number", out),
                (false, 0) => port.form("name", names::port_name, out),
                _ => out.push(FieldError::invalid(&at.path, "", "cannot set both port name & port number")),
            }
        }
    }
}

fn reference(at: &At<'_>, out: &mut FieldErrors) {
    at.form("apiGroup", names::dns1123_subdomain, out);
    at.require_segment("kind", out);
    at.require_segment("name", out);
}

fn parameters(at: &At<'_>, out: &mut FieldErrors) {
    if at.has("apiGroup") && at.text("apiGroup").is_empty() {
        at.faults("apiGroup", &names::dns1123_subdomain(""), out);
    }
    reference(at, out);
    if !at.has("scope") {
        return at.missing("scope", "", out);
    }
    match at.text("scope") {
        "Namespace" if !at.has("namespace") => {
            at.missing("namespace", "`parameters.scope` is set to 'Namespace'", out);
        }
        "Namespace" => at.faults("namespace", &names::dns1123_label(at.text("namespace")), out),
        "Cluster" if at.has("namespace") => {
            at.forbidden("namespace", "`parameters.scope` is set to 'Cluster'", out);
        }
        _ => at.optional_one_of("scope", &["Cluster", "Namespace"], out),
    }
}

fn cells(ingress: &Value, now: Timestamp) -> Vec<Value> {
    let spec = ingress.get_or_null("spec");
    let entries = ingress.at("status.loadBalancer").items("ingress");
    let shown = |entry: &Value| match entry.text("ip") {
        "" => entry.text("hostname").to_owned(),
        ip => ip.to_owned(),
    };
    let addresses: BTreeSet<String> = entries.iter().map(shown).filter(|text| !text.is_empty()).collect();
    let mut addresses = addresses.into_iter().collect::<Vec<_>>().join(",");
    if addresses.len() > WIDEST {
        addresses.truncate(WIDEST - 3);
        addresses.push_str("...");
    }
    vec![
        name_cell(ingress),
        spec.get_or_null("ingressClassName").as_str().unwrap_or(NONE).into(),
        hosts(spec.items("rules")).into(),
        addresses.into(),
        if spec.count("tls") > 0 { "80, 443".into() } else { "80".into() },
        age::cell(ingress, now),
    ]
}

fn hosts(rules: &[Value]) -> String {
    const MOST: usize = 3;
    let named: Vec<&str> = rules.iter().map(|rule| rule.text("host")).filter(|host| !host.is_empty()).collect();
    let shown = named.iter().take(MOST).copied().collect::<Vec<_>>().join(",");
    // Upstream counts rules here, not hosts, once three hosts have been shown and a rule follows.
    let third = rules.iter().enumerate().filter(|(_, rule)| !rule.text("host").is_empty()).nth(MOST - 1);
    match third {
        _ if named.is_empty() => "*".to_owned(),
        Some((i, _)) if rules.len() > i + 1 => format!("{shown} + {} more...", rules.len() - MOST),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn ingress() -> Value {
        json!({"metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.example.com", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}})
    }

    #[test]
    fn faults() {
        assert_eq!(INGRESS.validate_create(&ingress()), []);
        let path = "/spec/rules/0/http/paths/0";
        for (at, value, expected) in [
            ("/spec/rules".to_owned(), json!([]), "spec: Invalid value: []: either `defaultBackend` or `rules`"),
            (
                "/spec/rules/0/host".to_owned(),
                json!("10.0.0.1"),
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS",
            ),
            (format!("{path}/pathType"), Value::Null, "spec.rules[0].http.paths[0].pathType: Required value: pathType"),
            (
                format!("{path}/path"),
                json!("/a//b"),
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b\": must not contain '//'",
            ),
            (
                format!("{path}/backend/service"),
                Value::Null,
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or",
            ),
            (
                format!("{path}/backend/service/port"),
                json!({}),
                "spec.rules[0].http.paths[0].backend: Required value: port name or",
            ),
        ] {
            let mut ingress = ingress();
            *ingress.pointer_mut(&at).unwrap() = value;
            let found: Vec<_> = INGRESS.validate_create(&ingress).iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.starts_with(expected)), "{at}: {found:?}");
        }
    }

    #[test]
    fn row() {
        let mut ingress = ingress();
        ingress["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "a-long-name.example.com"}]}});
        let cells = INGRESS.cells(&ingress, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..5], ["<none>", "a.example.com", "a-long-name.e...", "80"].map(Value::from));
        let rules: Vec<_> = ["a", "b", "c", "d"].iter().map(|h| json!({"host": h})).collect();
        assert_eq!(hosts(&rules), "a,b,c + 1 more...");
        assert_eq!(hosts(&rules[..3]), "a,b,c");
        assert_eq!(hosts(&[json!({})]), "*");
    }

    #[test]
    fn classes() {
        let mut class = json!({"metadata": {"name": "c"}, "spec": {"controller": "example.com/c", "parameters": {"kind": "K", "name": "p"}}});
        INGRESS_CLASS.default(&mut class);
        assert_eq!(INGRESS_CLASS.validate_create(&class), []);
        assert_eq!(INGRESS_CLASS.cells(&class, Timestamp::UNIX_EPOCH)[2], "K/p");
        let mut other = class.clone();
        other["spec"]["controller"] = json!("other");
        other["spec"]["parameters"]["scope"] = json!("Namespace");
        assert_eq!(INGRESS_CLASS.validate_update(&other, &class, Part::Main).len(), 3);
    }
}
