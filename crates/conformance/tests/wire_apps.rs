//! What controllers make of what is declared, against the API of `CONFORMANCE_KUBECONFIG`, or against a server that is
//! started for it. No node is needed: pods ask for a scheduler that nobody is, and how they fare is what the case says.
#![allow(clippy::disallowed_methods, reason = "a real server answers in real time")]

#[path = "wire_apps/autoscaling.rs"]
mod autoscaling;
#[path = "wire_apps/budgets.rs"]
mod budgets;
#[path = "wire_apps/cron_jobs.rs"]
mod cron_jobs;
#[path = "wire_apps/daemons.rs"]
mod daemons;
#[path = "wire_apps/deployments.rs"]
mod deployments;
#[path = "wire_apps/jobs.rs"]
mod jobs;
#[path = "wire_apps/network.rs"]
mod network;
#[path = "wire_apps/quotas.rs"]
mod quotas;
#[path = "wire_apps/sets.rs"]
mod sets;
#[path = "wire_apps/stateful_sets.rs"]
mod stateful_sets;
#[path = "wire_apps/storage.rs"]
mod storage;
mod support;
#[path = "wire_apps/taints.rs"]
mod taints;
#[path = "wire_apps/tokens.rs"]
mod tokens;
#[path = "wire_apps/upkeep.rs"]
mod upkeep;
#[path = "wire_apps/verbs.rs"]
mod verbs;

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Answer;
use skiff_meta::GroupVersionResource;
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Seen, accepted};

fn main() {
    std::process::exit(cases::run_with(Run::start(77), CASES));
}

const CASES: &[Case<Run>] = &[
    ("objects_of_every_kind_are_listed_changed_scaled_and_deleted_together", verbs::every_kind),
    ("a_set_has_as_many_pods_as_it_says", sets::replicas),
    ("a_quota_that_stops_a_controller_is_told", sets::stopped_by_quota),
    ("pods_are_adopted_and_released", sets::adoption),
    ("a_deployment_goes_from_one_template_to_the_next", deployments::rolling),
    ("a_deployment_that_recreates_has_never_both", deployments::recreate),
    ("a_deployment_may_change_before_it_is_through", deployments::rollover),
    ("a_deployment_grows_in_proportion", deployments::proportional),
    ("a_stateful_set_keeps_its_order", stateful_sets::partition),
    ("a_stateful_set_halts_unless_told_otherwise", stateful_sets::halts),
    ("a_stateful_set_is_updated_from_behind_and_goes_back", stateful_sets::rolls_back),
    ("a_stateful_pod_that_failed_comes_again", stateful_sets::evicted),
    ("daemons_follow_their_nodes", daemons::follow_nodes),
    ("daemons_go_back_without_needless_restarts", daemons::roll_back),
    ("a_job_ignores_disruptions_and_counts_indexes", jobs::indexes),
    ("a_job_is_decided_by_its_policies", jobs::policies),
    ("a_job_adopts_and_releases_pods", jobs::adoption),
    ("a_job_is_suspended_resumed_and_deleted", jobs::lifecycle),
    ("a_job_bears_with_containers_that_are_restarted", jobs::restarts),
    ("a_finished_job_goes_when_its_time_is_over", jobs::finished),
    ("cron_jobs_keep_to_their_policy", cron_jobs::concurrency),
    ("a_suspended_cron_job_starts_nothing", cron_jobs::suspended),
    ("a_cron_job_remembers_as_many_as_it_is_told", cron_jobs::history),
    ("an_eviction_waits_for_its_budget", budgets::eviction),
    ("budgets_count_in_numbers_and_percent", budgets::counts),
    ("an_autoscaler_keeps_bounds_without_metrics", autoscaling::bounds),
    ("an_autoscaler_follows_metrics", autoscaling::metrics),
    ("endpoints_kept_by_hand_are_mirrored", network::mirrored),
    ("a_range_of_addresses_stays_while_a_service_needs_it", network::range_stays),
    ("an_address_that_somebody_removed_comes_back", network::address_comes_back),
    ("slices_tell_of_pods", network::endpoints),
    ("secrets_hold_tokens_of_their_accounts", tokens::account_tokens),
    ("cluster_info_is_signed_with_bootstrap_tokens", tokens::signed_info),
    ("nodes_are_told_how_long_to_keep_what_they_read", upkeep::node_ttl),
    ("dependents_go_as_they_are_asked_to", upkeep::dependents),
    ("owners_in_a_circle_go_and_one_of_two_is_enough_to_stay", upkeep::tangled),
    ("a_namespace_says_what_keeps_it", upkeep::ending_namespace),
    ("pods_go_before_all_else_of_a_namespace", upkeep::pods_go_first),
    ("what_each_namespace_has_comes_back", upkeep::what_a_namespace_has),
    ("roles_are_made_of_others", upkeep::aggregated_roles),
    ("a_quota_follows_what_comes_and_goes", quotas::lives),
    ("claims_get_volumes_and_stay_while_they_are_used", storage::claims),
    ("pods_leave_tainted_nodes_when_their_time_is_over", taints::evictions),
];

