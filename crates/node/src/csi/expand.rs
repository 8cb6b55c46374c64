//! Volumes that have grown behind their claims: the driver makes the most of it on this node, and the claim is told
//! (`NodeExpander` upstream).

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};
use skiff_client::{Patch, involved};
use skiff_meta::Quantity;
use skiff_plugins::csi::{CapacityRange, NodeExpandVolumeRequest};
use skiff_plugins::{Code, Status, limited};

use super::drivers::Driver;
use super::mount::{Wish, secrets};
use super::{CsiError, refused};
use crate::node::Node;

/// What there is to do on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    Nothing,
    /// The driver is to be asked; the claim knows already, by what another node did.
    Here,
    /// The driver is to be asked, and the claim to be told.
    Claimed,
}

const PENDING: &str = "NodeResizePending";
const UNDER_WAY: &str = "NodeResizeInProgress";
const NOT_NEEDED: &str = "volume.kubernetes.io/node-expansion-not-required";
/// Conditions of a claim that speak of its growth.
const CONDITIONS: [&str; 4] = ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];

/// How much a claim has, as it was told last.
pub(super) fn told_size(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0.parse().ok()
}

/// `here`: how large the volume was when this node last had to do with its size.
fn growth(claim: &PersistentVolumeClaim, size: Quantity, here: Option<Quantity>) -> Growth {
    let status = claim.status.as_ref();
    let phase = status.and_then(|status| status.allocated_resource_statuses.as_ref()?.get("storage"));
    match phase.map(String::as_str) {
        Some(PENDING | UNDER_WAY) => Growth::Claimed,
        Some(_) => Growth::Nothing,
        None => {
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            let many = modes.iter().any(|mode| mode == "ReadWriteMany");
            let needed = claim.metadata.annotations.as_ref().is_none_or(|all| !all.contains_key(NOT_NEEDED));
            let grown = told_size(claim).is_some_and(|told| told >= size) && here.is_some_and(|here| here < size);
            if many && needed && grown { Growth::Here } else { Growth::Nothing }
        }
    }
}

/// What a claim is told of a refusal: whether it is of no use to try again, and why.
fn failure(status: &Status, now: jiff::Timestamp) -> Option<Value> {
    use Code::{
        Aborted, Cancelled, DeadlineExceeded, InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unavailable,
    };
    if matches!(status.code(), Cancelled | DeadlineExceeded | Unavailable | ResourceExhausted | Aborted) {
        // It may still be at work.
        return None;
    }
    let message = format!("failed to expand pvc with {}", status.message());
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
    let condition =
        json!({"type": "NodeResizeError", "status": "True", "lastTransitionTime": time, "message": message});
    let mut told = json!({"conditions": [condition]});
    if matches!(status.code(), InvalidArgument | NotFound | OutOfRange) {
        told["allocatedResourceStatuses"] = json!({"storage": "NodeResizeInfeasible"});
    }
    Some(told)
}

/// What a claim is told when its volume is as large as it can be.
fn success(claim: &PersistentVolumeClaim, size: Quantity) -> Value {
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let over = conditions.filter(|condition| CONDITIONS.contains(&&*condition.type_));
    let over: Vec<Value> = over.map(|condition| json!({"type": condition.type_, "$patch": "delete"})).collect();
    let statuses = json!({"storage": null});
    json!({"capacity": {"storage": size.to_string()}, "allocatedResourceStatuses": statuses, "conditions": over})
}

