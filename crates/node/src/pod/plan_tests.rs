use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::super::state::SandboxRecord;
use super::*;

/// A pod of the given spec; containers are written `name` or `name:policy`.
fn pod(restart_policy: &str, init: &[&str], main: &[&str]) -> Pod {
    let container = |text: &&str| match text.split_once(':') {
        Some((name, policy)) => json!({"name": name, "image": "i", "restartPolicy": policy}),
        None => json!({"name": text, "image": "i"}),
    };
    let list = |names: &[&str]| names.iter().map(container).collect::<Vec<Value>>();
    let spec = json!({"restartPolicy": restart_policy, "initContainers": list(init), "containers": list(main)});
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .expect("a pod")
}

fn sandbox(attempt: u32, ready: bool) -> SandboxRecord {
    let addresses = vec!["10.0.0.1".to_owned()];
    SandboxRecord { id: format!("s{attempt}"), attempt, ready, addresses, ..SandboxRecord::default() }
}

/// `name running`, `name created`, `name unknown`, `name exit CODE`; always in the newest sandbox.
fn state(pod: &Pod, sandboxes: Vec<SandboxRecord>, containers: &[&str]) -> RuntimeState {
    let record = |(index, text): (usize, &&str)| {
        let words: Vec<&str> = text.split(' ').collect();
        let life = match words[1] {
            "running" => Life::Running,
            "created" => Life::Created,
            "exit" => Life::Exited,
            _ => Life::Unknown,
        };
        let spec = facts::container(pod, words[0]).expect("in the spec").1;
        ContainerRecord {
            id: format!("{}-{index}", words[0]),
            name: words[0].to_owned(),
            sandbox: sandboxes[0].id.clone(),
            hash: facts::container_hash(&spec),
            life,
            finished_at: if life == Life::Exited { 1_000_000_000 } else { 0 },
            exit_code: words.get(2).map_or(0, |code| code.parse().expect("a number")),
            ..ContainerRecord::default()
        }
    };
    let containers = containers.iter().enumerate().map(record).collect();
    RuntimeState { sandboxes, containers }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn planned(pod: &Pod, state: &RuntimeState) -> Actions {
    planned_with(pod, state, &HashMap::new(), &BackOff::default())
}

fn planned_with(pod: &Pod, state: &RuntimeState, probes: &HashMap<String, Verdict>, backoff: &BackOff) -> Actions {
    let limits = Some(resources::pod(pod));
    plan(&View { pod, state, verdicts: probes, backoff, limits, now: at(1) })
}

/// The actions in short: `stop`, `sandbox N`, `kill NAME`, `start NAME#RESTARTS`, `delay NAME`.
fn short(actions: &Actions) -> String {
    let mut words = Vec::new();
    words.extend(actions.stop_all.then(|| "stop".to_owned()));
    words.extend(actions.sandbox.map(|attempt| format!("sandbox {attempt}")));
    words.extend(actions.kill.iter().map(|kill| format!("kill {}", kill.name)));
    words.extend(actions.start.iter().map(|start| format!("start {}#{}", start.name, start.restarts)));
    words.extend(actions.delayed.iter().map(|delayed| format!("delay {}", delayed.name)));
    words.join(", ")
}

#[test]
fn what_happens_next() {
    let always = pod("Always", &[], &["a", "b"]);
    let never = pod("Never", &[], &["a", "b"]);
    let on_failure = pod("OnFailure", &[], &["a", "b"]);
    let init = pod("Always", &["i", "j"], &["a"]);
    let init_never = pod("Never", &["i", "j"], &["a"]);
    let sidecar = pod("Never", &["s:Always", "j"], &["a"]);
    let stubborn = pod("Never", &[], &["a:Always"]);
    let good = || vec![sandbox(0, true)];
    let dead = || vec![sandbox(0, false)];
    type Case<'a> = (&'a str, &'a Pod, Vec<SandboxRecord>, &'a [&'a str], &'a str);
    let cases: &[Case<'_>] = &[
        ("new", &always, vec![], &[], "sandbox 0, start a#0, start b#0"),
        ("sandbox is there", &always, good(), &[], "start a#0, start b#0"),
        ("one runs", &always, good(), &["a running"], "start b#0"),
        ("all run", &always, good(), &["a running", "b running"], ""),
        ("one was never started", &always, good(), &["a created", "b running"], "start a#0"),
        ("one is lost", &always, good(), &["a unknown", "b running"], "kill a, start a#1"),
        ("one ended", &always, good(), &["a exit 0", "b running"], "start a#1"),
        ("one ended, never again", &never, good(), &["a exit 1", "b running"], ""),
        ("all ended, never again", &never, good(), &["a exit 1", "b exit 0"], "stop"),
        ("all ended, sandbox stopped", &never, dead(), &["a exit 1", "b exit 0"], ""),
        ("one failed", &on_failure, good(), &["a exit 1", "b exit 0"], "start a#1"),
        ("both succeeded", &on_failure, good(), &["a exit 0", "b exit 0"], "stop"),
        ("sandbox died", &always, dead(), &["a exit 137", "b exit 137"], "sandbox 1, start a#1, start b#1"),
        ("sandbox died, one was done", &on_failure, dead(), &["a exit 137", "b exit 0"], "sandbox 1, start a#1"),
        ("sandbox died, never again", &never, dead(), &["a exit 137"], ""),
        ("sandbox died before anything ran", &never, dead(), &[], "sandbox 1, start a#0, start b#0"),
        (
            "two sandboxes",
            &always,
            vec![sandbox(1, true), sandbox(0, true)],
            &[],
            "stop, sandbox 2, start a#0, start b#0",
        ),
        ("first init", &init, vec![], &[], "sandbox 0, start i#0"),
        ("init runs", &init, good(), &["i running"], ""),
        ("second init", &init, good(), &["i exit 0"], "start j#0"),
        ("init failed", &init, good(), &["i exit 3"], "start i#1"),
        ("init failed for good", &init_never, good(), &["i exit 3"], "stop"),
        ("init failed for good, stopped", &init_never, dead(), &["i exit 3"], ""),
        ("init done", &init, good(), &["i exit 0", "j exit 0"], "start a#0"),
        ("init containers were removed since", &init, good(), &["a running"], ""),
        ("sandbox died, init again", &init, dead(), &["i exit 0", "j exit 0", "a exit 1"], "sandbox 1, start i#1"),
        ("sidecar first", &sidecar, good(), &[], "start s#0"),
        ("sidecar up", &sidecar, good(), &["s running"], "start j#0"),
        ("sidecar down during init", &sidecar, good(), &["s exit 0", "j running"], "start s#1"),
        ("sidecar down later", &sidecar, good(), &["s exit 1", "j exit 0", "a running"], "start s#1"),
        ("only the sidecar is left", &sidecar, good(), &["s running", "j exit 0", "a exit 0"], "stop"),
        ("a container's own policy", &stubborn, good(), &["a exit 0"], "start a#1"),
    ];
    for (name, pod, sandboxes, containers, expected) in cases {
        let state =
            if sandboxes.is_empty() { RuntimeState::default() } else { state(pod, sandboxes.clone(), containers) };
        assert_eq!(short(&planned(pod, &state)), *expected, "{name}");
    }
}

#[test]
fn a_changed_image_replaces_the_container_whatever_its_policy() {
    let pod = pod("Never", &[], &["a"]);
    let mut state = state(&pod, vec![sandbox(0, true)], &["a running"]);
    state.containers[0].hash = "other".to_owned();
    let actions = planned(&pod, &state);
    assert_eq!(short(&actions), "kill a, start a#1");
    assert_eq!(actions.kill[0].message, "Container a definition changed, will be restarted");
}

#[test]
fn probes_decide() {
    let mut pod = pod("Always", &["s:Always"], &["a"]);
    let spec = pod.spec.as_mut().expect("a spec");
    spec.init_containers.as_mut().expect("init")[0].startup_probe = Some(Default::default());
    let with = |records: &[&str], id: &str, verdict: Verdict, policy: &str| {
        let mut pod = pod.clone();
        pod.spec.as_mut().expect("a spec").restart_policy = Some(policy.to_owned());
        let state = state(&pod, vec![sandbox(0, true)], records);
        short(&planned_with(&pod, &state, &HashMap::from([(id.to_owned(), verdict)]), &BackOff::default()))
    };
    let startup = |passed| Verdict { startup: Some(passed), ..Verdict::default() };
    let liveness = |passed| Verdict { liveness: Some(passed), ..Verdict::default() };
    let both = &["s running", "a running"];
    assert_eq!(with(&["s running"], "", Verdict::default(), "Always"), "", "the sidecar has not started");
    assert_eq!(with(&["s running"], "s-0", startup(true), "Always"), "start a#0");
    assert_eq!(with(&["s running"], "s-0", startup(false), "Always"), "kill s, start s#1");
    assert_eq!(with(both, "a-1", liveness(true), "Always"), "");
    assert_eq!(with(both, "a-1", liveness(false), "Always"), "kill a, start a#1");
    assert_eq!(with(both, "a-1", liveness(false), "Never"), "stop", "not started again, so the pod is done");
}

#[test]
fn pauses_are_kept_and_told() {
    let pod = pod("Always", &[], &["a"]);
    let state = state(&pod, vec![sandbox(0, true)], &["a exit 1"]);
    let mut backoff = BackOff::default();
    backoff.attempt("a", at(0), at(0));
    let actions = planned_with(&pod, &state, &HashMap::new(), &backoff);
    assert_eq!((short(&actions).as_str(), actions.is_empty()), ("delay a", true));
    assert_eq!(actions.delayed[0].until, at(11));
}

#[test]
fn old_containers_and_sandboxes_are_removed() {
    let pod = pod("Always", &[], &["a", "b"]);
    let sandboxes = vec![sandbox(1, true), sandbox(0, false)];
    let mut state = state(&pod, sandboxes, &["a running", "a exit 1", "a exit 1", "a exit 1", "b running"]);
    for container in &mut state.containers[1..4] {
        container.sandbox = "s0".to_owned();
    }
    let actions = planned(&pod, &state);
    assert_eq!((actions.remove, actions.remove_sandboxes.len()), (vec!["a-2".to_owned(), "a-3".to_owned()], 0));
    state.containers.drain(1..4);
    assert_eq!(planned(&pod, &state).remove_sandboxes, ["s0"]);
}
