//! Which requests wait for which others.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::age;
use crate::at::At;
use crate::cells::NONE;
use crate::row::{EMPTY, Row, WHOLE_METADATA, name_cell};
use crate::view::{Change, View};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const MOST_QUEUES: i64 = 10_000_000;
/// Bits of the hash by which a flow's queues are chosen.
const HASH_BITS: f64 = 60.0;

pub(crate) const FLOW_SCHEMA: Row = Row {
    status: EMPTY,
    status_keeps: WHOLE_METADATA,
    generation: &["spec"],
    default: |schema| {
        let spec = schema.child("spec");
        if spec.int("matchingPrecedence").unwrap_or_default() == 0 {
            spec.put("matchingPrecedence", 1000.into());
        }
    },
    validate: validate_schema,
    validate_part: |new, _, _, out| conditions(new, out),
    columns: "Name,PriorityLevel,MatchingPrecedence,DistinguisherMethod,Age,MissingPL",
    cells: |schema, now| {
        let spec = schema.get_or_null("spec");
        let method = spec.get_or_null("distinguisherMethod");
        let dangling = crate::cells::condition(schema, "Dangling").map_or("?", |c| c.text("status"));
        vec![
            name_cell(schema),
            spec.at("priorityLevelConfiguration").text("name").into(),
            crate::cells::count(spec, "matchingPrecedence"),
            if method.is_null() { NONE.into() } else { method.text("type").into() },
            age::cell(schema, now),
            dangling.into(),
        ]
    },
    ..Row::new(GROUP, "FlowSchema")
};

pub(crate) const PRIORITY_LEVEL_CONFIGURATION: Row = Row {
    status: EMPTY,
    status_keeps: WHOLE_METADATA,
    generation: &["spec"],
    default: default_level,
    validate: validate_level,
    validate_part: |new, _, _, out| conditions(new, out),
    columns: "Name,Type,NominalConcurrencyShares,Queues,HandSize,QueueLengthLimit,Age",
    cells: level_cells,
    ..Row::new(GROUP, "PriorityLevelConfiguration")
};

fn conditions(object: &Value, out: &mut FieldErrors) {
    let status = At::member(object, "status");
    let mut seen = BTreeSet::new();
    for condition in status.items("conditions") {
        // That none has a type makes them alike too.
        if !seen.insert(condition.text("type")) {
            out.push(FieldError::duplicate(&condition.path("type"), condition.text("type")));
        }
        condition.require("type", out);
    }
}

fn validate_schema(schema: &Value, out: &mut FieldErrors) {
    let (spec, name) = (At::member(schema, "spec"), schema.at("metadata").text("name"));
    match spec.int("matchingPrecedence").unwrap_or_default() {
        ..=0 => spec.invalid("matchingPrecedence", "must be a positive value", out),
        1 if name != "exempt" => {
            let why = "only the schema named 'exempt' may have matchingPrecedence 1";
            spec.invalid("matchingPrecedence", why, out);
        }
        1..=10_000 => {}
        _ => spec.invalid("matchingPrecedence", "must not be greater than 10000", out),
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.text("type"), "ByNamespace" | "ByUser") {
        let path = method.path("type");
        out.push(FieldError::not_supported(&path, method.value.clone(), &["ByNamespace", "ByUser"]));
    }
    let level = spec.get("priorityLevelConfiguration");
    if level.text("name").is_empty() {
        level.missing("name", "must reference a priority level", out);
    }
    level.form("name", names::dns1123_subdomain, out);
    spec.items("rules").for_each(|rule| validate_rule(&rule, out));
    let fixed = match name {
        "exempt" => Some(exempt_schema()),
        "catch-all" => Some(catch_all_schema()),
        _ => None,
    };
    if fixed.is_some_and(|fixed| fixed != *spec.value) {
        spec.wrong(&format!("spec of '{name}' must equal the fixed value"), out);
    }
}

fn everything() -> Value {
    json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}])
}

