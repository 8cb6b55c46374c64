use serde_json::json;
use skiff_api::KINDS;

use super::*;

fn crontab(schema: &Value) -> CustomKind<'_> {
    CustomKind {
        group: "stable.example.com",
        version: "v1",
        kind: "CronTab",
        list_kind: "CronTabList",
        plural: "crontabs",
        namespaced: true,
        schema: Some(schema),
        status: true,
        scale: true,
    }
}

/// Every reference of the document must lead somewhere.
fn check_references(document: &Value) {
    fn walk(value: &Value, root: &Value, checked: &mut usize) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    assert!(root.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    *checked += 1;
                }
                map.values().for_each(|v| walk(v, root, checked));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, root, checked)),
            _ => {}
        }
    }
    let mut checked = 0;
    walk(document, document, &mut checked);
    assert!(checked > 10);
}

#[test]
fn every_group_and_version_has_a_document_that_hangs_together() {
    let index = v3_index(&[]);
    for gv in kinds::group_versions() {
        let document = v3_document(&gv, &[]).unwrap();
        check_references(&document);
        let path = paths::base(&gv);
        let entry = &index["paths"][path.trim_start_matches('/')]["serverRelativeURL"];
        assert_eq!(*entry, json!(format!("/openapi/v3{path}?hash={}", hash(&gv, &[]))));
    }
    assert!(v3_document(&GroupVersion::new("nothing", "v1"), &[]).is_none());
}

#[test]
fn every_verb_of_every_kind_is_an_operation() {
    for kind in KINDS {
        let gv = GroupVersion::new(kind.group, kind.preferred_version());
        let document = v3_document(&gv, &[]).unwrap();
        let place = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{}{place}/{}", paths::base(&gv), kind.plural);
        for (verb, method, named) in [
            ("list", "get", false),
            ("create", "post", false),
            ("deletecollection", "delete", false),
            ("get", "get", true),
            ("update", "put", true),
            ("patch", "patch", true),
            ("delete", "delete", true),
        ] {
            let path = if named { format!("{collection}/{{name}}") } else { collection.clone() };
            let found = &document["paths"][&path][method];
            assert_eq!(found.is_object(), kind.verbs.contains(&verb), "{verb} {path}");
        }
        for sub in kind.subresources {
            let item = &document["paths"][format!("{collection}/{{name}}/{}", sub.name)];
            assert_eq!(item.as_object().unwrap().len(), sub.verbs.len() + 1, "{} {}", kind.plural, sub.name);
        }
    }
}

#[test]
fn operations_have_the_names_and_parameters_that_clients_know() {
    let document = v3_document(&GroupVersion::new("rbac.authorization.k8s.io", "v1"), &[]).unwrap();
    let item = &document["paths"]["/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}"];
    assert_eq!(item["get"]["operationId"], "readRbacAuthorizationV1NamespacedRole");
    assert_eq!(item["get"]["tags"], json!(["rbacAuthorization_v1"]));
    let patch = &item["patch"];
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let gvk = json!({"group": "rbac.authorization.k8s.io", "version": "v1", "kind": "Role"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    let core = v3_document(&GroupVersion::new("", "v1"), &[]).unwrap();
    let id = |path: &str, method: &str| core["paths"][path][method]["operationId"].as_str().unwrap().to_owned();
    assert_eq!(id("/api/v1/pods", "get"), "listCoreV1PodForAllNamespaces");
    let pods = "/api/v1/namespaces/{namespace}/pods";
    assert_eq!(id(pods, "delete"), "deleteCoreV1CollectionNamespacedPod");
    assert_eq!(id(&format!("{pods}/{{name}}/exec"), "post"), "connectCoreV1PostNamespacedPodExec");
    assert_eq!(id(&format!("{pods}/{{name}}/log"), "get"), "readCoreV1NamespacedPodLog");
    assert_eq!(id(&format!("{pods}/{{name}}/binding"), "post"), "createCoreV1NamespacedPodBinding");
    assert_eq!(id("/api/v1/namespaces/{name}/finalize", "put"), "replaceCoreV1NamespaceFinalize");
}

/// A schema without its words, which must be there.
fn wordless(schema: &Value) -> Value {
    let mut schema = schema.clone();
    assert!(schema.as_object_mut().unwrap().remove("description").unwrap().is_string());
    schema
}

#[test]
fn schemas_say_how_lists_merge() {
    let document = v3_document(&GroupVersion::new("apps", "v1"), &[]).unwrap();
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
    let containers = json!({
        "type": "array", "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"},
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
    });
    assert_eq!(wordless(&spec["containers"]), containers);
    let strategy = json!({
        "allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"}],
        "default": {}, "x-kubernetes-patch-strategy": "retainKeys",
    });
    assert_eq!(wordless(&schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"]), strategy);
    assert_eq!(schemas["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"], "atomic");
}

#[test]
fn custom_kinds_stand_beside_built_in_ones() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"cronSpec": {"type": "string", "nullable": true}}}}});
    let custom = [crontab(&schema)];
    let gv = GroupVersion::new("stable.example.com", "v1");
    let document = v3_document(&gv, &custom).unwrap();
    check_references(&document);
    let component = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(component["properties"]["spec"], schema["properties"]["spec"]);
    assert!(component["properties"]["metadata"].is_object());
    let item = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}";
    assert_eq!(document["paths"][item]["get"]["operationId"], "readStableExampleComV1NamespacedCronTab");
    assert!(document["paths"][format!("{item}/scale")]["put"].is_object());
    assert!(v3_index(&custom)["paths"]["apis/stable.example.com/v1"].is_object());

    let other = json!({"type": "object"});
    assert_ne!(hash(&gv, &custom), hash(&gv, &[crontab(&other)]));
    assert_eq!(hash(&gv, &custom), hash(&gv, &custom));
}

