//! Claims and volumes.

use serde_json::{Value, json};

use crate::support::{Api as Run, Seen, accepted};
use crate::{Kind, PODS, template, unique};

const CLAIMS: Kind = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
const VOLUMES: Kind = Kind("", "v1", "persistentvolumes", "PersistentVolume");

pub(crate) fn claims(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let (volume, class) = (unique("volume"), unique("class"));
    let spec = json!({"storageClassName": class, "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/nowhere"}});
    run.make("/api/v1/persistentvolumes", &VOLUMES.object(&volume, json!({"spec": spec})))?;
    let spec = json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    let made = run.create(&path, CLAIMS, "c", spec)?;
    run.comes("a bound claim", CLAIMS, &path, "c", |claim| {
        claim["status"]["phase"] == "Bound"
            && claim["spec"]["volumeName"] == volume
            && claim["status"]["capacity"]["storage"] == "2Gi"
    })?;
    let phase = |phase: &'static str| move |volume: &Value| volume["status"]["phase"] == phase;
    run.comes("a bound volume", VOLUMES, "", &volume, phase("Bound"))?;
    let mut user = PODS.object("user", template(json!({}), "i"));
    user["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    user["spec"]["nodeName"] = json!(unique("node"));
    accepted(&run.post(&format!("{path}/pods"), &user)?)?;
    run.pods(&path, 1, |_| true)?;
    run.delete(&made)?;
    let stays = |claim: &Value| !claim["metadata"]["deletionTimestamp"].is_null();
    run.comes("a claim that is used", CLAIMS, &path, "c", stays)?;
    run.delete(&format!("{path}/pods/user?gracePeriodSeconds=0"))?;
    run.see("no claim", CLAIMS.gvr(), &path, Seen::is_empty)?;
    run.comes("a released volume", VOLUMES, "", &volume, phase("Released")).map(drop)
}
