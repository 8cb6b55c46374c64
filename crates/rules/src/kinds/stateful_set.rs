//! Stateful sets, and the revisions in which they and daemon sets keep their past.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::LabelSelector;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names::{self, NameForm};

use super::persistent_volume_claim as claim;
use crate::at::At;
use crate::disabled;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{age, cells, podspec, workload};

pub(crate) const STATEFUL_SET: Row = Row {
    name: NameForm::Label,
    status: Some(|| json!({"replicas": 0, "availableReplicas": 0})),
    generation: &["spec"],
    default,
    validate,
    validate_create: |object, out| {
        for template in At::member(object, "spec").items("volumeClaimTemplates") {
            claim::validate_spec(&template.get("spec"), out);
        }
        // It cannot change, so that it is not asked again.
        At::member(object, "spec").form("serviceName", names::dns1123_label, out);
    },
    validate_update,
    validate_part: |new, old, _, out| {
        let status = At::member(new, "status");
        let counts = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        workload::replica_status(&status, &counts, "status.readyReplicas", out);
        workload::collisions_grow(&status, old, out);
    },
    disabled: disabled::STATEFUL_SET,
    warnings: warnings::of_stateful_set,
    columns: "Name,Ready,Age,+Containers,+Images",
    cells,
    ..Row::new("apps", "StatefulSet")
};

pub(crate) const CONTROLLER_REVISION: Row = Row {
    validate: |object, out| {
        if object.int("revision").unwrap_or_default() < 0 {
            let path = skiff_meta::field::FieldPath::new("revision");
            let why = "must be greater than or equal to 0";
            out.push(FieldError::invalid(&path, object.get_or_null("revision").clone(), why));
        }
    },
    validate_create: |object, out| {
        let path = skiff_meta::field::FieldPath::new("data");
        match object.get_or_null("data") {
            Value::Null => out.push(FieldError::required(&path, "data is mandatory")),
            Value::Object(_) => {}
            _ => out.push(FieldError::required(&path, "data must be a valid JSON object")),
        }
    },
    validate_update: |new, old, out| {
        let path = skiff_meta::field::FieldPath::new("data");
        crate::metadata::immutable(new.get_or_null("data"), old.get_or_null("data"), &path, out);
    },
    columns: "Name,Controller,Revision,Age",
    cells: |object, now| {
        let owner = object.at("metadata").items("ownerReferences").iter().find(|owner| owner.flag("controller"));
        let controller = owner.map_or_else(
            || cells::NONE.to_owned(),
            |owner| {
                let kind = owner.text("kind").to_lowercase();
                let group = owner.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
                let dot = if group.is_empty() { "" } else { "." };
                format!("{kind}{dot}{group}/{}", owner.text("name"))
            },
        );
        vec![name_cell(object), controller.into(), cells::count(object, "revision"), age::cell(object, now)]
    },
    ..Row::new("apps", "ControllerRevision")
};

fn default(object: &mut Value) {
    workload::default_template(object);
    let spec = object.child("spec");
    spec.default_text("podManagementPolicy", "OrderedReady");
    let strategy = spec.child("updateStrategy");
    if strategy.text("type").is_empty() {
        strategy.put("type", "RollingUpdate".into());
        strategy.child("rollingUpdate");
    }
    if strategy.text("type") == "RollingUpdate"
        && let Some(rolling) = strategy.existing("rollingUpdate")
    {
        rolling.default_to("partition", 0);
    }
    let retention = spec.child("persistentVolumeClaimRetentionPolicy");
    retention.default_text("whenDeleted", "Retain");
    retention.default_text("whenScaled", "Retain");
    spec.default_to("replicas", 1);
    spec.default_to("revisionHistoryLimit", 10);
    for template in spec.items_mut("volumeClaimTemplates") {
        // Whatever they are said to be, they are claims.
        template.put("apiVersion", "v1".into());
        template.put("kind", "PersistentVolumeClaim".into());
        claim::default(template);
    }
}

