//! MutatingAdmissionPolicy.

use serde_json::{Map, Value as Json};
use skiff_cel::{Type, Value};

use super::env::{Variables, environment};
use super::validating::variables;
use super::{BUDGET, Conditions, Expression, Input, OUT_OF_BUDGET, Purse, Scope, Spent, applied, patches};
use crate::tree::{items, text};

/// A policy, compiled.
#[derive(Debug)]
pub struct MutatingPolicy {
    fails_open: bool,
    again: bool,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    mutations: Vec<(bool, Expression)>,
}

/// One change of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Mutation {
    /// To be merged as server-side apply merges.
    Apply(Json),
    /// To be patched (RFC 6902).
    Patch(Json),
}

impl MutatingPolicy {
    /// From the object.
    pub fn read(policy: &Json) -> Self {
        let spec = &policy["spec"];
        let scope = Scope { params: spec["paramKind"].is_object(), authorizer: true, patches: true };
        let (types, variables) = variables(&spec["variables"], scope);
        let env = environment(scope, Some(&types));
        let mutation = |m: &Json| {
            let applies = m["patchType"] == "ApplyConfiguration";
            let (holder, wanted) = if applies { ("applyConfiguration", applied()) } else { ("jsonPatch", patches()) };
            (applies, Expression::compile(&env, text(&m[holder]["expression"]), &[wanted]))
        };
        Self {
            fails_open: spec["failurePolicy"] == "Ignore",
            again: spec["reinvocationPolicy"] == "IfNeeded",
            conditions: Conditions::read(&spec["matchConditions"], Scope { patches: false, ..scope }),
            variables,
            mutations: items(&spec["mutations"]).iter().map(mutation).collect(),
        }
    }

    /// Whether what cannot be evaluated does not matter.
    pub fn fails_open(&self) -> bool {
        self.fails_open
    }

    /// Whether it wants to have another look when others have changed the object since.
    pub fn is_asked_again(&self) -> bool {
        self.again
    }

    /// How many changes it makes, one after the other, each seeing those before it.
    pub fn mutations(&self) -> usize {
        self.mutations.len()
    }

    /// Whether it is for the request at all.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn concerns(&self, input: &Input<'_>) -> Result<bool, String> {
        self.conditions.hold(input)
    }

    /// One of its changes.
    ///
    /// # Errors
    /// When it cannot be evaluated.
    pub fn mutate(&self, index: usize, input: &Input<'_>) -> Result<Option<Mutation>, String> {
        let Some((applies, expression)) = self.mutations.get(index) else { return Ok(None) };
        let variables = Variables::new(input, &self.variables);
        let values = input.variables(Some(Value::Lazy(variables.clone())));
        let mut purse = Purse(BUDGET);
        let value = match expression.evaluate(&values, &variables, &mut purse) {
            Err(Spent) => return Err(OUT_OF_BUDGET.to_owned()),
            Ok(value) => value?,
        };
        if *applies {
            check_names(&value, "Object")?;
            return Ok(value.to_json().map(Mutation::Apply));
        }
        let Some(Json::Array(mut operations)) = value.to_json() else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
        };
        operations.iter_mut().filter_map(Json::as_object_mut).for_each(complete);
        Ok(Some(Mutation::Patch(Json::Array(operations))))
    }
}

/// Members that an operation must have though the expression left them out.
fn complete(operation: &mut Map<String, Json>) {
    if matches!(operation.get("op").and_then(Json::as_str), Some("add" | "replace" | "test")) {
        operation.entry("value").or_insert(Json::Null);
    }
}

/// The types of objects within an object are named after where they are.
fn check_names(value: &Value<'_>, path: &str) -> Result<(), String> {
    match value {
        Value::Struct(object) => {
            if object.0 != path {
                return Err(format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    object.0
                ));
            }
            object.1.iter().try_for_each(|(name, value)| check_names(value, &format!("{path}.{name}")))
        }
        Value::List(list) => list.items().iter().try_for_each(|item| check_names(item, path)),
        Value::Map(map) => map.values().iter().try_for_each(|value| check_names(value, path)),
        _ => Ok(()),
    }
}

/// What a mutation evaluates to.
pub(crate) fn output(applies: bool) -> Type {
    if applies { applied() } else { patches() }
}
