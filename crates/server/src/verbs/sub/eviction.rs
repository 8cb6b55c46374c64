//! `pods/eviction`: a delete that keeps disruption budgets (upstream: `pkg/registry/core/pod/storage/eviction.go`).

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::partial::Wanted;
use skiff_meta::selector::LabelSelector;
use skiff_meta::status::Cause;
use skiff_meta::{GroupKind, GroupResource, GroupVersionKind, Object, Status};

use crate::call::{Answer, Call, Payload};
use crate::chain::Operation;
use crate::request::WriteOptions;
use crate::tree;
use crate::verbs::create::options_tree;
use crate::write::admit::Admitted;
use crate::write::raw;
use crate::write::remove::{DeleteOptions, check_preconditions, remove};

/// Evictions approved but not yet seen by the controller of a budget, at most.
const DISRUPTED: usize = 2_000;

/// Evicts a pod.
pub(crate) async fn evict(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let gvk = GroupVersionKind::new("policy", "v1", "Eviction");
    let eviction = super::body(call, &payload, &gvk, &options)?;
    let name = call.target.name.clone();
    if tree::text(&eviction, &["metadata", "name"]) != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    const UNREADABLE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if tree::at(&eviction, &["deleteOptions", UNREADABLE]) == Some(&Value::Bool(true)) {
        let why = "can not be set for pod eviction, try after removing the option";
        let fault = FieldError::invalid(&FieldPath::new("deleteOptions").child(UNREADABLE), true, why);
        return Err(Status::invalid(&GroupKind::new("policy", "Eviction"), &name, &[fault]));
    }
    let tree = options_tree("CreateOptions", &options);
    let mut delete = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    if options.dry_run {
        let own = tree::texts(&delete, &["dryRun"]);
        if !own.is_empty() && own != ["All"] {
            let own = own.join(" ");
            let why = format!("Non-matching dry-run options in request and content: [All] and [{own}]");
            return Err(Status::failure(500, "", why));
        }
        delete["dryRun"] = json!(["All"]);
    }
    let mut delete = DeleteOptions::unchecked(delete);
    let admitted = Admitted {
        operation: Operation::Create,
        kind: &gvk,
        name: &name,
        old: None,
        dry_run: delete.dry_run,
        options: &tree,
    };
    admitted.validate(call, Some(&eviction)).await?;

    let pod = call.current(&name).await?.ok_or_else(|| call.not_found(&name))?;
    // What was judged is what goes.
    delete.uid.get_or_insert_with(|| pod.meta().uid.clone());
    let tree = pod.to_value().map_err(Status::internal)?;
    if !ignores_budgets(&tree)
        && let Some(budget) = budget(call, &pod)?
    {
        spend(call, &budget, &tree, delete.dry_run).await?;
    }
    if !delete.dry_run {
        check_preconditions(&GroupKind::new("", "Pod"), &name, &pod, &delete)?;
    }
    delete.check()?;
    call.target.subresource.clear();
    mark(call, &name, &mut delete).await?;
    remove(call, &name, &delete).await?;
    Ok(Answer::Tree(
        201,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Notes on the pod why it goes, for those who judge how it ended.
async fn mark(call: &Call, name: &str, delete: &mut DeleteOptions) -> Result<(), Status> {
    let now = tree::timestamp(call.api.world.now());
    let kind = GroupKind::new("", "Pod");
    raw::edit(call, name, delete.dry_run, &[("status", &["conditions"])], |pod, stored| {
        check_preconditions(&kind, name, stored, delete)?;
        let conditions = tree::child(pod, "status").entry("conditions").or_insert(Value::Null);
        let mut all = conditions.as_array().cloned().unwrap_or_default();
        let place = all.iter().position(|c| c["type"] == "DisruptionTarget");
        let since =
            place.filter(|place| all[*place]["status"] == "True").map(|place| &all[place]["lastTransitionTime"]);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null,
            "lastTransitionTime": since.cloned().unwrap_or_else(|| json!(now)),
        });
        match place {
            Some(place) => all[place] = condition,
            None => all.push(condition),
        }
        *conditions = Value::Array(all);
        Ok(())
    })
    .await?;
    // It was the version asked for, until now.
    delete.version = None;
    Ok(())
}

/// Pods that do not run (any more) disrupt nothing.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(tree::text(pod, &["status", "phase"]), "Succeeded" | "Failed" | "Pending")
        || tree::at(pod, &["metadata", "deletionTimestamp"]).is_some()
}

