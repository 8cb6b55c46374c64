//! Policies that admit or change writes by expressions, and where they apply. Expressions are compiled, to see that they can be.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_cel::Type;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;
use skiff_meta::{GroupVersion, LabelSelector};

use super::webhook::{self, FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES};
use crate::age;
use crate::at::At;
use crate::policy::{self as expressions, Scope};
use crate::row::{EMPTY, METADATA, Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;

const GROUP: &str = "admissionregistration.k8s.io";
const MUTATED: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

pub(crate) const VALIDATING_ADMISSION_POLICY: Row = Row {
    status: EMPTY,
    status_keeps: METADATA,
    generation: &["spec"],
    default: default_policy,
    validate: validate_validating,
    validate_part: |new, _, _, out| {
        for warning in At::member(new, "status").get("typeChecking").items("expressionWarnings") {
            warning.require("warning", out);
            if warning.text("fieldRef").trim().is_empty() {
                warning.missing("fieldRef", "", out);
            }
        }
    },
    warnings: warnings::of_static_names,
    columns: "Name,#Validations,ParamKind,Age",
    cells: |object, now| policy_cells(object, "validations", age::cell(object, now)),
    ..Row::new(GROUP, "ValidatingAdmissionPolicy")
};

pub(crate) const MUTATING_ADMISSION_POLICY: Row = Row {
    generation: &["spec"],
    default: default_policy,
    validate: validate_mutating,
    warnings: warnings::of_static_names,
    columns: "Name,#Mutations,ParamKind,Age",
    cells: |object, now| policy_cells(object, "mutations", age::cell(object, now)),
    ..Row::new(GROUP, "MutatingAdmissionPolicy")
};

pub(crate) const VALIDATING_ADMISSION_POLICY_BINDING: Row = Row {
    validate: |object, out| {
        let spec = At::member(object, "spec");
        binding(&spec, out);
        actions(&spec, out);
    },
    ..binding_kind("ValidatingAdmissionPolicyBinding")
};

pub(crate) const MUTATING_ADMISSION_POLICY_BINDING: Row = Row {
    validate: |object, out| {
        let spec = At::member(object, "spec");
        binding(&spec, out);
        mutable_operations(&spec.get("matchResources"), out);
    },
    ..binding_kind("MutatingAdmissionPolicyBinding")
};

const fn binding_kind(kind: &'static str) -> Row {
    Row {
        generation: &["spec"],
        warnings: warnings::of_static_names,
        default: |object| {
            if let Some(resources) = object.child("spec").existing("matchResources") {
                default_match(resources);
            }
        },
        columns: "Name,PolicyName,ParamRef,Age",
        cells: |object, now| {
            let spec = object.get_or_null("spec");
            vec![
                name_cell(object),
                spec.text("policyName").into(),
                parameter(spec.get_or_null("paramRef")).into(),
                age::cell(object, now),
            ]
        },
        ..Row::new(GROUP, kind)
    }
}

fn default_policy(object: &mut Value) {
    let spec = object.child("spec");
    spec.default_to("failurePolicy", "Fail");
    if let Some(resources) = spec.existing("matchConstraints") {
        default_match(resources);
    }
}

fn default_match(resources: &mut Value) {
    webhook::default_match(resources);
    webhook::default_rules(resources, "resourceRules");
    webhook::default_rules(resources, "excludeResourceRules");
}

fn policy_cells(object: &Value, list: &str, age: Value) -> Vec<Value> {
    let spec = object.get_or_null("spec");
    let kind = spec.get_or_null("paramKind");
    let shown = if kind.is_null() {
        "<unset>".to_owned()
    } else {
        format!("{}/{}", kind.text("apiVersion"), kind.text("kind"))
    };
    vec![name_cell(object), spec.count(list).into(), shown.into(), age]
}

fn parameter(reference: &Value) -> String {
    match (reference.text("name"), reference.text("namespace")) {
        ("", _) if reference.has("selector") => LabelSelector::from_json(reference.get_or_null("selector"))
            .map_or_else(|_| String::new(), |s| s.to_string()),
        ("", _) => "<unset>".to_owned(),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    }
}

/// What the expressions of a policy may name: its variables, and its parameters, if it has any.
struct Named {
    scope: Scope,
    variables: Vec<(String, Type)>,
}

impl Named {
    /// The expression at member `name` must be there and evaluate to one of these types.
    fn check(&self, at: &At<'_>, name: &str, wanted: &[Type], out: &mut FieldErrors) {
        if let Err(why) = expressions::fault(at.text(name), self.scope, Some(&self.variables), wanted) {
            out.push(webhook::unfit(at, name, &why));
        }
    }

    fn unauthorized(&self) -> Self {
        Self { scope: Scope { authorizer: false, ..self.scope }, variables: self.variables.clone() }
    }
}

/// What both kinds of policies have.
fn policy(spec: &At<'_>, patches: bool, out: &mut FieldErrors) -> Named {
    if spec.has("failurePolicy") {
        spec.optional_one_of("failurePolicy", FAILURE_POLICIES, out);
    } else {
        spec.missing("failurePolicy", "", out);
    }
    if spec.has("paramKind") {
        parameter_kind(&spec.get("paramKind"), out);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        resources(&constraints, out);
        if constraints.value.count("resourceRules") == 0 {
            constraints.missing("resourceRules", "", out);
        }
    } else {
        spec.missing("matchConstraints", "", out);
    }
    let params = spec.has("paramKind");
    webhook::conditions(spec, params, out);
    let scope = Scope { params, authorizer: true, patches };
    let mut named = Named { scope, variables: Vec::new() };
    for variable in spec.items("variables") {
        let name = variable.text("name");
        if name.trim().is_empty() {
            variable.missing("name", "name is not specified", out);
        } else if !names::c_identifier(name).is_empty() || RESERVED.contains(&name) {
            variable.invalid("name", "must be a valid CEL identifier", out);
        }
        let mut ty = Type::Error;
        if expression(&variable, "expression is not specified", out) {
            match expressions::fault(variable.text("expression"), scope, Some(&named.variables), &[]) {
                Ok(found) => ty = found,
                Err(why) => out.push(webhook::unfit(&variable, "expression", &why)),
            }
        }
        named.variables.push((name.to_owned(), ty));
    }
    named
}

/// Whether an expression is there.
fn expression(at: &At<'_>, why: &str, out: &mut FieldErrors) -> bool {
    let there = !at.text("expression").trim().is_empty();
    if !there {
        at.missing("expression", why, out);
    }
    there
}

fn parameter_kind(at: &At<'_>, out: &mut FieldErrors) {
    let version = at.text("apiVersion");
    if at.require("apiVersion", out) {
        match version.parse::<GroupVersion>() {
            Err(_) => at.invalid("apiVersion", &format!("unexpected GroupVersion string: {version}"), out),
            Ok(parsed) if parsed.version.is_empty() => at.invalid("apiVersion", "version must be specified", out),
            Ok(parsed) => {
                let group = if parsed.group.is_empty() { Vec::new() } else { names::dns1123_subdomain(&parsed.group) };
                for (part, faults) in [(&parsed.group, group), (&parsed.version, names::dns1035_label(&parsed.version))]
                {
                    if !faults.is_empty() {
                        let path = at.path("apiVersion");
                        out.push(FieldError::invalid(&path, part.clone(), &faults.join(",")));
                    }
                }
            }
        }
    }
    if at.require("kind", out) {
        let faults = names::dns1035_label(&at.text("kind").to_lowercase());
        if !faults.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", faults.join(","));
            at.invalid("kind", &why, out);
        }
    }
}

