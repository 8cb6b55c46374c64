//! Rules of a definition, before it is stored: their form, their types, and what they may cost on the largest data that the
//! schema allows.

use serde_json::Value as Json;
use skiff_cel::{Schema, escape};
use skiff_meta::field::{FaultKind, FieldError, FieldErrors, FieldPath};

use super::{Compiled, OLD_SELF, compile, environments, path};
use crate::faults::At;
use crate::tree::members;

/// The most that a rule may cost, and all rules of a version.
const PER_RULE: u64 = 10_000_000;
const PER_SCHEMA: u64 = 100_000_000;
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The form of the rules at one place.
pub(crate) fn form(schema: &At<'_>, faults: &mut FieldErrors) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for rule in schema.get("x-kubernetes-validations").items() {
        let (expression, message) = (rule.get("rule"), rule.get("message"));
        let trimmed = message.text().trim();
        if expression.text().trim().is_empty() {
            faults.push(FieldError::required(&expression.path, "rule is not specified"));
        } else if !message.text().is_empty() && trimmed.is_empty() {
            message.invalid(faults, "must be non-empty if specified");
        } else if breaks(trimmed) {
            message.invalid(faults, "must not contain line breaks");
        } else if breaks(expression.text().trim()) && trimmed.is_empty() {
            let words = "message must be specified if rule contains line breaks";
            faults.push(FieldError::required(&message.path, words));
        }
        let said = rule.get("messageExpression");
        if !said.text().is_empty() && said.text().trim().is_empty() {
            faults.push(FieldError::required(&said.path, "messageExpression must be non-empty if specified"));
        }
        rule.get("reason").one_of(faults, REASONS);
        let field = rule.get("fieldPath");
        if !field.text().is_empty() {
            if field.text().trim().is_empty() {
                field.invalid(faults, "must be non-empty if specified");
            }
            if breaks(field.text()) {
                field.invalid(faults, "must not contain line breaks");
            }
            if path::follow(field.text(), schema.value, true).is_err() {
                field.invalid(faults, "must be a valid path");
            }
        }
    }
}

/// Types and costs of all rules of a schema that has no other faults.
pub(crate) fn expressions(schema: &At<'_>, faults: &mut FieldErrors) {
    let mut total = Total { cost: 0, expensive: Vec::new() };
    let place = Place { typed: None, times: Some(1), root: true, uncorrelated: None };
    visit(schema, &place, &mut total, faults);
    if total.cost > PER_SCHEMA {
        for (_, path) in &total.expensive {
            let words = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            faults.push(FieldError::forbidden(path, words));
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        schema.forbidden(faults, &too_much(name, total.cost, PER_SCHEMA));
    }
}

struct Total {
    cost: u64,
    /// The four that cost most, of those that matter.
    expensive: Vec<(u64, FieldPath)>,
}

impl Total {
    fn add(&mut self, path: &FieldPath, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
        if cost >= PER_SCHEMA / 100 {
            self.expensive.push((cost, path.clone()));
            self.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.expensive.truncate(4);
        }
    }
}

/// Where a schema lies.
struct Place<'a> {
    /// As read with a rule above it; read anew where there is none.
    typed: Option<&'a Schema>,
    /// How often it can occur, if that is bounded by the schemas above.
    times: Option<u64>,
    root: bool,
    /// The nearest part above whose former self cannot be told.
    uncorrelated: Option<&'a FieldPath>,
}

