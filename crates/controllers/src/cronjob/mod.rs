//! CronJobs: a Job whenever the clock says so.

mod plan;
mod schedule;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{Expectations, Selector, enqueue_owners, is_controlled_by, namespace_terminating, revision_of};
use plan::{Plan, Snapshot};

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    crons: Store<CronJob>,
    jobs: Store<Job>,
    jobs_of: Index<Job>,
    expectations: Expectations,
}

/// Starts the CronJob controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (crons, jobs) = (context.informers.all::<CronJob>(), context.informers.all::<Job>());
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    crons.on(move |change: &Change<'_, CronJob>| to_queue.add(change.key(), change.trace));
    // CronJobs adopt nothing.
    enqueue_owners(&crons, &jobs, &queue, |_| Selector::nothing());
    let synced = vec![crons.synced(), jobs.synced()];
    let workers = Workers { world: context.world.clone(), name: "cronjob-controller", count: WORKERS, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "cronjob-controller", ""),
        client,
        world: context.world.clone(),
        crons: crons.store(),
        jobs_of: jobs.by_owner(),
        jobs: jobs.store(),
        expectations: Expectations::default(),
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(cron) = self.crons.get_key(key) else {
            self.expectations.forget(key);
            return Ok(After::Change);
        };
        // A Job that was just started must not be taken for one that went missing.
        if !self.expectations.met(key, &self.jobs, self.world.elapsed()) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let mut jobs = self.jobs_of.get(cron.uid());
        jobs.retain(|job| is_controlled_by(&**job, &*cron));
        let snapshot = Snapshot { cron: &cron, spec: &cron.spec, jobs: &jobs, now: self.world.now() };
        self.execute(key, &cron, plan::plan(&snapshot)).await
    }

    async fn execute(&self, key: &Key, cron: &CronJob, plan: Plan) -> Result<After, ClientError> {
        let (jobs, about) = (self.client.namespaced::<Job>(&key.namespace), involved(cron));
        for (reason, message, warning) in &plan.events {
            match warning {
                true => self.recorder.warning(&about, reason, &**message),
                false => self.recorder.normal(&about, reason, &**message),
            }
        }
        for job in &plan.delete {
            match jobs.delete(job.name(), &DeleteOptions::uid(job.uid()).propagation("Background")).await {
                Ok(()) => self.recorder.normal(&about, "SuccessfulDelete", format!("Deleted job {}", job.name())),
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    self.recorder.warning(&about, "FailedDelete", format!("Deleted job: {error}"));
                    return Err(error);
                }
            }
        }
        let mut status = plan.status;
        if let Some((job, due)) = plan.create {
            let made = match jobs.create(&job).await {
                Ok(made) => {
                    self.recorder.normal(&about, "SuccessfulCreate", format!("Created job {}", made.name()));
                    made
                }
                // Ours from before, where the status was not written any more; or somebody else's, whom we leave alone.
                Err(error) if error.is_already_exists() => jobs.get(job.name()).await?,
                Err(error) if namespace_terminating(&error) => return Ok(After::Change),
                Err(error) => {
                    self.recorder.warning(&about, "FailedCreate", format!("Error creating job: {error}"));
                    return Err(error);
                }
            };
            self.expectations.wrote(key, revision_of(&made), self.world.elapsed());
            if is_controlled_by(&made, cron) {
                status = Some(plan::started(status.unwrap_or_else(|| cron.clone()), &made, due));
            }
        }
        if let Some(updated) = status {
            self.client.namespaced::<CronJob>(&key.namespace).update_status(&updated).await?;
        }
        Ok(plan.look_again.map_or(After::Change, After::Delay))
    }
}