fn resources(at: &At<'_>, out: &mut FieldErrors) {
    at.one_of("matchPolicy", MATCH_POLICIES, out);
    at.get("namespaceSelector").label_selector(out);
    at.get("objectSelector").label_selector(out);
    for rule in at.items("resourceRules").chain(at.items("excludeResourceRules")) {
        let mut seen = BTreeSet::new();
        for name in rule.items("resourceNames") {
            let text = name.value.as_str().unwrap_or_default();
            names::path_segment(text, false).iter().for_each(|why| name.wrong(why, out));
            if !seen.insert(text) {
                out.push(FieldError::duplicate(&name.path, text));
            }
        }
        webhook::rule(&rule, out);
    }
}

fn mutable_operations(resources: &At<'_>, out: &mut FieldErrors) {
    let path = resources.path("resourceRules").child("operations");
    let operations = resources.value.items("resourceRules").iter().flat_map(|rule| rule.texts("operations"));
    for operation in operations.filter(|operation| !MUTATED.contains(operation)) {
        out.push(FieldError::not_supported(&path, operation, MUTATED));
    }
}

fn validate_validating(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    let named = policy(&spec, false, out);
    let unauthorized = named.unauthorized();
    if spec.value.count("validations") == 0 && spec.value.count("auditAnnotations") == 0 {
        let why = "validations or auditAnnotations must contain at least one item";
        spec.missing("validations", why, out);
        return spec.missing("auditAnnotations", why, out);
    }
    for validation in spec.items("validations") {
        if expression(&validation, "expression is not specified", out) {
            named.check(&validation, "expression", &[Type::Bool], out);
        }
        if !validation.text("messageExpression").trim().is_empty() {
            unauthorized.check(&validation, "messageExpression", &[Type::String], out);
        }
        for name in ["messageExpression", "message"] {
            let text = validation.text(name);
            if !text.is_empty() && text.trim().is_empty() {
                validation.invalid(name, "must be non-empty if specified", out);
            }
        }
        if validation.text("message").trim().contains(['\n', '\r']) {
            validation.invalid("message", "must not contain line breaks", out);
        }
        validation.optional_one_of("reason", &["Forbidden", "Invalid", "RequestEntityTooLarge"], out);
    }
    audit_annotations(&spec, object.at("metadata").text("name"), &unauthorized, out);
}

