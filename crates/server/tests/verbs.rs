//! Every verb and its refusals, for a plain kind.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use http::Method;
use serde_json::json;
use skiff_meta::GroupVersionKind;
use skiff_meta::codec::protobuf;
use support::{CONFIG_MAPS, config_map, start};

#[tokio::test]
async fn create_fills_in_what_the_server_knows() {
    let server = start().await;
    let made = server.post(CONFIG_MAPS, &config_map("a", "x")).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    let metadata = &made["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(metadata["managedFields"][0]["operation"], "Update");
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.ok(), made);

    let mut nameless = config_map("", "x");
    nameless["metadata"] = json!({"generateName": "g-"});
    let made = server.post(CONFIG_MAPS, &nameless).await.ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn create_refuses_in_upstreams_words() {
    let server = start().await;
    server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    let refused = server.post(CONFIG_MAPS, &config_map("a", "x")).await.refusal();
    assert_eq!(refused, (409, "AlreadyExists".into(), "configmaps \"a\" already exists".into()));

    let mut elsewhere = config_map("b", "x");
    elsewhere["metadata"]["namespace"] = json!("other");
    let (code, _, message) = server.post(CONFIG_MAPS, &elsewhere).await.refusal();
    assert_eq!(code, 400);
    assert_eq!(message, "the namespace of the provided object does not match the namespace sent on the request");

    let (code, reason, message) = server.post(CONFIG_MAPS, &config_map("Not-DNS", "x")).await.refusal();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(
        message.starts_with("ConfigMap \"Not-DNS\" is invalid: metadata.name: Invalid value: \"Not-DNS\": "),
        "{message}"
    );

    let broken = server.send(Method::POST, CONFIG_MAPS, &[("content-type", "application/json")], "{\"a\"").await;
    assert_eq!(broken.refusal().0, 400);
    let strange = server.send(Method::POST, CONFIG_MAPS, &[("content-type", "text/csv")], "a,b").await.refusal();
    assert_eq!((strange.0, strange.1.as_str()), (415, "UnsupportedMediaType"));
    let large = vec![b' '; (3 << 20) + 1];
    let large = server.send(Method::POST, CONFIG_MAPS, &[("content-type", "application/json")], large).await.refusal();
    assert_eq!((large.0, large.1.as_str()), (413, "RequestEntityTooLarge"));
    let (code, ..) = server.post("/api/v1/namespaces/default/nonsense", &config_map("a", "x")).await.refusal();
    assert_eq!(code, 404);
    assert_eq!(server.post(&format!("{CONFIG_MAPS}/a"), &config_map("a", "x")).await.refusal().0, 405);
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    assert_eq!(server.post(CONFIG_MAPS, &other).await.refusal().0, 400);
    let typed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t"}, "data": {"k": 1}});
    let (code, _, message) = server.post(CONFIG_MAPS, &typed).await.refusal();
    assert_eq!(code, 400);
    assert_eq!(
        message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct \
         field ConfigMap.data of type string"
    );
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused() {
    let server = start().await;
    let mut odd = config_map("a", "x");
    odd["extra"] = json!(1);
    let made = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &odd).await;
    assert_eq!(made.warnings(), ["299 - \"unknown field \\\"extra\\\"\""]);
    assert_eq!(made.ok().get("extra"), None);
    let ignored = server.post(&format!("{CONFIG_MAPS}?dryRun=All&fieldValidation=Ignore"), &odd).await;
    assert!(ignored.code == 201 && ignored.warnings().is_empty());
    let (code, reason, message) = server.post(&format!("{CONFIG_MAPS}?fieldValidation=Strict"), &odd).await.refusal();
    assert_eq!((code, reason.as_str()), (400, "BadRequest"));
    assert!(message.contains("strict decoding error: unknown field \"extra\""), "{message}");
    let (code, ..) = server.post(&format!("{CONFIG_MAPS}?fieldValidation=Maybe"), &odd).await.refusal();
    assert_eq!(code, 422);
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.refusal().0, 404);
}

