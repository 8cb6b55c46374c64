//! TTL after finished: Jobs that say so are deleted some time after their end.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use skiff_client::{After, Change, Client, ClientError, DeleteOptions, Key, Kind, Store, WorkQueue, Workers};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;

/// Starts the TTL controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let jobs = context.informers.all::<Job>();
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    jobs.on(move |change: &Change<'_, Job>| {
        if change.new.is_some_and(|job| expires(job).is_some()) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let synced = vec![jobs.synced()];
    let workers = Workers { world: context.world.clone(), name: "ttl-after-finished-controller", count: 5, synced };
    let (world, jobs) = (context.world.clone(), jobs.store());
    workers.start(queue, move |key: Key| {
        let (client, world, jobs) = (client.clone(), world.clone(), jobs.clone());
        async move { reconcile(&client, &world, &jobs, &key).await }
    })
}

async fn reconcile(client: &Client, world: &WorldRef, jobs: &Store<Job>, key: &Key) -> Result<After, ClientError> {
    let cached = jobs.get_key(key).filter(|job| !job.deleting());
    let Some(expiry) = cached.and_then(|job| expires(&job)) else { return Ok(After::Change) };
    if let Some(wait) = left(expiry, world.now()) {
        return Ok(After::Delay(wait));
    }
    // The cache may be behind, and the time may have been extended: what counts is what the server says.
    let api = client.namespaced::<Job>(&key.namespace);
    let Some(job) = api.get_opt(&key.name).await? else { return Ok(After::Change) };
    match expires(&job).map(|expiry| left(expiry, world.now())) {
        Some(None) => {}
        Some(Some(wait)) => return Ok(After::Delay(wait)),
        None => return Ok(After::Change),
    }
    match api.delete(&key.name, &DeleteOptions::uid(job.uid()).propagation("Foreground")).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(After::Change),
    }
}

/// How long until then; `None`: it is past.
fn left(expiry: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(expiry.duration_since(now)).ok().filter(|left| !left.is_zero())
}

/// When a finished Job is to go, where it says so.
fn expires(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = |type_: &str| matches!(type_, "Complete" | "Failed");
    let end = conditions.iter().find(|c| ended(&c.type_) && c.status == "True")?;
    end.last_transition_time.as_ref()?.0.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn when_jobs_expire() {
        let job = |ttl: Value, condition: &str| -> Job {
            let condition = json!({"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let spec = json!({"template": {}, "ttlSecondsAfterFinished": ttl});
            serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"conditions": [condition]}}))
                .unwrap()
        };
        let expiry = |job: &Job| expires(job).map(|at| at.to_string());
        assert_eq!(expiry(&job(json!(60), "Complete")).as_deref(), Some("2026-01-01T00:01:00Z"));
        assert_eq!(expiry(&job(json!(0), "Failed")).as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(expiry(&job(json!(60), "Suspended")), None);
        assert_eq!(expiry(&job(json!(null), "Complete")), None);
        let now = |text: &str| text.parse::<Timestamp>().unwrap();
        let at = now("2026-01-01T00:01:00Z");
        assert_eq!(left(at, now("2026-01-01T00:00:50Z")), Some(Duration::from_secs(10)));
        assert_eq!(left(at, at), None);
    }
}