/// Lets a published volume be as large as its claim's is by now.
pub(super) async fn follow(
    node: &Node,
    wish: &Wish<'_>,
    driver: &Driver,
    key: &(String, String),
    target: &str,
    staging: &str,
) -> Result<(), CsiError> {
    let source = wish.source;
    let (Some(claim), Some(size)) = (&source.claim, source.size) else { return Ok(()) };
    let growth = growth(claim, size, node.drivers.size(key, told_size(claim)));
    if growth == Growth::Nothing || source.read_only || !driver.abilities.expand {
        return Ok(());
    }
    let api = node.client.namespaced::<PersistentVolumeClaim>(claim.metadata.namespace.as_deref().unwrap_or_default());
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let mut claim = (**claim).clone();
    if growth == Growth::Claimed {
        let status = json!({"allocatedResourceStatuses": {"storage": UNDER_WAY}});
        let version = claim.metadata.resource_version.clone();
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
        claim = api.patch_status(name, &Patch::Strategic(patch)).await?;
    }
    let request = NodeExpandVolumeRequest {
        volume_id: source.handle.clone(),
        volume_path: target.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: size.value(), limit_bytes: 0 }),
        staging_target_path: staging.to_owned(),
        volume_capability: Some(source.capability(&driver.abilities, None)),
        secrets: secrets(node, source.expand_secret.as_ref()).await?,
    };
    let tell = async |status: Value| api.patch_status(name, &Patch::Strategic(json!({"status": status}))).await;
    if let Err(status) = driver.client().node_expand_volume(limited(request)).await {
        if status.code() == Code::FailedPrecondition {
            tracing::warn!(volume = source.name, "does not grow while it is used: {}", status.message());
            return Ok(());
        }
        if let Some(told) = failure(&status, node.world.now()).filter(|_| growth == Growth::Claimed) {
            tell(told).await?;
        }
        return Err(refused("NodeExpandVolume")(status));
    }
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {:?} ", source.name);
    node.recorder.normal(&involved(wish.pod), "FileSystemResizeSuccessful", message.clone());
    node.recorder.normal(&involved(&claim), "FileSystemResizeSuccessful", message);
    if growth == Growth::Claimed {
        tell(success(&claim, size)).await?;
    }
    node.drivers.grew(key, size);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(mode: &str, status: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {"accessModes": [mode]}, "status": status}))
            .expect("a claim")
    }

    #[test]
    fn who_grows() {
        let size: Quantity = "2Gi".parse().expect("a size");
        let small: Quantity = "1Gi".parse().expect("a size");
        let status =
            |phase: Value, told: &str| json!({"allocatedResourceStatuses": phase, "capacity": {"storage": told}});
        for (mode, phase, told, here, expected) in [
            ("ReadWriteOnce", json!({"storage": "NodeResizePending"}), "1Gi", Some(small), Growth::Claimed),
            ("ReadWriteOnce", json!({"storage": "NodeResizeInProgress"}), "1Gi", None, Growth::Claimed),
            ("ReadWriteOnce", json!({"storage": "NodeResizeInfeasible"}), "1Gi", None, Growth::Nothing),
            ("ReadWriteOnce", json!({"storage": "ControllerResizeInProgress"}), "1Gi", None, Growth::Nothing),
            ("ReadWriteOnce", json!({}), "2Gi", Some(small), Growth::Nothing),
            ("ReadWriteMany", json!({}), "2Gi", Some(small), Growth::Here),
            ("ReadWriteMany", json!({}), "2Gi", Some(size), Growth::Nothing),
            ("ReadWriteMany", json!({}), "1Gi", Some(small), Growth::Nothing),
        ] {
            assert_eq!(
                growth(&claim(mode, status(phase.clone(), told)), size, here),
                expected,
                "{mode} {phase} {told}"
            );
        }
        let mut elsewhere = claim("ReadWriteMany", status(json!({}), "2Gi"));
        elsewhere.metadata.annotations = Some([(NOT_NEEDED.to_owned(), "true".to_owned())].into());
        assert_eq!(growth(&elsewhere, size, Some(small)), Growth::Nothing);
    }

    #[test]
    fn what_a_claim_is_told() {
        let conditions =
            json!([{"type": "FileSystemResizePending", "status": "True"}, {"type": "Other", "status": "True"}]);
        let grown = success(&claim("ReadWriteOnce", json!({"conditions": conditions})), "2Gi".parse().expect("a size"));
        assert_eq!(grown["conditions"], json!([{"type": "FileSystemResizePending", "$patch": "delete"}]));
        assert_eq!(grown["capacity"]["storage"], "2Gi");
        assert_eq!(grown["allocatedResourceStatuses"], json!({"storage": null}));
        let told = |status: Status| failure(&status, jiff::Timestamp::UNIX_EPOCH);
        let infeasible = told(Status::out_of_range("too large")).expect("told");
        assert_eq!(infeasible["allocatedResourceStatuses"]["storage"], "NodeResizeInfeasible");
        assert_eq!(infeasible["conditions"][0]["message"], "failed to expand pvc with too large");
        assert!(told(Status::internal("broken")).expect("told")["allocatedResourceStatuses"].is_null());
        assert!(told(Status::unavailable("busy")).is_none(), "it may still be at work");
    }
}
