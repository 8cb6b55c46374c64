//! What controllers make of what is declared, against the API of `CONFORMANCE_KUBECONFIG`, or against a server that is
//! started for it. No node is needed: pods ask for a scheduler that nobody is, and how they fare is what the case says.

mod support;
#[path = "wire_apps/upkeep.rs"]
mod upkeep;

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use skiff_meta::GroupVersionResource;
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Seen, accepted, expect};

fn main() {
    std::process::exit(cases::run_with(Run::start(77), CASES));
}

const CASES: &[Case<Run>] = &[
    ("a_quota_that_stops_a_controller_is_told", stopped_by_quota),
    ("pods_are_adopted_and_released", adoption),
    ("a_deployment_goes_from_one_template_to_the_next", deployment),
    ("a_stateful_set_keeps_its_order", stateful_set),
    ("a_job_ignores_disruptions_and_counts_indexes", job_indexes),
    ("a_job_is_decided_by_its_policies", job_policies),
    ("an_eviction_waits_for_its_budget", eviction),
    ("endpoints_kept_by_hand_are_mirrored", mirrored),
    ("a_range_of_addresses_stays_while_a_service_needs_it", range_stays),
    ("an_address_that_somebody_removed_comes_back", address_comes_back),
    ("secrets_hold_tokens_of_their_accounts", account_tokens),
    ("cluster_info_is_signed_with_bootstrap_tokens", signed_info),
    ("nodes_are_told_how_long_to_keep_what_they_read", node_ttl),
    ("dependents_go_as_they_are_asked_to", upkeep::dependents),
    ("owners_in_a_circle_go_and_one_of_two_is_enough_to_stay", upkeep::tangled),
    ("a_namespace_says_what_keeps_it", upkeep::ending_namespace),
    ("what_each_namespace_has_comes_back", upkeep::what_a_namespace_has),
    ("a_finished_job_goes_when_its_time_is_over", upkeep::finished_job),
    ("daemons_follow_their_nodes", upkeep::daemons),
    ("claims_get_volumes_and_stay_while_they_are_used", upkeep::storage),
    ("slices_tell_of_pods", upkeep::endpoints),
    ("roles_are_made_of_others", upkeep::aggregated_roles),
];

fn resource(group: &str, version: &str, resource: &str) -> GroupVersionResource {
    GroupVersionResource::new(group, version, resource)
}

fn pods() -> GroupVersionResource {
    resource("", "v1", "pods")
}

impl Run {
    /// A namespace with an account for pods; the path of what is in it.
    fn home(&mut self) -> Result<String, String> {
        let path = self.namespace(json!({}))?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let made = self.post(&format!("{path}/serviceaccounts"), &account)?;
        expect(made.code == 201 || made.code == 409, &made)?;
        Ok(path)
    }

    /// Says how a pod fares.
    fn fares(&self, path: &str, pod: &str, status: Value) -> Result<(), String> {
        accepted(&self.merge(&format!("{path}/pods/{pod}/status"), &json!({"status": status}))?)
    }

    /// Waits for `count` pods that stay, of whom `which` says so; their names.
    fn pods(&self, path: &str, count: usize, which: impl Fn(&Value) -> bool) -> Result<Vec<String>, String> {
        let which = |pod: &&Value| which(pod) && pod["metadata"]["deletionTimestamp"].is_null();
        let suits = |seen: &Seen| seen.values().filter(which).count() == count;
        let seen = self.see(&format!("{count} pods"), pods(), path, suits)?;
        Ok(seen.iter().filter(|(_, pod)| which(pod)).map(|(name, _)| name.clone()).collect())
    }

    fn delete(&self, path: &str) -> Result<(), String> {
        accepted(&self.json(Method::DELETE, path, &Value::Null)?)
    }
}

/// An object, null while it has not been seen: a list may be a little old.
fn at<'s>(seen: &'s Seen, name: &str) -> &'s Value {
    seen.get(name).unwrap_or(&Value::Null)
}

