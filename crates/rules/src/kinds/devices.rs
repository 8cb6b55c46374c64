//! Devices: what there is, what classes it falls into, and who claims it.

mod counters;
mod policies;
mod status;
mod taints;

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_cel::device;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use super::webhook;
use crate::Part;
use crate::age;
use crate::at::At;
use crate::disabled;
use crate::podspec::{self, node_selector};
use crate::row::{EMPTY, METADATA, Row, name_and_age, name_cell};
use crate::view::{Change, View};
use crate::warnings;

const GROUP: &str = "resource.k8s.io";
/// Most requests, constraints, configurations or selectors in one place.
const MOST: usize = 32;
/// Most alternatives of one request.
const MOST_ALTERNATIVES: usize = 8;
const MOST_DEVICES: usize = 128;
/// The same, if one has taints or counters.
const MOST_ADVANCED: usize = 64;
const UNKNOWN_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
/// Most attributes and capacities of a device.
const MOST_ABILITIES: usize = 32;
/// Longest name, and longest text, of an attribute.
const LONGEST_ID: usize = 32;
const LONGEST_VALUE: usize = 64;
const LONGEST_EXPRESSION: usize = 10 * 1024;
const LONGEST_PARAMETERS: usize = 10 * 1024;

pub(crate) const DEVICE_CLASS: Row = Row {
    generation: &["spec"],
    validate: |class, out| {
        let spec = At::member(class, "spec");
        selectors(&spec, out);
        spec.each("config", MOST, opaque, out);
        if spec.has("extendedResourceName") && !podspec::is_extended(spec.text("extendedResourceName")) {
            spec.invalid("extendedResourceName", "must be a valid extended resource name", out);
        }
    },
    columns: "Name,Age",
    cells: name_and_age,
    ..Row::new(GROUP, "DeviceClass")
};

pub(crate) const RESOURCE_CLAIM: Row = Row {
    status: EMPTY,
    status_keeps: METADATA,
    default: |claim| default_devices(claim.child("spec").child("devices")),
    validate_create: |claim, out| devices(&At::member(claim, "spec").get("devices"), out),
    validate_update: |new, old, out| At::root(new).immutable("spec", old, out),
    prepare_update: |new, old, part| {
        if part == Part::Status {
            status::drop_given_back(new, old);
        }
    },
    validate_part: |new, old, part, out| {
        if part == Part::Status {
            status::validate(new, old, out);
        }
    },
    columns: "Name,State,Age",
    cells: |claim, now| {
        let going = claim.at("metadata").has("deletionTimestamp");
        let status = claim.get_or_null("status");
        let mut states = if going { vec!["deleted"] } else { Vec::new() };
        if status.has("allocation") {
            states.push("allocated");
            if status.count("reservedFor") > 0 {
                states.push("reserved");
            }
        } else if !going {
            states.push("pending");
        }
        vec![name_cell(claim), states.join(",").into(), age::cell(claim, now)]
    },
    ..Row::new(GROUP, "ResourceClaim")
};

pub(crate) const RESOURCE_CLAIM_TEMPLATE: Row = Row {
    default: |template| {
        if let Some(spec) = template.child("spec").existing("spec") {
            default_devices(spec.child("devices"));
        }
    },
    validate: |template, out| {
        let metadata = At::member(template, "spec").get("metadata");
        crate::metadata::of_template(metadata.value, &metadata.path, out);
        devices(&At::member(template, "spec").get("spec").get("devices"), out);
    },
    validate_update: |new, old, out| At::root(new).immutable("spec", old, out),
    columns: "Name,Age",
    cells: name_and_age,
    ..Row::new(GROUP, "ResourceClaimTemplate")
};

pub(crate) const RESOURCE_SLICE: Row = Row {
    generation: &["spec"],
    validate: validate_slice,
    validate_update: |new, old, out| {
        let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
        spec.get("pool").immutable("name", before.get_or_null("pool"), out);
        spec.immutable("driver", before, out);
        spec.immutable("nodeName", before, out);
    },
    disabled: disabled::RESOURCE_SLICE,
    warnings: warnings::of_resource_slice,
    selectable: |slice| {
        let field = |name: &str| slice.at("spec").text(name).to_owned();
        vec![("spec.nodeName", field("nodeName")), ("spec.driver", field("driver"))]
    },
    columns: "Name,Node,Driver,Pool,Age",
    cells: |slice, now| {
        let spec = slice.get_or_null("spec");
        vec![
            name_cell(slice),
            spec.text("nodeName").into(),
            spec.text("driver").into(),
            spec.at("pool").text("name").into(),
            age::cell(slice, now),
        ]
    },
    ..Row::new(GROUP, "ResourceSlice")
};

