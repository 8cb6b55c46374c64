//! Pods, and templates of pods kept as objects.

mod resize;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::partial::Wanted;

use crate::at::At;
use crate::cells::{self, or_none};
use crate::disabled;
use crate::podspec::{self, Context, qos};
use crate::row::{EMPTY, METADATA, Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{Part, age};

pub(crate) const POD: Row = Row {
    status: EMPTY,
    status_keeps: &["deletionTimestamp", "ownerReferences"],
    generation: &["spec"],
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_create,
    validate_update,
    validate_part,
    disabled: disabled::POD,
    warnings: warnings::of_pod,
    selects_from: SELECTS_FROM,
    selectable,
    columns: "Name,Ready,Status,Restarts,Age,+IP,+Node,+Nominated Node,+Readiness Gates",
    cells,
    ..Row::new("", "Pod")
};

pub(crate) const POD_TEMPLATE: Row = Row {
    generation: &["template"],
    default: |object| {
        if let Some(spec) = object.existing("template").and_then(|t| t.existing("spec")) {
            podspec::default_spec(spec);
        }
    },
    validate: |object, out| podspec::validate_template(&At::member(object, "template"), out),
    disabled: disabled::POD_TEMPLATE,
    warnings: warnings::of_pod_template,
    columns: "Name,Containers,Images,Pod Labels",
    cells: |object, _| {
        let template = object.get_or_null("template");
        let [names, images] = cells::containers(template.get_or_null("spec"));
        vec![name_cell(object), names, images, cells::labels(template.get_or_null("metadata"), "labels")]
    },
    ..Row::new("", "PodTemplate")
};

fn default(pod: &mut Value) {
    if let Some(spec) = pod.existing("spec") {
        podspec::default_spec(spec);
    }
    podspec::default_pod(pod);
}

fn prepare_create(pod: &mut Value) {
    let spec = pod.get_or_null("spec");
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(spec)});
    if spec.count("schedulingGates") > 0 {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": message});
        status.put("conditions", json!([condition]));
    }
    pod.put("status", status);
    podspec::app_armor_of_annotations(pod);
    merge_label_keys(pod);
}

/// Selectors that shall also ask for the pod's own labels, or for others than those, say so from here on: whoever reads
/// them need not know of `matchLabelKeys` and `mismatchLabelKeys`.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at("metadata.labels").clone();
    let Some(spec) = pod.existing("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.existing("affinity").and_then(|affinity| affinity.existing(kind)) else { continue };
        for term in affinity.items_mut("requiredDuringSchedulingIgnoredDuringExecution") {
            narrow(term, &labels);
        }
        for weighted in affinity.items_mut("preferredDuringSchedulingIgnoredDuringExecution") {
            weighted.existing("podAffinityTerm").into_iter().for_each(|term| narrow(term, &labels));
        }
    }
    spec.items_mut("topologySpreadConstraints").iter_mut().for_each(|constraint| narrow(constraint, &labels));
}

fn narrow(term: &mut Value, labels: &Value) {
    let mut extra = Vec::new();
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let known = term.texts(list).filter(|key| labels.has(key));
        extra.extend(known.map(|key| json!({"key": key, "operator": operator, "values": [labels.text(key)]})));
    }
    // Without a selector nothing is meant, whatever the keys.
    let Some(selector) = term.existing("labelSelector").filter(|_| !extra.is_empty()) else { return };
    let mut all = selector.items("matchExpressions").to_vec();
    all.append(&mut extra);
    selector.put("matchExpressions", all.into());
}

fn prepare_update(new: &mut Value, old: &Value, part: Part) {
    match part {
        Part::Main => {}
        Part::Status => {
            let class = old.at("status.qosClass").as_str().unwrap_or_default().to_owned();
            new.child("status").default_text("qosClass", &class);
        }
        Part::Other("ephemeralcontainers") => {
            let containers = new.at("spec.ephemeralContainers").clone();
            restore(new, old);
            new.child("spec").put("ephemeralContainers", containers);
        }
        Part::Other("resize") => resize::prepare(new, old),
        Part::Other(_) => {}
    }
}

/// Puts back everything but whose the fields are.
fn restore(new: &mut Value, old: &Value) {
    for field in METADATA {
        new.child("metadata").put(field, old.at("metadata").get_or_null(field).clone());
    }
    new.put("spec", old.get_or_null("spec").clone());
    new.put("status", old.get_or_null("status").clone());
}

