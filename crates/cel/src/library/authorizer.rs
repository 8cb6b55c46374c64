//! Asking the authorizer from within an expression: `authorizer.group('apps').resource('deployments').check('get')`.

use std::rc::Rc;

use skiff_meta::names::NameForm;

use super::Function;
use crate::error::Error;
use crate::types::Library;
use crate::value::{Evaluated, Special, Value};

/// What one check costs: an expression can afford two.
pub(crate) const CHECK_COST: u64 = 350_000;

/// Who decides.
pub trait Authorizer: std::fmt::Debug {
    /// Whether the request's user may, or, if one is named, the service account (namespace and name).
    fn authorize(&self, service_account: Option<(&str, &str)>, attributes: &Attributes) -> Decision;
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Attributes {
    /// Set for what is no resource; all but the verb is empty then.
    pub path: Option<String>,
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

/// What the authorizer said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong on the way, if anything.
    pub error: Option<String>,
}

/// A check being put together, or its outcome.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    authorizer: &'a dyn Authorizer,
    service_account: Option<(Rc<str>, Rc<str>)>,
    attributes: Attributes,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
    Decided(Decision),
}

impl<'a> Check<'a> {
    /// The variable `authorizer`.
    pub fn new(authorizer: &'a dyn Authorizer) -> Self {
        Self { authorizer, service_account: None, attributes: Attributes::default(), stage: Stage::Authorizer }
    }

    /// The variable `authorizer.requestResource`: a check of the request's own resource, but for the verb.
    pub fn of_resource(authorizer: &'a dyn Authorizer, attributes: Attributes) -> Self {
        Self { authorizer, service_account: None, attributes, stage: Stage::Resource }
    }

    /// Its type.
    pub(crate) fn library(&self) -> Library {
        match self.stage {
            Stage::Authorizer => Library::Authorizer,
            Stage::Path => Library::PathCheck,
            Stage::Group => Library::GroupCheck,
            Stage::Resource => Library::ResourceCheck,
            Stage::Decided(_) => Library::Decision,
        }
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        let same_user = self.service_account == other.service_account;
        same_user && self.attributes == other.attributes && self.stage == other.stage
    }

    fn with(&self, stage: Stage, change: impl FnOnce(&mut Attributes)) -> Value<'a> {
        let mut next = self.clone();
        change(&mut next.attributes);
        next.stage = stage;
        Special::Check(next).into()
    }

    fn decide(&self, verb: &str) -> Value<'a> {
        let mut attributes = self.attributes.clone();
        verb.clone_into(&mut attributes.verb);
        let account = self.service_account.as_ref().map(|(namespace, name)| (&**namespace, &**name));
        let decision = self.authorizer.authorize(account, &attributes);
        self.with(Stage::Decided(decision), |_| {})
    }
}

pub(super) fn function(name: &str) -> Option<Function> {
    super::by_name!(
        name,
        run,
        [
            "path",
            "group",
            "serviceAccount",
            "resource",
            "subresource",
            "namespace",
            "name",
            "fieldSelector",
            "labelSelector",
            "check",
            "errored",
            "error",
            "allowed",
            "reason"
        ]
    )
}

fn run<'a>(function: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let Some(Value::Library(special)) = args.first() else { return Err(Error::no_overload()) };
    let Special::Check(check) = &**special else { return Err(Error::no_overload()) };
    let texts = args[1..].iter().map(|arg| match arg {
        Value::String(text) => Ok(text.to_string()),
        _ => Err(Error::no_overload()),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let blank = |text: &str, what: &str| match text.trim().is_empty() {
        true => Err(Error::new(format!("{what} must not be empty"))),
        false => Ok(()),
    };
    match (function, &check.stage, &texts[..]) {
        ("path", Stage::Authorizer, [path]) => {
            blank(path, "path")?;
            Ok(check.with(Stage::Path, |a| a.path = Some(path.clone())))
        }
        ("group", Stage::Authorizer, [group]) => Ok(check.with(Stage::Group, |a| a.group.clone_from(group))),
        ("serviceAccount", Stage::Authorizer, [namespace, name]) => {
            if !NameForm::Subdomain.faults(name, false).is_empty() {
                return Err(Error::new("Invalid service account name"));
            }
            if !NameForm::Label.faults(namespace, false).is_empty() {
                return Err(Error::new("Invalid service account namespace"));
            }
            let mut next = check.clone();
            next.service_account = Some((namespace.as_str().into(), name.as_str().into()));
            Ok(Special::Check(next).into())
        }
        ("resource", Stage::Group, [resource]) => {
            blank(resource, "resource")?;
            Ok(check.with(Stage::Resource, |a| a.resource.clone_from(resource)))
        }
        ("check", Stage::Path | Stage::Resource, [verb]) => Ok(check.decide(verb)),
        (_, Stage::Resource, [text]) => {
            let mut next = check.clone();
            match function {
                "subresource" => next.attributes.subresource.clone_from(text),
                "namespace" => next.attributes.namespace.clone_from(text),
                "name" => next.attributes.name.clone_from(text),
                "fieldSelector" => next.attributes.field_selector = Some(text.clone()),
                "labelSelector" => next.attributes.label_selector = Some(text.clone()),
                _ => return Err(Error::no_overload()),
            }
            Ok(Special::Check(next).into())
        }
        ("errored", Stage::Decided(decision), []) => Ok(Value::Bool(decision.error.is_some())),
        ("error", Stage::Decided(decision), []) => Ok(decision.error.clone().unwrap_or_default().into()),
        ("allowed", Stage::Decided(decision), []) => Ok(Value::Bool(decision.allowed)),
        ("reason", Stage::Decided(decision), []) => Ok(decision.reason.clone().into()),
        _ => Err(Error::no_overload()),
    }
}
