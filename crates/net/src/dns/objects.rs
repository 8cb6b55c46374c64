//! `kube-dns`, as clients look for it: the Service with the well-known address, and this node's endpoint of it.
//!
//! Every node serves DNS itself, so every node has a slice of its own, with a hint that it is meant for this node only.
//! Nodes without DNS, and proxies that do not know hints, use any of them.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use skiff_client::{Client, ClientError, Patch};

use crate::Family;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// The Service. It selects no pods, so nobody else makes endpoints for it.
pub(super) fn service(address: IpAddr) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {
                "k8s-app": NAME,
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": [Family::of(address).to_string()], "ipFamilyPolicy": "SingleStack",
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

/// This node's endpoint. It goes with the Node object `node_uid`, where known.
pub(super) fn endpoint(node: &str, node_uid: &str, at: SocketAddr) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": at.port(), "protocol": protocol});
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(node), "namespace": NAMESPACE,
            "labels": {
                "k8s-app": NAME,
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "skiff-dns",
            },
        },
        "addressType": Family::of(at.ip()).to_string(),
        "endpoints": [{
            "addresses": [at.ip()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node,
            "hints": {"forNodes": [{"name": node}]},
        }],
        "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
    });
    if !node_uid.is_empty() {
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid}]);
        if let Some(metadata) = slice["metadata"].as_object_mut() {
            metadata.insert("ownerReferences".to_owned(), owner);
        }
    }
    slice
}

fn slice_name(node: &str) -> String {
    format!("{NAME}-{node}")
}

/// Writes both, as they are wanted; unchanged ones cost no write.
pub(super) async fn publish(
    client: &Client,
    address: IpAddr,
    node: &str,
    node_uid: &str,
    at: SocketAddr,
) -> Result<(), ClientError> {
    let apply = |object| Patch::Apply { object, force: true };
    client.namespaced::<Service>(NAMESPACE).patch(NAME, &apply(service(address))).await?;
    let slices = client.namespaced::<EndpointSlice>(NAMESPACE);
    slices.patch(&slice_name(node), &apply(endpoint(node, node_uid, at))).await?;
    Ok(())
}