fn visit(schema: &At<'_>, place: &Place<'_>, total: &mut Total, faults: &mut FieldErrors) {
    let has_rules = schema.get("x-kubernetes-validations").items().next().is_some();
    let resource = place.root || schema.value["x-kubernetes-embedded-resource"] == true;
    let read = (place.typed.is_none() && has_rules).then(|| Schema::read(schema.value, resource));
    let typed = read.as_ref().or(place.typed);
    let times = most(schema.value).and_then(|most| Some(place.times?.saturating_mul(most)));
    let below = |typed, uncorrelated| Place { typed, times, root: false, uncorrelated };
    let list = schema.get("items");
    if list.value.is_object() {
        let by_key = schema.value["x-kubernetes-list-type"] == "map";
        let uncorrelated = place.uncorrelated.or((!by_key).then_some(&schema.path));
        visit(&list, &below(typed.and_then(Schema::element), uncorrelated), total, faults);
    }
    let additional = schema.get("additionalProperties");
    if additional.value.is_object() {
        visit(&additional, &below(typed.and_then(Schema::element), place.uncorrelated), total, faults);
    }
    let properties = schema.get("properties");
    for (name, value) in members(properties.value) {
        let at = At { value, path: properties.path.key(name) };
        let typed = typed.filter(|_| escape(name).is_some()).and_then(|typed| typed.field(name));
        visit(&at, &below(typed, place.uncorrelated), total, faults);
    }
    if let Some(typed) = typed.filter(|_| has_rules) {
        here(schema, typed, place, total, faults);
    }
}

/// How often what is below can occur in one of these; `None` for without bounds.
fn most(schema: &Json) -> Option<u64> {
    let bound = |name: &str| schema[name].as_i64().map(|n| n.max(0).unsigned_abs());
    match schema["type"].as_str() {
        Some("object") if !schema["additionalProperties"].is_null() => bound("maxProperties"),
        Some("array") => bound("maxItems"),
        _ => Some(1),
    }
}

fn here(schema: &At<'_>, typed: &Schema, place: &Place<'_>, total: &mut Total, faults: &mut FieldErrors) {
    let Some(decl) = typed.declare("selfType") else { return };
    let cardinality =
        place.times.unwrap_or_else(|| u64::try_from(skiff_cel::MAX_REQUEST / (decl.min_size + 1)).unwrap_or(u64::MAX));
    let env = environments(decl);
    for rule in schema.get("x-kubernetes-validations").items() {
        let Compiled { rule: program, message } = compile(rule.value, &env);
        let (expression, said) = (rule.get("rule"), rule.get("messageExpression"));
        let cost = program.as_ref().map_or(0, |program| program.cost().saturating_mul(cardinality));
        if cost > PER_RULE {
            expression.forbidden(faults, &too_much("estimated rule cost", cost, PER_RULE));
        }
        total.add(&expression.path, cost);
        if let Err(error) = &program {
            faults.push(with_rule(&expression.path, rule.value, error));
        }
        match &message {
            Some(Err(error)) => faults.push(with_rule(&said.path, rule.value, error)),
            Some(Ok(message)) => {
                if message.cost() > PER_RULE {
                    said.forbidden(faults, &too_much("estimated messageExpression cost", message.cost(), PER_RULE));
                }
                total.add(&said.path, message.cost());
            }
            None => {}
        }
        let optional = rule.get("optionalOldSelf");
        let transition = program.as_ref().is_ok_and(|program| program.uses(OLD_SELF));
        if let Some(within) = place.uncorrelated.filter(|_| transition) {
            let words = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
            expression.invalid(faults, &words);
        } else if !transition && optional.exists() {
            optional.invalid(faults, "may not be set if oldSelf is not used in rule");
        }
    }
}

/// A fault that shows the rule as a whole.
fn with_rule(path: &FieldPath, rule: &Json, detail: &str) -> FieldError {
    let text = |name: &str| {
        let text = Json::from(rule[name].as_str().unwrap_or_default()).to_string();
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    };
    let shown = format!(
        r#"{{"Rule":{},"Message":{},"MessageExpression":{},"Reason":{},"FieldPath":{},"OptionalOldSelf":{}}}"#,
        text("rule"),
        text("message"),
        text("messageExpression"),
        rule["reason"],
        text("fieldPath"),
        rule["optionalOldSelf"]
    );
    let message = format!("Invalid value: {shown}: {detail}");
    FieldError { kind: FaultKind::Invalid, path: path.clone(), message }
}

fn too_much(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}
