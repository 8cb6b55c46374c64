//! What a quota says is used, as things come and go.

use serde_json::{Value, json};

use crate::support::{Api as Run, accepted};
use crate::{CONTROLLERS, DEPLOYMENTS, Kind, PODS, REPLICA_SETS, SERVICES, selector, template, workload};

const QUOTAS: Kind = Kind("", "v1", "resourcequotas", "ResourceQuota");
const MAPS: Kind = Kind("", "v1", "configmaps", "ConfigMap");
const SECRETS: Kind = Kind("", "v1", "secrets", "Secret");
const CLAIMS: Kind = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");

/// Kinds of objects, what one is like, and what is used with it; the last is of a pod alone.
fn rows() -> Vec<(Kind, Value, Value)> {
    let mut small = template(json!({}), "i");
    small["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "500m", "memory": "64Mi"}});
    let mut old = workload("a", 0, json!({}));
    old["selector"] = selector(CONTROLLERS, &json!({"app": "a"}));
    let port = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let gibibyte = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "nobodys"});
    vec![
        (SECRETS, json!({}), json!({"secrets": "1"})),
        (SERVICES, json!({"spec": port}), json!({"services": "1", "services.nodeports": "1"})),
        (CLAIMS, json!({"spec": gibibyte}), json!({"persistentvolumeclaims": "1", "requests.storage": "1Gi"})),
        (CONTROLLERS, json!({"spec": old}), json!({"replicationcontrollers": "1"})),
        (REPLICA_SETS, json!({"spec": workload("a", 0, json!({}))}), json!({"count/replicasets.apps": "1"})),
        (
            DEPLOYMENTS,
            json!({"spec": workload("b", 0, json!({"paused": true}))}),
            json!({"count/deployments.apps": "1"}),
        ),
        (PODS, small, json!({"pods": "1", "requests.cpu": "500m", "requests.memory": "64Mi"})),
    ]
}

pub(crate) fn lives(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let (rows, mut none) = (rows(), json!({}));
    for (_, _, used) in &rows {
        for (name, _) in used.as_object().into_iter().flatten() {
            none[name] = json!("0");
        }
    }
    let mut hard = none.clone();
    for (name, most) in hard.as_object_mut().into_iter().flatten() {
        *most = json!(if name.ends_with("storage") || name.ends_with("memory") { "9Gi" } else { "9" });
    }
    let quota = run.create(&path, QUOTAS, "q", json!({"hard": hard}))?;
    let uses = |what: &str, used: &Value| {
        run.comes(what, QUOTAS, &path, "q", |quota| {
            quota["status"]["hard"] == quota["spec"]["hard"] && quota["status"]["used"] == *used
        })
    };
    uses("a quota of nothing", &none)?;
    for (kind, fields, used) in &rows {
        let collection = kind.within(&path);
        accepted(&run.post(&collection, &kind.object("x", fields.clone()))?)?;
        let mut with = none.clone();
        used.as_object().into_iter().flatten().for_each(|(name, value)| with[name] = value.clone());
        uses(&format!("a {} that counts", kind.3), &with)?;
        run.delete(&format!("{collection}/x?propagationPolicy=Background"))?;
        uses(&format!("a {} that is gone", kind.3), &none)?;
    }
    // What a quota bounds may change.
    run.change(&quota, json!({"spec": {"hard": {"pods": "7", "secrets": null}}}))?;
    none.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("secrets")));
    uses("another bound", &none)?;
    // Of ConfigMaps, a namespace has one soon after its beginning.
    let there = run.see("its ConfigMap", MAPS.gvr(), &path, |seen| seen.contains_key("kube-root-ca.crt"))?;
    run.create(&path, QUOTAS, "maps", json!({"hard": {"configmaps": "9"}}))?;
    let uses = |count: usize| move |quota: &Value| quota["status"]["used"]["configmaps"] == count.to_string();
    run.comes("ConfigMaps", QUOTAS, &path, "maps", uses(there.len()))?;
    accepted(&run.post(&format!("{path}/configmaps"), &MAPS.object("x", json!({})))?)?;
    run.comes("one more", QUOTAS, &path, "maps", uses(there.len() + 1))?;
    run.delete(&format!("{path}/configmaps/x"))?;
    run.comes("as before", QUOTAS, &path, "maps", uses(there.len())).map(drop)
}
