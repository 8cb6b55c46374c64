//! The row of a pod: one word for what its many containers do.

use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{AGE, ColumnFacts, NAME};
use crate::show::{age, created, name, or_none};
use crate::tree::{items, number, text};

pub(crate) const COLUMNS: &[ColumnFacts] = &[
    NAME,
    ("Ready", "string", 0, "Ready containers of all"),
    ("Status", "string", 0, "What the containers do, in one word"),
    ("Restarts", "string", 0, "How often containers were restarted, and when the last time"),
    AGE,
    ("IP", "string", 1, "Address of the pod"),
    ("Node", "string", 1, "Node that the pod is on"),
    ("Nominated Node", "string", 1, "Node where others make room for the pod"),
    ("Readiness Gates", "string", 1, "Gates that are open, of all"),
];

pub(crate) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let seen = Seen::of(pod);
    let restarts = match seen.last_restart {
        Some(then) if seen.restarts > 0 => format!("{} ({} ago)", seen.restarts, age(then, now)),
        _ => seen.restarts.to_string(),
    };
    vec![
        name(pod),
        format!("{}/{}", seen.ready, seen.total).into(),
        seen.reason.into(),
        restarts.into(),
        created(pod, now),
        or_none(&status["podIPs"][0]["ip"]),
        or_none(&spec["nodeName"]),
        or_none(&status["nominatedNodeName"]),
        gates(pod).into(),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|g| condition(pod, text(&g["conditionType"]))).count();
    format!("{open}/{}", gates.len())
}

fn condition(pod: &Value, ty: &str) -> bool {
    items(&pod["status"]["conditions"]).iter().any(|c| c["type"] == ty && c["status"] == "True")
}

struct Seen<'a> {
    total: usize,
    ready: usize,
    restarts: i64,
    last_restart: Option<&'a Value>,
    reason: String,
}

/// Why a container ended, in a word.
fn ended(state: &Value) -> String {
    match (text(&state["reason"]), number(&state["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(&state["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

impl<'a> Seen<'a> {
    fn of(pod: &'a Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let phase = text(&status["phase"]);
        let reason = [text(&status["reason"]), phase].into_iter().find(|r| !r.is_empty()).unwrap_or_default();
        let gated = items(&status["conditions"])
            .iter()
            .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
        let sidecars = items(&spec["initContainers"]).iter().filter(|c| c["restartPolicy"] == "Always");
        let mut seen = Self {
            total: items(&spec["containers"]).len() + sidecars.count(),
            ready: 0,
            restarts: 0,
            last_restart: None,
            reason: if gated { "SchedulingGated".to_owned() } else { reason.to_owned() },
        };
        let (initializing, of_sidecars) = seen.initialize(pod);
        if !initializing || condition(pod, "Initialized") {
            (seen.restarts, seen.last_restart) = of_sidecars;
            seen.run(pod);
        }
        if pod["metadata"]["deletionTimestamp"].is_string() {
            if status["reason"] == "NodeLost" {
                seen.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                seen.reason = "Terminating".to_owned();
            }
        }
        seen
    }

    /// Looks at the init containers: whether they are still at it, and the restarts of those that stay.
    fn initialize(&mut self, pod: &'a Value) -> (bool, (i64, Option<&'a Value>)) {
        let specs = items(&pod["spec"]["initContainers"]);
        let mut of_sidecars = (0, None);
        for (i, container) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
            let sidecar = specs.iter().any(|s| s["name"] == container["name"] && s["restartPolicy"] == "Always");
            self.count(container);
            if sidecar {
                of_sidecars = (of_sidecars.0 + number(&container["restartCount"]), self.last_restart);
            }
            let (ended_state, waiting) =
                (&container["state"]["terminated"], text(&container["state"]["waiting"]["reason"]));
            if ended_state.is_object() && number(&ended_state["exitCode"]) == 0 {
                continue;
            }
            if sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            self.reason = if ended_state.is_object() {
                format!("Init:{}", ended(ended_state))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{}", specs.len())
            };
            return (true, of_sidecars);
        }
        (false, of_sidecars)
    }

    fn run(&mut self, pod: &'a Value) {
        let (mut running, mut error) = (false, String::new());
        for container in items(&pod["status"]["containerStatuses"]).iter().rev() {
            self.count(container);
            let state = &container["state"];
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if state["terminated"].is_object() {
                self.reason = ended(&state["terminated"]);
                if number(&state["terminated"]["exitCode"]) != 0 {
                    error.clone_from(&self.reason);
                }
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if running && condition(pod, "Ready") {
                self.reason = "Running".to_owned();
            } else if !error.is_empty() {
                self.reason = error;
            } else if running {
                self.reason = "NotReady".to_owned();
            }
        }
    }

    fn count(&mut self, container: &'a Value) {
        self.restarts += number(&container["restartCount"]);
        let finished = &container["lastState"]["terminated"]["finishedAt"];
        if finished.is_string() && self.last_restart.is_none_or(|last| text(last) < text(finished)) {
            self.last_restart = Some(finished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn word(status: Value) -> (String, String) {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}, "status": status});
        let row = cells(&pod, Timestamp::UNIX_EPOCH);
        (row[1].as_str().unwrap().to_owned(), row[2].as_str().unwrap().to_owned())
    }

    #[test]
    fn one_word_for_many_states() {
        let container = |ready: bool, state: Value| json!([{"name": "c", "ready": ready, "state": state}]);
        for (status, ready, expected) in [
            (json!({"phase": "Pending"}), "0/1", "Pending"),
            (
                json!({"phase": "Running", "containerStatuses": container(true, json!({"running": {}}))}),
                "1/1",
                "Running",
            ),
            (
                json!({"phase": "Pending", "containerStatuses": container(false, json!({"waiting": {"reason": "ContainerCreating"}}))}),
                "0/1",
                "ContainerCreating",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": container(false, json!({"terminated": {"exitCode": 3}}))}),
                "0/1",
                "ExitCode:3",
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/1", "Evicted"),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                "0/1",
                "Init:0/0",
            ),
        ] {
            assert_eq!(word(status), (ready.to_owned(), expected.to_owned()));
        }
    }
}
