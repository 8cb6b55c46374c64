//! What holds for objects of every kind: they are listed by label in all namespaces, changed and replaced, their status
//! and their scale are resources of their own, and those with a label go together.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Api as Run, Seen, accepted, expect};
use crate::{
    AUTOSCALERS, BUDGETS, CONTROLLERS, CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, JOBS, Kind, NODES, REPLICA_SETS, REVISIONS,
    SERVICES, STATEFUL_SETS, expect_that, selector, template, unique, workload,
};

struct Row {
    kind: Kind,
    /// What one has, besides its name.
    fields: Value,
    /// A change of the status, where there is one.
    status: Value,
    scales: bool,
    /// It is in a namespace.
    inside: bool,
}

fn spec(kind: Kind, spec: Value, status: Value) -> Row {
    Row { kind, fields: json!({"spec": spec}), status, scales: false, inside: true }
}

/// In no namespace.
fn outside(kind: Kind, fields: Value, status: Value) -> Row {
    Row { kind, fields, status, scales: false, inside: false }
}

fn told() -> Value {
    json!({"conditions": [{"type": "StatusUpdate", "status": "True", "reason": "Test", "message": "set by hand",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

fn rows() -> Vec<Row> {
    let own = |mut spec: Value, name: &str, value: Value| {
        spec[name] = value;
        spec
    };
    let pods = || workload("v", 0, json!({}));
    let mut once = template(json!({}), "i");
    once["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"suspend": true, "template": once});
    let cron = json!({"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": once}}});
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let limit = json!({"limits": [{"type": "Container", "default": {"cpu": "1"}}]});
    let backend = json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}});
    let balancer = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "nobodys",
        "resources": {"requests": {"storage": "1Gi"}}});
    let volume = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "nobodys",
        "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/nowhere"}});
    let attachment = json!({"attacher": "conformance.example.com", "nodeName": "nobodys",
        "source": {"persistentVolumeName": "nobodys"}});
    let with = |mut row: Row, fields: Value| {
        row.fields = fields;
        row
    };
    let bare = |kind: Kind, fields: Value| with(spec(kind, Value::Null, Value::Null), fields);
    let scaled = |row: Row| Row { scales: true, ..row };
    let (v1, storage, network) = ("v1", "storage.k8s.io", "networking.k8s.io");
    vec![
        scaled(spec(CONTROLLERS, own(pods(), "selector", selector(CONTROLLERS, &json!({"app": "v"}))), told())),
        scaled(spec(REPLICA_SETS, pods(), told())),
        scaled(spec(DEPLOYMENTS, pods(), told())),
        scaled(spec(STATEFUL_SETS, own(pods(), "serviceName", json!("s")), told())),
        spec(
            DAEMON_SETS,
            json!({"selector": {"matchLabels": {"app": "v"}}, "template": template(json!({"app": "v"}), "i")}),
            told(),
        ),
        bare(REVISIONS, json!({"revision": 1, "data": {"a": "b"}})),
        spec(JOBS, job, told()),
        spec(CRON_JOBS, cron, json!({"lastScheduleTime": "2026-01-01T00:00:00Z"})),
        spec(
            BUDGETS,
            json!({"selector": {"matchLabels": {"app": "v"}}, "minAvailable": 1}),
            json!({"disruptedPods": {"p": "2026-01-01T00:00:00Z"}}),
        ),
        spec(AUTOSCALERS, json!({"scaleTargetRef": target, "maxReplicas": 3}), json!({"desiredReplicas": 2})),
        spec(SERVICES, json!({"ports": [{"port": 80}]}), told()),
        bare(Kind("", v1, "endpoints", "Endpoints"), json!({"subsets": [{"addresses": [{"ip": "10.0.0.9"}]}]})),
        bare(
            Kind("discovery.k8s.io", v1, "endpointslices", "EndpointSlice"),
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.9"]}], "ports": []}),
        ),
        spec(Kind(network, v1, "ingresses", "Ingress"), backend, balancer),
        outside(
            Kind(network, v1, "ingressclasses", "IngressClass"),
            json!({"spec": {"controller": "example.com/i"}}),
            Value::Null,
        ),
        spec(
            Kind("", v1, "resourcequotas", "ResourceQuota"),
            json!({"hard": {"pods": "5"}}),
            json!({"hard": {"pods": "7"}}),
        ),
        spec(Kind("", v1, "limitranges", "LimitRange"), limit, Value::Null),
        bare(Kind("", v1, "podtemplates", "PodTemplate"), json!({"template": template(json!({}), "i")})),
        spec(Kind("coordination.k8s.io", v1, "leases", "Lease"), json!({"holderIdentity": "a"}), Value::Null),
        outside(Kind("scheduling.k8s.io", v1, "priorityclasses", "PriorityClass"), json!({"value": 3}), Value::Null),
        spec(Kind("", v1, "persistentvolumeclaims", "PersistentVolumeClaim"), claim, told()),
        outside(
            Kind("", v1, "persistentvolumes", "PersistentVolume"),
            json!({"spec": volume}),
            json!({"message": "set by hand", "reason": "Test"}),
        ),
        outside(
            Kind(storage, v1, "storageclasses", "StorageClass"),
            json!({"provisioner": "conformance.example.com"}),
            Value::Null,
        ),
        outside(Kind(storage, v1, "csidrivers", "CSIDriver"), json!({"spec": {"attachRequired": false}}), Value::Null),
        outside(Kind(storage, v1, "csinodes", "CSINode"), json!({"spec": {"drivers": []}}), Value::Null),
        bare(Kind(storage, v1, "csistoragecapacities", "CSIStorageCapacity"), json!({"storageClassName": "nobodys"})),
        outside(
            Kind(storage, v1, "volumeattachments", "VolumeAttachment"),
            json!({"spec": attachment}),
            json!({"attached": true}),
        ),
        outside(
            Kind(storage, v1, "volumeattributesclasses", "VolumeAttributesClass"),
            json!({"driverName": "conformance.example.com", "parameters": {"a": "b"}}),
            Value::Null,
        ),
        outside(NODES, json!({"spec": {"unschedulable": true}}), told()),
    ]
}