fn validate(pod: &Value, out: &mut FieldErrors) {
    let spec = At::member(pod, "spec");
    let metadata = At::member(pod, "metadata");
    annotations(pod, &metadata, out);
    podspec::validate(&spec, Context { pod: Some(metadata.value) }, out);
    if spec.text("serviceAccountName").is_empty() {
        let projected = spec.items("volumes").map(|volume| volume.get("projected"));
        for source in projected.flat_map(|p| p.items("sources").collect::<Vec<_>>()) {
            if source.has("serviceAccountToken") {
                let why = "must not be specified when serviceAccountName is not set";
                source.forbidden("serviceAccountToken", why, out);
            }
        }
    }
    for container in spec.items("containers").chain(spec.items("initContainers")) {
        podspec::untrimmed_image(&container, out);
    }
}

fn annotations(pod: &Value, metadata: &At<'_>, out: &mut FieldErrors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    let (all, path) = (metadata.get("annotations"), metadata.path("annotations"));
    if all.has(MIRROR) && pod.at("spec").text("nodeName").is_empty() {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        out.push(FieldError::invalid(&path.key(MIRROR), all.text(MIRROR), why));
    }
    if all.has(COST) && all.text(COST).parse::<i32>().is_err() {
        out.push(FieldError::invalid(&path.key(COST), all.text(COST), "must be a 32bit integer"));
    }
}

fn validate_create(pod: &Value, out: &mut FieldErrors) {
    let spec = At::member(pod, "spec");
    if spec.value.count("ephemeralContainers") > 0 {
        spec.forbidden("ephemeralContainers", "cannot be set on create", out);
    }
    if !spec.text("nodeName").is_empty() && spec.value.count("schedulingGates") > 0 {
        spec.forbidden("nodeName", "cannot be set until all schedulingGates have been cleared", out);
    }
}

/// What an update of a pod may change, as the message lists it.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate_update(new: &Value, old: &Value, out: &mut FieldErrors) {
    let (spec, old_spec) = (At::member(new, "spec"), old.get_or_null("spec"));
    for list in ["containers", "initContainers"] {
        if spec.value.count(list) != old_spec.count(list) {
            return spec.forbidden(list, "pod updates may not add or remove containers", out);
        }
    }
    let deadline = (old_spec.int("activeDeadlineSeconds"), spec.int("activeDeadlineSeconds"));
    match deadline {
        (Some(before), Some(now)) if before < now => {
            return spec.invalid("activeDeadlineSeconds", "must be less than or equal to previous value", out);
        }
        (Some(_), None) => {
            spec.invalid("activeDeadlineSeconds", "must not update from a positive integer to nil value", out);
        }
        _ => {}
    }
    only_added_tolerations(&spec, old_spec, out);
    only_removed_gates(&spec, old_spec, out);
    let mut changed = spec.value.clone();
    for list in ["containers", "initContainers"] {
        for (container, before) in changed.items_mut(list).iter_mut().zip(old_spec.items(list)) {
            container.put("image", before.get_or_null("image").clone());
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        changed.put(field, old_spec.get_or_null(field).clone());
    }
    let grace = "terminationGracePeriodSeconds";
    if old_spec.int(grace).is_some_and(|s| s < 0) && changed.int(grace) == Some(1) {
        changed.put(grace, old_spec.get_or_null(grace).clone());
    }
    if old_spec.count("schedulingGates") > 0 {
        gated(&spec, &mut changed, old_spec, out);
    }
    if changed != *old_spec {
        let fields = difference(&changed, old_spec).join(", ");
        let why = format!("pod updates may not change fields other than {UPDATABLE}\nchanged: {fields}");
        out.push(FieldError::forbidden(&spec.path, &why));
    }
}

/// Top-level fields in which two specs differ.
fn difference(new: &Value, old: &Value) -> Vec<String> {
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = [keys(new), keys(old)].concat();
    all.sort();
    all.dedup();
    all.retain(|field| new.get_or_null(field) != old.get_or_null(field));
    all
}

/// A pod behind gates may still narrow down where it runs.
fn gated(spec: &At<'_>, changed: &mut Value, old: &Value, out: &mut FieldErrors) {
    for (key, value) in old.entries("nodeSelector") {
        if spec.value.get_or_null("nodeSelector").get(key) != Some(value) {
            spec.invalid(
                "nodeSelector",
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
                out,
            );
            break;
        }
    }
    changed.put("nodeSelector", old.get_or_null("nodeSelector").clone());
    let before = old.at("affinity.nodeAffinity").clone();
    if changed.at("affinity.nodeAffinity") != &before {
        changed.child("affinity").put("nodeAffinity", before);
        if !old.has("affinity") && changed.at("affinity").as_object().is_some_and(serde_json::Map::is_empty) {
            changed.drop_member("affinity");
        }
    }
}

fn only_added_tolerations(spec: &At<'_>, old: &Value, out: &mut FieldErrors) {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.drop_member("tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = spec.value.items("tolerations").iter().map(timeless).collect();
    if old.items("tolerations").iter().any(|before| !now.contains(&timeless(before))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        spec.forbidden("tolerations", why, out);
    }
}

