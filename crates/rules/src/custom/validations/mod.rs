//! Rules in CEL (`x-kubernetes-validations`): compiled once per definition, evaluated at every write.
//!
//! After `apiextensions-apiserver/pkg/apiserver/schema/cel`. A write has one budget for all of its rules. On updates, rules
//! that name `oldSelf` compare a part with what it was, where the two can be told to be the same part; faults of parts that
//! did not change are forgiven.

pub(crate) mod check;
pub(crate) mod path;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use skiff_cel::{Budget, Env, Error, Issues, PER_CALL_LIMIT, Program, Schema, Type, Value};
use skiff_meta::field::{FaultKind, FieldError, FieldErrors, FieldPath};

use crate::tree::{items, text};

/// What all rules of one write may cost together.
const BUDGET: u64 = 10_000_000;
const MAX_MESSAGE: usize = 5 * 1024;
/// The number of `oldSelf` among the variables, behind `self`.
const OLD_SELF: usize = 1;

/// The rules of an object: its schema, and where rules lie in it.
#[derive(Debug)]
pub(super) struct Validations {
    schema: Schema,
    root: Node,
}

/// The rules at one place of a schema and below it.
#[derive(Debug, Default)]
struct Node {
    ty: String,
    rules: Vec<Rule>,
    element: Option<Box<Node>>,
    properties: BTreeMap<String, Node>,
    /// The names of the keys of a list with keys; of other lists and of maps, nothing is said.
    keys: Option<Vec<String>>,
    /// The schema of what expressions above cannot name.
    own: Option<Schema>,
}

#[derive(Debug)]
struct Rule {
    program: Result<Program, String>,
    message_expression: Option<Program>,
    text: String,
    message: String,
    reason: String,
    path: String,
    optional_old: bool,
}

/// One expression as compiled, with what it costs at most.
struct Compiled {
    rule: Result<Program, String>,
    message: Option<Result<Program, String>>,
}

/// Compiles a rule over data of this type.
fn compile(rule: &Json, env: &[Env; 2]) -> Compiled {
    let env = &env[usize::from(rule["optionalOldSelf"] == true)];
    let failure = |issues: Issues| issues.failure();
    let program = env.compile(text(&rule["rule"])).map_err(failure);
    let program = program.and_then(|program| match program.output() {
        Type::Bool => Ok(program),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    });
    let expression = text(&rule["messageExpression"]);
    let message = (!expression.is_empty() && program.is_ok()).then(|| {
        let program = env.compile(expression).map_err(|issues| format!("messageExpression {}", issues.failure()))?;
        match program.output() {
            Type::String => Ok(program),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    });
    Compiled { rule: program, message }
}

/// What rules over data of a type may name: without and with an optional `oldSelf`.
fn environments(decl: skiff_cel::Decl) -> [Env; 2] {
    let ty = decl.ty.clone();
    let env = Env::new().with("self", ty.clone()).sized(Arc::new(decl));
    [env.clone().with("oldSelf", ty.clone()), env.with("oldSelf", Type::optional(ty))]
}

impl Validations {
    /// The rules of a schema; `None` where it has none.
    pub(super) fn read(schema: Option<&Json>) -> Option<Self> {
        let json = schema?;
        let schema = Schema::read(json, true);
        let root = Node::read(json, Some(&schema))?;
        Some(Self { schema, root })
    }

    /// All faults that the rules find in an object.
    pub(super) fn faults(&self, object: &Json, old: Option<&Json>) -> FieldErrors {
        let mut run = Run { left: BUDGET, faults: Vec::new() };
        let seen = Seen { new: object, old, same: old.map(|old| Pair { new: object, old: Some(old) }), parent: None };
        // Running out of budget ends it; the fault that says so is among the others.
        let _ended = run.visit(&self.root, &self.schema, &FieldPath::root(), seen);
        run.faults
    }
}

impl Node {
    /// From a schema, and what expressions know of it.
    fn read(schema: &Json, typed: Option<&Schema>) -> Option<Self> {
        let typed = typed?;
        let mut node = Node { ty: text(&schema["type"]).to_owned(), ..Node::default() };
        let own = items(&schema["x-kubernetes-validations"]);
        if !own.is_empty()
            && let Some(decl) = typed.declare("selfType")
        {
            let env = environments(decl);
            node.rules = own
                .iter()
                .filter(|rule| !text(&rule["rule"]).trim().is_empty())
                .map(|rule| {
                    let compiled = compile(rule, &env);
                    Rule {
                        program: compiled.rule,
                        message_expression: compiled.message.and_then(Result::ok),
                        text: text(&rule["rule"]).trim().to_owned(),
                        message: text(&rule["message"]).trim().to_owned(),
                        reason: text(&rule["reason"]).to_owned(),
                        path: path::follow(text(&rule["fieldPath"]), schema, true)
                            .map(|place| place.path)
                            .unwrap_or_default(),
                        optional_old: rule["optionalOldSelf"] == true,
                    }
                })
                .collect();
        }
        if schema["x-kubernetes-list-type"] == "map" {
            let keys = items(&schema["x-kubernetes-list-map-keys"]);
            node.keys = Some(keys.iter().map(|key| text(key).to_owned()).collect());
        }
        for name in ["items", "additionalProperties"] {
            if schema[name].is_object() {
                node.element = Node::read(&schema[name], typed.element()).map(Box::new);
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let unnamed = skiff_cel::escape(name).is_none();
            let own = unnamed.then(|| Schema::read(property, property["x-kubernetes-embedded-resource"] == true));
            if let Some(mut below) = Node::read(property, own.as_ref().or_else(|| typed.field(name))) {
                below.own = own;
                node.properties.insert(name.clone(), below);
            }
        }
        (!node.rules.is_empty() || node.element.is_some() || !node.properties.is_empty()).then_some(node)
    }
}

/// A part of the object, with what it was.
#[derive(Clone, Copy)]
struct Pair<'a> {
    new: &'a Json,
    old: Option<&'a Json>,
}

#[derive(Clone, Copy)]
struct Seen<'a> {
    new: &'a Json,
    /// What `oldSelf` is.
    old: Option<&'a Json>,
    /// The part and its former self, if it can be told which that is.
    same: Option<Pair<'a>>,
    /// Those of the nearest part above of which it can be told.
    parent: Option<Pair<'a>>,
}

