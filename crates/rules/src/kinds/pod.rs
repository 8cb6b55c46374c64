//! Pods and pod templates.

use serde_json::{Value, json};
use skiff_meta::field::FieldErrors;

use super::pod_cells::{COLUMNS, cells};
use super::{pod_defaults, pod_spec};
use crate::Part;
use crate::faults::At;
use crate::kind::{KindRules, NAME};
use crate::show;
use crate::tree::{items, items_mut, put, text};

/// Pods.
pub(crate) static POD: KindRules = KindRules {
    default,
    first_status: Some(|| json!({"phase": "Pending"})),
    counts_generation: true,
    validate,
    validate_change,
    carry,
    columns: COLUMNS,
    cells,
    fields,
    ..KindRules::new("", "Pod")
};

/// PodTemplates.
pub(crate) static POD_TEMPLATE: KindRules = KindRules {
    default: |object| template(object),
    counts_generation: true,
    columns: &[
        NAME,
        ("Containers", "string", 0, "Names of the containers"),
        ("Images", "string", 0, "Images of the containers"),
        ("Pod Labels", "string", 0, "Labels of the pods"),
    ],
    cells: |object, _| {
        let [names, images] = show::containers(&object["template"]["spec"]);
        vec![show::name(object), names, images, show::labels(&object["template"]["metadata"]["labels"])]
    },
    ..KindRules::new("", "PodTemplate")
};

/// Fills in `template` of an object or of a spec.
pub(crate) fn template(parent: &mut Value) {
    if let Some(spec) = parent.pointer_mut("/template/spec") {
        pod_defaults::spec(spec);
    }
}

fn default(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec") {
        pod_defaults::spec(spec);
        // Only for pods, not for templates: links are on unless said otherwise.
        crate::tree::fill(spec, "enableServiceLinks", true);
    }
}

fn validate(pod: &At<'_>, faults: &mut FieldErrors) {
    let spec = pod.get("spec");
    pod_spec::validate(&spec, faults);
    for container in spec.get("ephemeralContainers").items() {
        if container.get("ports").exists() {
            container.get("ports").forbidden(faults, "cannot be set for an Ephemeral Container");
        }
    }
}

