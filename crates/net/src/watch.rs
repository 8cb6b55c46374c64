//! What this room watches.

use futures::stream::BoxStream;
use skiff_client::{Client, Event, ListTarget, Selection};
use skiff_meta::GroupVersionResource;

fn watch(client: &Client, group: &str, resource: &str, selection: Selection) -> BoxStream<'static, Event> {
    let resource = GroupVersionResource::new(group, "v1", resource);
    client.list_watch(ListTarget { resource, namespace: String::new(), selection })
}

/// Services that are this proxy's or have names in DNS: all of them.
pub(crate) fn services(client: &Client) -> BoxStream<'static, Event> {
    watch(client, "", "services", Selection::default())
}

/// All EndpointSlices.
pub(crate) fn endpoint_slices(client: &Client) -> BoxStream<'static, Event> {
    watch(client, "discovery.k8s.io", "endpointslices", Selection::default())
}

/// All pods.
pub(crate) fn pods(client: &Client) -> BoxStream<'static, Event> {
    watch(client, "", "pods", Selection::default())
}

/// All network policies.
pub(crate) fn network_policies(client: &Client) -> BoxStream<'static, Event> {
    watch(client, "networking.k8s.io", "networkpolicies", Selection::default())
}

/// All namespaces.
pub(crate) fn namespaces(client: &Client) -> BoxStream<'static, Event> {
    watch(client, "", "namespaces", Selection::default())
}

/// One ConfigMap.
pub(crate) fn config_map(client: &Client, namespace: &str, name: &str) -> BoxStream<'static, Event> {
    let selection = Selection { fields: format!("metadata.name={name}"), ..Selection::default() };
    let resource = GroupVersionResource::new("", "v1", "configmaps");
    client.list_watch(ListTarget { resource, namespace: namespace.to_owned(), selection })
}

/// All nodes.
pub(crate) fn nodes(client: &Client) -> BoxStream<'static, Event> {
    watch(client, "", "nodes", Selection::default())
}

/// One node.
pub(crate) fn node(client: &Client, name: &str) -> BoxStream<'static, Event> {
    let selection = Selection { fields: format!("metadata.name={name}"), ..Selection::default() };
    watch(client, "", "nodes", selection)
}