impl<'a> Seen<'a> {
    fn unchanged(&self) -> bool {
        self.same.or(self.parent).is_some_and(|pair| pair.old == Some(pair.new))
    }

    /// The member `name` with its value.
    fn member(self, name: &str, new: &'a Json) -> Self {
        let old = self.old.and_then(|old| old.get(name));
        let is_type = self.parent.is_none() && matches!(name, "apiVersion" | "kind");
        match self.same {
            None => Seen { new, old, ..self },
            Some(_) if is_type => Seen { new, old, same: None, parent: None },
            Some(pair) => {
                let same = pair.old.and_then(|old| old.get(name)).map(|old| Pair { new, old: Some(old) });
                Seen { new, old, same, parent: Some(pair) }
            }
        }
    }

    /// An item of a list; only by keys can it be told which one it was.
    fn item(self, keys: Option<&[String]>, new: &'a Json) -> Self {
        let with_keys = |old: &'a Json| {
            let keys = keys?;
            let found = old.as_array()?.iter();
            found.into_iter().find(|old| keys.iter().all(|key| old.get(key) == new.get(key)))
        };
        let old = self.old.and_then(with_keys);
        match self.same {
            None => Seen { new, old, ..self },
            Some(pair) => {
                let same = pair.old.and_then(with_keys).map(|old| Pair { new, old: Some(old) });
                Seen { new, old, same, parent: Some(pair) }
            }
        }
    }
}

struct Run {
    left: u64,
    faults: FieldErrors,
}

/// The budget ran out.
struct Spent;

