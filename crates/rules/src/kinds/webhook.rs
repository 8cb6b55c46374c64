//! Who is asked before writes are admitted, and what such asking is about.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_cel::Type;
use skiff_meta::field::{FaultKind, FieldError, FieldErrors};
use skiff_meta::names;

use crate::age;
use crate::at::At;
use crate::policy::{self, Scope};
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;

pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const URL_FORM: &str = "; desired format: https://host[/path]";

pub(crate) const MUTATING_WEBHOOK_CONFIGURATION: Row = Row {
    default: |object| {
        default(object);
        object.items_mut("webhooks").iter_mut().for_each(|hook| hook.default_to("reinvocationPolicy", "Never"));
    },
    ..configuration("MutatingWebhookConfiguration")
};

pub(crate) const VALIDATING_WEBHOOK_CONFIGURATION: Row = configuration("ValidatingWebhookConfiguration");

const fn configuration(kind: &'static str) -> Row {
    Row {
        generation: &["webhooks"],
        default,
        validate_create: |object, out| validate(object, &Value::Null, out),
        validate_update: validate,
        warnings: warnings::of_static_names,
        columns: "Name,#Webhooks,Age",
        cells,
        ..Row::new("admissionregistration.k8s.io", kind)
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name_cell(object), object.count("webhooks").into(), age::cell(object, now)]
}

fn default(object: &mut Value) {
    for hook in object.items_mut("webhooks") {
        hook.default_to("failurePolicy", "Fail");
        default_match(hook);
        hook.default_to("timeoutSeconds", 10);
        if let Some(service) = hook.existing("clientConfig").and_then(|c| c.existing("service")) {
            service.default_to("port", 443);
        }
        default_rules(hook, "rules");
    }
}

/// Fills in what is matched.
pub(super) fn default_match(holder: &mut Value) {
    holder.default_to("matchPolicy", "Equivalent");
    holder.default_to("namespaceSelector", json!({}));
    holder.default_to("objectSelector", json!({}));
}

/// Fills in rules about requests.
pub(super) fn default_rules(holder: &mut Value, list: &str) {
    holder.items_mut(list).iter_mut().for_each(|rule| rule.default_to("scope", "*"));
}

/// Faults of a configuration; what was wrong before stays allowed where upstream lets it.
fn validate(object: &Value, old: &Value, out: &mut FieldErrors) {
    let quiet = |hook: &Value| matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun");
    let quiet_before = old.items("webhooks").iter().all(quiet);
    let reviewed = |hook: &Value| hook.texts("admissionReviewVersions").any(|v| REVIEW_VERSIONS.contains(&v));
    let reviewed_before = old.items("webhooks").iter().all(reviewed);
    for hook in At::root(object).items("webhooks") {
        validate_hook(&hook, quiet_before, out);
        review_versions(&hook, reviewed_before, out);
    }
    At::root(object).unique("webhooks", "name", out);
}

fn validate_hook(hook: &At<'_>, quiet: bool, out: &mut FieldErrors) {
    hook.fully_qualified("name", out);
    hook.items("rules").for_each(|at| rule(&at, out));
    hook.optional_one_of("failurePolicy", FAILURE_POLICIES, out);
    hook.optional_one_of("matchPolicy", MATCH_POLICIES, out);
    let effects: &[&str] = if quiet { &["None", "NoneOnDryRun"] } else { &["None", "NoneOnDryRun", "Some", "Unknown"] };
    if hook.has("sideEffects") {
        hook.optional_one_of("sideEffects", effects, out);
    } else {
        hook.missing("sideEffects", &format!("must specify one of {}", effects.join(", ")), out);
    }
    if hook.int("timeoutSeconds").is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        hook.invalid("timeoutSeconds", "the timeout value must be between 1 and 30 seconds", out);
    }
    hook.get("namespaceSelector").label_selector(out);
    hook.get("objectSelector").label_selector(out);
    hook.optional_one_of("reinvocationPolicy", REINVOCATION_POLICIES, out);
    let client = hook.get("clientConfig");
    match (client.has("url"), client.has("service")) {
        (true, false) => url(&client, out),
        (false, true) => service(&client.get("service"), out),
        _ => hook.missing("clientConfig", "exactly one of url or service is required", out),
    }
    conditions(hook, false, out);
}

/// The fault of an expression; one that only cannot be run is upstream's own fault.
pub(super) fn unfit(at: &At<'_>, name: &str, why: &str) -> FieldError {
    let path = at.path(name);
    match why.starts_with("program instantiation failed") {
        true => FieldError { kind: FaultKind::Internal, path, message: format!("Internal error: {why}") },
        false => FieldError::invalid(&path, at.text(name), why),
    }
}

