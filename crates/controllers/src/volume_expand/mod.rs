//! Claims that ask for more than their volume has: drivers expand it, not the cluster, which says whom it waits for.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use skiff_client::{After, Change, Client, ClientError, Key, Recorder, Store, WorkQueue, Workers, involved};
use skiff_meta::quantity::Quantity;
use skiff_meta::world::Task;

use crate::Context;

const NAME: &str = "expand-controller";

/// Starts the controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let claims = context.informers.all::<PersistentVolumeClaim>();
    let volumes = context.informers.all::<PersistentVolume>();
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    claims.on(move |change: &Change<'_, PersistentVolumeClaim>| {
        let Some(new) = change.new else { return };
        if wants_more(new) && change.old.is_none_or(|old| requested(old) < requested(new)) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let synced = vec![claims.synced(), volumes.synced()];
    let workers = Workers { world: context.world.clone(), name: NAME, count: 1, synced };
    let recorder = Recorder::new(client, context.world.clone(), "volume_expand", "");
    let (claims, volumes) = (claims.store(), volumes.store());
    workers.start(queue, move |key: Key| {
        tell(&recorder, &claims, &volumes, &key);
        async { Ok::<_, ClientError>(After::Change) }
    })
}

fn tell(recorder: &Recorder, claims: &Store<PersistentVolumeClaim>, volumes: &Store<PersistentVolume>, key: &Key) {
    let Some(claim) = claims.get_key(key).filter(|claim| wants_more(claim)) else { return };
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if volumes.get("", name).is_some_and(|volume| is_its(&volume, &claim)) {
        recorder.normal(
            &involved(&*claim),
            "ExternalExpanding",
            "waiting for an external controller to expand this PVC",
        );
    }
}

fn is_its(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let bound = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    bound.is_some_and(|to| to.namespace == claim.metadata.namespace && to.uid == claim.metadata.uid)
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")?.0.parse().ok()
}

fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let Some(status) = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound")) else {
        return false;
    };
    let has = status.capacity.as_ref().and_then(|capacity| capacity.get("storage")?.0.parse::<Quantity>().ok());
    requested(claim).is_some_and(|wanted| has.is_none_or(|has| wanted > has))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_wants_more() {
        for (phase, wanted, has, expected) in [
            ("Bound", "2Gi", "1Gi", true),
            ("Bound", "1024Mi", "1Gi", false),
            ("Bound", "1Gi", "2Gi", false),
            ("Pending", "2Gi", "1Gi", false),
        ] {
            let claim = json!({"spec": {"resources": {"requests": {"storage": wanted}}},
                "status": {"phase": phase, "capacity": {"storage": has}}});
            assert_eq!(wants_more(&serde_json::from_value(claim).unwrap()), expected, "{wanted} of {has}");
        }
    }
}
