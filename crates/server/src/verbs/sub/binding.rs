//! `pods/binding`: a pod gets its node (upstream: `pkg/registry/core/pod/storage/storage.go`).

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::partial::Wanted;
use skiff_meta::{GroupResource, GroupVersionKind, Object, Status};

use crate::call::{Answer, Call, Payload};
use crate::chain::Operation;
use crate::request::WriteOptions;
use crate::tree;
use crate::verbs::create::options_tree;
use crate::write::admit::Admitted;
use crate::write::raw;
use crate::write::replace::check_uid;

/// What of a pod a binding looks at, or changes.
const ASSIGNED: &Wanted = &[
    ("metadata", &["annotations", "labels"]),
    ("spec", &["nodeName", "schedulingGates"]),
    ("status", &["conditions", "nominatedNodeName"]),
];

/// POST to `pods/NAME/binding`.
pub(crate) async fn bind(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let gvk = GroupVersionKind::new("", "v1", "Binding");
    let binding = super::body(call, &payload, &gvk, &options)?;
    if tree::text(&binding, &["metadata", "name"]) != call.target.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let name = call.target.name.clone();
    assign(call, &name, binding, &options).await
}

/// POST to `bindings`, the old way.
pub(crate) async fn bind_legacy(call: &mut Call, binding: Value) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let name = tree::text(&binding, &["metadata", "name"]).to_owned();
    let mut pods = call.about(&GroupResource::new("", "pods"))?;
    assign(&mut pods, &name, binding, &options).await
}

async fn assign(call: &mut Call, name: &str, mut binding: Value, options: &WriteOptions) -> Result<Answer, Status> {
    crate::metadata::system::match_namespace(&mut binding, call.namespace(), true)?;
    check(&binding)?;
    let kind = GroupVersionKind::new("", "v1", "Binding");
    let tree = options_tree("CreateOptions", options);
    let (operation, dry_run) = (Operation::Create, options.dry_run);
    let admitted = Admitted { operation, kind: &kind, name, old: None, dry_run, options: &tree };
    admitted.mutate(call, &mut binding).await?;
    admitted.validate(call, Some(&binding)).await?;
    let now = tree::timestamp(call.api.world.now());
    let call = &*call;
    let edit = |pod: &mut Value, old: &Object| {
        check_uid(call, &binding, &old.meta().uid, name)?;
        set_node(pod, old, name, &binding, &now)
    };
    raw::edit(call, name, dry_run, ASSIGNED, edit).await?;
    Ok(Answer::Tree(
        201,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

fn check(binding: &Value) -> Result<(), Status> {
    let mut faults = Vec::new();
    let target = FieldPath::new("target");
    let kind = tree::text(binding, &["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        faults.push(FieldError::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    if tree::text(binding, &["target", "name"]).is_empty() {
        faults.push(FieldError::required(&target.child("name"), ""));
    }
    if faults.is_empty() {
        return Ok(());
    }
    // Upstream takes such faults for its own.
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let why = if let [only] = &*faults { only.clone() } else { format!("[{}]", faults.join(", ")) };
    Err(Status::failure(500, "", why))
}

fn set_node(pod: &mut Value, old: &Object, name: &str, binding: &Value, now: &str) -> Result<(), Status> {
    let id = GroupResource::new("", "pods/binding");
    let conflict = |why: String| Err(Status::conflict(&id, name, &why));
    let version = tree::text(binding, &["metadata", "resourceVersion"]);
    if !version.is_empty() && version != old.revision().to_string() {
        return Err(Status::stale(&GroupResource::new("", "pods"), name));
    }
    if old.meta().deletion_timestamp.is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = tree::text(pod, &["spec", "nodeName"]);
    if !node.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if tree::at(pod, &["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let target = tree::text(binding, &["target", "name"]);
    tree::child(pod, "spec").insert("nodeName".to_owned(), json!(target));
    for member in ["annotations", "labels"] {
        if let Some(added) = tree::at(binding, &["metadata", member]).and_then(Value::as_object) {
            let all = tree::map(tree::metadata(pod).entry(member).or_insert(Value::Null));
            all.extend(added.clone());
        }
    }
    let status = tree::child(pod, "status");
    status.remove("nominatedNodeName");
    scheduled(status.entry("conditions").or_insert(json!([])), now);
    Ok(())
}

/// Sets the condition `PodScheduled`.
fn scheduled(conditions: &mut Value, now: &str) {
    let Some(list) = conditions.as_array_mut() else { return };
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    match list.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(found) if found["status"] == "True" => {}
        Some(found) => *found = condition,
        None => list.push(condition),
    }
}