#[tokio::test]
async fn update_wants_the_newest_version_and_skips_what_changes_nothing() {
    let server = start().await;
    let uri = format!("{CONFIG_MAPS}/a");
    let (code, reason, message) = server.put(&uri, &config_map("a", "x")).await.refusal();
    assert_eq!((code, reason.as_str(), message.as_str()), (404, "NotFound", "configmaps \"a\" not found"));
    let first = server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    let same = server.put(&uri, &first).await.ok();
    assert_eq!(same, first, "nothing changed, nothing written");
    let mut second = first.clone();
    second["data"]["k"] = json!("y");
    let second = server.put(&uri, &second).await.ok();
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (code, reason, message) = server.put(&uri, &first).await.refusal();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    server.put(&uri, &config_map("a", "z")).await.ok();
    let mut renamed = config_map("b", "x");
    let (code, _, message) = server.put(&uri, &renamed).await.refusal();
    assert_eq!(code, 400);
    assert_eq!(message, "the name of the object (b) does not match the name on the URL (a)");
    renamed["metadata"]["name"] = json!("a");
    renamed["metadata"]["uid"] = json!("11111111-1111-4111-8111-111111111111");
    let (code, reason, message) = server.put(&uri, &renamed).await.refusal();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("Precondition failed: UID in precondition"), "{message}");
}

#[tokio::test]
async fn patches_of_all_kinds() {
    let server = start().await;
    let uri = format!("{CONFIG_MAPS}/a");
    server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    let merged = server.merge(&uri, &json!({"data": {"k": null, "l": "1"}})).await.ok();
    assert_eq!(merged["data"], json!({"l": "1"}));
    let operations =
        json!([{"op": "test", "path": "/data/l", "value": "1"}, {"op": "add", "path": "/data/m", "value": "2"}]);
    let patched = server.patch(&uri, "application/json-patch+json", &operations).await.ok();
    assert_eq!(patched["data"], json!({"l": "1", "m": "2"}));
    let failing = json!([{"op": "test", "path": "/data/l", "value": "9"}]);
    assert_eq!(server.patch(&uri, "application/json-patch+json", &failing).await.refusal().0, 422);
    let strategic = json!({"metadata": {"finalizers": ["a.b/c"]}});
    let patched = server.patch(&uri, "application/strategic-merge-patch+json", &strategic).await.ok();
    assert_eq!(patched["metadata"]["finalizers"], json!(["a.b/c"]));
    let more = json!({"metadata": {"finalizers": ["a.b/d"]}});
    let patched = server.patch(&uri, "application/strategic-merge-patch+json", &more).await.ok();
    assert_eq!(patched["metadata"]["finalizers"].as_array().unwrap().len(), 2, "finalizers merge");
    let (code, ..) = server.patch(&uri, "application/json", &json!({})).await.refusal();
    assert_eq!(code, 415);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "z"}});
    assert_eq!(server.merge(&uri, &stale).await.refusal().0, 409);
    assert_eq!(server.merge(&format!("{CONFIG_MAPS}/none"), &json!({})).await.refusal().0, 404);
}

#[tokio::test]
async fn server_side_apply_creates_owns_and_conflicts() {
    let server = start().await;
    let uri = format!("{CONFIG_MAPS}/a");
    let made = server.apply(&uri, "one", &config_map("a", "x")).await;
    assert_eq!(made.code, 201);
    let fields = made.ok()["metadata"]["managedFields"].clone();
    assert_eq!((&fields[0]["manager"], &fields[0]["operation"]), (&json!("one"), &json!("Apply")));
    let again = server.apply(&uri, "one", &config_map("a", "x")).await;
    assert_eq!((again.code, again.ok()), (200, made.ok()), "applying the same changes nothing");
    let (code, reason, message) = server.apply(&uri, "two", &config_map("a", "y")).await.refusal();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.starts_with("Apply failed with 2 conflicts: conflicts with \"one\""), "{message}");
    let forced = server.apply(&uri, "two&force=true", &config_map("a", "y")).await.ok();
    assert_eq!(forced["data"]["k"], "y");
    let (code, ..) = server.patch(&uri, "application/apply-patch+yaml", &config_map("a", "x")).await.refusal();
    assert_eq!(code, 422, "a field manager is required");
}

#[tokio::test]
async fn concurrent_patches_are_all_kept() {
    let server = start().await;
    server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    let uri = format!("{CONFIG_MAPS}/a");
    let patches = (0..12).map(|i| {
        let (server, uri) = (&server, &uri);
        async move { server.merge(uri, &json!({"data": {format!("k{i}"): "v"}})).await.code }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|c| *c == 200), "{codes:?}");
    assert_eq!(server.get(&uri).await.ok()["data"].as_object().unwrap().len(), 13);
}