/// A kind: its group, version, plural and name.
#[derive(Clone, Copy)]
struct Kind(&'static str, &'static str, &'static str, &'static str);

const PODS: Kind = Kind("", "v1", "pods", "Pod");
const NODES: Kind = Kind("", "v1", "nodes", "Node");
const CONTROLLERS: Kind = Kind("", "v1", "replicationcontrollers", "ReplicationController");
const SERVICES: Kind = Kind("", "v1", "services", "Service");
const REPLICA_SETS: Kind = Kind("apps", "v1", "replicasets", "ReplicaSet");
const DEPLOYMENTS: Kind = Kind("apps", "v1", "deployments", "Deployment");
const STATEFUL_SETS: Kind = Kind("apps", "v1", "statefulsets", "StatefulSet");
const DAEMON_SETS: Kind = Kind("apps", "v1", "daemonsets", "DaemonSet");
const REVISIONS: Kind = Kind("apps", "v1", "controllerrevisions", "ControllerRevision");
const JOBS: Kind = Kind("batch", "v1", "jobs", "Job");
const CRON_JOBS: Kind = Kind("batch", "v1", "cronjobs", "CronJob");
const BUDGETS: Kind = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
const AUTOSCALERS: Kind = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler");

impl Kind {
    fn gvr(self) -> GroupVersionResource {
        GroupVersionResource::new(self.0, self.1, self.2)
    }

    /// The path of its objects in the namespace at `/api/v1/namespaces/NAME`, or outside of all at `/api/v1`.
    fn within(self, home: &str) -> String {
        let Self(group, version, plural, _) = self;
        let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/{version}") };
        format!("{}/{plural}", home.replacen("/api/v1", &root, 1))
    }

    /// An object with these fields, and what every object has.
    fn object(self, name: &str, mut fields: Value) -> Value {
        let Self(group, version, _, kind) = self;
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        fields["apiVersion"] = json!(api_version);
        fields["kind"] = json!(kind);
        fields["metadata"]["name"] = json!(name);
        fields
    }
}

impl Run {
    /// Creates an object with this spec in a namespace; its path.
    fn create(&self, home: &str, kind: Kind, name: &str, spec: Value) -> Result<String, String> {
        let collection = kind.within(home);
        accepted(&self.post(&collection, &kind.object(name, json!({"spec": spec})))?)?;
        Ok(format!("{collection}/{name}"))
    }

    /// Creates a node that is gone with the run.
    fn make_node(&mut self, name: &str, labels: Value) -> Result<String, String> {
        self.make("/api/v1/nodes", &NODES.object(name, json!({"metadata": {"labels": labels}})))
    }

    fn get(&self, path: &str) -> Result<Answer, String> {
        self.json(Method::GET, path, &Value::Null)
    }