fn default_devices(devices: &mut Value) {
    for request in devices.items_mut("requests") {
        if let Some(exactly) = request.existing("exactly") {
            default_request(exactly);
        }
        request.items_mut("firstAvailable").iter_mut().for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    taints::default_tolerations(request);
    request.default_text("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" && request.int("count").unwrap_or_default() == 0 {
        request.put("count", 1.into());
    }
}

fn devices(at: &At<'_>, out: &mut FieldErrors) {
    at.each_unique("requests", (MOST, "name"), request, out);
    let known = request_names(at.value);
    let constraint = |constraint: &At<'_>, out: &mut FieldErrors| {
        known_requests(constraint, &known, out);
        if constraint.has("matchAttribute") {
            fully_qualified(&constraint.get("matchAttribute"), out);
        } else if constraint.has("distinctAttribute") {
            fully_qualified(&constraint.get("distinctAttribute"), out);
        } else {
            let why =
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            out.push(FieldError::required(&constraint.path, why));
        }
    };
    at.each("constraints", MOST, constraint, out);
    let config = |config: &At<'_>, out: &mut FieldErrors| {
        known_requests(config, &known, out);
        opaque(config, out);
    };
    at.each("config", MOST, config, out);
}

/// Names by which requests, and alternatives within them, are referred to.
fn request_names(devices: &Value) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for request in devices.items("requests") {
        let name = request.text("name");
        known.insert(name.to_owned());
        known.extend(request.items("firstAvailable").iter().map(|sub| format!("{name}/{}", sub.text("name"))));
    }
    known
}

fn known_requests(at: &At<'_>, known: &BTreeSet<String>, out: &mut FieldErrors) {
    at.each_unique("requests", (MOST, ""), |request, out| known_request(request, known, out), out);
}

fn known_request(request: &At<'_>, known: &BTreeSet<String>, out: &mut FieldErrors) {
    let name = request.value.as_str().unwrap_or_default();
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 {
        for part in &parts {
            out.extend(names::dns1123_label(part).iter().map(|why| FieldError::invalid(&request.path, *part, why)));
        }
    }
    if !known.contains(name) {
        request.wrong(UNKNOWN_REQUEST, out);
    }
}

fn request(at: &At<'_>, out: &mut FieldErrors) {
    at.faults("name", &names::dns1123_label(at.text("name")), out);
    match (at.has("exactly"), at.value.count("firstAvailable") > 0) {
        (false, false) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required";
            out.push(FieldError::required(&at.path, why));
        }
        (true, true) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            out.push(FieldError::invalid(&at.path, Value::Null, why));
        }
        (true, false) => exact(&at.get("exactly"), out),
        (false, true) => {
            let alternative = |sub: &At<'_>, out: &mut FieldErrors| {
                sub.faults("name", &names::dns1123_label(sub.text("name")), out);
                exact(sub, out);
            };
            at.each_unique("firstAvailable", (MOST_ALTERNATIVES, "name"), alternative, out);
        }
    }
}

