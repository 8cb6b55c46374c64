//! Schemas: the type graph as OpenAPI shows it, and whatever it refers to.

use serde_json::{Map, Value, json};
use skiff_api::facts::{Facts, facts};
use skiff_meta::schema::{Field, ListType, Scalar, Type, TypeId};
use skiff_meta::{GroupVersion, GroupVersionKind};

use super::words::Words;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// Collects the schemas that a document refers to.
pub(super) struct Components<'a> {
    gv: &'a GroupVersion,
    facts: &'static Facts,
    schemas: Map<String, Value>,
    waiting: Vec<String>,
    words: Words,
}

/// The reference to a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The full name of a type of `meta/v1`.
pub(super) fn meta(name: &str) -> String {
    format!("{META}.{name}")
}

impl<'a> Components<'a> {
    pub(super) fn new(gv: &'a GroupVersion) -> Self {
        Self { gv, facts: facts(), schemas: Map::new(), waiting: Vec::new(), words: Words::default() }
    }

    /// The reference to a schema, which will then be in the document.
    pub(super) fn refer(&mut self, name: &str) -> Value {
        if !self.schemas.contains_key(name) && !self.waiting.iter().any(|w| w == name) {
            self.waiting.push(name.to_owned());
        }
        reference(name)
    }

    /// Adds a schema that the type graph does not have.
    pub(super) fn add(&mut self, name: String, schema: Value) {
        self.schemas.insert(name, schema);
    }

    /// All schemas, those referred to by others included.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(name) = self.waiting.pop() {
            let schema = match self.facts.id_of(&name) {
                Some(id) => self.object(id),
                None => self.special(&name),
            };
            self.schemas.insert(name, schema);
        }
        self.schemas
    }

    fn object(&mut self, id: TypeId) -> Value {
        let facts = self.facts;
        let Type::Struct(s) = facts.graph().get(id) else { return json!({}) };
        let mut schema = json!({ "type": "object" });
        if let Some(words) = self.words.of_type(&s.name) {
            schema["description"] = words.into();
        }
        let properties: Map<_, _> = s.fields.iter().map(|f| (f.name.clone(), self.property(&s.name, f))).collect();
        let required: Vec<&str> = s.fields.iter().filter(|f| f.required).map(|f| &*f.name).collect();
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if s.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        let gvks: Vec<Value> = facts.gvks(id).iter().map(|gvk| self.gvk(gvk)).collect();
        if !gvks.is_empty() {
            schema["x-kubernetes-group-version-kind"] = gvks.into();
        }
        schema
    }

    /// Kinds of everywhere are kinds of the document's own group and version.
    fn gvk(&self, gvk: &GroupVersionKind) -> Value {
        match &*gvk.group {
            "*" => gvk_json(&GroupVersionKind::new(&*self.gv.group, &*self.gv.version, &*gvk.kind)),
            _ => gvk_json(gvk),
        }
    }

    fn property(&mut self, of: &str, field: &Field) -> Value {
        let mut schema = self.of_type(field.ty, field.go.named);
        let default = field.default.clone();
        let patch = &field.patch;
        let granular = self.is_granular(field.ty);
        let words = self.words.of_member(of, &field.name);
        let beside = default.is_some() || patch.retain_keys || patch.replace || granular || words.is_some();
        if schema.get("$ref").is_some() && beside {
            // Nothing may stand beside a reference.
            schema = json!({ "allOf": [schema] });
        }
        if let Some(default) = default {
            schema["default"] = default;
        }
        if let Some(words) = words {
            schema["description"] = words.into();
        }
        if granular {
            schema["x-kubernetes-map-type"] = "granular".into();
        }
        let strategies = [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")];
        let strategies: Vec<&str> = strategies.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
        if !strategies.is_empty() {
            schema["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if !patch.merge_key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = patch.merge_key.as_str().into();
        }
        schema
    }

    /// Whether a type that is atomic elsewhere is not so here.
    fn is_granular(&self, id: TypeId) -> bool {
        let is_atomic = |id| matches!(self.facts.graph().get(id), Type::Struct(s) if s.atomic);
        match self.facts.graph().get(id) {
            Type::Struct(s) => !s.atomic && self.facts.id_of(&s.name).is_some_and(is_atomic),
            _ => false,
        }
    }

    fn of_type(&mut self, id: TypeId, named: &str) -> Value {
        let facts = self.facts;
        match facts.graph().get(id) {
            Type::Struct(s) => self.refer(&s.name),
            Type::List { item, list } => {
                let mut schema = json!({"type": "array", "items": self.of_type(*item, named.trim_start_matches("[]"))});
                match list {
                    ListType::Atomic => schema["x-kubernetes-list-type"] = "atomic".into(),
                    ListType::Set => schema["x-kubernetes-list-type"] = "set".into(),
                    ListType::Map(keys) => {
                        schema["x-kubernetes-list-type"] = "map".into();
                        schema["x-kubernetes-list-map-keys"] = keys.as_slice().into();
                    }
                }
                schema
            }
            Type::Map { value, atomic } => {
                let value = self.of_type(*value, named);
                let mut schema = json!({"type": "object", "additionalProperties": value});
                if *atomic {
                    schema["x-kubernetes-map-type"] = "atomic".into();
                }
                schema
            }
            Type::Any => self.refer(&any_name(named)),
            Type::Scalar(scalar) => self.scalar(*scalar),
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        match scalar {
            Scalar::String | Scalar::Duration => json!({"type": "string"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Float64 => json!({"type": "number", "format": "double"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Quantity => self.refer("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Scalar::IntOrString => self.refer("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Scalar::Time => self.refer(&meta("Time")),
            Scalar::MicroTime => self.refer(&meta("MicroTime")),
        }
    }

    /// Schemas of types that are structs in Go but not in JSON.
    fn special(&mut self, full_name: &str) -> Value {
        let mut schema = match full_name.rsplit('.').next().unwrap_or_default() {
            "Quantity" => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            "IntOrString" => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
            "RawExtension" | "FieldsV1" | "Patch" => json!({"type": "object"}),
            _ => json!({}),
        };
        if let Some(words) = self.words.of_type(full_name) {
            schema["description"] = words.into();
        }
        schema
    }
}

/// A kind as extensions name it.
pub(super) fn gvk_json(gvk: &GroupVersionKind) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

/// The schema behind a type without shape, told by its Go name.
fn any_name(named: &str) -> String {
    match named {
        "v1.FieldsV1" => meta("FieldsV1"),
        "v1.JSONSchemaDependencies" => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
        _ => match named.strip_prefix("v1.") {
            Some(json) => format!("{EXTENSIONS}.{json}"),
            None => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(),
        },
    }
}
