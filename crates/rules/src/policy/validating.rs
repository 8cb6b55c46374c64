//! ValidatingAdmissionPolicy.

use serde_json::Value as Json;
use skiff_cel::{Type, Value};

use super::env::{Variables, environment};
use super::{BUDGET, Conditions, Expression, Input, OUT_OF_BUDGET, Purse, Scope, Spent};
use crate::tree::{items, text};

const MAX_MESSAGE: usize = 5 * 1024;

/// A policy, compiled.
#[derive(Debug)]
pub struct ValidatingPolicy {
    fails_open: bool,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// What a policy says about a request.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Refusals, each with the number of the validation that it is from.
    pub refusals: Vec<(usize, Decision)>,
    /// For the audit log: key and value, or what went wrong with it.
    pub annotations: Vec<(String, Result<String, String>)>,
    /// What could not be evaluated and does not matter.
    pub ignored: Vec<String>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Why.
    pub message: String,
    /// Reason of the status; empty where the policy could not be evaluated.
    pub reason: String,
}

/// Things with names.
type Named<T> = Vec<(String, T)>;

/// Variables, each compiled with those before it.
pub(super) fn variables(list: &Json, scope: Scope) -> (Named<Type>, Named<Expression>) {
    let (mut types, mut compiled) = (Named::<Type>::new(), Named::<Expression>::new());
    for variable in items(list) {
        let name = text(&variable["name"]).to_owned();
        let expression = Expression::compile(&environment(scope, Some(&types)), text(&variable["expression"]), &[]);
        let ty = expression.program.as_ref().map_or(Type::Error, |program| program.output().clone());
        types.push((name.clone(), ty));
        compiled.push((name, expression));
    }
    (types, compiled)
}

impl ValidatingPolicy {
    /// From the object.
    pub fn read(policy: &Json) -> Self {
        let spec = &policy["spec"];
        let scope = Scope { params: spec["paramKind"].is_object(), authorizer: true, patches: false };
        let (types, variables) = variables(&spec["variables"], scope);
        let env = environment(scope, Some(&types));
        let unauthorized = environment(Scope { authorizer: false, ..scope }, Some(&types));
        let validation = |v: &Json| Validation {
            expression: Expression::compile(&env, text(&v["expression"]), &[Type::Bool]),
            message: text(&v["message"]).trim().to_owned(),
            message_expression: Some(text(&v["messageExpression"]))
                .filter(|source| !source.is_empty())
                .map(|source| Expression::compile(&unauthorized, source, &[Type::String])),
            reason: v["reason"].as_str().unwrap_or("Invalid").to_owned(),
        };
        let annotation = |a: &Json| {
            let wanted = [Type::String, Type::Null];
            (text(&a["key"]).to_owned(), Expression::compile(&unauthorized, text(&a["valueExpression"]), &wanted))
        };
        Self {
            fails_open: spec["failurePolicy"] == "Ignore",
            conditions: Conditions::read(&spec["matchConditions"], scope),
            variables,
            validations: items(&spec["validations"]).iter().map(validation).collect(),
            annotations: items(&spec["auditAnnotations"]).iter().map(annotation).collect(),
        }
    }

    /// Whether what cannot be evaluated does not matter.
    pub fn fails_open(&self) -> bool {
        self.fails_open
    }

    /// What the policy says.
    pub fn evaluate(&self, input: &Input<'_>) -> Outcome {
        let failed = |message: String| match self.fails_open {
            true => Outcome { ignored: vec![message], ..Outcome::default() },
            false => Outcome { refusals: vec![(0, Decision { message, reason: String::new() })], ..Outcome::default() },
        };
        match self.conditions.hold(input) {
            Ok(true) => {}
            Ok(false) => return Outcome::default(),
            Err(error) => return failed(error),
        }
        let variables = Variables::new(input, &self.variables);
        let values = input.variables(Some(Value::Lazy(variables.clone())));
        let mut purse = Purse(BUDGET);
        let mut outcome = Outcome::default();
        for (i, validation) in self.validations.iter().enumerate() {
            match validation.judge(&values, &variables, &mut purse) {
                Err(Spent) => return failed(OUT_OF_BUDGET.to_owned()),
                Ok(None) => {}
                Ok(Some(decision)) if decision.reason.is_empty() && self.fails_open => {
                    outcome.ignored.push(decision.message);
                }
                Ok(Some(decision)) => outcome.refusals.push((i, decision)),
            }
        }
        let mut purse = Purse(BUDGET);
        for (key, expression) in &self.annotations {
            let value = match expression.evaluate(&values, &variables, &mut purse) {
                Err(Spent) => return failed(OUT_OF_BUDGET.to_owned()),
                Ok(Ok(Value::String(text))) if text.trim().is_empty() => continue,
                Ok(Ok(Value::String(text))) => Ok(text.trim().to_owned()),
                Ok(Ok(_)) => continue,
                Ok(Err(_)) if self.fails_open => continue,
                Ok(Err(error)) => Err(error),
            };
            outcome.annotations.push((key.clone(), value));
        }
        outcome
    }
}

impl Validation {
    fn judge<'a>(
        &'a self,
        values: &[Option<Value<'a>>],
        variables: &Variables<'a>,
        purse: &mut Purse,
    ) -> Result<Option<Decision>, Spent> {
        let reason = match self.expression.evaluate(values, variables, purse)? {
            Ok(Value::Bool(true)) => return Ok(None),
            Ok(_) => self.reason.clone(),
            Err(message) => return Ok(Some(Decision { message, reason: String::new() })),
        };
        let said = match &self.message_expression {
            Some(expression) => match expression.evaluate(values, variables, purse) {
                Ok(Ok(Value::String(said))) => Some(said.trim().to_owned()),
                Err(Spent) => {
                    let message = format!("failed messageExpression: {OUT_OF_BUDGET}");
                    return Ok(Some(Decision { message, reason: String::new() }));
                }
                _ => None,
            },
            None => None,
        };
        let said = said.filter(|said| !said.is_empty() && said.len() <= MAX_MESSAGE && !said.contains('\n'));
        let message = said.unwrap_or_else(|| match self.message.is_empty() {
            true => format!("failed expression: {}", self.expression.source.trim()),
            false => self.message.clone(),
        });
        Ok(Some(Decision { message, reason }))
    }
}
