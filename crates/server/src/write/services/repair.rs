//! Keeps IPAddresses and Services true to each other. The server writes both at once, so only somebody else can part them:
//! by hand, or in a store that another kind of server wrote (upstream:
//! `pkg/registry/core/service/ipallocator/controller/repairip.go`).

use std::sync::{Arc, Weak};

use http::Method;
use serde_json::{Value, json};
use skiff_meta::object::canonical_bytes;
use skiff_meta::world::{Task, WorldExt};
use skiff_meta::{GroupResource, Object};
use skiff_store::{Compare, Outcome, Transaction, Write};

use super::{addresses_id, claims, families, ip_address};
use crate::api::Api;
use crate::bootstrap::send;
use crate::cache::{Lane, ResourceCache, Start};
use crate::tree;

const REPORTER: &str = "ipallocator-repair-controller";
const MANAGER: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

/// What is to be done about an address.
#[derive(Debug, PartialEq, Eq)]
enum Repair {
    /// Nothing.
    None,
    /// The Service that its object names, or named, holds it, and the object is not there or not as it should be.
    Write,
    /// Nobody holds it: the event's reason and note.
    Remove(&'static str, String),
}

/// Starts repairing: everything once, and then what changes.
pub(crate) fn start(api: &Arc<Api>) -> Option<Task> {
    let cache = api.catalog.registry().preferred(&addresses_id())?.resource.cache.clone()?;
    Some(api.world.spawn("address-repair", Box::pin(follow(Arc::downgrade(api), cache))))
}

async fn follow(weak: Weak<Api>, cache: Arc<ResourceCache>) {
    while let Some(api) = weak.upgrade() {
        let Ok(mut watch) = cache.watch(Start::State, Lane::All) else { return };
        // The cache is looked at instead; a snapshot would keep what goes.
        watch.state = None;
        for service in api.view.list(&GroupResource::new("", "services"), "") {
            whole(&api, &service).await;
        }
        for address in api.view.list(&addresses_id(), "") {
            look(&api, &address).await;
        }
        drop(api);
        while let Some(event) = watch.events.recv().await {
            let Some(api) = weak.upgrade() else { return };
            // The Service is written at the same revision.
            let reached = api.feed.reach(event.revision(), crate::verbs::get::PATIENCE).await;
            let entry = event.current().or(event.previous());
            if let Some(entry) = entry.filter(|_| reached.is_ok()) {
                look(&api, entry.object()).await;
            }
        }
    }
}

/// Every address of a Service has an object.
async fn whole(api: &Arc<Api>, service: &Object) {
    let Ok(tree) = service.to_value() else { return };
    for address in claims(&tree).addresses {
        if api.view.get(&addresses_id(), "", &address).is_none() {
            write(api, service, &address, None).await;
        }
    }
}

/// Looks at an address whose object was `known`.
async fn look(api: &Arc<Api>, known: &Object) {
    let name = &known.meta().name;
    let current = api.view.get(&addresses_id(), "", name);
    let Ok(tree) = current.as_deref().unwrap_or(known).to_value() else { return };
    let parent = |field: &str| tree::text(&tree, &["spec", "parentRef", field]).to_owned();
    let service = api.view.get(&GroupResource::new("", "services"), &parent("namespace"), &parent("name"));
    let held = service
        .as_ref()
        .and_then(|service| service.to_value().ok())
        .is_some_and(|s| claims(&s).addresses.contains(name));
    match repair(name, current.is_some().then_some(&tree), &tree, service.is_some(), held) {
        Repair::None => {}
        Repair::Write => {
            if let Some(service) = service {
                write(api, &service, name, current.as_deref()).await;
            }
        }
        Repair::Remove(reason, note) => {
            let key = api.view.key(&addresses_id(), "", name);
            let compare = vec![Compare::Modified(key.clone(), known.revision())];
            let removed = commit(api, compare, Write::Delete { key }).await;
            if removed {
                let regarding = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "name": name,
                    "uid": known.meta().uid});
                tell(api, "default", &regarding, ("IPAddressAllocation", reason), &note).await;
            }
        }
    }
}

