//! What the controllers do for a cluster besides running pods, on a whole cluster in a simulated world.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, PersistentVolumeClaim, Pod, ResourceQuota, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};
use skiff_client::{ClientError, DeleteOptions, Kind, Patch, Selection};
use skiff_testkit::cluster::Seen;
use skiff_testkit::{Cluster, Options};

use crate::support::{apply_in, cluster, namespace, run};

fn deployment(replicas: i32) -> Value {
    json!({"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": {
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}}})
}

async fn create<K: Kind>(cluster: &Cluster, namespace: &str, object: Value) -> K {
    let object: K = serde_json::from_value(object).unwrap();
    let made = cluster.admin().namespaced::<K>(namespace).create(&object).await;
    made.unwrap_or_else(|error| panic!("create {}: {error}", K::KIND))
}

async fn until<K: Kind>(cluster: &Cluster, namespace: &str, suits: impl Fn(&K) -> bool) {
    cluster.until(namespace, |seen: &Seen<K>| seen.values().any(|object| suits(object))).await;
}

#[test]
fn quotas_follow_what_is_there() {
    let (sim, cluster) = cluster(31, &Options::default());
    run(&sim, 31, "quota", async {
        namespace(&cluster, "q").await;
        let hard = json!({"pods": "9", "requests.cpu": "2", "configmaps": "9", "count/deployments.apps": "5", "services": "5"});
        create::<ResourceQuota>(&cluster, "q", json!({"metadata": {"name": "all"}, "spec": {"hard": hard}})).await;
        let used = |wanted: Value| {
            move |quota: &ResourceQuota| {
                let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
                used.is_some_and(|used| serde_json::to_value(used).unwrap() == wanted)
            }
        };
        // The authority's certificate is a ConfigMap too.
        let empty = json!({"pods": "0", "requests.cpu": "0", "configmaps": "1", "count/deployments.apps": "0", "services": "0"});
        until(&cluster, "q", used(empty)).await;
        apply_in::<Deployment>(&cluster, "q", "web", deployment(3)).await;
        create::<ConfigMap>(&cluster, "q", json!({"metadata": {"name": "one"}})).await;
        let full = json!({"pods": "3", "requests.cpu": "300m", "configmaps": "2", "count/deployments.apps": "1", "services": "0"});
        until(&cluster, "q", used(full)).await;
        let deployments = cluster.admin().namespaced::<Deployment>("q");
        deployments.delete("web", &DeleteOptions::default().propagation("Background")).await.unwrap();
        let less = json!({"pods": "0", "requests.cpu": "0", "configmaps": "2", "count/deployments.apps": "0", "services": "0"});
        until(&cluster, "q", used(less)).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn expired_tokens_go() {
    let (sim, cluster) = cluster(39, &Options::default());
    run(&sim, 39, "tokens", async {
        let until = |seconds: i64| (sim.world().now() + jiff::SignedDuration::from_secs(seconds)).to_string();
        for (name, ty, expiration) in [
            ("old", "bootstrap.kubernetes.io/token", until(-1)),
            ("soon", "bootstrap.kubernetes.io/token", until(60)),
            ("late", "bootstrap.kubernetes.io/token", until(3600)),
            ("other", "Opaque", until(-1)),
        ] {
            let secret = json!({"metadata": {"name": name}, "type": ty, "stringData": {"expiration": expiration}});
            create::<Secret>(&cluster, "kube-system", secret).await;
        }
        let gone = |seen: &Seen<Secret>| {
            let there = |name: &str| seen.contains_key(&("kube-system".to_owned(), name.to_owned()));
            !there("old") && !there("soon") && there("late") && there("other")
        };
        let begun = sim.world().elapsed();
        cluster.until("kube-system", gone).await;
        let took = (sim.world().elapsed() - begun).as_secs();
        assert!((58..63).contains(&took), "{took} s");
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn evictions_wait_for_replacements() {
    let (sim, cluster) = cluster(32, &Options::default());
    run(&sim, 32, "budget", async {
        namespace(&cluster, "b").await;
        apply_in::<Deployment>(&cluster, "b", "web", deployment(3)).await;
        let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}});
        create::<PodDisruptionBudget>(&cluster, "b", json!({"metadata": {"name": "two"}, "spec": spec})).await;
        let allowed = |count: i32| {
            move |budget: &PodDisruptionBudget| {
                budget
                    .status
                    .as_ref()
                    .is_some_and(|s| s.disruptions_allowed == Some(count) && s.current_healthy == Some(2 + count))
            }
        };
        until(&cluster, "b", allowed(1)).await;
        let pods = cluster.admin().namespaced::<Pod>("b");
        let names: Vec<String> =
            pods.list(&Selection::default()).await.unwrap().items.iter().map(|pod| pod.name().to_owned()).collect();
        let evict = async |name: &str| {
            let body =
                json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "b"}});
            pods.create_subresource::<_, Value>(name, "eviction", &body).await
        };
        evict(&names[0]).await.unwrap();
        let refused = evict(&names[1]).await;
        assert!(matches!(&refused, Err(ClientError::Api(status)) if status.code == 429), "{refused:?}");
        until(&cluster, "b", allowed(1)).await;
        evict(&names[1]).await.unwrap();
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn autoscalers_keep_bounds_without_metrics() {
    let (sim, cluster) = cluster(33, &Options::default());
    run(&sim, 33, "autoscaler", async {
        namespace(&cluster, "h").await;
        apply_in::<Deployment>(&cluster, "h", "web", deployment(1)).await;
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let external = json!({"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "1"}});
        let metrics = json!([{"type": "External", "external": external}]);
        let spec = json!({"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 5, "metrics": metrics});
        let object = json!({"metadata": {"name": "web"}, "spec": spec});
        create::<HorizontalPodAutoscaler>(&cluster, "h", object).await;
        until::<Deployment>(&cluster, "h", |web| web.status.as_ref().is_some_and(|s| s.available_replicas == Some(3)))
            .await;
        // Nobody serves such metrics here, and that is told.
        until::<HorizontalPodAutoscaler>(&cluster, "h", |object| {
            let mut conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.any(|c| c.type_ == "ScalingActive" && c.reason.as_deref() == Some("FailedGetExternalMetric"))
        })
        .await;
        cluster.admin().namespaced::<Deployment>("h").set_scale("web", 9).await.unwrap();
        until::<Deployment>(&cluster, "h", |web| web.spec.as_ref().is_some_and(|spec| spec.replicas == Some(5))).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHZMIGAAgEAMB4xDTALBgNVBAoMBGRldnMxDTALBgNVBAMMBGphbmUwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAAQGsJGwa6DTo3qFxbc0FuC/Y2TK15fy0OggtYcH
DgVtl8lXkkMdxHs1vfHbJIpG0zOvZoZqxUb/Ef/rDw8q2od6oAAwCgYIKoZIzj0E
AwIDSAAwRQIhANi+APZDG8SLnicwPTGCvTBtbILR0uClBLXel7+xMvRVAiAcaliJ
dENiOkXb1VT0dXDcIGjs2LhokWWDRCck5Fz0yQ==
-----END CERTIFICATE REQUEST-----
";

#[test]
fn approved_requests_become_certificates() {
    let (sim, cluster) = cluster(34, &Options::default());
    run(&sim, 34, "certificate", async {
        let request = k8s_openapi::ByteString(REQUEST.as_bytes().to_vec());
        let spec =
            json!({"request": request, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]});
        let object = serde_json::from_value(json!({"metadata": {"name": "jane"}, "spec": spec})).unwrap();
        let requests = cluster.admin().all::<CertificateSigningRequest>();
        let mut made = requests.create(&object).await.unwrap();
        let approved = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
        made.status.get_or_insert_default().conditions = serde_json::from_value(approved).unwrap();
        requests.replace("jane", "approval", &made).await.unwrap();
        until::<CertificateSigningRequest>(&cluster, "", |request| {
            let pem = request.status.as_ref().and_then(|status| status.certificate.as_ref());
            pem.is_some_and(|pem| pem.0.starts_with(b"-----BEGIN CERTIFICATE-----"))
        })
        .await;
    });
    // Who has just begun to watch is given time to begin.
    sim.run_for(Duration::from_secs(5));
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn endpoints_kept_by_hand_are_mirrored() {
    let (sim, cluster) = cluster(35, &Options::default());
    run(&sim, 35, "mirror", async {
        namespace(&cluster, "m").await;
        let ports = json!([{"name": "sql", "port": 5432}]);
        create::<Service>(&cluster, "m", json!({"metadata": {"name": "db"}, "spec": {"ports": ports}})).await;
        let subset = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": ports}]);
        create::<Endpoints>(&cluster, "m", json!({"metadata": {"name": "db"}, "subsets": subset("10.9.0.1")})).await;
        let says = |ip: &'static str| {
            move |slice: &EndpointSlice| slice.endpoints.iter().flatten().any(|endpoint| endpoint.addresses == [ip])
        };
        until(&cluster, "m", says("10.9.0.1")).await;
        let endpoints = cluster.admin().namespaced::<Endpoints>("m");
        endpoints.patch("db", &Patch::Merge(json!({"subsets": subset("10.9.0.2")}))).await.unwrap();
        until(&cluster, "m", says("10.9.0.2")).await;
        endpoints.delete("db", &DeleteOptions::default()).await.unwrap();
        cluster.until::<EndpointSlice>("m", Seen::is_empty).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn claims_ask_their_provisioner_and_do_not_go_while_used() {
    let (sim, cluster) = cluster(36, &Options::default());
    run(&sim, 36, "claim", async {
        namespace(&cluster, "p").await;
        let class = json!({"metadata": {"name": "disks"}, "provisioner": "disks.example.com"});
        let class: StorageClass = serde_json::from_value(class).unwrap();
        cluster.admin().all::<StorageClass>().create(&class).await.unwrap();
        let template = json!({"spec": {"storageClassName": "disks", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        let volumes = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]);
        let spec = json!({"containers": [{"name": "c", "image": "i"}], "volumes": volumes, "nodeName": "node-0"});
        create::<Pod>(&cluster, "p", json!({"metadata": {"name": "worker"}, "spec": spec})).await;
        let asks = |claim: &PersistentVolumeClaim| {
            let annotations = claim.metadata.annotations.as_ref();
            let provisioner = annotations.and_then(|all| all.get("volume.kubernetes.io/storage-provisioner"));
            provisioner.is_some_and(|name| name == "disks.example.com") && claim.metadata.finalizers.is_some()
        };
        until(&cluster, "p", asks).await;
        let claims = cluster.admin().namespaced::<PersistentVolumeClaim>("p");
        claims.delete("worker-scratch", &DeleteOptions::default()).await.unwrap();
        let kept = claims.get("worker-scratch").await.unwrap();
        assert!(kept.deleting(), "a pod uses it");
        let pods = cluster.admin().namespaced::<Pod>("p");
        pods.delete("worker", &DeleteOptions::default().grace(0)).await.unwrap();
        cluster.until::<PersistentVolumeClaim>("p", Seen::is_empty).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}
