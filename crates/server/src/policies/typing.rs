//! Says in the status of validating policies whether their expressions fit the kinds they match (upstream: the
//! controller `validatingadmissionpolicy-status`).
//!
//! It wakes when a policy changes and looks at those whose newest generation nobody has looked at.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use skiff_cel::Type;
use skiff_meta::world::Task;
use skiff_meta::{GroupResource, GroupVersionKind};
use skiff_rules::policy::typing::{self, Kinds};

use crate::api::Api;
use crate::bootstrap::apply;
use crate::cache::{Lane, ResourceCache, Start};
use crate::resource::registry::Registry;
use crate::tree;

const URI: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const MANAGER: &str = "fieldManager=validatingadmissionpolicy-status&force=true";
/// Pause before what failed is tried again.
const BACKOFF: Duration = Duration::from_millis(500);

/// Starts the actor; it ends with the server.
pub(crate) fn start(api: &Arc<Api>) -> Option<Task> {
    let id = GroupResource::new("admissionregistration.k8s.io", "validatingadmissionpolicies");
    let policies = api.catalog.registry().preferred(&id)?.resource.cache.clone()?;
    let task = follow(Arc::downgrade(api), policies);
    Some(api.world.spawn("policy-types", Box::pin(task)))
}

async fn follow(api: Weak<Api>, policies: Arc<ResourceCache>) {
    while let Some(strong) = api.upgrade() {
        // The watch begins before the look, so that nothing is missed.
        let Ok(mut watch) = policies.watch(Start::State, Lane::All) else { return };
        let fine = act(&strong, &policies).await;
        let world = strong.world.clone();
        drop(strong);
        if fine {
            watch.events.recv().await;
        } else {
            world.sleep(BACKOFF).await;
        }
    }
}

/// Checks what is new; false when something could not be written.
async fn act(api: &Arc<Api>, policies: &ResourceCache) -> bool {
    let mut fine = true;
    for entry in policies.snapshot().0.iter() {
        let Ok(policy) = entry.object().to_value() else { continue };
        let registry = api.catalog.registry();
        let Some(status) = judged(&policy, &Served(&registry)) else { continue };
        let name = tree::text(&policy, &["metadata", "name"]);
        match apply(api, &format!("{URI}/{name}/status?{MANAGER}"), &status).await {
            Ok(_) => {}
            // It has gone in the meantime.
            Err(status) if status.is("NotFound") || status.is("Conflict") => {}
            Err(status) => {
                tracing::warn!("the status of policy {name} cannot be written: {status}");
                fine = false;
            }
        }
    }
    fine
}

/// What to apply as a policy's status, if it has changed since somebody looked.
fn judged(policy: &Value, kinds: &dyn Kinds) -> Option<Value> {
    let generation = policy["metadata"]["generation"].as_i64().unwrap_or_default();
    if generation <= policy["status"]["observedGeneration"].as_i64().unwrap_or_default() {
        return None;
    }
    let warnings = typing::warnings(policy, kinds);
    let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": policy["metadata"]["name"]},
        "status": {"observedGeneration": generation, "typeChecking": checking},
    }))
}

/// The kinds that are served.
struct Served<'a>(&'a Registry);

impl Kinds for Served<'_> {
    fn named(&self, group: &str, version: &str, resource: &str) -> Vec<GroupVersionKind> {
        let groups = self.0.resources().iter().filter(|r| group.is_empty() || r.id.group == group);
        let called = groups.filter(|r| r.id.resource == resource || r.names.singular == resource);
        let versions = called.flat_map(|resource| &resource.versions).filter(|found| found.gvk.version == version);
        versions.map(|version| version.gvk.clone()).collect()
    }

    fn declared(&self, gvk: &GroupVersionKind) -> Option<Type> {
        let served = self.0.by_kind(gvk)?;
        let Some(definition) = &served.resource.definition else {
            return served.version.core.schema().map(|schema| typing::built_in(schema, &gvk.kind));
        };
        let mut versions = definition["spec"]["versions"].as_array()?.iter();
        let version = versions.find(|version| version["name"] == gvk.version.as_str())?;
        Some(typing::defined(version.pointer("/schema/openAPIV3Schema")?, &gvk.kind))
    }
}
