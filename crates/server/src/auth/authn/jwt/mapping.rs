//! Claims as expressions see them: they name users, and say which tokens and users will do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use skiff_cel::{Budget, Env, PER_CALL_LIMIT, Program, Type, Value};

use super::config::{ClaimRule, Mappings, UserRule};
use crate::chain::User;

/// The expressions of one issuer, compiled.
#[derive(Debug, Default)]
pub(super) struct Mapper {
    pub(super) username: Option<Program>,
    pub(super) groups: Option<Program>,
    pub(super) uid: Option<Program>,
    extra: Vec<(String, Program)>,
    claims: Vec<Rule>,
    users: Vec<Rule>,
}

/// An expression that must hold.
#[derive(Debug)]
struct Rule {
    source: String,
    message: String,
    program: Program,
}

fn claims_only() -> Env {
    Env::new().with("claims", Type::map(Type::String, Type::Dyn))
}

fn user_only() -> Env {
    let texts = || Type::list(Type::String);
    let fields = [
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
    ];
    Env::new().with("user", Type::object("kubernetes.UserInfo", fields.map(|(name, ty)| (name.to_owned(), ty))))
}

impl Mapper {
    /// Compiles what the configuration says; the error names the field.
    pub(super) fn new(mappings: &Mappings, claims: &[ClaimRule], users: &[UserRule]) -> Result<Self, String> {
        let env = claims_only();
        let mapped = |field: &str, source: &str| {
            let program = (!source.is_empty()).then(|| env.compile(source)).transpose();
            program.map_err(|issues| format!("claimMappings.{field}.expression: {}", issues.failure()))
        };
        let mut extra = Vec::new();
        for (place, mapping) in mappings.extra.iter().enumerate() {
            let program = env
                .compile(&mapping.value_expression)
                .map_err(|issues| format!("claimMappings.extra[{place}].valueExpression: {}", issues.failure()))?;
            extra.push((mapping.key.clone(), program));
        }
        let with_expressions = claims.iter().map(|rule| (&rule.expression, &rule.message));
        let of_users = users.iter().map(|rule| (&rule.expression, &rule.message));
        let mapper = Self {
            username: mapped("username", &mappings.username.expression)?,
            groups: mapped("groups", &mappings.groups.expression)?,
            uid: mapped("uid", &mappings.uid.expression)?,
            extra,
            claims: rules("claimValidationRules", &env, with_expressions)?,
            users: rules("userValidationRules", &user_only(), of_users)?,
        };
        mapper.check_mail().map(|()| mapper)
    }

    /// Whoever names users by their mail address must look whether it is verified.
    fn check_mail(&self) -> Result<(), String> {
        let uses = |program: &Program, claim: &str| program.selects("claims", claim);
        let Some(username) = self.username.as_ref().filter(|program| uses(program, "email")) else { return Ok(()) };
        let extra = self.extra.iter().map(|(_, program)| program);
        let mut looking = [username].into_iter().chain(extra).chain(self.claims.iter().map(|rule| &rule.program));
        if looking.any(|program| uses(program, "email_verified")) {
            return Ok(());
        }
        let why = "claims.email_verified must be used in claimMappings.username.expression or \
            claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in \
            claimMappings.username.expression";
        Err(format!("claimMappings.username.expression: {why}"))
    }

    /// What an expression makes of the claims, where that is a text.
    pub(super) fn text(&self, program: &Program, what: &str, claims: &Json) -> Result<String, String> {
        match evaluate(program, claims)
            .map_err(|why| format!("oidc: error evaluating {what} claim expression: {why}"))?
        {
            Json::String(text) => Ok(text),
            _ => {
                let why = format!("{what} claim expression must return a string");
                Err(format!("oidc: error evaluating {what} claim expression: {why}"))
            }
        }
    }

    /// What an expression makes of the claims, where that is a text, a list of them, or nothing.
    pub(super) fn texts(&self, program: &Program, what: &str, claims: &Json) -> Result<Vec<String>, String> {
        let failed = |why: String| format!("oidc: error evaluating {what} claim expression: {why}");
        let no_texts = || failed("expression must return a string or a list of strings".to_owned());
        let texts = match evaluate(program, claims).map_err(failed)? {
            Json::Null => Vec::new(),
            Json::String(text) => vec![text],
            Json::Array(all) => {
                let text = |value| if let Json::String(text) = value { Ok(text) } else { Err(no_texts()) };
                all.into_iter().map(text).collect::<Result<_, _>>()?
            }
            _ => return Err(no_texts()),
        };
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }

    /// What else is known of the user.
    pub(super) fn extra(&self, claims: &Json) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut all = BTreeMap::new();
        for (key, program) in &self.extra {
            let values = self.texts(program, "extra", claims)?;
            if !values.is_empty() {
                all.insert(key.clone(), values);
            }
        }
        Ok(all)
    }

    /// Whether the token will do.
    pub(super) fn check_claims(&self, claims: &Json) -> Result<(), String> {
        hold(&self.claims, claims).map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))
    }

    /// Whether the user will do.
    pub(super) fn check_user(&self, user: &User) -> Result<(), String> {
        let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        hold(&self.users, &shown).map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))
    }
}

fn rules<'a>(field: &str, env: &Env, all: impl Iterator<Item = (&'a String, &'a String)>) -> Result<Vec<Rule>, String> {
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    for (place, (source, message)) in all.enumerate().filter(|(_, (source, _))| !source.is_empty()) {
        let wrong = |why: String| format!("{field}[{place}].expression: {why}");
        if !seen.insert(source) {
            return Err(wrong(format!("Duplicate value: {source:?}")));
        }
        let program = env.compile(source).map_err(|issues| wrong(issues.failure()))?;
        if *program.output() != Type::Bool {
            return Err(wrong("must evaluate to bool".to_owned()));
        }
        rules.push(Rule { source: source.clone(), message: message.clone(), program });
    }
    Ok(rules)
}

fn hold(rules: &[Rule], shown: &Json) -> Result<(), String> {
    for Rule { source, message, program } in rules {
        if evaluate(program, shown)? != Json::Bool(true) {
            return Err(format!("validation expression '{source}' failed: {message}"));
        }
    }
    Ok(())
}

fn evaluate(program: &Program, shown: &Json) -> Result<Json, String> {
    let value = program.evaluate(&[Some(Value::json(shown))], &mut Budget::new(PER_CALL_LIMIT));
    Ok(value.map_err(|error| error.to_string())?.to_json().unwrap_or_default())
}