/// `/apis/GROUP/v1/namespaces/NAME` of `/api/v1/namespaces/NAME`.
fn of_group(path: &str, group: &str) -> String {
    path.replacen("/api/", &format!("/apis/{group}/"), 1)
}

fn template(labels: Value, image: &str) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"schedulerName": "nobody", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": image}]}})
}

fn owner(object: &Value) -> &str {
    object["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default()
}

fn ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
}

/// The status of a condition, empty where there is none.
fn condition<'a>(object: &'a Value, ty: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == ty).unwrap_or(&Value::Null)
}

fn stopped_by_quota(run: &mut Run) -> Result<(), String> {
    for (plural, group, kind) in
        [("replicationcontrollers", "", "ReplicationController"), ("replicasets", "apps", "ReplicaSet")]
    {
        // One after the other in one namespace, upstream's late recount of the first lets the second have too many.
        let path = run.home()?;
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
            "spec": {"hard": {"pods": "2"}}});
        accepted(&run.post(&format!("{path}/resourcequotas"), &quota)?)?;
        run.see("a counted quota", resource("", "v1", "resourcequotas"), &path, |seen| {
            at(seen, "q")["status"]["used"]["pods"] == "0"
        })?;
        let (gvr, home) = (resource(group, "v1", plural), of_group(&path, group));
        let collection = format!("{}/{plural}", if group.is_empty() { &path } else { &home });
        let version = if group.is_empty() { "v1" } else { "apps/v1" };
        let labels = json!({"app": "stopped"});
        let selector = if kind == "ReplicaSet" { json!({"matchLabels": labels}) } else { labels.clone() };
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "c"},
            "spec": {"replicas": 3, "selector": selector, "template": template(labels, "i")}});
        accepted(&run.post(&collection, &object)?)?;
        let failure = |seen: &Seen| condition(at(seen, "c"), "ReplicaFailure").clone();
        run.see("a failure that is told", gvr.clone(), &path, |seen| {
            let failure = failure(seen);
            failure["status"] == "True" && failure["reason"] == "FailedCreate"
        })?;
        accepted(&run.merge(&format!("{collection}/c"), &json!({"spec": {"replicas": 2}}))?)?;
        run.see("a failure that is over", gvr, &path, |seen| {
            failure(seen).is_null() && at(seen, "c")["status"]["replicas"] == 2
        })?;
        run.delete(&format!("{collection}/c?propagationPolicy=Background"))?;
        run.see("no pods", pods(), &path, Seen::is_empty)?;
        run.see("a quota that nothing uses", resource("", "v1", "resourcequotas"), &path, |seen| {
            at(seen, "q")["status"]["used"]["pods"] == "0"
        })?;
    }
    Ok(())
}

fn adoption(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let mut orphan = template(json!({"app": "adopted"}), "i");
    (orphan["apiVersion"], orphan["kind"], orphan["metadata"]["name"]) = (json!("v1"), json!("Pod"), json!("orphan"));
    accepted(&run.post(&format!("{path}/pods"), &orphan)?)?;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "set"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"app": "adopted"}}, "template": template(json!({"app": "adopted"}), "i")}});
    accepted(&run.post(&format!("{}/replicasets", of_group(&path, "apps")), &set)?)?;
    let adopted = run.pods(&path, 1, |pod| owner(pod) == "set")?;
    expect_that(adopted == ["orphan"], || format!("{adopted:?} is adopted"))?;
    let label = json!({"metadata": {"labels": {"app": "released"}}});
    accepted(&run.merge(&format!("{path}/pods/orphan"), &label)?)?;
    run.see("a free pod and another one", pods(), &path, |seen| {
        seen.len() == 2 && seen.iter().all(|(name, pod)| (name == "orphan") == owner(pod).is_empty())
    })
    .map(drop)
}