fn only_removed_gates(spec: &At<'_>, old: &Value, out: &mut FieldErrors) {
    for gate in spec.items("schedulingGates") {
        let name = gate.text("name");
        if old.find("schedulingGates", "name", name).is_none() {
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            gate.forbidden("name", &why, out);
        }
    }
}

fn validate_part(new: &Value, old: &Value, part: Part, out: &mut FieldErrors) {
    match part {
        Part::Status => validate_status(new, old, out),
        Part::Other("ephemeralcontainers") => {
            validate(new, out);
            ephemeral_containers_stay(new, old, out);
        }
        Part::Other("resize") => {
            validate(new, out);
            resize::validate(new, old, out);
        }
        Part::Main | Part::Other(_) => {}
    }
}

fn ephemeral_containers_stay(new: &Value, old: &Value, out: &mut FieldErrors) {
    let path = FieldPath::new("spec.ephemeralContainers");
    for before in old.at("spec").items("ephemeralContainers") {
        let name = before.text("name");
        match new.at("spec").find("ephemeralContainers", "name", name) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                out.push(FieldError::forbidden(&path, &why));
            }
            Some(now) if now != before => {
                let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                out.push(FieldError::forbidden(&path, &why));
            }
            Some(_) => {}
        }
    }
}

fn validate_status(new: &Value, old: &Value, out: &mut FieldErrors) {
    let status = At::member(new, "status");
    let known = ["PodScheduled", "Ready", "Initialized"];
    for condition in status.items("conditions").filter(|c| !known.contains(&c.text("type"))) {
        for why in skiff_meta::names::qualified_name(condition.text("type")) {
            out.push(FieldError::invalid(&condition.path("Type"), condition.text("type"), &why));
        }
    }
    status.immutable("qosClass", old.get_or_null("status"), out);
    for (list, stays_up) in [("containerStatuses", false), ("initContainerStatuses", true)] {
        no_resurrection(&status, old, list, stays_up, out);
    }
    for (list, _) in [("podIPs", ()), ("hostIPs", ())] {
        for address in status.items(list) {
            if !podspec::is_ip(address.text("ip")) {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                out.push(FieldError::invalid(&address.path, address.text("ip"), why));
            }
        }
    }
}

/// Containers that ended for good do not run again.
fn no_resurrection(status: &At<'_>, old: &Value, list: &str, init: bool, out: &mut FieldErrors) {
    let spec = old.get_or_null("spec");
    let containers = if init { "initContainers" } else { "containers" };
    for (i, before) in old.at("status").items(list).iter().enumerate() {
        let ended = before.at("state.terminated");
        let name = before.text("name");
        let policy = spec.find(containers, "name", name).map_or("", |c| c.text("restartPolicy"));
        let policy = if policy.is_empty() { spec.text("restartPolicy") } else { policy };
        let may_restart = policy == "Always"
            || policy == "OnFailure" && ended.int("exitCode").unwrap_or_default() != 0
            || spec.find(containers, "name", name).is_some_and(|c| c.count("restartPolicyRules") > 0);
        let now = status.value.find(list, "name", name);
        if !ended.is_null() && !may_restart && now.is_some_and(|now| now.at("state.terminated").is_null()) {
            let path = status.path(list).index(i).child("state");
            out.push(FieldError::forbidden(&path, "may not be transitioned to non-terminated state"));
        }
    }
}

/// Every write of a pod is judged by these fields, for the node agents that watch their own pods.
const SELECTS_FROM: &Wanted = &[
    ("spec", &["hostNetwork", "nodeName", "restartPolicy", "schedulerName", "serviceAccountName"]),
    ("status", &["nominatedNodeName", "phase", "podIPs"]),
];

fn selectable(pod: &Value) -> Vec<(&'static str, String)> {
    let (spec, status) = (pod.get_or_null("spec"), pod.get_or_null("status"));
    let address = status.items("podIPs").first().map_or("", |ip| ip.text("ip"));
    vec![
        ("spec.nodeName", spec.text("nodeName").to_owned()),
        ("spec.restartPolicy", spec.text("restartPolicy").to_owned()),
        ("spec.schedulerName", spec.text("schedulerName").to_owned()),
        ("spec.serviceAccountName", spec.text("serviceAccountName").to_owned()),
        ("spec.hostNetwork", spec.flag("hostNetwork").to_string()),
        ("status.phase", status.text("phase").to_owned()),
        ("status.podIP", address.to_owned()),
        // Known as a selector, but told by no pod, as upstream.
        ("status.podIPs", String::new()),
        ("status.nominatedNodeName", status.text("nominatedNodeName").to_owned()),
    ]
}