#[test]
fn the_older_form_holds_everything() {
    let schema = json!({"type": "object"});
    let document = v2_document(&[crontab(&schema)]);
    check_references(&document);
    assert!(document["definitions"]["com.example.stable.v1.CronTab"].is_object());
    let selector = &document["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["selector"];
    let reference = json!({"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"});
    assert_eq!(wordless(selector), reference);
    let create = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"]["post"];
    let body = create["parameters"].as_array().unwrap().iter().find(|p| p["in"] == "body").unwrap();
    assert_eq!(body["schema"], json!({"$ref": "#/definitions/io.k8s.api.apps.v1.Deployment"}));
    assert_eq!(create["responses"]["201"]["schema"], body["schema"]);
    let everywhere = &document["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    assert!(everywhere["x-kubernetes-group-version-kind"].as_array().unwrap().len() > 10);
}

/// The message under a path of field numbers, and how many lie there.
fn under<'a>(message: &'a [u8], path: &[u32]) -> Vec<&'a [u8]> {
    fn varint(bytes: &mut &[u8]) -> usize {
        let end = bytes.iter().position(|b| b & 0x80 == 0).unwrap() + 1;
        let (taken, rest) = bytes.split_at(end);
        *bytes = rest;
        taken.iter().rev().fold(0, |all, b| all << 7 | usize::from(b & 0x7f))
    }
    let Some((first, rest)) = path.split_first() else { return vec![message] };
    let (mut left, mut found) = (message, Vec::new());
    while !left.is_empty() {
        let tag = varint(&mut left);
        match tag & 7 {
            0 => drop(varint(&mut left)),
            1 => left = &left[8..],
            2 => {
                let length = varint(&mut left);
                let (body, after) = left.split_at(length);
                left = after;
                if tag >> 3 == *first as usize {
                    found.extend(under(body, rest));
                }
            }
            other => panic!("wire type {other}"),
        }
    }
    found
}

#[test]
fn protobuf_says_what_json_says() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "integer", "minimum": 1, "default": 3,
        "x-kubernetes-validations": [{"rule": "self > 1"}]}}});
    let custom = [crontab(&schema)];
    let v2 = protobuf::encode(&v2_document(&custom), &protobuf::V2);
    assert_eq!(under(&v2, &[1]), [b"2.0"]);
    let json = v2_document(&custom);
    let names: Vec<&str> = json["definitions"].as_object().unwrap().keys().map(String::as_str).collect();
    let told: Vec<&str> = under(&v2, &[9, 1, 1]).iter().map(|b| std::str::from_utf8(b).unwrap()).collect();
    assert_eq!(told, names);
    assert_eq!(under(&v2, &[8, 2]).len(), json["paths"].as_object().unwrap().len());

    let gv = GroupVersion::new("stable.example.com", "v1");
    let document = v3_document(&gv, &custom).unwrap();
    let v3 = protobuf::encode(&document, &protobuf::V3);
    assert_eq!(under(&v3, &[5, 1, 1]).len(), document["components"]["schemas"].as_object().unwrap().len());
    let patch = under(&v3, &[4, 1, 2, 10, 5]);
    assert!(patch.contains(&&b"patchStableExampleComV1NamespacedCronTab"[..]));
    // Of the definition's own schema: an extension of the `spec` property.
    let extensions = under(&v3, &[5, 1, 1, 2, 1, 31, 1, 2, 1, 36, 2, 2]);
    assert!(extensions.contains(&&br#"[{"rule":"self > 1"}]"#[..]));
}
