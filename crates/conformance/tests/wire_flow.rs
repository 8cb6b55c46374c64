//! Who waits for whom: flow control by its objects, on an API that has it on. Against the API of `CONFORMANCE_KUBECONFIG`,
//! or against a server that is started for it. Requests are held up by a webhook that listens on loopback.

#[path = "../../server/tests/support/hook.rs"]
mod hook;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use hook::{Hook, allow};
use http::Method;
use serde_json::{Value, json};
use skiff_conformance::{Answer, Credentials};
use skiff_meta::GroupVersionResource;
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Outcome, accepted, expect};
use tokio::sync::Semaphore;

const CASES: &[Case<Run>] = &[
    ("every_request_belongs_to_a_flow", flows),
    ("a_full_level_refuses_and_others_do_not_wait", full_level),
    ("nobody_waits_behind_all_of_another", fairness),
    ("the_defaults_come_back", defaults),
];

fn main() {
    std::process::exit(cases::run_with(Run::start(79), CASES));
}

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn resource(name: &str) -> GroupVersionResource {
    GroupVersionResource::new(GROUP, "v1", name)
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Where a request stood in line: the names of its schema and its level.
fn place(answer: &Answer, names: &BTreeMap<String, String>) -> [String; 2] {
    ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"]
        .map(|uid| names.get(header(answer, uid)).cloned().unwrap_or_default())
}

impl Run {
    async fn by(&self, user: &str, groups: &[&str], method: Method, path: &str, body: Value) -> Result<Answer, String> {
        let mut headers = vec![("accept", "application/json"), ("content-type", "application/json")];
        headers.push(("impersonate-user", user));
        headers.extend(groups.iter().map(|group| ("impersonate-group", *group)));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.wire.send_with(Credentials::Own, &method, path, &headers, body).await
    }

    /// Names of schemas and levels by their UIDs.
    fn names(&self) -> Result<BTreeMap<String, String>, String> {
        let mut names = BTreeMap::new();
        for list in ["flowschemas", "prioritylevelconfigurations"] {
            let found = self.json(Method::GET, &format!("{FLOW}/{list}"), &Value::Null)?;
            accepted(&found)?;
            for object in found.tree()["items"].as_array().into_iter().flatten() {
                let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
                names.insert(text("uid"), text("name"));
            }
        }
        Ok(names)
    }

    /// A number of `/metrics`, of the level.
    async fn figure(&self, metric: &str, level: &str) -> Result<usize, String> {
        let page = self.wire.json(Method::GET, "/metrics", &Value::Null).await?;
        let page = String::from_utf8_lossy(&page.bytes).into_owned();
        let own = |line: &&str| line.starts_with(metric) && line.contains(&format!("priority_level=\"{level}\""));
        let numbers = page.lines().filter(own).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        Ok(numbers.sum::<f64>() as usize)
    }

    async fn reaches(&self, metric: &str, level: &str, fits: impl Fn(usize) -> bool) -> Outcome {
        let mut found = 0;
        for _ in 0..2_000 {
            found = self.figure(metric, level).await?;
            if fits(found) {
                return Ok(());
            }
        }
        Err(format!("{metric} of {level} is {found}"))
    }

    /// A level with few seats and these queues, and a schema that leads all users of a group there; what both are called,
    /// and how many seats it has.
    fn level(&mut self, queuing: Value) -> Result<(String, usize), String> {
        let name = format!("conformance-{}-{}", std::process::id(), self.number());
        let meta = json!({"name": name});
        let api = "flowcontrol.apiserver.k8s.io/v1";
        let response = json!({"type": "Queue", "queuing": queuing});
        let limited = json!({"nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": response});
        self.make(
            &format!("{FLOW}/prioritylevelconfigurations"),
            &json!({"apiVersion": api, "kind": "PriorityLevelConfiguration", "metadata": meta,
                "spec": {"type": "Limited", "limited": limited}}),
        )?;
        let rule = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
            "clusterScope": true});
        let subject = json!({"kind": "Group", "group": {"name": name}});
        self.make(
            &format!("{FLOW}/flowschemas"),
            &json!({"apiVersion": api, "kind": "FlowSchema", "metadata": meta, "spec": {
                "priorityLevelConfiguration": meta, "matchingPrecedence": 200, "distinguisherMethod": {"type": "ByUser"},
                "rules": [{"subjects": [subject], "resourceRules": [rule]}]}}),
        )?;
        let rbac = "rbac.authorization.k8s.io";
        self.make(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            &json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": meta,
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"apiGroup": rbac, "kind": "Group", "name": name}]}),
        )?;
        let names = self.names()?;
        let probe = || {
            let group = [name.as_str()];
            self.runtime.block_on(self.by("probe", &group, Method::GET, "/api/v1/namespaces/default", Value::Null))
        };
        self.until(probe, |answer| answer.code == 200 && place(answer, &names) == [name.clone(), name.clone()])?;
        let seats = self.runtime.block_on(self.figure("apiserver_flowcontrol_nominal_limit_seats", &name))?;
        Ok((name, seats))
    }

    /// A webhook that lets pass one request per permit, and is asked about a new namespace's config maps.
    fn gate(&mut self) -> Result<(String, Hook, Arc<Semaphore>), String> {
        let path = self.namespace(json!({}))?;
        let permits = Arc::new(Semaphore::new(0));
        let waiting = permits.clone();
        let judge: hook::Judge = Arc::new(move |_| {
            let permits = waiting.clone();
            Box::pin(async move {
                permits.acquire().await.ok()?.forget();
                Some(allow())
            })
        });
        let hook = self.runtime.block_on(Hook::start(judge));
        let namespace = path.rsplit('/').next().unwrap_or_default();
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
        let entry = hook.entry("gate.example.com", json!({"namespaceSelector": selector, "timeoutSeconds": 30}));
        let tree = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"generateName": "conformance-"}, "webhooks": [entry]});
        self.make(HOOKS, &tree)?;
        // One that waits shows that the hook is asked by now.
        permits.add_permits(1);
        let probes = std::cell::Cell::new(0);
        let probe = || {
            probes.set(probes.get() + 1);
            self.post(&format!("{path}/configmaps"), &config_map(&format!("probe-{}", probes.get())))
        };
        self.until(probe, |_| !hook.seen.lock().is_empty())?;
        Ok((path, hook, permits))
    }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn flows(run: &mut Run) -> Outcome {
    let names = run.names()?;
    let account = "system:serviceaccount:default:a";
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
    for (user, groups, path, schema, level) in [
        ("system:kube-controller-manager", &[][..], "/api/v1/pods", "kube-controller-manager", "workload-high"),
        ("system:kube-scheduler", &[], "/api/v1/pods", "kube-scheduler", "workload-high"),
        ("system:kube-controller-manager", &[], lease, "system-leader-election", "leader-election"),
        (account, &[], "/api/v1/pods", "service-accounts", "workload-low"),
        ("system:serviceaccount:kube-system:a", &[], "/api/v1/pods", "kube-system-service-accounts", "workload-high"),
        ("system:node:n", &["system:nodes"], "/api/v1/pods", "system-nodes", "system"),
        ("somebody", &[], "/api/v1/pods", "global-default", "global-default"),
        ("somebody", &[], "/version", "global-default", "global-default"),
        ("somebody", &["system:masters"], "/api/v1/pods", "exempt", "exempt"),
    ] {
        let answer = run.runtime.block_on(run.by(user, groups, Method::GET, path, Value::Null))?;
        let found = place(&answer, &names);
        if found != [schema, level] {
            return Err(format!("{user} {path} stood in {found:?}"));
        }
    }
    let probe = run.wire.send(Credentials::None, &Method::GET, "/livez", ("", ""), "");
    let found = place(&run.runtime.block_on(probe)?, &names);
    if found == ["probes", "exempt"] { Ok(()) } else { Err(format!("a probe stood in {found:?}")) }
}

