//! Admission by expressions: what policies and match conditions may name, and what they say about a request. Pure.
//!
//! After `k8s.io/apiserver/pkg/admission/plugin/{cel,policy}`. The server finds out which policies a request is for and with
//! which parameters; what they make of it is told here.

mod env;
mod mutating;
pub mod typing;
mod validating;

use serde_json::Value as Json;
use skiff_cel::{Attributes, Authorizer, Budget, Check, Env, PER_CALL_LIMIT, Program, Special, Type, Value};

pub use env::Scope;
pub(crate) use mutating::output;
pub use mutating::{MutatingPolicy, Mutation};
pub use validating::{Decision, Outcome, ValidatingPolicy};

use crate::tree::{items, text};

/// What all expressions of a policy may cost for one request and one parameter.
const BUDGET: u64 = 10_000_000;
/// What all match conditions together may cost.
const CONDITIONS_BUDGET: u64 = 2_500_000;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// A request as expressions see it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The object; null where there is none.
    pub object: &'a Json,
    /// What it was; null where there is none.
    pub old: &'a Json,
    /// The namespace it lies in; null where there is none.
    pub namespace: &'a Json,
    /// `admission.k8s.io/v1` AdmissionRequest without its objects.
    pub request: &'a Json,
    /// The parameters of the policy; null where there are none.
    pub params: &'a Json,
    /// Who decides what the request's user may.
    pub authorizer: &'a dyn Authorizer,
    /// The request's own resource, as the authorizer knows it.
    pub resource: &'a Attributes,
}

impl<'a> Input<'a> {
    /// In the order of the environment.
    fn variables(&self, variables: Option<Value<'a>>) -> Vec<Option<Value<'a>>> {
        let json = |json| Some(Value::json(json));
        let check = |check| Some(Special::Check(check).into());
        vec![
            json(self.object),
            json(self.old),
            json(self.namespace),
            json(self.request),
            json(self.params),
            check(Check::new(self.authorizer)),
            check(Check::of_resource(self.authorizer, self.resource.clone())),
            variables,
        ]
    }
}

/// An expression with what came of compiling it.
#[derive(Debug)]
pub struct Expression {
    source: String,
    program: Result<Program, String>,
}

/// Compiles an expression that evaluates to one of these types; to any, if there are none.
fn compile(env: &Env, source: &str, wanted: &[Type]) -> Result<Program, String> {
    let program = env.compile(source).map_err(|issues| issues.failure())?;
    let output = program.output();
    if wanted.is_empty() || wanted.contains(output) {
        return Ok(program);
    }
    let names: Vec<&str> = wanted.iter().map(Type::name).collect();
    let shown = match output {
        Type::Null => "null_type".to_owned(),
        other => other.to_string(),
    };
    Err(match &names[..] {
        [_] if matches!(wanted, [Type::List(_)]) => format!("must evaluate to {} but got {shown}", wanted[0]),
        [only] => format!("must evaluate to {only} but got {shown}"),
        names => format!("must evaluate to one of [{}] but got {shown}", names.join(" ")),
    })
}

/// Why one evaluation ended all of them.
struct Spent;

/// The budget of several expressions.
struct Purse(u64);

impl Expression {
    fn compile(env: &Env, source: &str, wanted: &[Type]) -> Self {
        Self { source: source.to_owned(), program: compile(env, source, wanted) }
    }

    fn evaluate<'a>(
        &'a self,
        values: &[Option<Value<'a>>],
        variables: &env::Variables<'a>,
        purse: &mut Purse,
    ) -> Result<Result<Value<'a>, String>, Spent> {
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => return Ok(Err(format!("compilation error: {error}"))),
        };
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let value = program.evaluate(values, &mut budget);
        let spent = budget.spent().saturating_add(variables.take_cost());
        purse.0 = purse.0.checked_sub(spent).ok_or(Spent)?;
        Ok(value.map_err(|error| format!("expression '{}' resulted in error: {error}", self.source)))
    }
}

/// Match conditions: expressions that all must hold for a request to be looked at.
#[derive(Debug)]
pub struct Conditions(Vec<Expression>);

impl Conditions {
    /// Those of a webhook (`matchConditions`).
    pub fn of_webhook(list: &Json) -> Self {
        Self::read(list, Scope { authorizer: true, ..Scope::default() })
    }

    fn read(list: &Json, scope: Scope) -> Self {
        let env = env::environment(scope, None);
        Self(items(list).iter().map(|c| Expression::compile(&env, text(&c["expression"]), &[Type::Bool])).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that is false decides, even if others fail; the errors of those are upstream's words.
    ///
    /// # Errors
    /// When a condition cannot be evaluated: what becomes of the request is told by the failure policy.
    pub fn hold(&self, input: &Input<'_>) -> Result<bool, String> {
        if self.is_empty() {
            return Ok(true);
        }
        let values = Input { namespace: &Json::Null, ..*input }.variables(None);
        let none = env::Variables::default();
        let mut purse = Purse(CONDITIONS_BUDGET);
        let mut errors = Vec::new();
        for condition in &self.0 {
            match condition.evaluate(&values, &none, &mut purse) {
                Ok(Ok(Value::Bool(false))) => return Ok(false),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => errors.push(error),
                Err(Spent) => return Err(OUT_OF_BUDGET.to_owned()),
            }
        }
        match &errors[..] {
            [] => Ok(true),
            [one] => Err(one.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}

/// Faults of an expression before it is stored; none if it can be run.
pub(crate) fn fault(
    source: &str,
    scope: Scope,
    variables: Option<&[(String, Type)]>,
    wanted: &[Type],
) -> Result<Type, String> {
    let env = env::environment(scope, variables);
    compile(&env, source, wanted).map(|program| program.output().clone())
}

/// A list of JSON patches.
pub(crate) fn patches() -> Type {
    Type::list(Type::object("JSONPatch", []))
}

/// The type of an object that is applied.
pub(crate) fn applied() -> Type {
    Type::object("Object", [])
}

#[cfg(test)]
mod tests;