impl Run {
    fn visit(&mut self, node: &Node, schema: &Schema, path: &FieldPath, seen: Seen<'_>) -> Result<(), Spent> {
        if seen.new.is_null() {
            return Ok(());
        }
        let schema = node.own.as_ref().unwrap_or(schema);
        self.rules(node, schema, path, seen)?;
        match seen.new {
            Json::Array(list) => {
                let (Some(element), Some(below)) = (&node.element, schema.element()) else { return Ok(()) };
                for (i, item) in list.iter().enumerate() {
                    self.visit(element, below, &path.index(i), seen.item(node.keys.as_deref(), item))?;
                }
            }
            Json::Object(map) => {
                if let (Some(element), Some(below)) = (&node.element, schema.element()) {
                    for (name, value) in map {
                        self.visit(element, below, &path.key(name), seen.member(name, value))?;
                    }
                }
                for (name, property) in &node.properties {
                    if let (Some(value), Some(below)) =
                        (map.get(name), property.own.as_ref().or_else(|| schema.field(name)))
                    {
                        self.visit(property, below, &path.child(name), seen.member(name, value))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A fault of the rules themselves: the value is not shown, only its type.
    fn failed(&mut self, path: &FieldPath, node: &Node, detail: &str) {
        self.faults.push(FieldError::invalid(path, node.ty.as_str(), detail));
    }

    fn rules(&mut self, node: &Node, schema: &Schema, path: &FieldPath, seen: Seen<'_>) -> Result<(), Spent> {
        const OUT: &str =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        for rule in &node.rules {
            let program = match &rule.program {
                Ok(program) => program,
                Err(error) => {
                    self.failed(path, node, &format!("rule compile error: {error}"));
                    continue;
                }
            };
            let transition = program.uses(OLD_SELF);
            if transition && seen.old.is_none() && !rule.optional_old {
                continue;
            }
            let value = |json| Value::of(json, schema);
            let old = match (seen.old.filter(|_| transition).map(value).transpose(), rule.optional_old) {
                (Ok(old), true) => Ok(Some(old.into())),
                (old, _) => old,
            };
            let mut budget = Budget::new(PER_CALL_LIMIT);
            let variables = old.and_then(|old| Ok([Some(value(seen.new)?), old]));
            let outcome = variables.and_then(|variables| {
                let outcome = program.evaluate(&variables, &mut budget)?;
                Ok((outcome, variables))
            });
            let Some(left) = self.left.checked_sub(budget.spent()).filter(|_| self.left > 0) else {
                self.failed(path, node, OUT);
                return Err(Spent);
            };
            self.left = left;
            let variables = match outcome {
                Ok((Value::Bool(true), _)) => continue,
                Ok((_, variables)) => variables,
                Err(Error::TooCostly) => {
                    let error = Error::TooCostly;
                    let words = "no further validation rules will be run due to call cost exceeds limit for rule";
                    self.failed(path, node, &format!("'{error}': {words}: {}", rule.told()));
                    return Err(Spent);
                }
                Err(Error::Failed(error)) if error.starts_with("no such overload") => {
                    let words =
                        "call arguments did not match a supported operator, function or macro signature for rule";
                    self.failed(path, node, &format!("'{error}': {words}: {}", rule.told()));
                    continue;
                }
                Err(Error::Failed(error)) => {
                    self.failed(path, node, &format!("{error} evaluating rule: {}", rule.told()));
                    continue;
                }
            };
            let at = if rule.path.is_empty() { path.clone() } else { path.child(rule.path.trim_start_matches('.')) };
            let message = rule.message_expression.as_ref().map(|program| self.message(program, &variables));
            let detail = match message {
                Some(Err(error)) => {
                    self.failed(&at, node, &error);
                    return Err(Spent);
                }
                Some(Ok(Some(message))) => message,
                _ if rule.message.is_empty() => format!("failed rule: {}", rule.text),
                _ => rule.message.clone(),
            };
            if transition || !seen.unchanged() {
                self.faults.push(fault(&rule.reason, &at, seen.new, &detail));
            }
        }
        Ok(())
    }

    /// What a message expression says; nothing, if that is no message.
    fn message<'a>(&mut self, program: &'a Program, variables: &[Option<Value<'a>>]) -> Result<Option<String>, String> {
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let said = program.evaluate(variables, &mut budget);
        let left = self.left.checked_sub(budget.spent());
        self.left = left.ok_or(
            "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run",
        )?;
        match said {
            Ok(Value::String(said)) => {
                let said = said.trim();
                Ok((!said.is_empty() && said.len() <= MAX_MESSAGE && !said.contains('\n')).then(|| said.to_owned()))
            }
            Err(Error::TooCostly) => {
                Err("no further validation rules will be run due to call cost exceeds limit for messageExpression"
                    .to_owned())
            }
            _ => Ok(None),
        }
    }
}

impl Rule {
    fn told(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }
}

/// The fault of a rule that does not hold. Objects and lists are not shown.
fn fault(reason: &str, path: &FieldPath, value: &Json, detail: &str) -> FieldError {
    let shown = !matches!(value, Json::Object(_) | Json::Array(_));
    match reason {
        "FieldValueForbidden" => FieldError::forbidden(path, detail),
        "FieldValueRequired" => FieldError::required(path, detail),
        "FieldValueDuplicate" if shown => FieldError::duplicate(path, value.clone()),
        "FieldValueDuplicate" => {
            FieldError { message: "Duplicate value".to_owned(), ..FieldError::duplicate(path, "") }
        }
        _ if shown => FieldError::invalid(path, value.clone(), detail),
        _ => FieldError::invalid_unshown(path, detail),
    }
}

/// Whether faults of the schema leave rules unchecked: they could fail on data that are not what their types say.
pub(super) fn are_blocked(faults: &FieldErrors) -> bool {
    use FaultKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    faults.iter().any(|f| matches!(f.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid))
}

/// The fault that says so.
pub(super) fn blocked() -> FieldError {
    let words = "some validation rules were not checked because the object was invalid; correct the existing errors to \
                 complete validation";
    FieldError::invalid(&FieldPath::root(), Json::Null, words)
}

#[cfg(test)]
mod tests;