/// A running pod is what it is, but for images, deadlines, more tolerations, and gates that open.
fn validate_change(new: &At<'_>, old: &At<'_>, faults: &mut FieldErrors) {
    let (mut wanted, before) = (new.value["spec"].clone(), &old.value["spec"]);
    for list in ["containers", "initContainers"] {
        if items(&wanted[list]).len() != items(&before[list]).len() {
            let at = new.get("spec").get(list);
            at.forbidden(faults, "pod updates may not add or remove containers");
            return;
        }
        for (container, was) in items_mut(&mut wanted[list]).zip(items(&before[list])) {
            put(container, "image", was["image"].clone());
        }
        if before.get(list).is_none() {
            put(&mut wanted, list, Value::Null);
        }
    }
    for field in ["activeDeadlineSeconds", "terminationGracePeriodSeconds"] {
        let may = field == "activeDeadlineSeconds" || before[field].as_i64().is_some_and(|n| n < 0);
        if may {
            put(&mut wanted, field, before[field].clone());
        }
    }
    let kept = items(&before["tolerations"]);
    if kept.iter().all(|t| items(&wanted["tolerations"]).contains(t)) {
        put(&mut wanted, "tolerations", before["tolerations"].clone());
    }
    let gates = items(&before["schedulingGates"]);
    if items(&wanted["schedulingGates"]).iter().all(|g| gates.contains(g)) {
        put(&mut wanted, "schedulingGates", before["schedulingGates"].clone());
    }
    if wanted != *before {
        new.get("spec").forbidden(
            faults,
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

fn carry(new: &mut Value, old: &Value, part: Part) {
    match part {
        Part::Status => put(&mut new["status"], "qosClass", old["status"]["qosClass"].clone()),
        Part::Other("ephemeralcontainers") => {
            let added = new["spec"]["ephemeralContainers"].clone();
            let mut spec = old["spec"].clone();
            put(&mut spec, "ephemeralContainers", added);
            new["spec"] = spec;
            put(new, "status", old["status"].clone());
        }
        Part::Other("resize") => {
            let wanted = new["spec"].clone();
            let mut spec = old["spec"].clone();
            for list in ["containers", "initContainers"] {
                for container in spec.get_mut(list).into_iter().flat_map(items_mut) {
                    if let Some(change) = items(&wanted[list]).iter().find(|c| c["name"] == container["name"]) {
                        put(container, "resources", change["resources"].clone());
                        put(container, "resizePolicy", change["resizePolicy"].clone());
                    }
                }
            }
            new["spec"] = spec;
            put(new, "status", old["status"].clone());
        }
        _ => {}
    }
}

fn fields(pod: &Value) -> Vec<(&'static str, String)> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let on = spec["hostNetwork"] == true;
    vec![
        ("spec.nodeName", text(&spec["nodeName"]).to_owned()),
        ("spec.restartPolicy", text(&spec["restartPolicy"]).to_owned()),
        ("spec.schedulerName", text(&spec["schedulerName"]).to_owned()),
        ("spec.serviceAccountName", text(&spec["serviceAccountName"]).to_owned()),
        ("spec.hostNetwork", on.to_string()),
        ("status.phase", text(&status["phase"]).to_owned()),
        ("status.podIP", text(&items(&status["podIPs"]).first().unwrap_or(&Value::Null)["ip"]).to_owned()),
        ("status.nominatedNodeName", text(&status["nominatedNodeName"]).to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;
    use crate::tree::without;

    fn pod(image: &str) -> Value {
        let mut pod = json!({"metadata": {"name": "a", "namespace": "x"}, "spec": {"containers": [{"name": "c", "image": image}]}});
        Rules::default(&POD, &mut pod);
        pod
    }

    #[test]
    fn faults_come_together() {
        let bad = json!({"spec": {"restartPolicy": "Sometimes", "containers": [{"name": "A b", "image": ""}, {"name": "c", "image": "x", "ports": [{"containerPort": 70_000}], "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]}});
        let faults: Vec<String> = POD.validate_create(&bad).iter().map(|f| f.path.to_string()).collect();
        for path in [
            "spec.containers[0].name",
            "spec.containers[0].image",
            "spec.containers[1].ports[0].containerPort",
            "spec.containers[1].volumeMounts[0].name",
            "spec.restartPolicy",
        ] {
            assert!(faults.iter().any(|f| f == path), "{path} in {faults:?}");
        }
        assert!(POD.validate_create(&pod("x:1")).is_empty());
    }

    #[test]
    fn only_some_fields_of_a_pod_change() {
        let old = pod("x:1");
        assert!(POD.validate_update(&pod("x:2"), &old, Part::Main).is_empty());
        let mut moved = old.clone();
        moved["spec"]["hostNetwork"] = json!(true);
        assert_eq!(POD.validate_update(&moved, &old, Part::Main).len(), 1);
    }

    #[test]
    fn status_and_spec_are_apart() {
        let old = json!({"metadata": {"name": "a", "generation": 3}, "spec": {"nodeName": "n"}, "status": {"phase": "Running", "qosClass": "BestEffort"}});
        let mut status = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}, "spec": {"nodeName": "other"}, "status": {"phase": "Failed"}});
        POD.prepare_update(&mut status, &old, Part::Status);
        assert_eq!(
            status,
            json!({"metadata": {"name": "a", "generation": 3}, "spec": {"nodeName": "n"}, "status": {"phase": "Failed", "qosClass": "BestEffort"}})
        );
        let mut main =
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n", "x": 1}, "status": {"phase": "Failed"}});
        POD.prepare_update(&mut main, &old, Part::Main);
        assert_eq!(main["status"]["phase"], "Running");
        assert_eq!(main["metadata"]["generation"], 4);
        assert_eq!(without(&main, &["metadata", "status"]).len(), 1);
    }
}
