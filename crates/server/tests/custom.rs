//! Custom kinds: the same verbs by the same code, from the moment their definition is acknowledged.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Server, start};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BOATS: &str = "/apis/sea.example.com/v1/namespaces/default/boats";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["sails"], "properties": {
            "sails": {"type": "integer", "minimum": 1}, "colour": {"type": "string", "default": "white"},
            "crew": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"afloat": {"type": "boolean"}, "crew": {"type": "integer"}}},
    }});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.crew", "statusReplicasPath": ".status.crew"}},
            "selectableFields": [{"jsonPath": ".spec.colour"}],
            "additionalPrinterColumns": [{"name": "Sails", "type": "integer", "jsonPath": ".spec.sails"}]})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList", "shortNames": ["bt"]},
            "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn boat(name: &str, sails: i64) -> Value {
    json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "metadata": {"name": name}, "spec": {"sails": sails}})
}

async fn with_boats() -> Server {
    let server = start().await;
    server.post(DEFINITIONS, &definition()).await.ok();
    server
}

#[tokio::test]
async fn served_as_soon_as_defined() {
    let server = with_boats().await;
    let made = server.post(BOATS, &boat("a", 2)).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    assert_eq!((&made["spec"]["colour"], &made["metadata"]["generation"]), (&json!("white"), &json!(1)));
    let group = server.get("/apis/sea.example.com").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let resources = server.get("/apis/sea.example.com/v1").await.ok();
    assert_eq!(resources["resources"][0]["shortNames"], json!(["bt"]));
    let mut lines = server.watch(&format!("{DEFINITIONS}?watch=1"), "*/*").await;
    loop {
        let event = lines.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            break;
        }
    }
    assert!(server.get("/openapi/v3").await.ok()["paths"]["apis/sea.example.com/v1"].is_object());
    assert_eq!(server.get("/openapi/v3/apis/sea.example.com/v1").await.code, 200);
}

#[tokio::test]
async fn judged_by_their_schema() {
    let server = with_boats().await;
    let (code, reason, message) = server.post(BOATS, &boat("a", 0)).await.refusal();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.starts_with("Boat.sea.example.com \"a\" is invalid: spec.sails: Invalid value: 0: "), "{message}");
    let mut odd = boat("a", 1);
    odd["spec"]["keel"] = json!(true);
    let made = server.post(BOATS, &odd).await;
    assert_eq!(made.warnings(), ["299 - \"unknown field \\\"spec.keel\\\"\""]);
    assert_eq!(made.ok()["spec"].get("keel"), None);
    let missing = json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {}});
    assert_eq!(server.post(BOATS, &missing).await.refusal().0, 422);
    let strategic = server.patch(&format!("{BOATS}/a"), "application/strategic-merge-patch+json", &json!({})).await;
    assert_eq!(strategic.refusal().0, 415);
}

#[tokio::test]
async fn every_verb_works() {
    let server = with_boats().await;
    let uri = format!("{BOATS}/a");
    let applied = server.apply(&uri, "me", &boat("a", 1)).await;
    assert_eq!(applied.code, 201);
    let (code, ..) = server.put(&uri, &boat("a", 2)).await.refusal();
    assert_eq!(code, 422, "updates of custom kinds name the version they replace");
    let mut next = applied.ok();
    next["spec"]["sails"] = json!(3);
    next["status"] = json!({"afloat": true});
    let next = server.put(&uri, &next).await.ok();
    assert_eq!(
        (&next["spec"]["sails"], next.get("status"), &next["metadata"]["generation"]),
        (&json!(3), None, &json!(2))
    );
    let status = json!({"status": {"afloat": true}, "spec": {"sails": 9}});
    let after = server.merge(&format!("{uri}/status"), &status).await.ok();
    assert_eq!((&after["spec"]["sails"], &after["status"]["afloat"]), (&json!(3), &json!(true)));
    let scaled = server.merge(&format!("{uri}/scale"), &json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    let beta = server.get("/apis/sea.example.com/v1beta1/namespaces/default/boats/a").await.ok();
    assert_eq!((&beta["apiVersion"], &beta["spec"]["crew"]), (&json!("sea.example.com/v1beta1"), &json!(4)));
    let beta = server.get("/apis/sea.example.com/v1beta1/boats").await.ok();
    assert_eq!(beta["items"][0]["apiVersion"], "sea.example.com/v1beta1");
    let white = server.get(&format!("{BOATS}?fieldSelector=spec.colour%3Dwhite")).await.ok();
    assert_eq!(white["items"].as_array().unwrap().len(), 1);
    let table = server.get_as(BOATS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.ok();
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[0], &cells[1]), (&json!("a"), &json!(3)));
    let mut lines = server.watch(&format!("{BOATS}?watch=1"), "*/*").await;
    assert_eq!(lines.told().await, "ADDED a");
    server.delete(&uri).await.ok();
    assert_eq!(lines.told().await, "DELETED a");
}

#[tokio::test]
async fn a_definition_takes_its_objects_with_it() {
    let server = with_boats().await;
    server.post(BOATS, &boat("a", 1)).await.ok();
    let mut lines = server.watch(&format!("{DEFINITIONS}?watch=1"), "*/*").await;
    assert_eq!(lines.told().await, "ADDED boats.sea.example.com");
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let mut announced = server.watch(&format!("{services}?watch=1"), "*/*").await;
    while announced.told().await != "ADDED v1.sea.example.com" {}
    server.delete(&format!("{DEFINITIONS}/boats.sea.example.com")).await.ok();
    while lines.told().await != "DELETED boats.sea.example.com" {}
    while announced.told().await != "DELETED v1.sea.example.com" {}
    assert_eq!(server.get(BOATS).await.code, 404);
    // Defined again, it begins empty.
    server.post(DEFINITIONS, &definition()).await.ok();
    assert_eq!(server.get(BOATS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn definitions_survive_a_restart() {
    let server = with_boats().await;
    server.post(BOATS, &boat("a", 1)).await.ok();
    let server = support::restart(&server).await;
    assert_eq!(server.get(&format!("{BOATS}/a")).await.ok()["spec"]["sails"], 1);
}
