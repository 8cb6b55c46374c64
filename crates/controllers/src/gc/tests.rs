use super::*;
use crate::testing::Fake;
use serde_json::Value;

fn object(kind: &str, name: &str, owner: Option<(&str, &str, bool)>) -> Value {
    let references: Vec<Value> = owner
        .into_iter()
        .map(|(kind, name, block)| {
            json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": name, "blockOwnerDeletion": block})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": kind,
        "metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": references}})
}

fn started() -> (Fake, Vec<Task>) {
    let fake = Fake::new();
    fake.serve(&["ConfigMap", "Secret", "Pod"]);
    let context = fake.context();
    let tasks = start(&context, fake.client());
    (fake, tasks)
}

#[tokio::test]
async fn dependents_follow_their_owner_down_the_line() {
    let (fake, _tasks) = started();
    fake.put(object("ConfigMap", "root", None));
    fake.put(object("Secret", "child", Some(("ConfigMap", "root", false))));
    fake.put(object("Pod", "grandchild", Some(("Secret", "child", false))));
    fake.put(object("Pod", "stranger", None));
    fake.settle().await;
    assert!(fake.written().is_empty(), "{:?}", fake.written());
    fake.remove("configmaps", "ns", "root");
    fake.eventually(|| fake.names("pods") == ["ns/stranger"] && fake.names("secrets").is_empty()).await;
    assert_eq!(fake.written(), ["DELETE secrets ns/child", "DELETE pods ns/grandchild"]);
}

#[tokio::test]
async fn an_owner_that_never_was_takes_its_dependents_along() {
    let (fake, _tasks) = started();
    fake.put(object("Pod", "waste", Some(("Secret", "nobody", false))));
    fake.eventually(|| fake.names("pods").is_empty()).await;
}

#[tokio::test]
async fn foreground_waits_and_orphans_are_set_free() {
    let (fake, _tasks) = started();
    fake.put(object("ConfigMap", "owner", None));
    fake.put(object("Pod", "child", Some(("ConfigMap", "owner", true))));
    fake.settle().await;
    let mut owner = object("ConfigMap", "owner", None);
    owner["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    owner["metadata"]["finalizers"] = json!(["foregroundDeletion", "other"]);
    fake.put(owner.clone());
    fake.eventually(|| fake.objects("configmaps")[0]["metadata"]["finalizers"] == json!(["other"])).await;
    assert_eq!(fake.written(), ["DELETE pods ns/child", "PATCH configmaps ns/owner"]);

    let (fake, _tasks) = started();
    fake.put(object("Pod", "child", Some(("ConfigMap", "owner", true))));
    fake.put(object("ConfigMap", "owner", None));
    fake.settle().await;
    owner["metadata"]["finalizers"] = json!(["orphan"]);
    fake.put(owner);
    fake.eventually(|| fake.objects("configmaps")[0]["metadata"]["finalizers"] == json!([])).await;
    assert_eq!(fake.objects("pods")[0]["metadata"]["ownerReferences"], json!([]));
    assert_eq!(fake.written(), ["PATCH pods ns/child", "PATCH configmaps ns/owner"]);
}