pub(crate) fn every_kind(run: &mut Run) -> Result<(), String> {
    for row in rows() {
        lives(run, &row).map_err(|error| format!("{}: {error}", row.kind.3))?;
    }
    Ok(())
}

fn lives(run: &mut Run, row: &Row) -> Result<(), String> {
    let home = if row.inside { run.home()? } else { "/api/v1".to_owned() };
    let (collection, mark) = (row.kind.within(&home), unique("verbs"));
    let names = ["x", "y", "z"].map(|name| if row.inside { name.to_owned() } else { unique(name) });
    for name in &names {
        let mut object = row.kind.object(name, row.fields.clone());
        if *name != names[2] {
            object["metadata"]["labels"] = json!({ &mark: "yes" });
        }
        accepted(&run.post(&collection, &object)?)?;
    }
    let selected = format!("labelSelector={mark}%3Dyes");
    let listed = run.get(&format!("{}?{selected}", row.kind.within("/api/v1")))?;
    expect(listed.tree()["items"].as_array().is_some_and(|items| items.len() == 2), &listed)?;

    let one = format!("{collection}/{}", names[0]);
    let note = |object: &Value| object["metadata"]["annotations"]["note"].clone();
    let patched = run.merge(&one, &json!({"metadata": {"annotations": {"note": "patched"}}}))?;
    expect(patched.code == 200 && note(&patched.tree()) == "patched", &patched)?;
    let replaced = replace(run, &one, |object| object["metadata"]["annotations"]["note"] = json!("replaced"))?;
    expect_that(note(&replaced) == "replaced", || replaced.to_string())?;
    if !row.status.is_null() {
        status(run, &one, row)?;
    }
    if row.scales {
        scale(run, &one)?;
    }

    accepted(&run.json(
        Method::DELETE,
        &format!("{collection}?{selected}&propagationPolicy=Background"),
        &Value::Null,
    )?)?;
    let place = if row.inside { home.as_str() } else { "" };
    let both_gone = |seen: &Seen| !names[..2].iter().any(|name| seen.contains_key(name));
    let seen = run.see("those with the label gone", row.kind.gvr(), place, both_gone)?;
    expect_that(seen.contains_key(&names[2]), || "the one without the label is gone too".to_owned())?;
    run.delete(&format!("{collection}/{}", names[2]))
}

/// Reads, changes and writes until nobody came between; what was written.
fn replace(run: &Run, path: &str, change: impl Fn(&mut Value)) -> Result<Value, String> {
    let once = || {
        let mut object = run.get(path)?.tree();
        change(&mut object);
        run.json(Method::PUT, path, &object)
    };
    let written = run.until(once, |answer| answer.code != 409)?;
    accepted(&written).map(|()| written.tree())
}

/// Whether the one has all that the other has.
fn covers(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(_), Value::Object(fields)) => fields.iter().all(|(name, value)| covers(&whole[name], value)),
        (Value::Array(all), Value::Array(some)) => {
            all.len() == some.len() && all.iter().zip(some).all(|(whole, part)| covers(whole, part))
        }
        _ => whole == part,
    }
}

/// The status is written beside the rest, and nothing else with it.
fn status(run: &Run, one: &str, row: &Row) -> Result<(), String> {
    let path = format!("{one}/status");
    accepted(&run.get(&path)?)?;
    let has = |object: &Value| covers(&object["status"], &row.status);
    let before = run.get(one)?.tree()["metadata"]["generation"].clone();
    let patched = run.merge(&path, &json!({"status": row.status}))?;
    expect(patched.code == 200 && has(&patched.tree()), &patched)?;
    let replaced = replace(run, &path, |object| {
        for (name, value) in row.status.as_object().into_iter().flatten() {
            object["status"][name] = value.clone();
        }
    })?;
    expect_that(has(&replaced) && replaced["metadata"]["generation"] == before, || replaced.to_string())
}

fn scale(run: &Run, one: &str) -> Result<(), String> {
    let path = format!("{one}/scale");
    let scale = run.get(&path)?;
    expect(scale.tree()["kind"] == "Scale" && scale.tree()["spec"]["replicas"].as_i64().unwrap_or(0) == 0, &scale)?;
    let replaced = replace(run, &path, |scale| scale["spec"]["replicas"] = json!(1))?;
    expect_that(replaced["spec"]["replicas"] == 1, || replaced.to_string())?;
    run.change(&path, json!({"spec": {"replicas": 2}}))?;
    let object = run.get(one)?;
    expect(object.tree()["spec"]["replicas"] == 2, &object)
}