fn full_level(run: &mut Run) -> Outcome {
    const QUEUE: usize = 3;
    const MORE: usize = 4;
    let (name, seats) = run.level(json!({"queues": 1, "handSize": 1, "queueLengthLimit": QUEUE}))?;
    let (path, _hook, permits) = run.gate()?;
    let (run, uri, group) = (&*run, format!("{path}/configmaps"), [name.as_str()]);
    let pushing = async {
        let all = (0..seats + QUEUE + MORE)
            .map(|i| run.by("pusher", &group, Method::POST, &uri, config_map(&format!("m{i}"))));
        let others = async {
            // Whoever finds neither seat nor place in a queue is told at once, while the others wait.
            run.reaches("apiserver_flowcontrol_rejected_requests_total", &name, |count| count >= MORE).await?;
            run.reaches("apiserver_flowcontrol_current_inqueue_requests", &name, |count| count == QUEUE).await?;
            for (user, group) in [("other", "system:authenticated"), ("admin", "system:masters")] {
                let answer = run.by(user, &[group], Method::GET, "/api/v1/namespaces/default", Value::Null).await?;
                expect(answer.code != 429, &answer)?;
            }
            run.reaches("apiserver_flowcontrol_current_executing_seats", &name, |count| count == seats).await?;
            permits.add_permits(1_000);
            Ok::<(), String>(())
        };
        // A client comes again where `Retry-After` tells it when; else it has an answer that is no success.
        let (answers, others) = tokio::join!(join_all(all), others);
        others?;
        answers.into_iter().try_for_each(|answer| accepted(&answer?))
    };
    run.runtime.block_on(pushing)
}