fn audit_annotations(spec: &At<'_>, name: &str, named: &Named, out: &mut FieldErrors) {
    const MOST: usize = 20;
    const LONGEST: usize = 5 << 10;
    if spec.value.count("auditAnnotations") > MOST {
        spec.invalid("auditAnnotations", &format!("must not have more than {MOST} auditAnnotations"), out);
    }
    for annotation in spec.items("auditAnnotations") {
        let key = format!("{name}/{}", annotation.text("key"));
        let path = annotation.path("key");
        out.extend(names::qualified_name(&key).iter().map(|why| FieldError::invalid(&path, key.as_str(), why)));
        match annotation.text("valueExpression").trim().len() {
            0 => annotation.missing("valueExpression", "valueExpression is not specified", out),
            1..=LONGEST => named.check(&annotation, "valueExpression", &[Type::String, Type::Null], out),
            _ => annotation.missing("valueExpression", &format!("must not exceed {LONGEST} bytes in length"), out),
        }
    }
    spec.unique("auditAnnotations", "key", out);
}

fn validate_mutating(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    let named = policy(&spec, true, out);
    mutable_operations(&spec.get("matchConstraints"), out);
    if spec.value.count("mutations") == 0 {
        spec.missing("mutations", "mutations must contain at least one item", out);
    }
    for mutation in spec.items("mutations") {
        let kind = mutation.text("patchType");
        let (wanted, other) = match kind {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            _ => {
                mutation.one_of("patchType", &["ApplyConfiguration", "JSONPatch"], out);
                continue;
            }
        };
        if mutation.has(wanted) {
            let holder = mutation.get(wanted);
            if expression(&holder, "", out) {
                named.check(&holder, "expression", &[expressions::output(wanted == "applyConfiguration")], out);
            }
        } else {
            mutation.missing(wanted, &format!("must be specified when patchType is {kind}"), out);
        }
        if mutation.has(other) {
            let why = format!("must not be specified when patchType is {kind}");
            out.push(FieldError::invalid(&mutation.path(other), format!("{{{other}}}"), &why));
        }
    }
    spec.one_of("reinvocationPolicy", REINVOCATION_POLICIES, out);
}