fn exempt_schema() -> Value {
    json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "exempt"}, "rules": [{
        "subjects": [{"kind": "Group", "group": {"name": "system:masters"}}],
        "resourceRules": everything(), "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]})
}

fn catch_all_schema() -> Value {
    json!({"matchingPrecedence": 10_000, "priorityLevelConfiguration": {"name": "catch-all"},
        "distinguisherMethod": {"type": "ByUser"}, "rules": [{
        "subjects": [{"kind": "Group", "group": {"name": "system:unauthenticated"}},
            {"kind": "Group", "group": {"name": "system:authenticated"}}],
        "resourceRules": everything(), "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]})
}

fn validate_rule(rule: &At<'_>, out: &mut FieldErrors) {
    if rule.value.count("subjects") == 0 {
        rule.missing("subjects", "subjects must contain at least one value", out);
    }
    rule.items("subjects").for_each(|at| subject(&at, out));
    if rule.value.count("resourceRules") == 0 && rule.value.count("nonResourceRules") == 0 {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        out.push(FieldError::required(&rule.path, why));
    }
    for about in rule.items("resourceRules") {
        verbs(&about, out);
        listed(&about, "apiGroups", "resource rules must supply at least one api group", "api groups", out);
        listed(&about, "resources", "resource rules must supply at least one resource", "resources", out);
        namespaces(&about, out);
    }
    for about in rule.items("nonResourceRules") {
        verbs(&about, out);
        let why = "nonResourceURLs must contain at least one value";
        if listed(&about, "nonResourceURLs", why, "non-resource URLs", out) {
            about.items("nonResourceURLs").for_each(|url| non_resource_url(&url, out));
        }
    }
}

fn subject(at: &At<'_>, out: &mut FieldErrors) {
    let kinds = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let Some((kind, field)) = kinds.iter().find(|(kind, _)| *kind == at.text("kind")) else {
        let path = at.path("kind");
        return out.push(FieldError::not_supported(&path, at.text("kind"), &["Group", "ServiceAccount", "User"]));
    };
    let named = at.get(field);
    if named.is_set() {
        named.require("name", out);
        if *field == "serviceAccount" {
            if named.text("name") != "*" {
                named.form("name", names::dns1123_subdomain, out);
            }
            if named.text("namespace").is_empty() {
                named.missing("namespace", "must specify namespace for service account", out);
            }
            named.form("namespace", names::dns1123_label, out);
        }
    } else {
        at.missing(field, &format!("{field} is required when subject kind is '{kind}'"), out);
    }
    for (other, field) in kinds.iter().filter(|(other, field)| other != kind && at.has(field)) {
        at.forbidden(field, &format!("{field} is forbidden when subject kind is not '{other}'"), out);
    }
}

/// A list must not be empty, and `*` stands alone; whether its members are to be looked at.
fn listed(rule: &At<'_>, list: &str, empty: &str, what: &str, out: &mut FieldErrors) -> bool {
    let count = rule.value.count(list);
    let all = rule.value.texts(list).any(|text| text == "*");
    if count == 0 {
        rule.missing(list, empty, out);
    } else if all && count > 1 {
        rule.invalid(list, &format!("if '*' is present, must not specify other {what}"), out);
    }
    count > 0 && !all
}

fn verbs(rule: &At<'_>, out: &mut FieldErrors) {
    let checked = listed(rule, "verbs", "verbs must contain at least one value", "verbs", out);
    if checked && !rule.value.texts("verbs").all(|verb| VERBS.contains(&verb)) {
        let value = rule.value.get_or_null("verbs").clone();
        out.push(FieldError::not_supported(&rule.path("verbs"), value, VERBS));
    }
}

fn namespaces(rule: &At<'_>, out: &mut FieldErrors) {
    let why = "resource rules that are not cluster scoped must supply at least one namespace";
    if rule.flag("clusterScope") && rule.value.count("namespaces") == 0 {
        return;
    }
    if listed(rule, "namespaces", why, "namespaces", out) {
        for namespace in rule.items("namespaces") {
            for fault in names::dns1123_label(namespace.value.as_str().unwrap_or_default()) {
                namespace.wrong(&format!("each member of this list must be '*' or a DNS-1123 label; {fault}"), out);
            }
        }
    }
}

fn non_resource_url(at: &At<'_>, out: &mut FieldErrors) {
    let url = at.value.as_str().unwrap_or_default();
    let stars = url.matches('*').count();
    let why = match url {
        "/" => return,
        "" => "must not be empty",
        _ if !url.starts_with('/') => "must start with slash",
        _ if url.contains(' ') => "must not contain white-space",
        _ if url.contains("//") => "must not contain double slash",
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => "wildcard can only do suffix matching",
        _ => return,
    };
    at.wrong(why, out);
}

fn default_level(level: &mut Value) {
    let spec = level.child("spec");
    if let Some(exempt) = spec.existing("exempt") {
        exempt.default_to("nominalConcurrencyShares", 0);
        exempt.default_to("lendablePercent", 0);
    }
    let Some(limited) = spec.existing("limited") else { return };
    limited.default_to("nominalConcurrencyShares", 30);
    limited.default_to("lendablePercent", 0);
    if let Some(queuing) = limited.existing("limitResponse").and_then(|r| r.existing("queuing")) {
        for (name, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            if queuing.int(name).unwrap_or_default() == 0 {
                queuing.put(name, value.into());
            }
        }
    }
}

fn validate_level(level: &Value, out: &mut FieldErrors) {
    let (spec, name) = (At::member(level, "spec"), level.at("metadata").text("name"));
    if (name == "exempt") != (spec.text("type") == "Exempt") {
        spec.invalid("type", "must be 'Exempt' if and only if `name` is 'exempt'", out);
    }
    let (exempt, limited) = (spec.get("exempt"), spec.get("limited"));
    match spec.text("type") {
        "Exempt" => {
            if limited.is_set() {
                spec.forbidden("limited", "must be nil if the type is not Limited", out);
            }
            shares(&exempt, out);
        }
        "Limited" => {
            if exempt.is_set() {
                spec.forbidden("exempt", "must be nil if the type is Limited", out);
            }
            if limited.is_set() {
                shares(&limited, out);
                response(&limited.get("limitResponse"), out);
                if limited.int("borrowingLimitPercent").is_some_and(|n| n < 0) {
                    let why = "if specified, must be a non-negative integer";
                    limited.invalid("borrowingLimitPercent", why, out);
                }
            } else {
                spec.missing("limited", "must not be empty when type is Limited", out);
            }
        }
        other => out.push(FieldError::not_supported(&spec.path("type"), other, &["Exempt", "Limited"])),
    }
    let catch_all = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}});
    if name == "catch-all" && *spec.value != catch_all {
        spec.wrong("spec of 'catch-all' must equal the fixed value", out);
    }
}

fn shares(at: &At<'_>, out: &mut FieldErrors) {
    if at.int("nominalConcurrencyShares").is_some_and(|n| n < 0) {
        at.invalid("nominalConcurrencyShares", "must be a non-negative integer", out);
    }
    if at.int("lendablePercent").is_some_and(|n| !(0..=100).contains(&n)) {
        at.invalid("lendablePercent", "must be between 0 and 100, inclusive", out);
    }
}

fn response(at: &At<'_>, out: &mut FieldErrors) {
    match (at.text("type"), at.has("queuing")) {
        ("Reject", true) => {
            at.forbidden("queuing", "must be nil if limited.limitResponse.type is not Limited", out);
        }
        ("Queue", false) => at.missing("queuing", "must not be empty if limited.limitResponse.type is Limited", out),
        ("Queue", true) => queuing(&at.get("queuing"), out),
        ("Reject", false) => {}
        (other, _) => out.push(FieldError::not_supported(&at.path("type"), other, &["Queue", "Reject"])),
    }
}

fn queuing(at: &At<'_>, out: &mut FieldErrors) {
    let number = |name: &str| at.int(name).unwrap_or_default();
    for name in ["queueLengthLimit", "queues", "handSize"] {
        if number(name) <= 0 {
            at.invalid(name, "must be positive", out);
        }
    }
    let (queues, hand) = (number("queues"), number("handSize"));
    if queues > MOST_QUEUES {
        at.invalid("queues", &format!("must not be greater than {MOST_QUEUES}"), out);
    }
    if hand > queues {
        at.invalid("handSize", &format!("should not be greater than queues ({queues})"), out);
    } else if hand > 0 && entropy_bits(queues, hand) > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        at.invalid("handSize", &why, out);
    }
}

/// How many bits it takes to choose one of `queues` as often as `hand` says.
fn entropy_bits(queues: i64, hand: i64) -> f64 {
    ((queues as f64).log2() * hand as f64).ceil()
}

fn level_cells(level: &Value, now: Timestamp) -> Vec<Value> {
    let spec = level.get_or_null("spec");
    let limited = spec.get_or_null("limited");
    let queuing = limited.at("limitResponse.queuing");
    let shown = |holder: &Value, name: &str| -> Value {
        if holder.is_null() { NONE.into() } else { crate::cells::count(holder, name) }
    };
    vec![
        name_cell(level),
        spec.text("type").into(),
        shown(limited, "nominalConcurrencyShares"),
        shown(queuing, "queues"),
        shown(queuing, "handSize"),
        shown(queuing, "queueLengthLimit"),
        age::cell(level, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    fn texts(faults: &FieldErrors) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas() {
        let mut schema = json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "l"}, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "u"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]}]}});
        FLOW_SCHEMA.default(&mut schema);
        assert_eq!(FLOW_SCHEMA.validate_create(&schema), []);
        let cells = FLOW_SCHEMA.cells(&schema, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], [json!("l"), json!(1000), json!("<none>")]);
        assert_eq!(cells[5], "?");
        let rule = &mut schema["spec"]["rules"][0];
        rule["subjects"] = json!([{"kind": "User", "group": {"name": "g"}}]);
        rule["resourceRules"] = json!([{"verbs": ["fly"], "apiGroups": ["*", "a"], "resources": ["*"]}]);
        schema["spec"]["matchingPrecedence"] = json!(1);
        assert_eq!(
            texts(&FLOW_SCHEMA.validate_create(&schema))[..3],
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ]
        );
        assert_eq!(FLOW_SCHEMA.validate_create(&schema).len(), 6);
    }

    #[test]
    fn mandatory_schemas_stay() {
        for (name, spec) in [("exempt", exempt_schema()), ("catch-all", catch_all_schema())] {
            let mut schema = json!({"metadata": {"name": name}, "spec": spec});
            assert_eq!(FLOW_SCHEMA.validate_create(&schema), []);
            schema["spec"]["rules"] = json!([]);
            assert_eq!(FLOW_SCHEMA.validate_create(&schema).len(), 1);
        }
    }

    #[test]
    fn levels() {
        let mut level = json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        PRIORITY_LEVEL_CONFIGURATION.default(&mut level);
        assert_eq!(PRIORITY_LEVEL_CONFIGURATION.validate_create(&level), []);
        let cells = PRIORITY_LEVEL_CONFIGURATION.cells(&level, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..6], [json!("Limited"), json!(30), json!(64), json!(8), json!(50)]);
        level["spec"]["limited"]["limitResponse"]["queuing"]["handSize"] = json!(65);
        assert_eq!(
            texts(&PRIORITY_LEVEL_CONFIGURATION.validate_create(&level)),
            ["spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)"]
        );
        level["spec"]["type"] = json!("Exempt");
        assert_eq!(PRIORITY_LEVEL_CONFIGURATION.validate_create(&level).len(), 2);
    }
}