#[tokio::test]
async fn dry_runs_write_nothing() {
    let server = start().await;
    let made = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", "x")).await;
    assert_eq!(made.code, 201);
    assert_eq!(made.ok()["metadata"].get("resourceVersion"), None);
    let uri = format!("{CONFIG_MAPS}/a");
    assert_eq!(server.get(&uri).await.refusal().0, 404);
    let real = server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    let dry = server.merge(&format!("{uri}?dryRun=All"), &json!({"data": {"k": "y"}})).await.ok();
    assert_eq!(dry["data"]["k"], "y");
    assert_eq!(server.send(Method::DELETE, &format!("{uri}?dryRun=All"), &[], "").await.code, 200);
    assert_eq!(server.get(&uri).await.ok(), real);
    assert_eq!(server.post(&format!("{CONFIG_MAPS}?dryRun=Some"), &config_map("b", "x")).await.refusal().0, 422);
}

#[tokio::test]
async fn delete_with_preconditions_and_finalizers() {
    let server = start().await;
    let uri = format!("{CONFIG_MAPS}/a");
    assert_eq!(server.delete(&uri).await.refusal().0, 404);
    let made = server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    let options = json!({"preconditions": {"uid": "other"}}).to_string();
    let (code, reason, _) = server.send(Method::DELETE, &uri, &[], options).await.refusal();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": made["metadata"]["uid"]}});
    let gone =
        server.send(Method::DELETE, &uri, &[("content-type", "application/json")], options.to_string()).await.ok();
    assert_eq!((&gone["status"], &gone["details"]["uid"]), (&json!("Success"), &made["metadata"]["uid"]));
    for group in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
        let gvk = GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions");
        let schema = skiff_api::facts::schema(&gvk).unwrap();
        let said = group.split_once('/').unwrap_or(("", group));
        let said = GroupVersionKind::new(said.0, said.1, "DeleteOptions");
        let body = protobuf::encode(&json!({"gracePeriodSeconds": 0}), &said, schema.root()).unwrap();
        let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
        assert_eq!(server.send(Method::DELETE, &uri, &headers, body).await.ok()["status"], "Success", "{group}");
    }

    let mut held = config_map("a", "x");
    held["metadata"]["finalizers"] = json!(["a.b/c"]);
    server.post(CONFIG_MAPS, &held).await.ok();
    let marked = server.delete(&uri).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let (code, _, message) = server.post(CONFIG_MAPS, &held).await.refusal();
    assert_eq!((code, message.as_str()), (409, "object is being deleted: configmaps \"a\" already exists"));
    let (code, ..) = server.merge(&uri, &json!({"metadata": {"finalizers": ["a.b/c", "a.b/d"]}})).await.refusal();
    assert_eq!(code, 422);
    server.merge(&uri, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(server.get(&uri).await.refusal().0, 404);

    server.post(CONFIG_MAPS, &config_map("b", "x")).await.ok();
    let orphan = server.send(Method::DELETE, &format!("{CONFIG_MAPS}/b?propagationPolicy=Orphan"), &[], "").await.ok();
    assert_eq!(orphan["metadata"]["finalizers"], json!(["orphan"]));
}

#[tokio::test]
async fn delete_collection_by_label() {
    let server = start().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        server.post(CONFIG_MAPS, &config_map(name, label)).await.ok();
    }
    let gone = server.delete(&format!("{CONFIG_MAPS}?labelSelector=app%3Dx")).await.ok();
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let left = server.get(CONFIG_MAPS).await.ok();
    let names: Vec<_> = left["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect();
    assert!(names.contains(&json!("b")) && !names.contains(&json!("a")), "{names:?}");
}

#[tokio::test]
async fn everything_is_authorized() {
    let server = start().await;
    let nobody = server.as_user(skiff_server::chain::User::new("bob", &["system:authenticated"]));
    let (code, reason, message) = nobody.get(CONFIG_MAPS).await.refusal();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \"\" in the namespace \
         \"default\""
    );
    assert_eq!(nobody.get("/version").await.code, 200);
    assert_eq!(nobody.get("/metrics").await.code, 403);
}