fn expect_that(holds: bool, what: impl Fn() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn image(object: &Value) -> &str {
    object.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}

fn deployment(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let (collection, gvr) = (format!("{}/deployments", of_group(&path, "apps")), resource("apps", "v1", "deployments"));
    let labels = json!({"app": "d"});
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 2,
        "revisionHistoryLimit": 0, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "one"),
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    accepted(&run.post(&collection, &object)?)?;
    for pod in run.pods(&path, 2, |pod| image(pod) == "one")? {
        run.fares(&path, &pod, ready())?;
    }
    run.see("two available pods", gvr.clone(), &path, |seen| {
        at(seen, "d")["status"]["availableReplicas"] == 2 && condition(at(seen, "d"), "Available")["status"] == "True"
    })?;
    accepted(&run.merge(&format!("{collection}/d"), &json!({"spec": {"template": template(labels, "two")}}))?)?;
    // Each new pod must be ready before an old one goes.
    for (count, old) in [(1, 2), (2, 1)] {
        let new = run.pods(&path, count, |pod| image(pod) == "two")?;
        run.pods(&path, old, |pod| image(pod) == "one")?;
        for pod in new {
            run.fares(&path, &pod, ready())?;
        }
    }
    run.pods(&path, 0, |pod| image(pod) == "one")?;
    run.see("no old ReplicaSet", resource("apps", "v1", "replicasets"), &path, |seen| {
        seen.len() == 1
            && seen.values().all(|set| set["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2")
    })?;
    run.see("a finished rollout", gvr, &path, |seen| {
        let progress = condition(at(seen, "d"), "Progressing");
        at(seen, "d")["status"]["updatedReplicas"] == 2 && progress["reason"] == "NewReplicaSetAvailable"
    })?;
    run.delete(&format!("{collection}/d?propagationPolicy=Foreground"))?;
    run.see("no pods", pods(), &path, Seen::is_empty).map(drop)
}

fn stateful_set(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let collection = format!("{}/statefulsets", of_group(&path, "apps"));
    let labels = json!({"app": "s"});
    let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"}, "spec": {"replicas": 2,
        "serviceName": "s", "selector": {"matchLabels": labels}, "template": template(labels, "one")}});
    accepted(&run.post(&collection, &object)?)?;
    let mut order: Vec<String> = Vec::new();
    let note = |seen: &Seen, order: &mut Vec<String>| {
        let names: Vec<String> = seen.keys().cloned().collect();
        if order.last() != Some(&names.join(" ")) {
            order.push(names.join(" "));
        }
    };
    run.pods(&path, 1, |_| true)?;
    run.fares(&path, "s-0", ready())?;
    run.pods(&path, 2, |_| true)?;
    run.fares(&path, "s-1", ready())?;
    // Only what is beyond the partition changes.
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}},
        "updateStrategy": {"rollingUpdate": {"partition": 1}}}});
    accepted(&run.merge(&format!("{collection}/s"), &change)?)?;
    let updated = run.pods(&path, 1, |pod| image(pod) == "two")?;
    expect_that(updated == ["s-1"], || format!("{updated:?} is updated"))?;
    run.fares(&path, "s-1", ready())?;
    accepted(&run.merge(&format!("{collection}/s"), &json!({"spec": {"replicas": 0}}))?)?;
    run.see("no pods", pods(), &path, |seen| {
        note(seen, &mut order);
        seen.is_empty()
    })?;
    // The watch may begin late, but what it sees goes from behind.
    expect_that(["s-0 s-1", "s-0", ""].ends_with(&order.iter().map(String::as_str).collect::<Vec<_>>()), || {
        format!("{order:?}")
    })
}

/// A Job with an index for each of three pods.
fn job(changes: Value) -> Value {
    let mut spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "template": template(json!({}), "i")});
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    for (name, value) in changes.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec})
}

/// Its pods that have not ended, by their index.
fn by_index(run: &Run, path: &str, count: usize) -> Result<BTreeMap<String, String>, String> {
    let open = |pod: &Value| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let names = run.pods(path, count, open)?;
    let index = |name: &String| name.split('-').nth(1).unwrap_or_default().to_owned();
    Ok(names.into_iter().map(|name| (index(&name), name)).collect())
}