/// The budget that covers the pod.
fn budget(call: &Call, pod: &Object) -> Result<Option<Arc<Object>>, Status> {
    let id = GroupResource::new("policy", "poddisruptionbudgets");
    let covers = |budget: &Arc<Object>| {
        let selector = budget.to_value().ok().and_then(|b| b.pointer("/spec/selector").cloned());
        selector.and_then(|s| LabelSelector::from_json(&s).ok()).is_some_and(|s| s.matches(&pod.meta().labels))
    };
    let mut found: Vec<_> = call.api.view.list(&id, call.namespace()).into_iter().filter(covers).collect();
    if found.len() > 1 {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::internal(why));
    }
    Ok(found.pop())
}

fn is_ready(pod: &Value) -> bool {
    let conditions = tree::at(pod, &["status", "conditions"]).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Uses up one disruption of the budget.
async fn spend(call: &Call, budget: &Object, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let budgets = call.about(&GroupResource::new("policy", "poddisruptionbudgets"))?;
    let now = tree::timestamp(call.api.world.now());
    let pod_name = tree::text(pod, &["metadata", "name"]).to_owned();
    let ready = is_ready(pod);
    let wanted: &Wanted =
        &[("metadata", &["generation", "name"]), ("spec", &["unhealthyPodEvictionPolicy"]), ("status", &[])];
    raw::edit(&budgets, &budget.meta().name, dry_run, wanted, |tree, _| {
        if !ready && unhealthy_may_go(tree) {
            return Ok(());
        }
        decrement(tree, &pod_name, &now)
    })
    .await
}

/// Pods that are not ready protect nothing, as far as the budget says so.
fn unhealthy_may_go(budget: &Value) -> bool {
    if tree::text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" {
        return true;
    }
    let number = |name: &str| tree::number(budget, &["status", name]).unwrap_or(0);
    number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0
}

fn refused(message: &str, cause: Option<Cause>) -> Status {
    let mut status = Status::too_many_requests(message, 0);
    if let Some(details) = &mut status.details {
        details.causes.extend(cause);
    }
    status
}

fn decrement(budget: &mut Value, pod: &str, now: &str) -> Result<(), Status> {
    let name = tree::text(budget, &["metadata", "name"]).to_owned();
    let status = |field: &str| tree::number(budget, &["status", field]).unwrap_or(0);
    let observed = status("observedGeneration");
    if observed < tree::number(budget, &["metadata", "generation"]).unwrap_or(0) {
        let cause = Cause {
            reason: "DisruptionBudget".to_owned(),
            message: format!("The disruption budget {name} is still being processed by the server."),
            field: String::new(),
        };
        let mut status = refused("Cannot evict pod as it would violate the pod's disruption budget.", Some(cause));
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = 10;
        }
        return Err(status);
    }
    let allowed = status("disruptionsAllowed");
    if allowed <= 0 {
        let (needs, has) = (status("desiredHealthy"), status("currentHealthy"));
        let cause = Cause {
            reason: "DisruptionBudget".to_owned(),
            message: format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"),
            field: String::new(),
        };
        return Err(refused("Cannot evict pod as it would violate the pod's disruption budget.", Some(cause)));
    }
    let disrupted = tree::at(budget, &["status", "disruptedPods"]).and_then(Value::as_object).map_or(0, |d| d.len());
    if disrupted > DISRUPTED {
        let why = format!("DisruptedPods map too big - too many evictions not confirmed by PDB controller: {name}");
        return Err(Status::failure(403, "Forbidden", why));
    }
    let status = tree::child(budget, "status");
    status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
    let pods = tree::map(status.entry("disruptedPods").or_insert(Value::Null));
    pods.insert(pod.to_owned(), json!(now));
    Ok(())
}
