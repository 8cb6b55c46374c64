//! Devices from their drivers to pods and back, on a simulated cluster: slices, claims made from templates, allocation,
//! reservation, devices that have to be made ready, taints, extended resources, and that everything is free in the end.

use std::ops::ControlFlow;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use serde_json::{Value, json};
use skiff_client::{DeleteOptions, Kind, Patch};
use skiff_testkit::cluster::Seen;
use skiff_testkit::{Cluster, Options};

use crate::support::{LIMIT, cluster};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// What a driver publishes of a node's devices.
async fn publish(cluster: &Cluster, node: &str, generation: i64, devices: Value) {
    let pool = json!({"name": node, "generation": generation, "resourceSliceCount": 1});
    let object = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": format!("gpus-of-{node}")},
        "spec": {"driver": "gpu.example.com", "nodeName": node, "pool": pool, "devices": devices},
    });
    let api = cluster.admin().with_manager("driver").all::<ResourceSlice>();
    let published = api.patch(&format!("gpus-of-{node}"), &Patch::Apply { object, force: true }).await;
    published.unwrap_or_else(|error| panic!("publish: {error}"));
}

fn gpu(name: &str) -> Value {
    json!({"name": name, "attributes": {"memory": {"int": 16}}})
}

async fn create(cluster: &Cluster, name: &str, spec: Value) {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 1},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let created = cluster.admin().namespaced::<Pod>("default").create(&read(pod)).await;
    created.unwrap_or_else(|error| panic!("create: {error}"));
}

/// A pod with a claim made from template `gpu`.
async fn user(cluster: &Cluster, name: &str) {
    create(cluster, name, json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]})).await;
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Waits until a pod is as it should.
async fn pod_is<T>(cluster: &Cluster, name: &str, told: impl Fn(&Pod) -> Option<T>) -> T {
    let name = ("default".to_owned(), name.to_owned());
    let told = |seen: &Seen<Pod>| match seen.get(&name).and_then(|pod| told(pod)) {
        Some(told) => ControlFlow::Break(told),
        None => ControlFlow::Continue(()),
    };
    cluster.follow("default", told).await.unwrap()
}

async fn placed(cluster: &Cluster, name: &str) -> String {
    pod_is(cluster, name, |pod| Some(node_of(pod).to_owned()).filter(|node| !node.is_empty())).await
}

async fn refused(cluster: &Cluster, name: &str) -> String {
    pod_is(cluster, name, |pod| {
        let condition = skiff_api::pods::condition(pod, "PodScheduled")?;
        condition.message.clone().filter(|_| condition.status == "False")
    })
    .await
}

/// Waits until the claims are as they should.
async fn claims(cluster: &Cluster, told: impl Fn(&[&Arc<ResourceClaim>]) -> bool) {
    cluster.until("default", |seen: &Seen<ResourceClaim>| told(&seen.values().collect::<Vec<_>>())).await;
}

fn devices(claim: &ResourceClaim) -> Vec<String> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let results = allocation.iter().flat_map(|all| all.devices.iter().flat_map(|d| d.results.iter().flatten()));
    results.map(|result| format!("{}/{}", result.pool, result.device)).collect()
}

fn users(claim: &ResourceClaim) -> Vec<&str> {
    let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    users.map(|user| user.name.as_str()).collect()
}

async fn delete(cluster: &Cluster, name: &str) {
    let deleted = cluster.admin().namespaced::<Pod>("default").delete(name, &DeleteOptions::default()).await;
    deleted.unwrap_or_else(|error| panic!("delete: {error}"));
}

