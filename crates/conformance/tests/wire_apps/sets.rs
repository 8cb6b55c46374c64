//! Sets of equal pods: ReplicaSets, and ReplicationControllers as their older kin.

use serde_json::{Value, json};

use crate::support::{Api as Run, Seen, accepted};
use crate::{CONTROLLERS, Kind, PODS, REPLICA_SETS, condition, expect_that, owner, ready, says, selector, template};

const KINDS: [Kind; 2] = [CONTROLLERS, REPLICA_SETS];
const QUOTAS: Kind = Kind("", "v1", "resourcequotas", "ResourceQuota");

fn spec(kind: Kind, app: &str, replicas: usize) -> Value {
    let labels = json!({"app": app});
    json!({"replicas": replicas, "selector": selector(kind, &labels), "template": template(labels, "i")})
}

/// As many pods as asked for, each known as ready when it is.
pub(crate) fn replicas(run: &mut Run) -> Result<(), String> {
    for kind in KINDS {
        let path = run.home()?;
        let set = run.create(&path, kind, "c", spec(kind, "a", 2))?;
        for replicas in [2, 4, 1] {
            run.change(&set, json!({"spec": {"replicas": replicas}}))?;
            let names = run.pods(&path, replicas, |pod| owner(pod) == "c")?;
            names.iter().try_for_each(|name| run.fares(&path, name, ready()))?;
            let status = json!({"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas});
            run.comes("the number of pods", kind, &path, "c", |set| says(set, &status))?;
        }
        let name = run.pods(&path, 1, |_| true)?.remove(0);
        run.fares(&path, &name, json!({"conditions": [{"type": "Ready", "status": "False"}]}))?;
        run.comes("no pod that is ready", kind, &path, "c", |set| {
            says(set, &json!({"replicas": 1, "readyReplicas": null, "availableReplicas": null}))
        })?;
    }
    Ok(())
}

pub(crate) fn stopped_by_quota(run: &mut Run) -> Result<(), String> {
    for kind in KINDS {
        // One after the other in one namespace, upstream's late recount of the first lets the second have too many.
        let path = run.home()?;
        run.create(&path, QUOTAS, "q", json!({"hard": {"pods": "2"}}))?;
        let uses_none = |quota: &Value| quota["status"]["used"]["pods"] == "0";
        run.comes("a counted quota", QUOTAS, &path, "q", uses_none)?;
        let set = run.create(&path, kind, "c", spec(kind, "stopped", 3))?;
        let failure = |set: &Value| condition(set, "ReplicaFailure").clone();
        run.comes("a failure that is told", kind, &path, "c", |set| {
            failure(set)["status"] == "True" && failure(set)["reason"] == "FailedCreate"
        })?;
        run.change(&set, json!({"spec": {"replicas": 2}}))?;
        run.comes("a failure that is over", kind, &path, "c", |set| {
            failure(set).is_null() && set["status"]["replicas"] == 2
        })?;
        run.delete(&format!("{set}?propagationPolicy=Background"))?;
        run.see("no pods", PODS.gvr(), &path, Seen::is_empty)?;
        run.comes("a quota that nothing uses", QUOTAS, &path, "q", uses_none)?;
    }
    Ok(())
}

pub(crate) fn adoption(run: &mut Run) -> Result<(), String> {
    for kind in KINDS {
        let path = run.home()?;
        let orphan = PODS.object("orphan", template(json!({"app": "adopted"}), "i"));
        accepted(&run.post(&format!("{path}/pods"), &orphan)?)?;
        // Whoever has counted a later pod has seen this one.
        run.create(&path, kind, "other", spec(kind, "other", 1))?;
        run.comes("a later pod that is counted", kind, &path, "other", |set| says(set, &json!({"replicas": 1})))?;
        run.create(&path, kind, "set", spec(kind, "adopted", 1))?;
        let adopted = run.pods(&path, 1, |pod| owner(pod) == "set")?;
        expect_that(adopted == ["orphan"], || format!("{adopted:?} is adopted"))?;
        run.change(&format!("{path}/pods/orphan"), json!({"metadata": {"labels": {"app": "released"}}}))?;
        run.see("a free pod and another one", PODS.gvr(), &path, |seen| {
            seen.len() == 3 && seen.iter().all(|(name, pod)| (name == "orphan") == owner(pod).is_empty())
        })?;
    }
    Ok(())
}
