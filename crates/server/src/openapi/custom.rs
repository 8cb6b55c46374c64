//! Custom kinds: their own schema, with what every object has put in.

use serde_json::{Value, json};
use skiff_meta::GroupVersionKind;

use super::components::{Components, gvk_json, meta};
use super::paths::{Resource, Subresource};
use super::{CustomKind, words};

const VERBS: &[&str] = skiff_api::kinds::ALL_VERBS;
const READ_WRITE: &[&str] = &["get", "patch", "update"];

/// The resource of a custom kind; its schemas are added to the document.
pub(super) fn resource<'a>(custom: &CustomKind<'a>, components: &mut Components<'_>) -> Resource<'a> {
    let gvk = GroupVersionKind::new(custom.group, custom.version, custom.kind);
    let component = component_name(&gvk);
    let list_gvk = GroupVersionKind::new(custom.group, custom.version, custom.list_kind);
    let list_component = component_name(&list_gvk);
    let object = object_schema(custom.schema, &gvk, components);
    components.add(component.clone(), object);
    let list = list_schema(&component, &list_gvk, components);
    components.add(list_component.clone(), list);
    let scale = ("autoscaling", "v1", "Scale");
    let scale_component = "io.k8s.api.autoscaling.v1.Scale";
    let status =
        || Subresource { name: "status", verbs: READ_WRITE, gvk: gvk.clone(), component: Some(component.clone()) };
    let scale = || Subresource {
        name: "scale",
        verbs: READ_WRITE,
        gvk: GroupVersionKind::new(scale.0, scale.1, scale.2),
        component: Some(scale_component.to_owned()),
    };
    let subresources = custom.scale.then(scale).into_iter().chain(custom.status.then(status)).collect();
    Resource {
        plural: custom.plural,
        namespaced: custom.namespaced,
        verbs: VERBS,
        subresources,
        protobuf: false,
        gvk,
        component,
        list_component,
    }
}

/// `com.example.stable.v1.CronTab`: the group read backwards.
fn component_name(gvk: &GroupVersionKind) -> String {
    let group: Vec<&str> = gvk.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), gvk.version, gvk.kind)
}

fn object_schema(schema: Option<&Value>, gvk: &GroupVersionKind, components: &mut Components<'_>) -> Value {
    let mut schema = schema
        .filter(|s| s.is_object())
        .cloned()
        .unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    add_common(&mut schema, "ObjectMeta", components);
    schema["x-kubernetes-group-version-kind"] = json!([gvk_json(gvk)]);
    schema
}

/// Puts in what every object or list has.
fn add_common(schema: &mut Value, metadata: &str, components: &mut Components<'_>) {
    let described = |member| words::of_any_object(member, metadata == "ListMeta");
    for name in ["apiVersion", "kind"] {
        schema["properties"][name] = json!({"type": "string", "description": described(name)});
    }
    let reference = components.refer(&meta(metadata));
    schema["properties"]["metadata"] = json!({"allOf": [reference], "description": described("metadata")});
}

fn list_schema(item: &str, gvk: &GroupVersionKind, components: &mut Components<'_>) -> Value {
    let mut schema = json!({
        "type": "object",
        "required": ["items"],
        "properties": {"items": {
            "type": "array",
            "items": super::components::reference(item),
            "description": words::of_any_object("items", true),
        }},
        "x-kubernetes-group-version-kind": [gvk_json(gvk)],
    });
    add_common(&mut schema, "ListMeta", components);
    schema
}
