//! Kinds that keep pods running.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};

use super::{pod, pod_spec};
use crate::faults::{At, label_selector, labels};
use crate::kind::{AGE, ColumnFacts, KindRules, NAME, empty_status};
use crate::show::{containers, created, name, selector};
use crate::tree::{fill, members, number, object, text};

const CONTAINERS: ColumnFacts = ("Containers", "string", 1, "Names of the containers");
const IMAGES: ColumnFacts = ("Images", "string", 1, "Images of the containers");
const SELECTOR: ColumnFacts = ("Selector", "string", 1, "Selector of the pods");

pub(crate) static DEPLOYMENT: KindRules = KindRules {
    default: |deployment| {
        let spec = object(deployment, "spec");
        pod::template(spec);
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        let strategy = object(spec, "strategy");
        fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
    },
    first_status: Some(empty_status),
    counts_generation: true,
    validate: deployment,
    validate_change: same_selector,
    columns: &[
        NAME,
        ("Ready", "string", 0, "Ready pods of those wanted"),
        ("Up-to-date", "string", 0, "Pods of the newest template"),
        ("Available", "string", 0, "Pods that have been ready long enough"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let status = &object["status"];
        let ready = format!("{}/{}", number(&status["readyReplicas"]), number(&object["spec"]["replicas"]));
        let counts =
            vec![ready.into(), number(&status["updatedReplicas"]).into(), number(&status["availableReplicas"]).into()];
        row(object, counts, now)
    },
    ..KindRules::new("apps", "Deployment")
};

const SET_COLUMNS: &[ColumnFacts] = &[
    NAME,
    ("Desired", "integer", 0, "Pods wanted"),
    ("Current", "integer", 0, "Pods that exist"),
    ("Ready", "integer", 0, "Pods that are ready"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn set_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let counts = vec![
        number(&object["spec"]["replicas"]).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
    ];
    row(object, counts, now)
}

fn set_fields(object: &Value) -> Vec<(&'static str, String)> {
    vec![("status.replicas", number(&object["status"]["replicas"]).to_string())]
}

pub(crate) static REPLICA_SET: KindRules = KindRules {
    default: |set| {
        let spec = object(set, "spec");
        pod::template(spec);
        fill(spec, "replicas", 1);
    },
    first_status: Some(|| json!({"replicas": 0})),
    counts_generation: true,
    validate: |at, faults| replicated(&at.get("spec"), faults),
    validate_change: same_selector,
    columns: SET_COLUMNS,
    cells: set_cells,
    fields: set_fields,
    ..KindRules::new("apps", "ReplicaSet")
};

pub(crate) static REPLICATION_CONTROLLER: KindRules = KindRules {
    default: |controller| {
        let of_template = controller["spec"]["template"]["metadata"]["labels"].clone();
        if of_template.is_object() {
            fill(object(controller, "spec"), "selector", of_template.clone());
            fill(object(controller, "metadata"), "labels", of_template);
        }
        let spec = object(controller, "spec");
        pod::template(spec);
        fill(spec, "replicas", 1);
    },
    first_status: Some(|| json!({"replicas": 0})),
    counts_generation: true,
    validate: |at, faults| {
        let spec = at.get("spec");
        spec.get("replicas").not_negative(faults);
        spec.get("selector").required(faults, "");
        let wanted = spec.get("selector");
        template(&spec, faults, |labels| members(wanted.value).all(|(k, v)| labels.get(k) == Some(v)));
    },
    columns: SET_COLUMNS,
    cells: |object, now| {
        let mut cells = set_cells(object, now);
        if let Some(last) = cells.last_mut() {
            *last = crate::show::labels(&object["spec"]["selector"]);
        }
        cells
    },
    fields: set_fields,
    ..KindRules::new("", "ReplicationController")
};

pub(crate) static STATEFUL_SET: KindRules = KindRules {
    default: |set| {
        let spec = object(set, "spec");
        pod::template(spec);
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "podManagementPolicy", "OrderedReady");
        let strategy = object(spec, "updateStrategy");
        fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            fill(object(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
        fill(retention, "whenDeleted", "Retain");
        fill(retention, "whenScaled", "Retain");
        for claim in spec.get_mut("volumeClaimTemplates").into_iter().flat_map(crate::tree::items_mut) {
            fill(claim, "apiVersion", "v1");
            fill(claim, "kind", "PersistentVolumeClaim");
            super::storage::default_claim(claim);
        }
    },
    first_status: Some(|| json!({"replicas": 0, "availableReplicas": 0})),
    counts_generation: true,
    validate: |at, faults| {
        let spec = at.get("spec");
        replicated(&spec, faults);
        spec.get("podManagementPolicy").one_of(faults, &["OrderedReady", "Parallel"]);
        spec.walk("updateStrategy.type").one_of(faults, &["RollingUpdate", "OnDelete"]);
        always_restarted(&spec, faults);
    },
    validate_change: |new, old, faults| {
        let allowed = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        if crate::tree::without(&new.value["spec"], &allowed) != crate::tree::without(&old.value["spec"], &allowed) {
            new.get("spec").forbidden(faults, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        }
    },
    columns: &[NAME, ("Ready", "string", 0, "Ready pods of those wanted"), AGE, CONTAINERS, IMAGES],
    cells: |object, now| {
        let ready = format!("{}/{}", number(&object["status"]["readyReplicas"]), number(&object["spec"]["replicas"]));
        let mut cells = row(object, vec![ready.into()], now);
        cells.pop();
        cells
    },
    ..KindRules::new("apps", "StatefulSet")
};

pub(crate) static DAEMON_SET: KindRules = KindRules {
    default: |set| {
        let spec = object(set, "spec");
        pod::template(spec);
        fill(spec, "revisionHistoryLimit", 10);
        let strategy = object(spec, "updateStrategy");
        fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = object(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
    },
    first_status: Some(
        || json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
    ),
    counts_generation: true,
    validate: |at, faults| {
        let spec = at.get("spec");
        replicated(&spec, faults);
        spec.walk("updateStrategy.type").one_of(faults, &["RollingUpdate", "OnDelete"]);
        always_restarted(&spec, faults);
    },
    validate_change: same_selector,
    columns: &[
        NAME,
        ("Desired", "integer", 0, "Nodes that should have a pod"),
        ("Current", "integer", 0, "Nodes that have one"),
        ("Ready", "integer", 0, "Nodes whose pod is ready"),
        ("Up-to-date", "integer", 0, "Nodes whose pod is of the newest template"),
        ("Available", "integer", 0, "Nodes whose pod has been ready long enough"),
        ("Node Selector", "string", 0, "Labels of the nodes wanted"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let count = |field: &str| Value::from(number(&object["status"][field]));
        let mut counts: Vec<Value> = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ]
        .map(count)
        .to_vec();
        counts.push(crate::show::labels(&object["spec"]["template"]["spec"]["nodeSelector"]));
        row(object, counts, now)
    },
    ..KindRules::new("apps", "DaemonSet")
};

pub(crate) static CONTROLLER_REVISION: KindRules = KindRules {
    validate: |at, faults| at.get("revision").not_negative(faults),
    validate_change: |new, old, faults| new.get("data").immutable(&old.get("data"), faults),
    columns: &[
        NAME,
        ("Controller", "string", 0, "Owner of the revision"),
        ("Revision", "string", 0, "Number of the revision"),
        AGE,
    ],
    cells: |object, now| {
        let owner = &object["metadata"]["ownerReferences"][0];
        let group = text(&owner["apiVersion"]).split('/').next().unwrap_or_default();
        let kind = text(&owner["kind"]).to_lowercase();
        let shown =
            if owner.is_object() { format!("{kind}.{group}/{}", text(&owner["name"])) } else { "<none>".to_owned() };
        vec![name(object), shown.into(), number(&object["revision"]).into(), created(object, now)]
    },
    ..KindRules::new("apps", "ControllerRevision")
};

/// Name, counts, age, containers, images, selector.
fn row(object: &Value, counts: Vec<Value>, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(&object["spec"]["template"]["spec"]);
    let mut row = vec![name(object)];
    row.extend(counts);
    row.extend([created(object, now), names, images, selector(&object["spec"]["selector"])]);
    row
}

fn same_selector(new: &At<'_>, old: &At<'_>, faults: &mut FieldErrors) {
    new.walk("spec.selector").immutable(&old.walk("spec.selector"), faults);
}

fn deployment(at: &At<'_>, faults: &mut FieldErrors) {
    let spec = at.get("spec");
    replicated(&spec, faults);
    always_restarted(&spec, faults);
    let strategy = spec.get("strategy");
    strategy.get("type").one_of(faults, &["Recreate", "RollingUpdate"]);
    let rolling = strategy.get("rollingUpdate");
    if strategy.get("type").text() == "Recreate" && rolling.exists() {
        rolling.forbidden(faults, "may not be specified when strategy `type` is 'Recreate'");
    }
    if strategy.get("type").text() == "RollingUpdate" {
        for field in ["maxUnavailable", "maxSurge"] {
            int_or_percent(&rolling.get(field), faults);
        }
        if is_zero(rolling.value, "maxUnavailable") && is_zero(rolling.value, "maxSurge") {
            rolling.get("maxUnavailable").invalid(faults, "may not be 0 when `maxSurge` is 0");
        }
    }
    spec.get("revisionHistoryLimit").not_negative(faults);
    let (deadline, ready) = (spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds"));
    deadline.not_negative(faults);
    if deadline.number().is_some_and(|n| n <= ready.number().unwrap_or(0)) {
        deadline.invalid(faults, "must be greater than minReadySeconds");
    }
}

fn is_zero(rolling: &Value, field: &str) -> bool {
    rolling[field] == 0 || text(&rolling[field]) == "0%"
}

/// A count, or a share such as `25%`.
pub(crate) fn int_or_percent(at: &At<'_>, faults: &mut FieldErrors) {
    if at.number().is_some() {
        at.not_negative(faults);
    } else if at.exists() {
        at.named(faults, skiff_meta::names::percent);
    }
}

/// What every kind with replicas, a selector and a template must keep.
fn replicated(spec: &At<'_>, faults: &mut FieldErrors) {
    spec.get("replicas").not_negative(faults);
    spec.get("minReadySeconds").not_negative(faults);
    let wanted = spec.get("selector");
    if wanted.value.is_null() {
        wanted.required(faults, "");
    } else {
        label_selector(&wanted, faults);
        if wanted.is_empty() || (wanted.get("matchLabels").is_empty() && wanted.get("matchExpressions").is_empty()) {
            wanted.invalid(faults, "empty selector is invalid for deployment");
        }
    }
    let parsed = skiff_meta::selector::LabelSelector::from_json(wanted.value).ok();
    template(spec, faults, |labels| {
        parsed.as_ref().is_none_or(|selector| selector.matches_with(|key| labels.get(key).and_then(Value::as_str)))
    });
}

/// The template's labels must be what the selector selects, and its spec a pod's.
fn template(spec: &At<'_>, faults: &mut FieldErrors, selected: impl Fn(&serde_json::Map<String, Value>) -> bool) {
    let template = spec.get("template");
    let at = template.walk("metadata.labels");
    labels(&at, faults);
    let empty = serde_json::Map::new();
    if !selected(at.value.as_object().unwrap_or(&empty)) {
        faults.push(FieldError::invalid(&at.path, at.value.clone(), "`selector` does not match template `labels`"));
    }
    pod_spec::validate(&template.get("spec"), faults);
}

fn always_restarted(spec: &At<'_>, faults: &mut FieldErrors) {
    let policy = spec.walk("template.spec.restartPolicy");
    if !policy.is_empty() && policy.text() != "Always" {
        faults.push(FieldError::not_supported(&policy.path, policy.value.clone(), &["Always"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn sample() -> Value {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}}});
        Rules::default(&DEPLOYMENT, &mut object);
        object
    }

    #[test]
    fn defaults() {
        let object = sample();
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert!(DEPLOYMENT.validate_create(&object).is_empty(), "{:?}", DEPLOYMENT.validate_create(&object));
    }

    #[test]
    fn faults() {
        for (pointer, value, path) in [
            ("/spec/replicas", json!(-1), "spec.replicas"),
            ("/spec/selector/matchLabels/app", json!("other"), "spec.template.metadata.labels"),
            ("/spec/template/spec/restartPolicy", json!("Never"), "spec.template.spec.restartPolicy"),
            (
                "/spec/strategy/rollingUpdate",
                json!({"maxSurge": 0, "maxUnavailable": "0%"}),
                "spec.strategy.rollingUpdate.maxUnavailable",
            ),
            ("/spec/progressDeadlineSeconds", json!(0), "spec.progressDeadlineSeconds"),
        ] {
            let mut object = sample();
            *object.pointer_mut(pointer).unwrap() = value;
            let faults = DEPLOYMENT.validate_create(&object);
            assert!(faults.iter().any(|f| f.path.as_str() == path), "{path}: {faults:?}");
        }
        let mut moved = sample();
        moved["spec"]["selector"]["matchLabels"] = json!({"app": "web", "x": "y"});
        assert!(
            DEPLOYMENT.validate_update(&moved, &sample(), Part::Main).iter().any(|f| f.message.contains("immutable"))
        );
    }

    #[test]
    fn generations_count_changes_of_the_spec_only() {
        let mut old = sample();
        DEPLOYMENT.prepare_create(&mut old);
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        DEPLOYMENT.prepare_update(&mut labelled, &old, Part::Main);
        assert_eq!(labelled["metadata"]["generation"], 1);
        let mut scaled = old.clone();
        scaled["spec"]["replicas"] = json!(5);
        DEPLOYMENT.prepare_update(&mut scaled, &old, Part::Main);
        assert_eq!(scaled["metadata"]["generation"], 2);
    }
}
