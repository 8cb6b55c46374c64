//! Custom kinds go the way of built-in ones.

use std::ops::ControlFlow;

use futures::StreamExt;
use futures::future::join;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_client::{Call, Client, DeleteOptions, Event, ListTarget, Patch, Selection};
use skiff_meta::GroupVersionResource;
use skiff_testkit::{Cluster, Options};
use tokio::sync::oneshot;

use crate::support::{LIMIT, apply, available, cluster};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["sails"], "properties": {
        "sails": {"type": "integer", "minimum": 1}, "colour": {"type": "string", "default": "white"}}}}});
    let columns = json!([{"name": "Sails", "type": "integer", "jsonPath": ".spec.sails"},
        {"name": "Colour", "type": "string", "jsonPath": ".spec.colour"}]);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn boat(sails: i64) -> Value {
    json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "metadata": {"name": "ann"}, "spec": {"sails": sails}})
}

/// A collection as a person sees it: names of columns, then cells without those that are a matter of time.
async fn printed(client: &Client, resource: &GroupVersionResource) -> Vec<Vec<String>> {
    let path = client.dynamic(resource, "default").path("", "");
    let table: Value = client.call(Call { accept: TABLE, ..Call::get(path) }).await.unwrap();
    let shown: Vec<usize> = (0..)
        .zip(table["columnDefinitions"].as_array().unwrap())
        .filter(|(_, column)| column["priority"] == 0 && column["name"] != "Age")
        .map(|(place, _)| place)
        .collect();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let head = shown.iter().map(|&place| text(&table["columnDefinitions"][place]["name"])).collect();
    let rows = table["rows"].as_array().unwrap().iter();
    let rows = rows.map(|row| shown.iter().map(|&place| text(&row["cells"][place])).collect());
    std::iter::once(head).chain(rows).collect()
}

/// `EVENT SAILS` of every change of boats, until one is gone.
async fn watched(client: &Client, resource: &GroupVersionResource, begun: oneshot::Sender<()>) -> Vec<String> {
    let target =
        ListTarget { resource: resource.clone(), namespace: "default".to_owned(), selection: Selection::default() };
    let mut events = client.list_watch(target);
    let (mut told, mut begun) = (Vec::new(), Some(begun));
    while let Some(event) = events.next().await {
        match event {
            Event::Replace(objects) => {
                told.push(format!("begins with {}", objects.len()));
                let _ = begun.take().map(|begun| begun.send(()));
            }
            Event::Apply(object) => told.push(format!("{} sails", object.to_value().unwrap()["spec"]["sails"])),
            Event::Delete(object) => {
                told.push(format!("{} is gone", object.meta().name));
                break;
            }
        }
    }
    told
}

async fn sail(cluster: &Cluster) {
    let client = cluster.admin().with_manager("kubectl");
    let definitions = GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let apply_it = Patch::Apply { object: definition(), force: false };
    client.dynamic(&definitions, "").patch("boats.sea.example.com", &apply_it).await.unwrap();
    let resource = GroupVersionResource::new("sea.example.com", "v1", "boats");
    let boats = client.dynamic(&resource, "default");

    let (begun, begins) = oneshot::channel();
    let voyage = async {
        begins.await.unwrap();
        let created = boats.create(&boat(2)).await.unwrap();
        assert_eq!(created["spec"]["colour"], "white", "defaulted");
        let refused = boats.create(&boat(0)).await.unwrap_err();
        assert_eq!(refused.reason(), "Invalid", "{refused}");
        boats.patch("ann", &Patch::Merge(json!({"spec": {"sails": 3}}))).await.unwrap();
        let table = printed(&client, &resource).await;
        assert_eq!(table, [["Name", "Sails", "Colour"], ["ann", "3", "white"]]);
        boats.delete("ann", &DeleteOptions::default()).await.unwrap();
    };
    let (told, ()) = join(watched(&client, &resource, begun), voyage).await;
    assert_eq!(told, ["begins with 0", "2 sails", "3 sails", "ann is gone"]);
}

#[test]
fn custom_kinds_are_watched_and_printed_as_pods_are() {
    let (sim, cluster) = cluster(3, &Options::default());
    sim.run_until(sail(&cluster), LIMIT).unwrap();
    let pod = async {
        apply(&cluster, 1, "web:1").await;
        available(&cluster, 1).await;
        let name = cluster.follow::<Pod, _>("default", |seen| match seen.keys().next() {
            Some((_, name)) => ControlFlow::Break(name.clone()),
            None => ControlFlow::Continue(()),
        });
        let pods = GroupVersionResource::new("", "v1", "pods");
        let table = printed(&cluster.admin(), &pods).await;
        let name = name.await.unwrap();
        assert_eq!(table, [["Name", "Ready", "Status", "Restarts"], [name.as_str(), "1/1", "Running", "0"]]);
    };
    sim.run_until(pod, LIMIT).unwrap();
    assert_eq!(cluster.refused(), Vec::<String>::new());
}