fn ended(code: i32) -> Value {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({"terminated": {"exitCode": code, "reason": "E", "startedAt": null, "finishedAt": null}});
    json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0, "state": state}]})
}

fn job_indexes(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    let jobs = format!("{}/jobs", of_group(&path, "batch"));
    let object = job(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}));
    accepted(&run.post(&jobs, &object)?)?;
    let first = by_index(run, &path, 3)?;
    let mut disrupted = ended(137);
    disrupted["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    run.fares(&path, &first["1"], disrupted)?;
    run.see("another pod for the index", pods(), &path, |seen| {
        let again = |name: &String| name.starts_with("j-1-") && *name != first["1"];
        seen.keys().any(again)
    })?;
    for name in by_index(run, &path, 3)?.values() {
        run.fares(&path, name, ended(0))?;
    }
    run.see("a complete Job", resource("batch", "v1", "jobs"), &path, |seen| {
        let status = &at(seen, "j")["status"];
        condition(at(seen, "j"), "Complete")["status"] == "True"
            && (&status["completedIndexes"], &status["succeeded"]) == (&json!("0-2"), &json!(3))
            && status["failed"].is_null()
    })
    .map(drop)
}

fn job_policies(run: &mut Run) -> Result<(), String> {
    let fail_index = json!([{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]);
    let fail_job = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]);
    let success = json!([{"succeededIndexes": "0", "succeededCount": 1}]);
    for (what, changes, index, code, ty, reason) in [
        (
            "an index that is given up",
            json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 0, "podFailurePolicy": {"rules": fail_index}}),
            "1",
            42,
            "Failed",
            "MaxFailedIndexesExceeded",
        ),
        ("an exit code", json!({"podFailurePolicy": {"rules": fail_job}}), "2", 42, "Failed", "PodFailurePolicy"),
        ("a limit", json!({"backoffLimit": 0}), "0", 1, "Failed", "BackoffLimitExceeded"),
        ("a leader", json!({"successPolicy": {"rules": success}}), "0", 0, "Complete", "SuccessPolicy"),
    ] {
        let path = run.home()?;
        accepted(&run.post(&format!("{}/jobs", of_group(&path, "batch")), &job(changes))?)?;
        let names = by_index(run, &path, 3)?;
        run.fares(&path, &names[index], ended(code))?;
        run.see(what, resource("batch", "v1", "jobs"), &path, |seen| {
            let condition = condition(at(seen, "j"), ty);
            condition["status"] == "True"
                && condition["reason"] == reason
                && at(seen, "j")["status"]["active"].is_null()
        })?;
    }
    Ok(())
}

fn eviction(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let labels = json!({"app": "guarded"});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "set"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": labels}, "template": template(labels.clone(), "i")}});
    accepted(&run.post(&format!("{}/replicasets", of_group(&path, "apps")), &set)?)?;
    let names = run.pods(&path, 2, |_| true)?;
    for name in &names {
        run.fares(&path, name, ready())?;
    }
    let (budgets, gvr) = (
        format!("{}/poddisruptionbudgets", of_group(&path, "policy")),
        resource("policy", "v1", "poddisruptionbudgets"),
    );
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": labels}}});
    accepted(&run.post(&budgets, &budget)?)?;
    let allows = |count: i64| {
        move |seen: &Seen| {
            let status = &at(seen, "b")["status"];
            (&status["currentHealthy"], &status["disruptionsAllowed"]) == (&json!(2), &json!(count))
                && status["observedGeneration"] == at(seen, "b")["metadata"]["generation"]
        }
    };
    run.see("a budget that is used up", gvr.clone(), &path, allows(0))?;
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": names[0]}});
    let refused = run.post(&format!("{path}/pods/{}/eviction", names[0]), &evict)?;
    expect(refused.code == 429 && refused.causes() == [("DisruptionBudget".to_owned(), String::new())], &refused)?;
    accepted(&run.merge(&format!("{budgets}/b"), &json!({"spec": {"minAvailable": 1}}))?)?;
    run.see("a budget that allows one", gvr, &path, allows(1))?;
    accepted(&run.post(&format!("{path}/pods/{}/eviction", names[0]), &evict)?)?;
    run.see("another pod", pods(), &path, |seen| seen.len() == 2 && !seen.contains_key(&names[0])).map(drop)
}