fn exact(at: &At<'_>, out: &mut FieldErrors) {
    at.require_form("deviceClassName", names::dns1123_subdomain, out);
    selectors(at, out);
    let count = at.int("count").unwrap_or_default();
    match at.text("allocationMode") {
        "All" if count != 0 => {
            at.invalid("count", "must not be specified when allocationMode is 'All'", out);
        }
        "ExactCount" if count <= 0 => {
            out.push(FieldError::invalid(&at.path("count"), count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        other => out.push(FieldError::not_supported(&at.path("allocationMode"), other, &["All", "ExactCount"])),
    }
    taints::tolerations(at, out);
}

fn expression(at: &At<'_>, out: &mut FieldErrors) {
    let source = at.text("expression");
    if source.len() > LONGEST_EXPRESSION {
        return out.push(FieldError::too_long(&at.path("expression"), LONGEST_EXPRESSION));
    }
    match device::env().compile(source) {
        Err(issues) => out.push(webhook::unfit(at, "expression", &issues.failure())),
        Ok(program) if !device::is_verdict(program.output()) => {
            let why = format!("must evaluate to bool or the unknown type, not {}", program.output());
            at.invalid("expression", &why, out);
        }
        Ok(_) => {}
    }
}

fn selectors(at: &At<'_>, out: &mut FieldErrors) {
    let selector = |selector: &At<'_>, out: &mut FieldErrors| {
        if selector.has("cel") {
            expression(&selector.get("cel"), out);
        } else {
            selector.missing("cel", "", out);
        }
    };
    at.each("selectors", MOST, selector, out);
}

fn opaque(config: &At<'_>, out: &mut FieldErrors) {
    if !config.has("opaque") {
        return config.missing("opaque", "", out);
    }
    let opaque = config.get("opaque");
    opaque.driver_name("driver", out);
    parameters(&opaque.get("parameters"), out);
}

/// What drivers alone understand, which must be an object.
fn parameters(at: &At<'_>, out: &mut FieldErrors) {
    match at.value {
        Value::Null => out.push(FieldError::required(&at.path, "")),
        value if value.to_string().len() > LONGEST_PARAMETERS => {
            out.push(FieldError::too_long(&at.path, LONGEST_PARAMETERS));
        }
        Value::Object(_) => {}
        _ => out.push(FieldError::invalid(&at.path, "<value omitted>", "must be a valid JSON object")),
    }
}

fn validate_slice(slice: &Value, out: &mut FieldErrors) {
    let spec = At::member(slice, "spec");
    spec.driver_name("driver", out);
    pool(&spec.get("pool"), out);
    let mut given = Vec::new();
    if spec.has("nodeName") {
        if spec.text("nodeName").is_empty() {
            spec.invalid("nodeName", "must be either unset or set to a non-empty string", out);
        } else {
            given.push("`nodeName`");
            spec.form("nodeName", names::dns1123_subdomain, out);
        }
    }
    let selector = spec.get("nodeSelector");
    if selector.is_set() {
        given.push("`nodeSelector`");
        node_selector(&selector, out);
        if selector.value.count("nodeSelectorTerms") != 1 {
            selector.invalid("nodeSelectorTerms", "must have exactly one node selector term", out);
        }
    }
    for (name, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        if spec.flag(name) {
            given.push(shown);
        } else if spec.has(name) {
            spec.invalid(name, "must be either unset or set to true", out);
        }
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => out.push(FieldError::required(&spec.path, why)),
        1 => {}
        _ => {
            let given = format!("{{{}}}", given.join(", "));
            out.push(FieldError::invalid(&spec.path, given, &format!("{why}, but multiple fields are set")));
        }
    }
    if spec.has("sharedCounters") && spec.has("devices") {
        out.push(FieldError::invalid(&spec.path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let advanced = |device: &Value| device.count("taints") + device.count("consumesCounters") > 0;
    let most = if spec.value.items("devices").iter().any(advanced) { MOST_ADVANCED } else { MOST_DEVICES };
    let device = |device: &At<'_>, out: &mut FieldErrors| {
        device.faults("name", &names::dns1123_label(device.text("name")), out);
        abilities(device, out);
        taints::taints(device, out);
        counters::consumed(device, out);
        placement(device, spec.flag("perDeviceNodeSelection"), out);
        binding(device, out);
    };
    spec.each_unique("devices", (most, "name"), device, out);
    counters::shared(&spec, out);
}

/// What must be true of a device before a pod may be bound that uses it, and what tells that it never will be.
fn binding(at: &At<'_>, out: &mut FieldErrors) {
    const MOST: usize = 4;
    let (wanted, failed) = ("bindingConditions", "bindingFailureConditions");
    for list in [wanted, failed] {
        at.each(list, MOST, |condition, out| condition.own_faults(names::qualified_name, out), out);
    }
    for list in [wanted, failed] {
        let mut seen = BTreeSet::new();
        for condition in at.items(list) {
            let text = condition.value.as_str().unwrap_or_default();
            if !seen.insert(text) {
                out.push(FieldError::duplicate(&condition.path, text));
            }
            if list == failed && at.value.texts(wanted).any(|wanted| wanted == text) {
                condition.wrong("bindingFailureConditions must not overlap with bindingConditions", out);
            }
        }
    }
    for (list, other) in [(wanted, failed), (failed, wanted)] {
        if at.value.count(list) == 0 && at.value.count(other) > 0 {
            at.invalid(list, &format!("{list} are required to use {other}"), out);
        }
    }
}

/// Where a device is, if each of a slice says so itself.
fn placement(device: &At<'_>, itself: bool, out: &mut FieldErrors) {
    if !itself {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| device.has(field)) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true \
                       in the ResourceSlice spec";
            out.push(FieldError::invalid(&device.path, "", why));
        }
        return;
    }
    let mut given = Vec::new();
    match device.value.get_or_null("nodeName").as_str() {
        None => {}
        Some("") => device.invalid("nodeName", "must not be empty", out),
        Some(_) => {
            given.push("`nodeName`");
            device.form("nodeName", names::dns1123_subdomain, out);
        }
    }
    if device.has("nodeSelector") {
        given.push("`nodeSelector`");
        node_selector(&device.get("nodeSelector"), out);
    }
    if device.flag("allNodes") {
        given.push("`allNodes`");
    } else if device.has("allNodes") {
        device.invalid("allNodes", "must be either unset or set to true", out);
    }
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to \
               true in the ResourceSlice spec";
    match given.len() {
        0 => out.push(FieldError::required(&device.path, why)),
        1 => {}
        _ => out.push(FieldError::invalid(&device.path, format!("{{{}}}", given.join(", ")), why)),
    }
}

/// What a device can, and how much of it (upstream: `validateDevice` of `pkg/apis/resource/validation`).
fn abilities(device: &At<'_>, out: &mut FieldErrors) {
    let count = device.value.count("attributes") + device.value.count("capacity");
    if count > MOST_ABILITIES {
        let why = format!("the total number of attributes and capacities must not exceed {MOST_ABILITIES}");
        out.push(FieldError::invalid(&device.path, count, &why));
    }
    for (name, attribute) in device.entries("attributes") {
        qualified(name, &device.path("attributes"), out);
        self::attribute(&attribute, out);
    }
    for (name, capacity) in device.entries("capacity") {
        qualified(name, &device.path("capacity"), out);
        match (capacity.has("requestPolicy"), device.value.flag("allowMultipleAllocations")) {
            (true, false) => capacity.forbidden("requestPolicy", "allowMultipleAllocations must be true", out),
            (true, true) => policies::requests(&capacity, out),
            (false, _) => {}
        }
    }
}

/// `model`, or `gpu.example.com/model`; that more parts pass is upstream's.
fn qualified(name: &str, path: &FieldPath, out: &mut FieldErrors) {
    let mut wrong = |value: &str, why: &str| out.push(FieldError::invalid(path, value, why));
    let parts: Vec<&str> = name.split('/').collect();
    let id = match parts[..] {
        [id] => id,
        [domain, id] => {
            if domain.is_empty() {
                wrong("", "the domain must not be empty");
            } else {
                names::dns1123_subdomain(domain).iter().for_each(|why| wrong(domain, why));
            }
            if id.is_empty() {
                return wrong("", "the name must not be empty");
            }
            id
        }
        _ => return,
    };
    if id.len() > LONGEST_ID {
        out.push(FieldError::too_long(path, LONGEST_ID));
    }
    out.extend(names::c_identifier(id).iter().map(|why| FieldError::invalid(path, id, why)));
}

/// The same with a domain.
fn fully_qualified(at: &At<'_>, out: &mut FieldErrors) {
    let name = at.value.as_str().unwrap_or_default();
    qualified(name, &at.path, out);
    if !name.contains('/') {
        at.wrong("a fully qualified name must be a domain and a name separated by a slash", out);
    }
}

fn attribute(at: &At<'_>, out: &mut FieldErrors) {
    let short = |at: &At<'_>, out: &mut FieldErrors| {
        if at.value.as_str().is_some_and(|text| text.len() > LONGEST_VALUE) {
            out.push(FieldError::too_long(&at.path, LONGEST_VALUE));
        }
    };
    let version = |at: &At<'_>, out: &mut FieldErrors| {
        if !at.value.as_str().is_some_and(is_semver) {
            at.wrong("must be a string compatible with semver.org spec 2.0.0", out);
        }
        short(at, out);
    };
    let mut given = ["bool", "int"].iter().filter(|field| at.has(field)).count();
    // Lists of values are off by default: nobody looks at them.
    for one in ["string", "version"] {
        let check =
            |at: &At<'_>, out: &mut FieldErrors| if one == "version" { version(at, out) } else { short(at, out) };
        if at.has(one) {
            given += 1;
            check(&at.get(one), out);
        }
    }
    if given != 1 {
        let shown = if given == 0 { "".into() } else { at.value.clone() };
        out.push(FieldError::invalid(&at.path, shown, "exactly one value must be specified"));
    }
}

