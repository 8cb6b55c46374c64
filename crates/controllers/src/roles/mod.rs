//! ClusterRole aggregation: a role with an `aggregationRule` has the rules of all roles its selectors match.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;
use skiff_client::{After, Change, Client, ClientError, Key, Kind, Patch, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{selector, selects};

/// Starts the aggregation controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let roles = context.informers.all::<ClusterRole>();
    let queue = WorkQueue::new(context.world.clone());
    let (to_queue, all) = (queue.clone(), roles.store());
    roles.on(move |change: &Change<'_, ClusterRole>| {
        // Whatever changed may be part of any aggregate; there are few of those.
        for aggregate in all.list().iter().filter(|role| role.aggregation_rule.is_some()) {
            to_queue.add(Key::of(&**aggregate), change.trace);
        }
    });
    let synced = vec![roles.synced()];
    let name = "clusterrole-aggregation-controller";
    let workers = Workers { world: context.world.clone(), name, count: 1, synced };
    let (client, roles) = (client.with_manager(name), roles.store());
    workers.start(queue, move |key: Key| {
        let (client, roles) = (client.clone(), roles.clone());
        async move { reconcile(&client, &roles, &key).await }
    })
}

async fn reconcile(client: &Client, roles: &Store<ClusterRole>, key: &Key) -> Result<After, ClientError> {
    let Some(role) = roles.get_key(key) else { return Ok(After::Change) };
    let all = roles.list();
    let Some(rules) = aggregated(&role, all.iter().map(|role| &**role)) else { return Ok(After::Change) };
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(After::Change);
    }
    let object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": key.name}, "rules": rules});
    client.all::<ClusterRole>().patch(&key.name, &Patch::Apply { object, force: true }).await?;
    Ok(After::Change)
}

/// The rules of an aggregate, each once, in the order of its selectors and of the names of roles.
fn aggregated<'a>(role: &ClusterRole, all: impl Iterator<Item = &'a ClusterRole> + Clone) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for wanted in aggregation.cluster_role_selectors.iter().flatten() {
        let wanted = selector(Some(wanted));
        let fits =
            |other: &&ClusterRole| other.name() != role.name() && selects(&wanted, other.metadata.labels.as_ref());
        for rule in all.clone().filter(fits).flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_gathered_once() {
        let role = |name: &str, label: &str, resources: &[&str]| -> ClusterRole {
            let rules: Vec<_> = resources.iter().map(|r| json!({"resources": [r], "verbs": ["get"]})).collect();
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules}))
                .unwrap()
        };
        let mut view = role("view", "to-view", &["stale"]);
        view.aggregation_rule = serde_json::from_value(
            json!({"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}, {"matchLabels": {"more": "true"}}]}),
        )
        .unwrap();
        let all = [role("a", "to-view", &["pods", "nodes"]), role("b", "more", &["pods", "events"]), view.clone()];
        let rules = aggregated(&view, all.iter()).unwrap();
        let names: Vec<_> = rules.iter().filter_map(|rule| rule.resources.as_ref()?.first().cloned()).collect();
        assert_eq!(names, ["pods", "nodes", "events"]);
        assert!(aggregated(&all[0], all.iter()).is_none());
    }
}