fn mirrored(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}]}});
    accepted(&run.post(&format!("{path}/services"), &service)?)?;
    let endpoints = |ip: &str| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"},
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 8080, "protocol": "TCP"}]}]})
    };
    accepted(&run.post(&format!("{path}/endpoints"), &endpoints("10.1.2.3"))?)?;
    let slices = || resource("discovery.k8s.io", "v1", "endpointslices");
    let leads = |slice: &Value, ip: &str| {
        let manager = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
        manager == "endpointslicemirroring-controller.k8s.io"
            && (&slice["endpoints"][0]["addresses"], &slice["ports"][0]["port"]) == (&json!([ip]), &json!(8080))
    };
    run.see("a mirror", slices(), &path, |seen| seen.len() == 1 && seen.values().all(|s| leads(s, "10.1.2.3")))?;
    accepted(&run.json(Method::PUT, &format!("{path}/endpoints/s"), &endpoints("10.1.2.4"))?)?;
    run.see("a changed mirror", slices(), &path, |seen| seen.values().any(|s| leads(s, "10.1.2.4")))?;
    run.delete(&format!("{path}/endpoints/s"))?;
    run.see("no mirror", slices(), &path, Seen::is_empty).map(drop)
}

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

fn range_stays(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let name = format!("apps-{}", std::process::id());
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": ["198.51.100.16/29"]}});
    accepted(&run.post(RANGES, &range)?)?;
    let gvr = || resource("networking.k8s.io", "v1", "servicecidrs");
    let says = |status: &'static str, reason: &'static str| {
        let name = name.clone();
        move |seen: &Seen| {
            let (range, ready) = (at(seen, &name), &at(seen, &name)["status"]["conditions"][0]);
            range["metadata"]["finalizers"] == json!([FINALIZER])
                && (&ready["type"], &ready["status"], &ready["reason"])
                    == (&json!("Ready"), &json!(status), &json!(reason))
        }
    };
    run.see("a range that is ready", gvr(), "", says("True", ""))?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"clusterIP": "198.51.100.18", "ports": [{"port": 80}]}});
    run.until(|| run.post(&format!("{path}/services"), &service), |answer| answer.code == 201)?;
    run.delete(&format!("{RANGES}/{name}"))?;
    run.see("a range that is needed", gvr(), "", says("False", "Terminating"))?;
    run.delete(&format!("{path}/services/s"))?;
    run.see("no such range", gvr(), "", |seen| !seen.contains_key(&name)).map(drop)
}