/// Conditions under which requests are looked at. `params`: whether they may name parameters.
pub(super) fn conditions(holder: &At<'_>, params: bool, out: &mut FieldErrors) {
    let scope = Scope { params, authorizer: true, patches: false };
    holder.at_most("matchConditions", 64, out);
    for condition in holder.items("matchConditions") {
        if condition.text("expression").trim().is_empty() {
            condition.missing("expression", "", out);
        } else if let Err(why) = policy::fault(condition.text("expression"), scope, None, &[Type::Bool]) {
            out.push(unfit(&condition, "expression", &why));
        }
        condition.require_form("name", names::qualified_name, out);
    }
    holder.unique("matchConditions", "name", out);
}

fn review_versions(hook: &At<'_>, known: bool, out: &mut FieldErrors) {
    let list = "admissionReviewVersions";
    let all = REVIEW_VERSIONS.join(", ");
    if hook.value.count(list) == 0 {
        return hook.missing(list, &format!("must specify one of {all}"), out);
    }
    let mut seen = BTreeSet::new();
    for version in hook.items(list) {
        let text = version.value.as_str().unwrap_or_default();
        if !seen.insert(text) {
            version.wrong("duplicate version", out);
            continue;
        }
        names::dns1035_label(text).iter().for_each(|why| version.wrong(why, out));
    }
    if known && !seen.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        hook.invalid(list, &format!("must include at least one of {all}"), out);
    }
}

/// Faults of a rule about requests.
pub(super) fn rule(rule: &At<'_>, out: &mut FieldErrors) {
    wildcard(rule, "operations", "operations", out);
    for operation in rule.items("operations") {
        let text = operation.value.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&text) {
            out.push(FieldError::not_supported(&operation.path, text, OPERATIONS));
        }
    }
    wildcard(rule, "apiGroups", "API groups", out);
    wildcard(rule, "apiVersions", "API versions", out);
    for version in rule.items("apiVersions").filter(|version| *version.value == "") {
        out.push(FieldError::required(&version.path, ""));
    }
    resources(rule, out);
    rule.optional_one_of("scope", &["*", "Cluster", "Namespaced"], out);
}

/// A list must not be empty, and `*` stands alone.
fn wildcard(rule: &At<'_>, list: &str, what: &str, out: &mut FieldErrors) {
    let count = rule.value.count(list);
    if count == 0 {
        rule.missing(list, "", out);
    }
    if count > 1 && rule.value.texts(list).any(|text| text == "*") {
        rule.invalid(list, &format!("if '*' is present, must not specify other {what}"), out);
    }
}

fn resources(rule: &At<'_>, out: &mut FieldErrors) {
    let count = rule.value.count("resources");
    if count == 0 {
        rule.missing("resources", "", out);
    }
    let (mut all_of, mut of_all) = (BTreeSet::new(), BTreeSet::new());
    for resource in rule.items("resources") {
        let text = resource.value.as_str().unwrap_or_default();
        if text.is_empty() {
            out.push(FieldError::required(&resource.path, ""));
        }
        let Some((name, sub)) = text.split_once('/') else { continue };
        if all_of.contains(name) {
            resource.wrong(&format!("if '{name}/*' is present, must not specify {text}"), out);
        }
        if of_all.contains(sub) {
            resource.wrong(&format!("if '*/{sub}' is present, must not specify {text}"), out);
        }
        if sub == "*" {
            all_of.insert(name);
        }
        if name == "*" {
            of_all.insert(sub);
        }
    }
    let has = |wanted: &str| rule.value.texts("resources").any(|text| text == wanted);
    if count > 1 && has("*/*") {
        rule.invalid("resources", "if '*/*' is present, must not specify other resources", out);
    }
    // Upstream looks at the last one.
    let last = rule.value.texts("resources").filter(|text| !text.is_empty() && !text.contains('/')).last();
    if has("*") && last != Some("*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        rule.invalid("resources", why, out);
    }
}