/// What the statuses of containers add up to.
#[derive(Default)]
struct Summary {
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    reason: String,
}

impl Summary {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += status.int("restartCount").unwrap_or_default();
        self.last_restart = self.last_restart.max(age::timestamp(status.at("lastState.terminated.finishedAt")));
    }
}

fn is_sidecar(spec: &Value, name: &str) -> bool {
    spec.find("initContainers", "name", name).is_some_and(|c| c.text("restartPolicy") == "Always")
}

fn ended_reason(ended: &Value) -> String {
    let (reason, signal) = (ended.text("reason"), ended.int("signal").unwrap_or_default());
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", ended.int("exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Init containers: adds up, and says whether they still keep the others from starting.
fn summarize_init(pod: &Value, all: &mut Summary, sidecars: &mut Summary) -> bool {
    let spec = pod.get_or_null("spec");
    for (i, status) in pod.at("status").items("initContainerStatuses").iter().enumerate() {
        let (ended, waiting) = (status.at("state.terminated"), status.at("state.waiting").text("reason"));
        let sidecar = is_sidecar(spec, status.text("name"));
        all.count_restarts(status);
        if sidecar {
            sidecars.count_restarts(status);
        }
        if !ended.is_null() && ended.int("exitCode").unwrap_or_default() == 0 {
            continue;
        }
        if sidecar && status.flag("started") {
            all.ready += usize::from(status.flag("ready"));
            continue;
        }
        let reason = if !ended.is_null() {
            ended_reason(ended)
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            waiting.to_owned()
        } else {
            format!("{i}/{}", spec.count("initContainers"))
        };
        all.reason = format!("Init:{reason}");
        return true;
    }
    false
}

fn summarize(pod: &Value) -> Summary {
    let status = pod.get_or_null("status");
    let phase = if status.text("reason").is_empty() { status.text("phase") } else { status.text("reason") };
    let mut all = Summary { reason: phase.to_owned(), ..Summary::default() };
    if cells::condition(pod, "PodScheduled").is_some_and(|c| c.text("reason") == "SchedulingGated") {
        all.reason = "SchedulingGated".to_owned();
    }
    let mut sidecars = Summary::default();
    let initializing = summarize_init(pod, &mut all, &mut sidecars);
    if !initializing || cells::is_true(pod, "Initialized") {
        (all.restarts, all.last_restart) = (sidecars.restarts, sidecars.last_restart);
        summarize_running(pod, &mut all);
    }
    if pod.at("metadata").has("deletionTimestamp") {
        if status.text("reason") == "NodeLost" {
            all.reason = "Unknown".to_owned();
        } else if !matches!(status.text("phase"), "Succeeded" | "Failed") {
            all.reason = "Terminating".to_owned();
        }
    }
    all
}

fn summarize_running(pod: &Value, all: &mut Summary) {
    let (mut running, mut failed) = (false, String::new());
    for status in pod.at("status").items("containerStatuses").iter().rev() {
        all.count_restarts(status);
        let (waiting, ended) = (status.at("state.waiting").text("reason"), status.at("state.terminated"));
        if !waiting.is_empty() {
            all.reason = waiting.to_owned();
        } else if !ended.is_null() {
            all.reason = ended_reason(ended);
            if ended.int("exitCode").unwrap_or_default() != 0 {
                failed = all.reason.clone();
            }
        } else if status.flag("ready") && !status.at("state.running").is_null() {
            running = true;
            all.ready += 1;
        }
    }
    if all.reason == "Completed" {
        if running && cells::is_true(pod, "Ready") {
            all.reason = "Running".to_owned();
        } else if !failed.is_empty() {
            all.reason = failed;
        } else if running {
            all.reason = "NotReady".to_owned();
        }
    }
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (pod.get_or_null("spec"), pod.get_or_null("status"));
    let sidecars = spec.items("initContainers").iter().filter(|c| c.text("restartPolicy") == "Always").count();
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, age::human(age::seconds_between(last, now)))
        }
        _ => summary.restarts.to_string(),
    };
    let gates = spec.items("readinessGates");
    let open = gates.iter().filter(|gate| cells::is_true(pod, gate.text("conditionType"))).count();
    let gates = if gates.is_empty() { cells::NONE.to_owned() } else { format!("{open}/{}", gates.len()) };
    vec![
        name_cell(pod),
        format!("{}/{}", summary.ready, spec.count("containers") + sidecars).into(),
        summary.reason.into(),
        restarts.into(),
        age::cell(pod, now),
        or_none(status.items("podIPs").first().map_or("", |ip| ip.text("ip"))).into(),
        or_none(spec.text("nodeName")).into(),
        or_none(status.text("nominatedNodeName")).into(),
        gates.into(),
    ]
}

#[cfg(test)]
mod tests;