fn address_comes_back(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let made = run.post(&format!("{path}/services"), &service)?;
    accepted(&made)?;
    let address = made.tree()["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let objects = "/apis/networking.k8s.io/v1/ipaddresses";
    let object = run.json(Method::GET, &format!("{objects}/{address}"), &Value::Null)?;
    let uid = object.tree()["metadata"]["uid"].clone();
    run.delete(&format!("{objects}/{address}"))?;
    // Upstream looks at Services that change, and at all of them every three minutes.
    accepted(&run.merge(&format!("{path}/services/s"), &json!({"metadata": {"labels": {"a": "b"}}}))?)?;
    let gvr = || resource("networking.k8s.io", "v1", "ipaddresses");
    let back = |seen: &Seen| {
        let (object, parent) = (at(seen, &address), &at(seen, &address)["spec"]["parentRef"]);
        !object.is_null() && object["metadata"]["uid"] != uid && parent["name"] == "s"
    };
    run.see("the address again", gvr(), "", back)?;
    let told = |seen: &Seen| seen.values().any(|event| event["reason"] == "ClusterIPNotAllocated");
    run.see("an event", resource("events.k8s.io", "v1", "events"), &path, told)?;
    run.delete(&format!("{path}/services/s"))?;
    run.see("no such address", gvr(), "", |seen| !seen.contains_key(&address)).map(drop)
}

fn account_tokens(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let secrets = format!("{path}/secrets");
    let gvr = || resource("", "v1", "secrets");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let made = run.post(&format!("{path}/serviceaccounts"), &account)?;
    accepted(&made)?;
    let uid = made.tree()["metadata"]["uid"].clone();
    let secret = |name: &str, account: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}}})
    };
    accepted(&run.post(&secrets, &secret("token", "robot"))?)?;
    accepted(&run.post(&secrets, &secret("lost", "nobody"))?)?;
    let filled = |seen: &Seen| !at(seen, "token")["data"]["token"].is_null() && !seen.contains_key("lost");
    let seen = run.see("a token, and none of nobody", gvr(), &path, filled)?;
    let token = at(&seen, "token");
    let has = |field: &str| !token["data"][field].as_str().unwrap_or_default().is_empty();
    if token["metadata"]["annotations"]["kubernetes.io/service-account.uid"] != uid
        || !has("namespace")
        || !has("ca.crt")
    {
        return Err(format!("{token}"));
    }
    let text =
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, token["data"]["token"].as_str().unwrap_or_default());
    let text = String::from_utf8(text.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": text}});
    let asked = || run.post("/apis/authentication.k8s.io/v1/tokenreviews", &review);
    let known = asked()?;
    let user = format!("system:serviceaccount:{}:robot", path.rsplit('/').next().unwrap_or_default());
    let status = &known.tree()["status"];
    expect(
        status["authenticated"] == true && status["user"]["username"] == user && status["user"]["uid"] == uid,
        &known,
    )?;
    let used = |seen: &Seen| !at(seen, "token")["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].is_null();
    run.see("the day of its use", gvr(), &path, used)?;
    run.delete(&format!("{path}/serviceaccounts/robot"))?;
    run.see("no token without its account", gvr(), &path, |seen| !seen.contains_key("token"))?;
    run.until(asked, |answer| answer.tree()["status"]["authenticated"] != true).map(drop)
}

fn signed_info(run: &mut Run) -> Result<(), String> {
    let (maps, secrets) = ("/api/v1/namespaces/kube-public/configmaps", "/api/v1/namespaces/kube-system/secrets");
    let info = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"},
        "data": {"kubeconfig": "apiVersion: v1"}});
    let made = run.post(maps, &info)?;
    expect(made.code == 201 || made.code == 409, &made)?;
    let id = format!("{:06x}", std::process::id() % 0x100_0000);
    let token = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": {"token-id": id,
            "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"}});
    accepted(&run.post(secrets, &token)?)?;
    let (gvr, key) = (|| resource("", "v1", "configmaps"), format!("jws-kubeconfig-{id}"));
    let signature = |seen: &Seen| at(seen, "cluster-info")["data"][&key].as_str().unwrap_or_default().to_owned();
    let signed = run.see("a signature", gvr(), "kube-public", |seen| !signature(seen).is_empty());
    run.delete(&format!("{secrets}/bootstrap-token-{id}"))?;
    let parts = signature(&signed?);
    let detached = parts.split('.').collect::<Vec<_>>();
    if detached.len() != 3 || !detached[1].is_empty() || detached[2].len() != 43 {
        return Err(parts);
    }
    run.see("no signature", gvr(), "kube-public", |seen| signature(seen).is_empty()).map(drop)
}

fn node_ttl(run: &mut Run) -> Result<(), String> {
    let name = format!("apps-{}", std::process::id());
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    run.make("/api/v1/nodes", &node)?;
    let told = |seen: &Seen| at(seen, &name)["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0";
    run.see("a time to live", resource("", "v1", "nodes"), "", told).map(drop)
}