fn url(client: &At<'_>, out: &mut FieldErrors) {
    let path = client.path("url");
    let text = client.text("url");
    if let Some(why) = no_url(text) {
        let why = format!("url must be a valid URL: parse {text:?}: {why}{URL_FORM}");
        return out.push(FieldError::required(&path, &why));
    }
    let mut wrong = |value: &str, why: String| out.push(FieldError::invalid(&path, value, &why));
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if scheme != "https" {
        wrong(scheme, format!("'https' is the only allowed URL scheme{URL_FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        wrong(host, format!("host must be specified{URL_FORM}"));
    }
    for (value, what) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !value.is_empty() {
            wrong(value, what.to_owned());
        }
    }
}

/// Why Go cannot read a URL.
fn no_url(text: &str) -> Option<String> {
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Some("net/url: invalid control character in URL".to_owned());
    }
    if text.starts_with(':') {
        return Some("missing protocol scheme".to_owned());
    }
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    let has_scheme =
        scheme.is_some_and(|s| s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.chars().all(is_scheme));
    if !has_scheme && text.split('/').next().is_some_and(|first| first.contains(':')) {
        return Some("first path segment in URL cannot contain colon".to_owned());
    }
    let path = text.split(['?', '#']).next().unwrap_or_default();
    path.match_indices('%').find_map(|(at, _)| {
        let escape: String = path[at..].chars().take(3).collect();
        let fine = escape.len() == 3 && escape[1..].bytes().all(|b| b.is_ascii_hexdigit());
        (!fine).then(|| format!("invalid URL escape {escape:?}"))
    })
}

fn service(at: &At<'_>, out: &mut FieldErrors) {
    // Upstream takes the one for the other.
    for (name, told) in [("namespace", "name"), ("name", "namespace")] {
        if at.text(name).is_empty() {
            at.missing(told, "", out);
        }
    }
    let faults = names::port_number(at.int("port").unwrap_or_default());
    if !faults.is_empty() {
        at.invalid("port", &format!("port is not valid: {}", faults.join(", ")), out);
    }
    let path = at.text("path");
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        return at.invalid("path", "segment[0] may not be empty", out);
    }
    if !path.starts_with('/') {
        at.invalid("path", "must start with a '/'", out);
    }
    // Its first byte is passed over, whatever it is.
    let steps = String::from_utf8_lossy(path.as_bytes().get(1..).unwrap_or_default());
    for (i, step) in steps.strip_suffix('/').unwrap_or(&steps).split('/').enumerate() {
        if step.is_empty() {
            at.invalid("path", &format!("segment[{i}] may not be empty"), out);
            continue;
        }
        for why in names::dns1123_subdomain(step) {
            at.invalid("path", &format!("segment[{i}]: {why}"), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn configuration() -> Value {
        let mut object = json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.example.com", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/check"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        MUTATING_WEBHOOK_CONFIGURATION.default(&mut object);
        object
    }

    #[test]
    fn defaults() {
        let object = configuration();
        let hook = &object["webhooks"][0];
        assert_eq!((&hook["timeoutSeconds"], &hook["reinvocationPolicy"]), (&json!(10), &json!("Never")));
        assert_eq!((&hook["clientConfig"]["service"]["port"], &hook["rules"][0]["scope"]), (&json!(443), &json!("*")));
        assert_eq!(MUTATING_WEBHOOK_CONFIGURATION.validate_create(&object), []);
        assert_eq!(MUTATING_WEBHOOK_CONFIGURATION.cells(&object, Timestamp::UNIX_EPOCH)[1], 1);
    }

    #[test]
    fn faults() {
        for (name, value, expected) in [
            (
                "name",
                json!("short"),
                "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three",
            ),
            (
                "sideEffects",
                Value::Null,
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            ("timeoutSeconds", json!(31), "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be"),
            (
                "admissionReviewVersions",
                json!(["v2"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must",
            ),
            ("clientConfig", json!({}), "webhooks[0].clientConfig: Required value: exactly one of url or service"),
            (
                "clientConfig",
                json!({"url": "http://x/y"}),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is",
            ),
            (
                "clientConfig",
                json!({"url": "https://x/y?z"}),
                "webhooks[0].clientConfig.url: Invalid value: \"z\": query",
            ),
            (
                "rules",
                json!([{"operations": ["*", "CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*", "pods"]}]),
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
            (
                "matchConditions",
                json!([{"name": "", "expression": " "}]),
                "webhooks[0].matchConditions[0].expression: Required value",
            ),
        ] {
            let mut object = configuration();
            object["webhooks"][0][name] = value;
            let found: Vec<_> =
                MUTATING_WEBHOOK_CONFIGURATION.validate_create(&object).iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.starts_with(expected)), "{name}: {found:?}");
        }
    }

    #[test]
    fn old_side_effects_may_stay() {
        let mut old = configuration();
        old["webhooks"][0]["sideEffects"] = json!("Some");
        assert_eq!(MUTATING_WEBHOOK_CONFIGURATION.validate_create(&old).len(), 1);
        assert_eq!(MUTATING_WEBHOOK_CONFIGURATION.validate_update(&old, &old, Part::Main), []);
    }
}
