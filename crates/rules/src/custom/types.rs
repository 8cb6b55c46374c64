//! A structural schema as a type graph, which pruning, field validation, patches and server-side apply walk.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use skiff_meta::schema::{Field, KindSchema, ListType, Scalar, Schema, StructType, Type, TypeId, TypeRef};

use super::node::{Additional, Node};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The types of a custom kind: what its schema says, and the metadata that every object has. Without a schema,
/// everything is kept.
pub fn kind_schema(openapi_v3_schema: Option<&Value>) -> KindSchema {
    let root = Node::read(openapi_v3_schema);
    let mut graph = Graph::default();
    let id = graph.object(&root, true);
    KindSchema::new(Arc::new(graph.schema), id)
}

#[derive(Default)]
struct Graph {
    schema: Schema,
    /// Types copied from the graph of the built-in kinds.
    grafted: HashMap<TypeId, TypeId>,
}

impl Graph {
    fn of(&mut self, node: &Node) -> TypeId {
        let scalar = |scalar| Type::Scalar(scalar);
        let ty = match node.types() {
            ["integer", "string"] => scalar(Scalar::IntOrString),
            ["string"] => scalar(Scalar::String),
            ["integer"] => scalar(Scalar::Int64),
            ["number"] => scalar(Scalar::Float64),
            ["boolean"] => scalar(Scalar::Bool),
            ["array"] => {
                let item = match &node.items {
                    Some(item) => self.of(item),
                    None => self.schema.add(Type::Any),
                };
                Type::List { item, list: list_type(node) }
            }
            ["object"] => return self.object(node, node.embedded),
            _ => Type::Any,
        };
        self.schema.add(ty)
    }

    /// `resource`: whether it is an object with kind and metadata of its own.
    fn object(&mut self, node: &Node, resource: bool) -> TypeId {
        let atomic = node.map_type == "atomic";
        let value = match &node.additional_properties {
            Additional::Schema(value) => Some(self.of(value)),
            Additional::Allowed => Some(self.schema.add(Type::Any)),
            _ => None,
        };
        let ty = match value {
            Some(value) => Type::Map { value, atomic },
            None if node.preserve && node.properties.is_empty() && !resource => Type::Any,
            None => {
                let mut fields: Vec<Field> = Vec::new();
                for (name, property) in &node.properties {
                    let known = resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                    if !known {
                        let ty = self.of(property);
                        let required = node.required.contains(name);
                        let default = property.default.clone();
                        fields.push(Field { name: name.clone(), ty, required, default, ..Field::default() });
                    }
                }
                if resource {
                    fields.extend(self.resource_fields());
                }
                fields.sort_by(|a, b| a.name.cmp(&b.name));
                Type::Struct(Box::new(StructType { name: String::new(), fields, atomic, open: node.preserve }))
            }
        };
        self.schema.add(ty)
    }

    fn resource_fields(&mut self) -> [Field; 3] {
        let text = self.schema.add(Type::Scalar(Scalar::String));
        let metadata = match skiff_api::facts::schema_of(OBJECT_META) {
            Some(metadata) => self.graft(metadata.root()),
            None => self.schema.add(Type::Any),
        };
        [("apiVersion", text), ("kind", text), ("metadata", metadata)].map(|(name, ty)| Field {
            name: name.to_owned(),
            ty,
            ..Field::default()
        })
    }

    /// Copies a type of another graph with all that it refers to.
    fn graft(&mut self, from: TypeRef<'_>) -> TypeId {
        if let Some(id) = self.grafted.get(&from.id()) {
            return *id;
        }
        let id = self.schema.add(Type::Any);
        self.grafted.insert(from.id(), id);
        let ty = match from.get() {
            Type::List { item, list } => Type::List { item: self.graft(from.to(*item)), list: list.clone() },
            Type::Map { value, atomic } => Type::Map { value: self.graft(from.to(*value)), atomic: *atomic },
            Type::Struct(s) => {
                let mut s = s.clone();
                s.fields.iter_mut().for_each(|field| field.ty = self.graft(from.to(field.ty)));
                Type::Struct(s)
            }
            leaf => leaf.clone(),
        };
        self.schema.set(id, ty);
        id
    }
}

fn list_type(node: &Node) -> ListType {
    match &*node.list_type {
        "set" => ListType::Set,
        "map" => ListType::Map(node.list_map_keys.clone()),
        _ => ListType::Atomic,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_meta::check;

    use super::*;

    #[test]
    fn unknown_members_are_found_and_dropped_by_the_graph() {
        let schema = kind_schema(Some(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "known": {"type": "string"},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"inner": {"type": "object", "properties": {"x": {"type": "string"}}}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "object"}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "x-kubernetes-preserve-unknown-fields": true},
            }},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}}}})));
        let mut object = json!({
            "apiVersion": "g/v1", "kind": "K", "extra": 1, "metadata": {"name": "n", "labels": {"a": "b"}, "odd": 1},
            "spec": {"known": "k", "unknown": 1, "open": {"any": {"thing": 1}, "inner": {"x": "1", "y": 2}},
                "free": {"a": {"b": 1}}, "map": {"k": {"pruned": 1}}, "list": [{"a": "1", "b": 2}],
                "template": {"kind": "Pod", "metadata": {"name": "t"}, "spec": {}}},
        });
        let unknown = check::check(&mut object, schema.root()).unwrap();
        assert_eq!(unknown.len(), 6, "{unknown:?}");
        let expected = json!({
            "apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "labels": {"a": "b"}},
            "spec": {"known": "k", "open": {"any": {"thing": 1}, "inner": {"x": "1"}}, "free": {"a": {"b": 1}},
                "map": {"k": {}}, "list": [{"a": "1"}],
                "template": {"kind": "Pod", "metadata": {"name": "t"}, "spec": {}}},
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn lists_and_maps_say_how_they_merge() {
        let schema =
            kind_schema(Some(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "properties": {"port": {"type": "integer", "default": 80}}}},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "ref": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}},
            }}}})));
        let spec = schema.root().member("spec");
        let list = |name: &str| match spec.member(name).get() {
            Type::List { list, .. } => list.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((list("ports"), list("tags")), (ListType::Map(vec!["port".into()]), ListType::Set));
        assert_eq!(spec.member("ports").item().field("port").unwrap().default, Some(json!(80)));
        assert!(matches!(spec.member("ref").get(), Type::Struct(s) if s.atomic));
        let owners = schema.root().member("metadata").member("ownerReferences");
        assert!(matches!(owners.get(), Type::List { list: ListType::Map(keys), .. } if keys == &["uid"]));
    }

    #[test]
    fn without_a_schema_everything_is_kept() {
        let mut object = json!({"metadata": {"name": "n"}, "whatever": [1, {"a": 2}]});
        let before = object.clone();
        assert!(check::check(&mut object, kind_schema(None).root()).unwrap().is_empty());
        assert_eq!(object, before);
    }
}