/// `1.2.3-pre.4+build.5`, without leading zeros in numbers.
fn is_semver(text: &str) -> bool {
    let is_number = |part: &str| {
        part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() && (part == "0" || !part.starts_with('0'))
    };
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_pre = |part: &str| is_word(part) && (is_number(part) || part.bytes().any(|b| !b.is_ascii_digit()));
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && pre.is_none_or(|pre| pre.split('.').all(is_pre))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

fn pool_name(at: &At<'_>, field: &str, out: &mut FieldErrors) {
    if at.require(field, out) {
        if at.text(field).len() > 253 {
            out.push(FieldError::too_long(&at.path(field), 253));
        }
        for part in at.text(field).split('/') {
            for why in names::dns1123_subdomain(part) {
                out.push(FieldError::invalid(&at.path(field), part, &why));
            }
        }
    }
}

fn pool(at: &At<'_>, out: &mut FieldErrors) {
    pool_name(at, "name", out);
    if at.int("resourceSliceCount").unwrap_or_default() <= 0 {
        at.invalid("resourceSliceCount", "must be greater than zero", out);
    }
    if at.int("generation").is_some_and(|generation| generation < 0) {
        at.invalid("generation", "must be greater than or equal to zero", out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;
    use serde_json::json;

    fn claim() -> Value {
        let mut claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [
            {"name": "gpu", "exactly": {"deviceClassName": "gpus"}}]}}});
        RESOURCE_CLAIM.default(&mut claim);
        claim
    }

    #[test]
    fn claims() {
        let claim = claim();
        assert_eq!(RESOURCE_CLAIM.validate_create(&claim), []);
        let exactly = &claim["spec"]["devices"]["requests"][0]["exactly"];
        assert_eq!((&exactly["allocationMode"], &exactly["count"]), (&json!("ExactCount"), &json!(1)));
        let mut other = claim.clone();
        other["spec"]["devices"]["requests"][0] = json!({"name": "gpu"});
        other["spec"]["devices"]["config"] = json!([{"requests": ["tpu"]}]);
        assert_eq!(RESOURCE_CLAIM.validate_create(&other).len(), 3);
        assert_eq!(RESOURCE_CLAIM.validate_update(&other, &claim, Part::Main).len(), 1);
        let state = |claim: &Value| RESOURCE_CLAIM.cells(claim, jiff::Timestamp::UNIX_EPOCH)[1].clone();
        assert_eq!(state(&claim), "pending");
        let mut used = claim;
        used["status"] = json!({"allocation": {}, "reservedFor": [{}]});
        assert_eq!(state(&used), "allocated,reserved");
    }

    #[test]
    fn what_claims_have() {
        let user = |name: &str| json!({"resource": "pods", "name": name, "uid": name});
        let result =
            |request: &str, device: &str| json!({"request": request, "driver": "d.com", "pool": "p", "device": device});
        let has = |results: Value, users: Value| json!({"allocation": {"devices": {"results": results}}, "reservedFor": users});
        let says = |device: &str| json!([{"driver": "d.com", "pool": "p", "device": device}]);
        let mut with_words = has(json!([result("gpu", "a")]), json!([]));
        with_words["devices"] = says("b");
        let one = has(json!([result("gpu", "a")]), json!([user("u")]));
        for (what, before, after, expected) in [
            ("allocated", json!({}), one.clone(), ""),
            ("another user", one.clone(), has(json!([result("gpu", "a")]), json!([user("u"), user("v")])), ""),
            ("given back", one.clone(), json!({}), ""),
            ("nothing to use", json!({}), json!({"reservedFor": [user("u")]}), "status.reservedFor"),
            ("a user twice", json!({}), has(json!([]), json!([user("u"), user("u")])), "status.reservedFor[1]"),
            ("other devices", one, has(json!([result("gpu", "b")]), json!([])), "status.allocation"),
            (
                "nobody asked for it",
                json!({}),
                has(json!([result("tpu", "b")]), json!([])),
                "status.allocation.devices.results[0].request",
            ),
            ("words about another's device", json!({}), with_words, "status.devices[0]"),
        ] {
            let with = |status: Value| {
                let mut claim = claim();
                claim["status"] = status;
                claim
            };
            let faults = RESOURCE_CLAIM.validate_update(&with(after), &with(before), Part::Status);
            let paths: Vec<String> = faults.iter().map(|fault| fault.path.to_string()).collect();
            assert_eq!(paths.join(" "), expected, "{what}");
        }
        // What was said of devices goes with them.
        let mut old = claim();
        old["status"] = has(json!([result("gpu", "a")]), json!([]));
        old["status"]["devices"] = says("a");
        let mut new = old.clone();
        new["status"]["allocation"] = Value::Null;
        RESOURCE_CLAIM.prepare_update(&mut new, &old, Part::Status);
        assert!(!new["status"].has("devices"), "{new}");
    }

    #[test]
    fn expressions_of_selectors() {
        let faults = |expression: &str| {
            let selectors = json!([{"cel": {"expression": expression}}]);
            let mut class = json!({"metadata": {"name": "c"}, "spec": {"selectors": selectors}});
            DEVICE_CLASS.default(&mut class);
            let found = DEVICE_CLASS.validate_create(&class);
            found.iter().map(|f| f.to_string().lines().next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        for fine in [
            "device.driver == 'gpu.example.com' && device.attributes['gpu.example.com'].model == 'x'",
            "device.capacity['gpu.example.com'].memory.compareTo(quantity('10Gi')) >= 0",
            "cel.bind(a, device.attributes['d'], a.big || a.cores > 3)",
            "device.attributes['d'].healthy",
        ] {
            assert_eq!(faults(fine), [""; 0], "{fine}");
        }
        let at = "spec.selectors[0].cel.expression: Invalid value:";
        let wanted = format!("{at} \"device.nope\": compilation failed: ERROR: <input>:1:7: undefined field 'nope'");
        assert_eq!(faults("device.nope"), [wanted]);
        let wanted = format!("{at} \"device.driver\": must evaluate to bool or the unknown type, not string");
        assert_eq!(faults("device.driver"), [wanted]);
    }

    #[test]
    fn what_devices_can() {
        for (attribute, expected) in [
            (json!({"a": {"string": "b"}, "gpu.example.com/m": {"version": "1.0.0-rc.1+b"}, "n": {"int": 1}}), ""),
            (json!({"-a": {"int": 1}}), "attributes"),
            (json!({"/a": {"int": 1}}), "attributes"),
            (json!({"a": {}}), "attributes[a]"),
            (json!({"a": {"int": 1, "bool": true}}), "attributes[a]"),
            (json!({"a": {"string": "x".repeat(65)}}), "attributes[a].string"),
            (json!({"a": {"version": "01.0.0"}}), "attributes[a].version"),
            (json!({"a": {"versions": ["1"]}}), "attributes[a]"),
            (json!({"a": {"versions": ["1"], "int": 1}}), ""),
        ] {
            let device = json!({"attributes": attribute});
            let mut faults = FieldErrors::new();
            abilities(&At::root(&device), &mut faults);
            let paths: Vec<String> = faults.iter().map(|fault| fault.path.to_string()).collect();
            assert_eq!(paths.join(" "), expected, "{device}");
        }
    }

    #[test]
    fn slices() {
        let slice = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
        let pool = json!({"name": "p", "resourceSliceCount": 1});
        let fine =
            slice(json!({"driver": "gpu.example.com", "pool": pool, "nodeName": "n", "devices": [{"name": "d"}]}));
        assert_eq!(RESOURCE_SLICE.validate_create(&fine), []);
        let cells = RESOURCE_SLICE.cells(&fine, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], ["n", "gpu.example.com", "p"].map(Value::from));
        let bad = slice(json!({"driver": "gpu.example.com", "pool": pool, "nodeName": "n", "allNodes": true,
            "devices": [{"name": "d"}, {"name": "d"}]}));
        let found: Vec<_> = RESOURCE_SLICE.validate_create(&bad).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of"));
    }
}
