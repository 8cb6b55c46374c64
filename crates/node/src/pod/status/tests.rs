use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::pod::plan::Verdict;
use crate::pod::state::{ContainerRecord, Life, SandboxRecord};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2},
        "spec": spec,
    }))
    .expect("a pod")
}

fn simple(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}))
}

fn record(name: &str, life: Life, exit_code: i32) -> ContainerRecord {
    ContainerRecord {
        id: format!("{name}-id"),
        name: name.to_owned(),
        sandbox: "s".to_owned(),
        life,
        started_at: 5_000_000_000,
        finished_at: if life == Life::Exited { 7_000_000_000 } else { 0 },
        exit_code,
        image: "i".to_owned(),
        ..ContainerRecord::default()
    }
}

fn state(containers: Vec<ContainerRecord>) -> RuntimeState {
    let addresses = vec!["10.0.0.9".to_owned()];
    let sandbox = SandboxRecord { id: "s".to_owned(), ready: true, addresses, ..SandboxRecord::default() };
    RuntimeState { sandboxes: vec![sandbox], containers }
}

struct Case<'a> {
    pod: &'a Pod,
    state: RuntimeState,
    previous: PodStatus,
    verdicts: HashMap<String, Verdict>,
    troubles: Troubles,
    final_: bool,
}

impl<'a> Case<'a> {
    fn new(pod: &'a Pod, containers: Vec<ContainerRecord>) -> Self {
        Self {
            pod,
            state: state(containers),
            previous: PodStatus::default(),
            verdicts: HashMap::new(),
            troubles: Troubles::new(),
            final_: false,
        }
    }
    fn status(&self) -> PodStatus {
        compute(&Sources {
            pod: self.pod,
            previous: &self.previous,
            state: &self.state,
            verdicts: &self.verdicts,
            troubles: &self.troubles,
            final_: self.final_,
            node_addresses: &["192.168.0.1".to_owned()],
            runtime_name: "containerd",
            resizes: &Resizes::default(),
            verdict: None,
            now: Timestamp::from_second(100).expect("in range"),
        })
    }
}

/// `Type=True` for each of our conditions, in order.
fn truths(status: &PodStatus) -> String {
    let word = |c: &k8s_openapi::api::core::v1::PodCondition| {
        format!("{}={}", c.type_, c.status.chars().next().unwrap_or('?'))
    };
    status.conditions.iter().flatten().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_running_pod_is_told_in_full() {
    let pod = simple("Always");
    let status = Case::new(&pod, vec![record("a", Life::Running, 0)]).status();
    let value = serde_json::to_value(&status).expect("JSON");
    assert_eq!(value["phase"], "Running");
    assert_eq!((&value["podIP"], &value["hostIP"]), (&json!("10.0.0.9"), &json!("192.168.0.1")));
    assert_eq!((&value["podIPs"], &value["qosClass"]), (&json!([{"ip": "10.0.0.9"}]), &json!("BestEffort")));
    assert_eq!(value["observedGeneration"], 2);
    assert_eq!(value["startTime"], "1970-01-01T00:01:40Z");
    let container = &value["containerStatuses"][0];
    assert_eq!(container["containerID"], "containerd://a-id");
    assert_eq!(container["state"], json!({"running": {"startedAt": "1970-01-01T00:00:05Z"}}));
    assert_eq!((&container["ready"], &container["started"]), (&json!(true), &json!(true)));
    assert_eq!(truths(&status), "PodReadyToStartContainers=T Initialized=T Ready=T ContainersReady=T PodScheduled=T");
}

#[test]
fn phases() {
    let (always, never) = (simple("Always"), simple("Never"));
    let exited = |code| vec![record("a", Life::Exited, code)];
    let cases = [
        ("nothing yet", &always, vec![], "Pending"),
        ("runs", &always, vec![record("a", Life::Running, 0)], "Running"),
        ("will be restarted", &always, exited(1), "Running"),
        ("succeeded", &never, exited(0), "Succeeded"),
        ("failed", &never, exited(3), "Failed"),
    ];
    for (name, pod, containers, expected) in cases {
        assert_eq!(Case::new(pod, containers).status().phase.as_deref(), Some(expected), "{name}");
    }
    let ending = Case { final_: true, ..Case::new(&always, exited(143)) };
    assert_eq!(ending.status().phase.as_deref(), Some("Failed"), "a pod that is deleted and was killed");
}

#[test]
fn an_end_is_told_only_once_nothing_runs() {
    let pod = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}],
    }));
    let mut case = Case::new(&pod, vec![record("a", Life::Running, 0), record("i", Life::Exited, 1)]);
    assert_eq!(case.status().phase.as_deref(), Some("Pending"));
    case.state.containers.remove(0);
    assert_eq!(case.status().phase.as_deref(), Some("Failed"));
}

#[test]
fn probes_make_ready_and_started() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "i", "startupProbe": {}, "readinessProbe": {}}]}));
    let mut case = Case::new(&pod, vec![record("a", Life::Running, 0)]);
    let told = |case: &Case<'_>| {
        let status = case.status();
        let container = status.container_statuses.expect("statuses").remove(0);
        (container.started, container.ready)
    };
    assert_eq!(told(&case), (Some(false), false));
    let verdict = |startup, readiness| Verdict { startup, readiness, liveness: None };
    case.verdicts.insert("a-id".into(), verdict(Some(true), None));
    assert_eq!(told(&case), (Some(true), false));
    case.verdicts.insert("a-id".into(), verdict(Some(true), Some(true)));
    assert_eq!(told(&case), (Some(true), true));
}

#[test]
fn troubles_are_why_a_container_waits() {
    let pod = simple("Always");
    let mut case = Case::new(&pod, vec![record("a", Life::Exited, 1)]);
    let trouble = Trouble { reason: "CrashLoopBackOff", message: "back-off 10s".into() };
    case.troubles.insert("a".into(), trouble);
    let status = case.status();
    let container = &status.container_statuses.as_ref().expect("statuses")[0];
    let value = serde_json::to_value(container).expect("JSON");
    assert_eq!(value["state"], json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}));
    assert_eq!(value["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").expect("a condition");
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn a_condition_keeps_its_time_while_it_holds() {
    let pod = simple("Always");
    let mut case = Case::new(&pod, vec![record("a", Life::Running, 0)]);
    case.previous = case.status();
    for condition in case.previous.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(Time(Timestamp::from_second(1).expect("in range")));
    }
    assert_eq!(case.status(), case.previous);
    case.state.containers[0] = record("a", Life::Exited, 1);
    let times: Vec<i64> = case
        .status()
        .conditions
        .iter()
        .flatten()
        .map(|c| c.last_transition_time.as_ref().expect("a time").0.as_second())
        .collect();
    assert_eq!(times, [1, 1, 100, 100, 1]);
}

#[test]
fn a_container_that_vanished_is_not_forgotten() {
    let pod = simple("Always");
    let mut case = Case::new(&pod, vec![record("a", Life::Running, 0)]);
    case.previous = case.status();
    case.state.containers.clear();
    let container = case.status().container_statuses.expect("statuses").remove(0);
    let last = container.last_state.expect("a last state").terminated.expect("terminated");
    assert_eq!((container.restart_count, last.exit_code), (1, 137));
}
