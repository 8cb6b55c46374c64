//! What expressions about requests may name.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use skiff_cel::{Budget, Env, Error, Library, Members, PER_CALL_LIMIT, Type, Value};

use super::{Expression, Input};

/// Which variables there are beside the object, the request and the namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope {
    /// `params`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// `Object{}` and `JSONPatch{}`.
    pub patches: bool,
}

/// The environment; variables that the scope does not have keep their number under a name that no source can write.
pub(super) fn environment(scope: Scope, variables: Option<&[(String, Type)]>) -> Env {
    let named = |there: bool, name: &'static str| if there { name } else { "@absent" };
    let env = Env::new()
        .with("object", Type::Dyn)
        .with("oldObject", Type::Dyn)
        .with("namespaceObject", namespace())
        .with("request", request())
        .with(named(scope.params, "params"), Type::Dyn)
        .with(named(scope.authorizer, "authorizer"), Type::Library(Library::Authorizer))
        .with(named(scope.authorizer, "authorizer.requestResource"), Type::Library(Library::ResourceCheck))
        .with(
            named(variables.is_some(), "variables"),
            Type::object("kubernetes.variables", variables.into_iter().flatten().cloned()),
        );
    if scope.patches { env.with_patches() } else { env }
}

/// The environment of type checking, where objects and parameters have types. As in upstream, there is no
/// `authorizer.requestResource` in it.
pub(super) fn typed(object: &Type, params: Option<&Type>, variables: &[(String, Type)]) -> Env {
    let env = Env::new()
        .with("object", object.clone())
        .with("oldObject", object.clone())
        .with("namespaceObject", namespace())
        .with("request", request())
        .with("authorizer", Type::Library(Library::Authorizer))
        .with("variables", Type::object("kubernetes.variables", variables.iter().cloned()));
    match params {
        Some(params) => env.with("params", params.clone()),
        None => env,
    }
}

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    Type::object(name, fields.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())))
}

fn texts(names: &[&'static str]) -> Vec<(&'static str, Type)> {
    names.iter().map(|name| (*name, Type::String)).collect()
}

fn request() -> Type {
    let kind = object("kubernetes.GroupVersionKind", &texts(&["group", "version", "kind"]));
    let resource = object("kubernetes.GroupVersionResource", &texts(&["group", "version", "resource"]));
    let mut user = texts(&["username", "uid"]);
    user.push(("groups", Type::list(Type::String)));
    user.push(("extra", Type::map(Type::String, Type::list(Type::String))));
    let mut fields = texts(&["subResource", "requestSubResource", "name", "namespace", "operation"]);
    fields.extend([
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("requestKind", kind),
        ("requestResource", resource),
        ("userInfo", object("kubernetes.UserInfo", &user)),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ]);
    object("kubernetes.AdmissionRequest", &fields)
}

fn namespace() -> Type {
    let labels = || Type::map(Type::String, Type::String);
    let mut metadata = texts(&["name", "generateName", "namespace", "UID", "resourceVersion"]);
    metadata.extend([
        ("labels", labels()),
        ("annotations", labels()),
        ("creationTimestamp", Type::Timestamp),
        ("deletionTimestamp", Type::Timestamp),
        ("deletionGracePeriodSeconds", Type::Int),
        ("generation", Type::Int),
        ("finalizers", Type::list(Type::String)),
    ]);
    let mut condition = texts(&["status", "type", "message", "reason"]);
    condition.push(("lastTransitionTime", Type::Timestamp));
    let conditions = Type::list(object("kubernetes.NamespaceCondition", &condition));
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(Type::String))]);
    let status = object("kubernetes.NamespaceStatus", &[("conditions", conditions), ("phase", Type::String)]);
    let metadata = object("kubernetes.NamespaceMetadata", &metadata);
    object("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
}

/// The variables of a policy: each is evaluated when it is first asked for, and once.
#[derive(Debug, Default)]
pub(super) struct Variables<'a> {
    own: Weak<Variables<'a>>,
    input: Option<Input<'a>>,
    expressions: &'a [(String, Expression)],
    known: RefCell<Vec<Option<Result<Value<'a>, Error>>>>,
    cost: Cell<u64>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(input: &Input<'a>, expressions: &'a [(String, Expression)]) -> Rc<Self> {
        Rc::new_cyclic(|own| Self {
            own: own.clone(),
            input: Some(*input),
            expressions,
            known: RefCell::new(vec![None; expressions.len()]),
            cost: Cell::new(0),
        })
    }

    /// What evaluating them has cost since this was last asked.
    pub(super) fn take_cost(&self) -> u64 {
        self.cost.take()
    }

    fn evaluate(&self, name: &str, expression: &'a Expression) -> Result<Value<'a>, Error> {
        let failed =
            |verb: &str, why: String| Error::Failed(format!("composited variable {name:?} fails to {verb}: {why}"));
        let program = expression.program.as_ref().map_err(|error| failed("compile", error.clone()))?;
        let own = self.own.upgrade().map(|own| Value::Lazy(own));
        let values = self.input.as_ref().map(|input| input.variables(own)).unwrap_or_default();
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let value = program.evaluate(&values, &mut budget);
        self.cost.set(self.cost.get().saturating_add(budget.spent()));
        value.map_err(|error| failed("evaluate", error.to_string()))
    }
}

impl<'a> Members<'a> for Variables<'a> {
    fn get(&self, name: &str, _spend: &mut Budget) -> Option<Result<Value<'a>, Error>> {
        let index = self.expressions.iter().position(|(known, _)| known == name)?;
        if let Some(Some(value)) = self.known.borrow().get(index) {
            return Some(value.clone());
        }
        let value = self.evaluate(name, &self.expressions[index].1);
        if let Some(slot) = self.known.borrow_mut().get_mut(index) {
            *slot = Some(value.clone());
        }
        Some(value)
    }
}