#[test]
fn from_drivers_to_pods_and_back() {
    for seed in 70..73 {
        let (sim, cluster) = cluster(seed, &Options { nodes: 2, ..Options::default() });
        let cluster = &cluster;
        let story = async {
            let class = json!({"metadata": {"name": "gpu"}, "spec": {
                "extendedResourceName": "example.com/gpu",
                "selectors": [{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}});
            cluster.admin().all::<DeviceClass>().create(&read(class)).await.unwrap();
            let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu", "selectors": [
                {"cel": {"expression": "device.attributes['gpu.example.com'].memory >= 16"}}]}});
            let template = json!({"metadata": {"name": "gpu", "namespace": "default"},
                "spec": {"metadata": {"labels": {"of": "template"}}, "spec": {"devices": {"requests": [request]}}}});
            cluster.admin().namespaced::<ResourceClaimTemplate>("default").create(&read(template)).await.unwrap();

            // Nobody has such devices, until a driver says so.
            user(cluster, "a").await;
            let message = refused(cluster, "a").await;
            assert!(message.contains("2 cannot allocate all claims"), "{message}");
            publish(cluster, "node-1", 1, json!([gpu("0"), gpu("1")])).await;
            assert_eq!(placed(cluster, "a").await, "node-1");
            let claim = pod_is(cluster, "a", |pod| {
                let statuses = pod.status.as_ref()?.resource_claim_statuses.as_ref()?;
                statuses.first()?.resource_claim_name.clone()
            })
            .await;
            let made = cluster.admin().namespaced::<ResourceClaim>("default").get(&claim).await.unwrap();
            assert!(
                claim.starts_with("a-gpu-") && made.metadata.labels.is_some_and(|labels| labels["of"] == "template")
            );
            claims(cluster, |all| matches!(all, [claim] if users(claim) == ["a"] && devices(claim).len() == 1)).await;

            // A device for each, and no more; who goes makes room.
            user(cluster, "b").await;
            assert_eq!(placed(cluster, "b").await, "node-1");
            user(cluster, "c").await;
            refused(cluster, "c").await;
            let mut held: Vec<String> = Vec::new();
            claims(cluster, |all| all.len() == 3).await;
            for claim in
                cluster.admin().namespaced::<ResourceClaim>("default").list(&Default::default()).await.unwrap().items
            {
                held.extend(devices(&claim));
            }
            held.sort();
            assert_eq!(held, ["node-1/0", "node-1/1"]);
            delete(cluster, "a").await;
            assert_eq!(placed(cluster, "c").await, "node-1");
            claims(cluster, |all| all.len() == 2).await;

            // A taint makes its user leave, and keeps others off.
            let tainted = |name: &str| {
                json!({"name": name, "attributes": {"memory": {"int": 16}}, "taints": [
                {"key": "broken", "effect": "NoExecute", "timeAdded": "2020-01-01T00:00:00Z"}]})
            };
            publish(cluster, "node-1", 2, json!([tainted("0"), tainted("1")])).await;
            let gone = |seen: &Seen<Pod>| !seen.keys().any(|(_, name)| name == "b" || name == "c");
            cluster.until("default", gone).await;
            claims(cluster, |all| all.is_empty()).await;

            // Requests for extended resources are met by devices too, and these have to be made ready first.
            let awaited = json!({"name": "slow", "attributes": {"memory": {"int": 16}},
                "bindingConditions": ["attached"], "bindingFailureConditions": ["failed"]});
            publish(cluster, "node-0", 1, json!([awaited])).await;
            let resources = json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}});
            create(cluster, "d", json!({"containers": [{"name": "c", "image": "i", "resources": resources}]})).await;
            claims(cluster, |all| matches!(all, [claim] if devices(claim) == ["node-0/slow"])).await;
            let api = cluster.admin().namespaced::<ResourceClaim>("default");
            let mut claim = api.list(&Default::default()).await.unwrap().items.remove(0);
            assert!(claim.name().starts_with("d-extended-resources-"), "{}", claim.name());
            assert_eq!(
                node_of(&cluster.admin().namespaced::<Pod>("default").get("d").await.unwrap()),
                "",
                "not before"
            );
            let attached = json!({"driver": "gpu.example.com", "pool": "node-0", "device": "slow", "conditions": [
                {"type": "attached", "status": "True", "reason": "Done", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            claim.status.get_or_insert_default().devices = Some(vec![read(attached)]);
            api.update_status(&claim).await.unwrap();
            assert_eq!(placed(cluster, "d").await, "node-0");
            pod_is(cluster, "d", |pod| pod.status.as_ref()?.extended_resource_claim_status.clone()).await;

            // A claim of one's own is shared, and outlives its users.
            delete(cluster, "d").await;
            claims(cluster, |all| all.is_empty()).await;
            publish(cluster, "node-0", 2, json!([gpu("0")])).await;
            let mine = json!({"metadata": {"name": "mine", "namespace": "default"}, "spec": {"devices": {"requests": [
                {"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
            api.create(&read(mine)).await.unwrap();
            for name in ["e", "f"] {
                create(cluster, name, json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "mine"}]})).await;
            }
            assert_eq!((placed(cluster, "e").await, placed(cluster, "f").await), ("node-0".into(), "node-0".into()));
            delete(cluster, "e").await;
            claims(cluster, |all| matches!(all, [claim] if users(claim) == ["f"] && !devices(claim).is_empty())).await;
            delete(cluster, "f").await;
            let free = |claim: &ResourceClaim| {
                devices(claim).is_empty()
                    && users(claim).is_empty()
                    && claim.metadata.finalizers.iter().flatten().count() == 0
            };
            claims(cluster, |all| matches!(all, [claim] if claim.name() == "mine" && free(claim))).await;

            // Who is done needs no devices, though he stays.
            let ends = json!([{"name": "c", "image": "i", "command": ["exit", "0"]}]);
            let own = json!([{"name": "gpu", "resourceClaimTemplateName": "gpu"}]);
            create(cluster, "g", json!({"containers": ends, "restartPolicy": "Never", "resourceClaims": own})).await;
            pod_is(cluster, "g", |pod| Some(()).filter(|()| skiff_api::pods::is_finished(pod))).await;
            claims(cluster, |all| matches!(all, [claim] if claim.name() == "mine")).await;
        };
        sim.run_until(story, LIMIT).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        assert_eq!(cluster.refused(), Vec::<String>::new(), "seed {seed}");
    }
}