fn fairness(run: &mut Run) -> Outcome {
    const MANY: usize = 24;
    let (name, seats) = run.level(json!({"queues": 64, "handSize": 4, "queueLengthLimit": 50}))?;
    let (path, hook, permits) = run.gate()?;
    let (run, uri, group) = (&*run, format!("{path}/configmaps"), [name.as_str()]);
    let known = hook.seen.lock().len();
    let create = |user: &'static str, i: usize| {
        let body = config_map(&format!("{user}{i}"));
        run.by(user, &group, Method::POST, &uri, body)
    };
    let racing = async {
        let many = join_all((0..seats + MANY).map(|i| create("many", i)));
        let queued = "apiserver_flowcontrol_current_inqueue_requests";
        let one = async {
            run.reaches(queued, &name, |count| count == MANY).await?;
            let freeing = async {
                run.reaches(queued, &name, |count| count == MANY + 1).await?;
                // One at a time, so that who is asked about next is who has its turn next.
                for done in 1..=MANY + 1 {
                    permits.add_permits(1);
                    run.reaches(queued, &name, |_| hook.seen.lock().len() >= known + seats + done).await?;
                }
                permits.add_permits(1_000);
                Ok::<(), String>(())
            };
            let (answer, freed) = tokio::join!(create("one", 0), freeing);
            freed?;
            accepted(&answer?)
        };
        let (many, one) = tokio::join!(many, one);
        one?;
        many.into_iter().try_for_each(|answer| accepted(&answer?))
    };
    run.runtime.block_on(racing)?;
    let seen = hook.seen.lock();
    let order: Vec<&Value> = seen[known..].iter().map(|asked| &asked["userInfo"]["username"]).collect();
    let turn = order.iter().position(|user| **user == "one").unwrap_or(order.len());
    // Its queue has its turn after at most one of each of the other's few queues, not after all of them.
    if turn < seats + MANY / 2 { Ok(()) } else { Err(format!("its turn was {turn} of {}", order.len())) }
}

/// Mandatory objects come back whatever happens, suggested ones unless their owner says otherwise. Upstream looks once a
/// minute.
fn defaults(run: &mut Run) -> Outcome {
    let get = |list: &str, name: &str| run.json(Method::GET, &format!("{FLOW}/{list}/{name}"), &Value::Null);
    let before = get("flowschemas", "catch-all")?.tree();
    accepted(&run.json(Method::DELETE, &format!("{FLOW}/flowschemas/catch-all"), &Value::Null)?)?;
    let levels = format!("{FLOW}/prioritylevelconfigurations");
    let spec = get("prioritylevelconfigurations", "system")?.tree()["spec"].clone();
    let shares = json!({"spec": {"limited": {"nominalConcurrencyShares": 77}}});
    accepted(&run.merge(&format!("{levels}/system"), &shares)?)?;
    let mut kept = shares.clone();
    kept["metadata"] = json!({"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}});
    let mine = run.merge(&format!("{levels}/node-high"), &kept)?;
    accepted(&mine)?;
    run.see("catch-all is back", resource("flowschemas"), "", |seen| {
        let there = seen.get("catch-all").filter(|found| found["metadata"]["uid"] != before["metadata"]["uid"]);
        there.is_some_and(|found| found["spec"] == before["spec"])
    })?;
    let seen = run.see("system is as it was", resource("prioritylevelconfigurations"), "", |seen| {
        seen.get("system").is_some_and(|found| found["spec"] == spec)
    })?;
    let shares = seen["node-high"]["spec"]["limited"]["nominalConcurrencyShares"].clone();
    let mut back = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}});
    back["spec"] = json!({"limited": {"nominalConcurrencyShares": 40}});
    accepted(&run.merge(&format!("{levels}/node-high"), &back)?)?;
    if shares == 77 { Ok(()) } else { Err(format!("a level that its owner keeps has {shares} shares")) }
}