fn validate(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    if spec.require("podManagementPolicy", out)
        && !matches!(spec.text("podManagementPolicy"), "OrderedReady" | "Parallel")
    {
        spec.invalid("podManagementPolicy", "must be 'OrderedReady' or 'Parallel'", out);
    }
    strategy(&spec, out);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    retention.optional_one_of("whenDeleted", &["Delete", "Retain"], out);
    retention.optional_one_of("whenScaled", &["Delete", "Retain"], out);
    spec.not_negative("replicas", out);
    spec.not_negative("minReadySeconds", out);
    spec.get("ordinals").not_negative("start", out);
    workload::selector(&spec, "statefulset", out);
    match LabelSelector::from_json(spec.value.get_or_null("selector")) {
        Err(_) => spec.invalid("selector", "", out),
        Ok(selector) => {
            let finished = finished_template(spec.value);
            let template = At { value: &finished, path: spec.path("template") };
            workload::matches_template(&selector, &template, out);
            podspec::validate_template(&template, out);
            workload::restarts_always(&template, "StatefulSet", out);
        }
    }
}

/// The template as pods will be made of it: with names left to the controller, and the claims' volumes.
fn finished_template(spec: &Value) -> Value {
    let mut template = spec.get_or_null("template").clone();
    let pod = template.child("spec");
    pod.drop_member("subdomain");
    pod.drop_member("hostname");
    let names = spec.items("volumeClaimTemplates").iter().map(|claim| claim.at("metadata").text("name"));
    let claims: std::collections::BTreeSet<&str> = names.collect();
    let made = claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let kept = pod.items("volumes").iter().filter(|v| !claims.contains(&v.text("name"))).cloned();
    let volumes: Vec<Value> = kept.chain(made).collect();
    pod.put("volumes", volumes.into());
    template
}

fn strategy(spec: &At<'_>, out: &mut FieldErrors) {
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.text("type") {
        "" => spec.missing("updateStrategy", "", out),
        "OnDelete" if rolling.is_set() => rolling.wrong("only allowed for updateStrategy 'RollingUpdate'", out),
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.not_negative("partition", out);
            if rolling.has("maxUnavailable") {
                workload::number_or_percent(&rolling, "maxUnavailable", out);
                if workload::amount(rolling.value.get_or_null("maxUnavailable")) == 0 {
                    rolling.invalid("maxUnavailable", "cannot be 0", out);
                }
                workload::at_most_all(&rolling, "maxUnavailable", out);
            }
        }
        _ => strategy.wrong("must be 'RollingUpdate' or 'OnDelete'", out),
    }
}

fn validate_update(new: &Value, old: &Value, out: &mut FieldErrors) {
    let mut rest = new.get_or_null("spec").clone();
    for field in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ] {
        rest.put(field, old.at("spec").get_or_null(field).clone());
    }
    if rest != *old.get_or_null("spec") {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                   'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                   'minReadySeconds' are forbidden";
        out.push(FieldError::forbidden(&skiff_meta::field::FieldPath::new("spec"), why));
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (object.get_or_null("spec"), object.get_or_null("status"));
    let number = |holder: &Value, name: &str| holder.int(name).unwrap_or_default();
    let [names, images] = cells::containers(spec.at("template.spec"));
    vec![
        name_cell(object),
        format!("{}/{}", number(status, "readyReplicas"), number(spec, "replicas")).into(),
        age::cell(object, now),
        names,
        images,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn set() -> Value {
        let mut object = json!({"metadata": {"name": "db", "namespace": "b"}, "spec": {"serviceName": "db",
            "selector": {"matchLabels": {"x": "y"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "i",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}}});
        STATEFUL_SET.default(&mut object);
        object
    }

    #[test]
    fn mounts_may_name_claims() {
        let object = set();
        assert_eq!(STATEFUL_SET.validate_create(&object), []);
        assert_eq!(
            object["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
    }

    #[test]
    fn most_of_the_spec_stays() {
        let old = set();
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(3);
        assert_eq!(STATEFUL_SET.validate_update(&new, &old, Part::Main), []);
        new["spec"]["serviceName"] = json!("other");
        let found = STATEFUL_SET.validate_update(&new, &old, Part::Main);
        assert!(found[0].to_string().starts_with("spec: Forbidden: updates to statefulset spec"), "{found:?}");
    }

    #[test]
    fn revisions() {
        let object = json!({"metadata": {"name": "r", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]},
            "data": {}, "revision": 2});
        assert_eq!(CONTROLLER_REVISION.validate_create(&object), []);
        assert_eq!(CONTROLLER_REVISION.cells(&object, Timestamp::UNIX_EPOCH)[1], "statefulset.apps/db");
        let mut new = object.clone();
        new["data"]["x"] = json!(1);
        assert_eq!(CONTROLLER_REVISION.validate_update(&new, &object, Part::Main).len(), 1);
    }
}