/// What the object, if there is one, and the Service that it names make necessary.
fn repair(name: &str, current: Option<&Value>, last: &Value, exists: bool, held: bool) -> Repair {
    let labels = |label: &str| tree::text(last, &["metadata", "labels", label]).to_owned();
    let parent = |field: &str| tree::text(last, &["spec", "parentRef", field]);
    let of_service = parent("group").is_empty() && parent("resource") == "services";
    let managed = labels(MANAGER.0) == MANAGER.1;
    if of_service && held {
        let labelled = managed && labels("ipaddress.kubernetes.io/ip-family") == families::of(name);
        return if current.is_some() && labelled { Repair::None } else { Repair::Write };
    }
    if current.is_none() || !managed {
        return Repair::None;
    }
    let whose = format!("IPAddress: {name} for Service {}/{}", parent("namespace"), parent("name"));
    if !of_service {
        let note = format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up");
        return Repair::Remove("IPAddressNotAllocated", note);
    }
    if exists {
        return Repair::Remove("IPAddressWrongReference", format!("{whose} has a wrong reference; cleaning up"));
    }
    Repair::Remove("IPAddressNotAllocated", format!("{whose} appears to have leaked: cleaning up"))
}

/// Writes the object of an address, in place of `current`, as long as the Service is what it was.
async fn write(api: &Arc<Api>, service: &Object, address: &str, current: Option<&Object>) {
    let (meta, id) = (service.meta(), GroupResource::new("", "services"));
    let object = ip_address(api, address, &(meta.namespace.clone(), meta.name.clone()));
    let Ok(value) = canonical_bytes(&object) else { return };
    let key = api.view.key(&addresses_id(), "", address);
    let compare = vec![
        Compare::Modified(api.view.key(&id, &meta.namespace, &meta.name), service.revision()),
        Compare::Modified(key.clone(), current.map_or(0, Object::revision)),
    ];
    if commit(api, compare, Write::Put { key, value, lease: 0 }).await {
        let regarding = json!({"apiVersion": "v1", "kind": "Service", "namespace": meta.namespace, "name": meta.name,
            "uid": meta.uid});
        let note = format!("Cluster IP [{}]: {address} is not allocated; repairing", families::of(address));
        tell(api, &meta.namespace, &regarding, ("ClusterIPAllocation", "ClusterIPNotAllocated"), &note).await;
    }
}

/// Whether it was written; what changed meanwhile is looked at again for its own event.
async fn commit(api: &Api, compare: Vec<Compare>, write: Write) -> bool {
    match api.store.commit(Transaction { compare, writes: vec![write], trace: None }).await {
        Ok(outcome) => matches!(outcome, Outcome::Committed(_)),
        Err(error) => {
            tracing::warn!("an address was not repaired: {error}");
            false
        }
    }
}

async fn tell(api: &Arc<Api>, namespace: &str, regarding: &Value, (action, reason): (&str, &str), note: &str) {
    let name = tree::text(regarding, &["name"]);
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", api.world.random()), "namespace": namespace},
        "eventTime": api.world.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(), "type": "Warning",
        "reportingController": REPORTER, "reportingInstance": format!("{REPORTER}-{}", api.world.uuid()),
        "action": action, "reason": reason, "note": note, "regarding": regarding,
    });
    let uri = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    if let Err(status) = send(api, Method::POST, &uri, &event).await {
        tracing::warn!("{note}, of which no event tells: {}", status.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repaired() {
        let labels = |managed: &str, family: &str| json!({"ipaddress.kubernetes.io/managed-by": managed, "ipaddress.kubernetes.io/ip-family": family});
        let address = |labels: Value, resource: &str| {
            json!({"metadata": {"name": "10.0.0.1", "labels": labels},
                "spec": {"parentRef": {"resource": resource, "namespace": "n", "name": "s"}}})
        };
        let ours = address(labels(MANAGER.1, "IPv4"), "services");
        let theirs = address(labels("somebody", "IPv4"), "services");
        let gateway = address(labels(MANAGER.1, "IPv4"), "gateways");
        let unlabelled = address(labels(MANAGER.1, "IPv6"), "services");
        let removed = |repair: Repair| match repair {
            Repair::Remove(reason, _) => reason,
            Repair::Write => "write",
            Repair::None => "",
        };
        for (object, there, exists, held, expected) in [
            (&ours, true, true, true, ""),
            (&ours, false, true, true, "write"),
            (&ours, false, true, false, ""),
            (&ours, true, true, false, "IPAddressWrongReference"),
            (&ours, true, false, false, "IPAddressNotAllocated"),
            (&theirs, true, true, true, "write"),
            (&theirs, true, false, false, ""),
            (&unlabelled, true, true, true, "write"),
            (&gateway, true, false, false, "IPAddressNotAllocated"),
        ] {
            let found = repair("10.0.0.1", there.then_some(object), object, exists, held);
            assert_eq!(removed(found), expected, "{object} {there} {exists} {held}");
        }
    }
}