    fn change(&self, path: &str, change: Value) -> Result<(), String> {
        accepted(&self.merge(path, &change)?)
    }

    /// Says how a pod fares.
    fn fares(&self, path: &str, pod: &str, status: Value) -> Result<(), String> {
        self.change(&format!("{path}/pods/{pod}/status"), json!({"status": status}))
    }

    /// Puts a pod on a node.
    fn bind(&self, path: &str, pod: &str, node: &str) -> Result<(), String> {
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": node});
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target});
        accepted(&self.post(&format!("{path}/pods/{pod}/binding"), &binding)?)
    }

    /// Waits until the object of this name, null while there is none, suits.
    fn comes(
        &self,
        what: &str,
        kind: Kind,
        home: &str,
        name: &str,
        suits: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let seen = self.see(what, kind.gvr(), home, |seen| suits(at(seen, name)))?;
        Ok(at(&seen, name).clone())
    }

    /// Waits for `count` pods that stay, of whom `which` says so; their names.
    fn pods(&self, path: &str, count: usize, which: impl Fn(&Value) -> bool) -> Result<Vec<String>, String> {
        let which = |pod: &&Value| which(pod) && pod["metadata"]["deletionTimestamp"].is_null();
        let suits = |seen: &Seen| seen.values().filter(which).count() == count;
        let seen = self.see(&format!("{count} pods"), PODS.gvr(), path, suits)?;
        Ok(seen.iter().filter(|(_, pod)| which(pod)).map(|(name, _)| name.clone()).collect())
    }

    /// Waits for as many pods of an image, and makes them ready.
    fn get_ready(&self, path: &str, count: usize, of: &str) -> Result<Vec<String>, String> {
        let names = self.pods(path, count, |pod| image(pod) == of)?;
        names.iter().try_for_each(|name| self.fares(path, name, ready()))?;
        Ok(names)
    }

    fn delete(&self, path: &str) -> Result<(), String> {
        accepted(&self.json(Method::DELETE, path, &Value::Null)?)
    }
}

/// An object, null while it has not been seen: a list may be a little old.
fn at<'s>(seen: &'s Seen, name: &str) -> &'s Value {
    seen.get(name).unwrap_or(&Value::Null)
}

/// A name that nobody else has, of what is in no namespace.
fn unique(name: &str) -> String {
    format!("apps-{}-{name}", std::process::id())
}

fn template(labels: Value, image: &str) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"schedulerName": "nobody", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": image}]}})
}

/// How a kind chooses its pods by labels.
fn selector(kind: Kind, labels: &Value) -> Value {
    if kind.0.is_empty() { labels.clone() } else { json!({"matchLabels": labels}) }
}

/// The spec of a workload whose pods have the label `app`, with some things otherwise.
fn workload(app: &str, replicas: usize, other: Value) -> Value {
    let mut spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": app}},
        "template": template(json!({"app": app}), "one")});
    for (name, value) in other.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    spec
}

/// The change to another image.
fn to_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn owner(object: &Value) -> &str {
    object["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default()
}

fn ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
}

/// How a pod has ended whose container left with this code.
fn ended(code: i32) -> Value {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({"terminated": {"exitCode": code, "reason": "E", "startedAt": null, "finishedAt": null}});
    json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0, "state": state}]})
}

/// The status of a condition, empty where there is none.
fn condition<'a>(object: &'a Value, ty: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == ty).unwrap_or(&Value::Null)
}

/// The object has seen its last change, and its status has these fields.
fn says(object: &Value, status: &Value) -> bool {
    let observed = &object["status"]["observedGeneration"];
    let fields = status.as_object();
    (observed.is_null() || *observed == object["metadata"]["generation"])
        && fields.into_iter().flatten().all(|(name, value)| object["status"][name] == *value)
}

fn expect_that(holds: bool, what: impl Fn() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn image(object: &Value) -> &str {
    object.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}
