//! Conditions under which a hook is asked at all, in the expression language (`matchConditions`). Pure.

use serde::Deserialize;
use serde_json::Value as Json;
use skiff_cel::{Budget, Env, Program, Type, Value};

/// What all conditions of a hook may cost together, in upstream's units.
const BUDGET: u64 = 2_500_000;

/// A condition, ready to be looked at.
#[derive(Debug)]
pub(super) struct Condition {
    program: Result<Program, String>,
}

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    expression: String,
}

impl From<Written> for Condition {
    fn from(written: Written) -> Self {
        let env = ["object", "oldObject", "request"].iter().fold(Env::new(), |env, name| env.with(name, Type::Dyn));
        let program = env.compile(&written.expression).map_err(|issues| format!("compilation error: {issues}"));
        Self { program }
    }
}

/// Whether all conditions hold. One that does not outweighs others that fail; the error tells of those.
pub(super) fn hold(conditions: &[Condition], object: &Json, old: &Json, request: &Json) -> Result<bool, String> {
    let mut budget = Budget::new(BUDGET);
    let mut errors = Vec::new();
    for condition in conditions {
        let variables = [object, old, request].map(|json| Some(Value::json(json)));
        let outcome = condition.program.as_ref().map_err(Clone::clone);
        let outcome = outcome.and_then(|program| {
            program.evaluate(&variables, &mut budget).map_err(|error| error.to_string()).map(|value| match value {
                Value::Bool(holds) => holds,
                _ => true,
            })
        });
        match outcome {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => errors.push(error),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_must_hold_and_one_that_does_not_is_enough() {
        let object = json!({"metadata": {"name": "a", "labels": {"x": "y"}}});
        let request = json!({"operation": "CREATE", "userInfo": {"username": "alice"}});
        for (expressions, expected) in [
            (&[][..], Ok(true)),
            (&["object.metadata.name == 'a'", "request.userInfo.username == 'alice'"], Ok(true)),
            (&["object.metadata.name == 'b'"], Ok(false)),
            (&["object.missing == 'b'", "oldObject != null"], Ok(false)),
            (&["object.missing == 'b'", "oldObject == null"], Err("no such key: missing")),
        ] {
            let conditions: Vec<Condition> =
                expressions.iter().map(|expression| Written { expression: (*expression).to_owned() }.into()).collect();
            let found = hold(&conditions, &object, &Json::Null, &request);
            assert_eq!(found, expected.map_err(str::to_owned), "{expressions:?}");
        }
    }
}
