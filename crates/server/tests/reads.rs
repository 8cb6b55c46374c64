//! LIST, WATCH, tables, partial metadata, protobuf, discovery.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use http::Method;
use serde_json::{Value, json};
use skiff_client::{Event, ListTarget, Selection};
use skiff_meta::GroupVersionResource;
use skiff_store::Store;
use support::{CONFIG_MAPS, Server, config_map, first, start};

const MADE: &str = "/api/v1/namespaces/made/configmaps";

async fn with_five() -> Server {
    let server = start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "made"}});
    server.post("/api/v1/namespaces", &namespace).await.ok();
    for name in ["a", "b", "c", "d", "e"] {
        let label = if name < "c" { "x" } else { "y" };
        server.post(MADE, &config_map(name, label)).await.ok();
    }
    server
}

fn names(list: &Value) -> String {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect::<Vec<_>>().join("")
}

#[tokio::test]
async fn lists_select_by_namespace_label_and_field() {
    let server = with_five().await;
    let list = server.get(MADE).await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(names(&list), "abcde");
    assert_eq!(names(&server.get(&format!("{MADE}?labelSelector=app%3Dx")).await.ok()), "ab");
    assert_eq!(names(&server.get(&format!("{MADE}?labelSelector=app%21%3Dx")).await.ok()), "cde");
    assert_eq!(names(&server.get(&format!("{MADE}?fieldSelector=metadata.name%3Dd")).await.ok()), "d");
    assert_eq!(names(&server.get("/api/v1/configmaps?labelSelector=app%20in%20(x)").await.ok()), "ab");
    let (code, _, message) = server.get(&format!("{MADE}?fieldSelector=data.k%3Dd")).await.refusal();
    assert_eq!(code, 400);
    assert_eq!(message, "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
    assert_eq!(server.get(&format!("{MADE}?labelSelector=a%3D%3D%3Db")).await.refusal().0, 400);
    let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn";
    assert_eq!(names(&server.get(pods).await.ok()), "");
    let (_, _, message) = server.get("/api/v1/pods?fieldSelector=spec.nonsense%3Dn").await.refusal();
    assert_eq!(message, "field label not supported: spec.nonsense");
}

#[tokio::test]
async fn pages_are_of_one_moment() {
    let server = with_five().await;
    let one = server.get(&format!("{MADE}?limit=2")).await.ok();
    assert_eq!(names(&one), "ab");
    assert_eq!(one["metadata"]["remainingItemCount"], 3);
    let token = one["metadata"]["continue"].as_str().unwrap();
    let two = server.get(&format!("{MADE}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&two), "cd");
    // What happens now is not seen by the list that goes on.
    server.delete(&format!("{MADE}/e")).await.ok();
    server.post(MADE, &config_map("f", "x")).await.ok();
    let token = two["metadata"]["continue"].as_str().unwrap();
    let three = server.get(&format!("{MADE}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&three), "e");
    assert_eq!(three["metadata"].get("continue"), None);
    assert_eq!(three["metadata"]["resourceVersion"], one["metadata"]["resourceVersion"]);
    assert_eq!(names(&server.get(MADE).await.ok()), "abcdf");
    let labelled = server.get(&format!("{MADE}?limit=1&labelSelector=app%3Dy")).await.ok();
    assert_eq!((names(&labelled).as_str(), labelled["metadata"].get("remainingItemCount")), ("c", None));
    let token = labelled["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MADE}?limit=5&labelSelector=app%3Dy&continue={token}")).await.ok();
    assert_eq!(names(&rest), "d");
    assert_eq!(server.get(&format!("{MADE}?continue=nonsense")).await.refusal().0, 400);
}

#[tokio::test]
async fn a_list_goes_on_inconsistently_once_its_version_is_forgotten() {
    let server = with_five().await;
    let one = server.get(&format!("{MADE}?limit=2")).await.ok();
    let token = one["metadata"]["continue"].as_str().unwrap();
    server.delete(&format!("{MADE}/c")).await.ok();
    let newest = server.store.revision().await.unwrap();
    server.store.compact(newest).await.unwrap();
    let expired = server.get(&format!("{MADE}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, &expired.json()["reason"]), (410, &json!("Expired")));
    let token = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    assert_eq!(names(&server.get(&format!("{MADE}?limit=2&continue={token}")).await.ok()), "de");
}

#[tokio::test]
async fn versions_of_reads() {
    let server = with_five().await;
    let list = server.get(MADE).await.ok();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    server.delete(&format!("{MADE}/a")).await.ok();
    let exact = format!("{MADE}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(names(&server.get(&exact).await.ok()), "abcde");
    let newer = format!("{MADE}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
    assert!(names(&server.get(&newer).await.ok()).ends_with("bcde"));
    assert!(names(&server.get(&format!("{MADE}?resourceVersion=0")).await.ok()).ends_with("bcde"));
    let (code, reason, _) =
        server.get(&format!("{MADE}?resourceVersion=99999&resourceVersionMatch=Exact")).await.refusal();
    assert_eq!((code, reason.as_str()), (504, "Timeout"));
    assert_eq!(server.get(&format!("{MADE}?resourceVersion=x")).await.refusal().0, 400);
    assert_eq!(server.get(&format!("{MADE}?resourceVersionMatch=Exact")).await.refusal().0, 422);
}

#[tokio::test]
async fn watches_tell_each_change_once_and_what_enters_or_leaves() {
    let server = with_five().await;
    let version = server.get(MADE).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut all = server.watch(&format!("{MADE}?watch=1&resourceVersion={version}"), "*/*").await;
    let mut labelled =
        server.watch(&format!("{MADE}?watch=1&labelSelector=app%3Dx&resourceVersion={version}"), "*/*").await;
    let mut one = server.watch(&format!("{MADE}?watch=1&fieldSelector=metadata.name%3Dc"), "*/*").await;
    assert_eq!(one.told().await, "ADDED c");
    server.merge(&format!("{MADE}/c"), &json!({"metadata": {"labels": {"app": "x"}}})).await.ok();
    server.merge(&format!("{MADE}/c"), &json!({"data": {"k": "2"}})).await.ok();
    server.merge(&format!("{MADE}/c"), &json!({"metadata": {"labels": {"app": "y"}}})).await.ok();
    server.delete(&format!("{MADE}/c")).await.ok();
    for expected in ["MODIFIED c", "MODIFIED c", "MODIFIED c", "DELETED c"] {
        assert_eq!(all.told().await, expected);
        assert_eq!(one.told().await, expected);
    }
    assert_eq!(labelled.told().await, "ADDED c");
    assert_eq!(labelled.told().await, "MODIFIED c");
    let left = labelled.next().await.unwrap();
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["app"]), (&json!("DELETED"), &json!("x")));
    // A watch from the past sees the same again.
    let mut again = server.watch(&format!("{MADE}?watch=1&resourceVersion={version}"), "*/*").await;
    assert_eq!(again.told().await, "MODIFIED c");
}

#[tokio::test]
async fn watch_lists_end_their_state_with_a_bookmark() {
    let server = with_five().await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut lines = server.watch(&format!("{MADE}?{query}&labelSelector=app%3Dx"), "*/*").await;
    assert_eq!((lines.told().await, lines.told().await), ("ADDED a".into(), "ADDED b".into()));
    let mark = lines.next().await.unwrap();
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let last = lines.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK", "before the time is over");
    assert!(lines.next().await.is_none(), "the time is over");
    assert_eq!(server.get(&format!("{MADE}?sendInitialEvents=true")).await.refusal().0, 422);
}

#[tokio::test]
async fn a_version_too_old_is_told_in_the_stream() {
    let server = with_five().await;
    server.get(MADE).await.ok();
    let mut lines = server.watch("/api/v1/configmaps?watch=1&resourceVersion=1", "*/*").await;
    // The cache knows all events since it began, at the empty store.
    assert_eq!(lines.next().await.unwrap()["type"], "ADDED");
    let restarted = support::restart(&server).await;
    let mut lines = restarted.watch("/api/v1/configmaps?watch=1&resourceVersion=1", "*/*").await;
    let event = lines.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(lines.next().await.is_none());
    assert_eq!(names(&restarted.get(MADE).await.ok()), "abcde", "everything is still there");
}

#[tokio::test]
async fn readers_in_the_process_share_objects() {
    let server = with_five().await;
    let backend = server.api.backend(support::admin());
    let target = ListTarget {
        resource: GroupVersionResource::new("", "v1", "configmaps"),
        namespace: "made".into(),
        selection: Selection { labels: "app=x".into(), fields: String::new() },
    };
    let mut events = backend.list_watch(target.clone());
    let mut others = backend.list_watch(target);
    let (Event::Replace(one), Event::Replace(two)) = (first(&mut events).await, first(&mut others).await) else {
        panic!("first comes what is there")
    };
    assert_eq!(one.len(), 2);
    assert!(std::sync::Arc::ptr_eq(&one[0], &two[0]));
    server.merge(&format!("{MADE}/a"), &json!({"metadata": {"labels": {"app": "z"}}})).await.ok();
    let Event::Delete(gone) = first(&mut events).await else { panic!("a left the selection") };
    assert_eq!(gone.meta().name, "a");
    assert!(gone.revision() > one[0].revision());
}

#[tokio::test]
async fn tables_and_metadata() {
    let server = with_five().await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let list = server.get_as(MADE, table).await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(list["columnDefinitions"][0]["name"], "Name");
    assert_eq!(list["rows"][0]["cells"][0], "a");
    assert_eq!(list["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = server.get_as(&format!("{MADE}/a?includeObject=Object"), table).await.ok();
    assert_eq!(whole["rows"][0]["object"]["kind"], "ConfigMap");
    assert_eq!(server.get_as(&format!("{MADE}?includeObject=Some"), table).await.refusal().0, 400);
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = server.get_as(MADE, metadata).await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("data").is_none() && list["items"][0]["metadata"]["name"] == "a");
    let mut lines = server.watch(&format!("{MADE}?watch=1"), table).await;
    let event = lines.next().await.unwrap();
    assert_eq!((&event["object"]["kind"], &event["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    let (code, reason, message) = server.get_as(MADE, "text/html").await.refusal();
    assert_eq!((code, reason.as_str()), (406, "NotAcceptable"));
    assert!(message.starts_with("406: Not Acceptable\n\nAvailable representations: application/json, "), "{message}");
}

#[tokio::test]
async fn yaml_protobuf_gzip_and_pretty() {
    let server = with_five().await;
    let yaml = server.get_as(&format!("{MADE}/a"), "application/yaml").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("\nkind: ConfigMap\n"));
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yml\ndata:\n  k: v\n";
    let made = server.send(Method::POST, CONFIG_MAPS, &[("content-type", "application/yaml")], body).await.ok();
    assert_eq!(made["data"]["k"], "v");

    let protobuf = "application/vnd.kubernetes.protobuf";
    let binary = server.get_as(&format!("{MADE}/a"), protobuf).await;
    assert_eq!(binary.headers["content-type"], protobuf);
    assert_eq!(&binary.bytes[..4], b"k8s\0");
    server.delete(&format!("{MADE}/a")).await.ok();
    let headers = [("content-type", protobuf)];
    let refused = server.send(Method::POST, MADE, &headers, binary.bytes.clone()).await.refusal();
    assert_eq!(refused.2, "resourceVersion should not be set on objects to be created");
    let replaced = server.send(Method::POST, MADE, &headers, &b"k8s\0nonsense"[..]).await;
    assert_eq!(replaced.refusal().0, 400);
    let list = server.get_as(MADE, protobuf).await;
    assert_eq!(&list.bytes[..4], b"k8s\0");

    let pretty = server.get(&format!("{MADE}/b?pretty=true")).await;
    assert!(String::from_utf8_lossy(&pretty.bytes).contains("\n  \"kind\": \"ConfigMap\""));
    let large = config_map("large", &"x".repeat(60));
    for i in 0..200 {
        let mut one = large.clone();
        one["metadata"]["name"] = json!(format!("large-{i}"));
        one["data"]["k"] = json!("x".repeat(1_000));
        server.post(MADE, &one).await.ok();
    }
    let zipped = server.send(Method::GET, MADE, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    let plain = server.get(MADE).await;
    assert!(plain.bytes.len() > 200_000 && zipped.bytes.len() < plain.bytes.len() / 4);
    assert_eq!(plain.json()["items"].as_array().unwrap().len(), 204);
}

#[tokio::test]
async fn discovery_tells_what_is_served() {
    let server = start().await;
    let versions = server.get("/api").await.ok();
    assert_eq!((&versions["kind"], &versions["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    let groups = server.get("/apis").await.ok();
    assert_eq!(groups["groups"][1]["name"], "apps");
    assert_eq!(server.get("/apis/apps").await.ok()["preferredVersion"]["groupVersion"], "apps/v1");
    let resources = server.get("/apis/apps/v1").await.ok();
    let found = |name: &str| {
        let all = resources["resources"].as_array().unwrap();
        all.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    assert_eq!(found("deployments")["shortNames"], json!(["deploy"]));
    assert_eq!(found("deployments")["storageVersionHash"], "8aSe+NMegvE=");
    assert_eq!(found("deployments/scale")["group"], "autoscaling");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let all = server.get_as("/apis", aggregated).await;
    assert!(all.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    assert_eq!(all.ok()["items"][1]["metadata"]["name"], "apps");
    assert_eq!(server.get("/apis/nonsense").await.code, 404);
    assert_eq!(server.get("/version").await.ok()["minor"], "36");
    assert_eq!(server.get("/readyz").await.bytes, "ok");
    for (uri, code, text) in [
        (
            "/readyz?verbose",
            200,
            "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check passed\n",
        ),
        (
            "/livez?verbose&exclude=etcd&exclude=x",
            200,
            "[+]ping ok\n[+]etcd excluded: ok\n\
             warn: some health checks cannot be excluded: no matches for \"x\"\nlivez check passed\n",
        ),
        ("/readyz/informer-sync", 200, "ok"),
        ("/livez/informer-sync", 404, "404 page not found\n"),
        ("/readyz/", 404, "404 page not found\n"),
    ] {
        let answer = server.get(uri).await;
        assert_eq!((answer.code, &*String::from_utf8_lossy(&answer.bytes)), (code, text), "{uri}");
    }
    server.post("/api/v1/namespaces/default/configmaps?dryRun=All", &config_map("dry", "x")).await.ok();
    server.get("/api/v1/configmaps").await.ok();
    let metrics = server.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let of = "group=\"\",version=\"v1\",resource";
    for line in [
        format!("apiserver_request_total{{verb=\"POST\",{of}=\"namespaces\",subresource=\"\",scope=\"resource\""),
        format!(
            "apiserver_request_total{{verb=\"POST\",{of}=\"configmaps\",subresource=\"\",scope=\"resource\",\
             component=\"apiserver\",dry_run=\"All\",code=\"201\"}} 1\n"
        ),
        format!(
            "apiserver_request_sli_duration_seconds_count{{verb=\"LIST\",{of}=\"configmaps\",subresource=\"\",\
             scope=\"cluster\",component=\"apiserver\"}} 1\n"
        ),
        "\nprocess_resident_memory_bytes ".to_owned(),
        "\nkubernetes_build_info{major=\"1\",minor=\"36\"".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    assert!(server.get("/openapi/v3").await.ok()["paths"]["apis/apps/v1"].is_object());
}