fn binding(spec: &At<'_>, out: &mut FieldErrors) {
    spec.require_form("policyName", names::dns1123_subdomain, out);
    if spec.has("paramRef") {
        parameter_reference(&spec.get("paramRef"), out);
    }
    if spec.has("matchResources") {
        resources(&spec.get("matchResources"), out);
    }
}

fn parameter_reference(at: &At<'_>, out: &mut FieldErrors) {
    at.form("name", |text| names::path_segment(text, false), out);
    at.get("selector").label_selector(out);
    match (at.text("name").is_empty(), at.has("selector")) {
        (false, true) => {
            for name in ["name", "selector"] {
                at.forbidden(name, "name and selector are mutually exclusive", out);
            }
        }
        (true, false) => out.push(FieldError::required(&at.path, "one of name or selector must be specified")),
        _ => {}
    }
    at.one_of("parameterNotFoundAction", &["Allow", "Deny"], out);
}

fn actions(spec: &At<'_>, out: &mut FieldErrors) {
    let list = "validationActions";
    let mut seen = BTreeSet::new();
    for action in spec.items(list) {
        let text = action.value.as_str().unwrap_or_default();
        if !matches!(text, "Audit" | "Deny" | "Warn") {
            out.push(FieldError::not_supported(&action.path, text, &["Audit", "Deny", "Warn"]));
        }
        if !seen.insert(text) {
            out.push(FieldError::duplicate(&action.path, text));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        spec.invalid(list, why, out);
    }
    if seen.is_empty() {
        spec.missing(list, "at least one validation action is required", out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;
    use serde_json::json;

    fn texts(faults: &FieldErrors) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    fn rules() -> Value {
        json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}])
    }

    #[test]
    fn validating() {
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": rules()},
            "validations": [{"expression": "true"}], "paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"}}});
        VALIDATING_ADMISSION_POLICY.default(&mut policy);
        assert_eq!(VALIDATING_ADMISSION_POLICY.validate_create(&policy), []);
        let mut checked = policy.clone();
        checked["status"] = json!({"typeChecking": {"expressionWarnings": [{"fieldRef": " "}]}});
        let found = VALIDATING_ADMISSION_POLICY.validate_update(&checked, &policy, crate::Part::Status);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let place = "status.typeChecking.expressionWarnings[0]";
        assert_eq!(found, [format!("{place}.warning: Required value"), format!("{place}.fieldRef: Required value")]);
        let cells = VALIDATING_ADMISSION_POLICY.cells(&policy, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], [json!(1), json!("example.com/v1/Limit")]);
        policy["spec"]["validations"] = json!([]);
        policy["spec"]["variables"] = json!([{"name": "if", "expression": ""}]);
        assert_eq!(VALIDATING_ADMISSION_POLICY.validate_create(&policy).len(), 4);
    }

    #[test]
    fn mutating() {
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": rules()},
            "reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'remove', path: '/a'}]"}}]}});
        MUTATING_ADMISSION_POLICY.default(&mut policy);
        assert_eq!(MUTATING_ADMISSION_POLICY.validate_create(&policy), []);
        policy["spec"]["mutations"][0]["patchType"] = json!("ApplyConfiguration");
        policy["spec"]["matchConstraints"]["resourceRules"][0]["operations"] = json!(["DELETE"]);
        assert_eq!(MUTATING_ADMISSION_POLICY.validate_create(&policy).len(), 3);
    }

    #[test]
    fn bindings() {
        let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"],
            "paramRef": {"name": "x", "parameterNotFoundAction": "Deny"}}});
        assert_eq!(VALIDATING_ADMISSION_POLICY_BINDING.validate_create(&binding), []);
        let cells = VALIDATING_ADMISSION_POLICY_BINDING.cells(&binding, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], ["p", "*/x"].map(Value::from));
        let bad = json!({"spec": {"policyName": "", "paramRef": {}, "validationActions": ["Deny", "Warn", "Shout"]}});
        assert_eq!(
            texts(&VALIDATING_ADMISSION_POLICY_BINDING.validate_create(&bad))[..3],
            [
                "spec.policyName: Required value",
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Required value",
            ]
        );
    }
}
