//! Type checking: whether the expressions of a ValidatingAdmissionPolicy fit the kinds that it matches.
//!
//! It changes nothing about what a policy does; what it finds is told in the policy's status, in upstream's words
//! (`k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use skiff_cel::{Schema, Struct, Type};
use skiff_meta::GroupVersionKind;
use skiff_meta::schema::{self, KindSchema, Scalar, TypeRef};

use super::env::typed;
use crate::tree::{items, text};

/// Kinds that one policy is checked against at most.
const MOST_KINDS: usize = 10;

/// What the server knows of kinds.
pub trait Kinds {
    /// The kinds of a resource, which may be named in singular; an empty group stands for all of them.
    fn named(&self, group: &str, version: &str, resource: &str) -> Vec<GroupVersionKind>;
    /// What objects of a kind look like; `None` for one that is not known.
    fn declared(&self, kind: &GroupVersionKind) -> Option<Type>;
}

/// What is said of the expressions of a policy: `status.typeChecking.expressionWarnings`.
pub fn warnings(policy: &Json, kinds: &dyn Kinds) -> Vec<Json> {
    let spec = &policy["spec"];
    let matched = matched(&spec["matchConstraints"]["resourceRules"], kinds);
    let declared: Vec<(GroupVersionKind, Type)> =
        matched.into_iter().filter_map(|kind| kinds.declared(&kind).map(|ty| (kind, ty))).collect();
    let params = spec["paramKind"].is_object().then(|| {
        let (group, version) = text(&spec["paramKind"]["apiVersion"]).rsplit_once('/').unwrap_or_default();
        let version = if version.is_empty() { text(&spec["paramKind"]["apiVersion"]) } else { version };
        let kind = GroupVersionKind::new(group, version, text(&spec["paramKind"]["kind"]));
        kinds.declared(&kind).unwrap_or(Type::Dyn)
    });
    let envs: Vec<_> = declared
        .iter()
        .map(|(kind, object)| {
            let mut variables: Vec<(String, Type)> = Vec::new();
            for variable in items(&spec["variables"]) {
                let program = typed(object, params.as_ref(), &variables).compile(text(&variable["expression"]));
                let ty = program.map_or(Type::Dyn, |program| program.output().clone());
                variables.push((text(&variable["name"]).to_owned(), ty));
            }
            (kind, typed(object, params.as_ref(), &variables))
        })
        .collect();
    let mut warnings = Vec::new();
    for (place, validation) in items(&spec["validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(&validation[field]);
            if source.is_empty() && field == "messageExpression" {
                continue;
            }
            let said = envs.iter().filter_map(|(kind, env)| {
                let issues = env.compile(source).err()?;
                let GroupVersionKind { group, version, kind } = kind;
                Some(format!("{group}/{version}, Kind={kind}: {issues}\n"))
            });
            let said: Vec<String> = said.collect();
            if !said.is_empty() {
                let path = format!("spec.validations[{place}].{field}");
                warnings.push(json!({"fieldRef": path, "warning": said.join("\n")}));
            }
        }
    }
    warnings
}

/// The kinds that rules without wildcards name, in order.
fn matched(rules: &Json, kinds: &dyn Kinds) -> BTreeSet<GroupVersionKind> {
    let mut found = BTreeSet::new();
    for rule in items(rules) {
        let sorted = |field: &str| items(&rule[field]).iter().map(text).collect::<BTreeSet<&str>>();
        let exact = |all: &BTreeSet<&str>| all.iter().all(|name| !name.contains('*'));
        let (groups, versions, resources) = (sorted("apiGroups"), sorted("apiVersions"), sorted("resources"));
        if !exact(&groups) || !exact(&versions) {
            continue;
        }
        let resources: Vec<&str> = resources.into_iter().filter(|name| !name.contains(['*', '/'])).collect();
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for kind in resources.iter().flat_map(|resource| kinds.named(group, version, resource)) {
                    found.insert(kind);
                    count += 1;
                    if count == MOST_KINDS {
                        return found;
                    }
                }
            }
        }
    }
    found
}

/// The type of a built-in kind. What has no single type in its OpenAPI (quantities, free JSON) expressions cannot name.
pub fn built_in(schema: &KindSchema, kind: &str) -> Type {
    declare(schema.root(), kind, &mut Vec::new()).unwrap_or(Type::Dyn)
}

/// The type of a custom kind, by its structural schema; `metadata` is that of every object.
pub fn defined(schema: &Json, kind: &str) -> Type {
    let Some(Type::Struct(root)) = Schema::read(schema, true).declare(kind).map(|decl| decl.ty) else {
        return Type::Dyn;
    };
    let mut fields = root.fields.clone();
    let meta = skiff_api::facts::schema_of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    if let Some(meta) = meta {
        fields.insert("metadata".to_owned(), built_in(&meta, &format!("{kind}.metadata")));
    }
    Type::Struct(Arc::new(Struct { name: root.name.clone(), fields, open: false }))
}

fn declare(ty: TypeRef<'_>, name: &str, above: &mut Vec<schema::TypeId>) -> Option<Type> {
    Some(match ty.get() {
        schema::Type::Scalar(scalar) => match scalar {
            Scalar::String | Scalar::Duration => Type::String,
            Scalar::Int32 | Scalar::Int64 => Type::Int,
            Scalar::Float64 => Type::Double,
            Scalar::Bool => Type::Bool,
            Scalar::Bytes => Type::Bytes,
            Scalar::Time | Scalar::MicroTime => Type::Timestamp,
            Scalar::IntOrString => Type::Dyn,
            Scalar::Quantity => return None,
        },
        schema::Type::List { .. } => Type::list(declare(ty.item(), &format!("{name}.@idx"), above)?),
        schema::Type::Map { value, .. } => {
            let value = declare(ty.to(*value), &format!("{name}.@elem"), above)?;
            Type::map(Type::String, value)
        }
        schema::Type::Struct(s) => {
            let mut fields = BTreeMap::new();
            // A type within itself is an object of which nothing is known.
            if !above.contains(&ty.id()) {
                above.push(ty.id());
                for field in &s.fields {
                    let Some(escaped) = skiff_cel::escape(&field.name) else { continue };
                    let declared = declare(ty.to(field.ty), &format!("{name}.{escaped}"), above);
                    let Some(declared) = declared else { continue };
                    if escaped != field.name {
                        fields.insert(field.name.clone(), declared.clone());
                    }
                    fields.insert(escaped, declared);
                }
                above.pop();
            }
            Type::Struct(Arc::new(Struct { name: name.to_owned(), fields, open: false }))
        }
        schema::Type::Any => Type::object(name, []),
    })
}
