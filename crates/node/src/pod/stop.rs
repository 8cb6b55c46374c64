//! The steps that take a pod down: hooks, signals, clean-up, and the last word to the API.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_client::{DeleteOptions, trace};
use skiff_meta::world::WorldExt;

use super::facts::{self, Role};
use super::mailbox::Mailbox;
use super::plan::{Kill, KillCause};
use super::state::{ContainerRecord, Life, RuntimeState};
use super::status::Ending;
use super::worker::{POD, Worker};
use crate::csi;
use crate::make::{resources, sandbox};
use crate::os::Cgroups;
use crate::probe::Target;
use crate::probe::action::{self, Answer};
use crate::volumes;

/// What a container is left after its hook has used up the grace period.
const LEAST_GRACE: i64 = 2;
/// Pauses between attempts at something the system refused.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// One container to be stopped.
struct Victim {
    record: ContainerRecord,
    target: Target,
    role: Role,
}

impl Worker {
    /// Stops one container while its pod goes on.
    pub(super) async fn kill(&mut self, pod: &Arc<Pod>, state: &RuntimeState, kill: &Kill) {
        let record = state.containers.iter().find(|container| container.id == kill.id);
        let Some(victim) = record.and_then(|record| self.victim(pod, state, record)) else { return };
        self.node.recorder.normal(&self.node.about(pod, &kill.name), "Killing", kill.message.clone());
        stop(&victim, probe_grace(&victim.target.container, kill.cause).unwrap_or_else(|| grace(pod))).await;
    }

    /// Stops all containers, gracefully, and all sandboxes. Whether nothing is left.
    pub(super) async fn stop_all(&mut self, pod: &Arc<Pod>, state: &RuntimeState) -> bool {
        self.stop_containers(pod, state, grace(pod)).await;
        self.stop_sandboxes(state).await
    }

    async fn stop_sandboxes(&mut self, state: &RuntimeState) -> bool {
        let mut all = true;
        for sandbox in state.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            if let Err(error) = self.node.runtime.stop_pod_sandbox(&sandbox.id).await {
                tracing::warn!(id = sandbox.id, "sandbox was not stopped: {error}");
                self.failed(POD);
                all = false;
            }
        }
        all
    }

    /// Main containers first and together; sidecars after them, the last one started first.
    async fn stop_containers(&self, pod: &Arc<Pod>, state: &RuntimeState, grace: i64) {
        let begun = self.node.world.elapsed();
        let running: Vec<Victim> = state.running().filter_map(|record| self.victim(pod, state, record)).collect();
        let (sidecars, others): (Vec<Victim>, Vec<Victim>) =
            running.into_iter().partition(|victim| victim.role == Role::Sidecar);
        for victim in others.iter().chain(&sidecars) {
            let about = self.node.about(pod, &victim.record.name);
            let message = format!("Stopping container {}", victim.record.name);
            self.node.recorder.normal(&about, "Killing", message);
        }
        join_all(others.iter().map(|victim| stop(victim, grace))).await;
        let order = |victim: &Victim| {
            facts::init_containers(pod).iter().position(|container| container.name == victim.record.name)
        };
        let mut sidecars = sidecars;
        sidecars.sort_by_key(|victim| std::cmp::Reverse(order(victim)));
        for victim in &sidecars {
            let used = i64::try_from((self.node.world.elapsed() - begun).as_secs()).unwrap_or(i64::MAX);
            stop(victim, (grace - used).max(LEAST_GRACE.min(grace))).await;
        }
    }

    fn victim(&self, pod: &Arc<Pod>, state: &RuntimeState, record: &ContainerRecord) -> Option<Victim> {
        let found = facts::container(pod, &record.name);
        // A container that the specification no longer knows, or never did, has no hooks but has to go all the same.
        let (role, container) = found
            .map(|(role, container)| (role, container.into_owned()))
            .unwrap_or_else(|| (Role::Main, Container { name: record.name.clone(), ..Container::default() }));
        matches!(record.life, Life::Running | Life::Unknown).then(|| Victim {
            record: record.clone(),
            target: self.target(pod, state, &container, &record.id),
            role,
        })
    }

    /// Ends the pod: stops everything, tells the final status, cleans up, and once its deletion was asked for, lets the
    /// API forget it. Tries until it succeeds.
    pub(super) fn end(self, ending: Option<Ending>) -> BoxFuture<'static, ()> {
        Box::pin(self.bring_down(ending))
    }

    async fn bring_down(mut self, ending: Option<Ending>) {
        self.probes.stop();
        let state = self.quieten(ending.as_ref()).await;
        self.node.leaves(&self.uid);
        let news = self.mailbox.take();
        // The node may have decided it while the pod was on its way already.
        let ending = ending.or(news.verdict);
        trace::within(news.cause, async {
            self.tell(&news.pod, &state, true, ending.as_ref());
            let writer = self.node.writer.clone();
            let uid = self.uid.clone();
            let told = async {
                if !news.gone {
                    writer.flush(&uid).await;
                }
            };
            tokio::join!(told, self.take_down(&news.pod));
        })
        .await;
        self.mailbox.is_down();
        self.until_deleted().await;
        self.erase(&state).await;
        let (pod, _) = self.mailbox.pod();
        trace::within(self.mailbox.take().cause, self.release(&pod)).await;
        self.node.writer.forget(&self.uid);
        self.node.registry.forget(&self.uid);
    }

    /// Stops everything, with the grace period the pod has now; if that is cut short meanwhile, so is the waiting.
    async fn quieten(&mut self, ending: Option<&Ending>) -> RuntimeState {
        let mut pause = RETRY.0;
        loop {
            let news = self.mailbox.take();
            let pod = news.pod.clone();
            match self.look(&news.ended).await {
                Ok(state) if state.is_quiet() => return state,
                Ok(state) => {
                    let grace = time(&self.mailbox);
                    if ending.is_some() {
                        // The reason is told before the end, which may take a while.
                        self.tell(&pod, &state, false, None);
                    }
                    let cut_short = shorter_grace(&self.mailbox, grace);
                    tokio::select! {
                        () = self.stop_containers(&pod, &state, grace) => {}
                        () = cut_short => continue,
                    }
                    if self.stop_sandboxes(&state).await {
                        let ended: Vec<String> = state.running().map(|container| container.id.clone()).collect();
                        match self.look(&ended).await {
                            Ok(state) if state.is_quiet() => return state,
                            Ok(_) => {}
                            Err(error) => tracing::warn!(pod = facts::described(&pod), "{error}"),
                        }
                    }
                }
                Err(error) => tracing::warn!(pod = facts::described(&pod), "{error}"),
            }
            self.node.world.sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Volumes and the cgroup go as soon as nothing runs; containers stay for their logs.
    async fn take_down(&self, pod: &Pod) {
        for (name, _) in facts::image_volumes(pod) {
            let path = volumes::on_disk(&self.node, &self.uid, name);
            if let Err(error) = self.node.runtime.unmount_image(&path).await {
                tracing::warn!(pod = facts::described(pod), "image volume {name:?} was not given back: {error}");
            }
        }
        let mut pause = RETRY.0;
        while let Err(error) = csi::release(&self.node, &self.uid).await {
            tracing::warn!(pod = facts::described(pod), "volumes were not given back: {error}");
            self.node.world.sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
        pause = RETRY.0;
        while let Err(error) = self.node.claims.release(&self.node, &self.uid).await {
            tracing::warn!(pod = facts::described(pod), "claims were not given back: {error}");
            self.node.world.sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
        let cgroup = resources::pod_cgroup(pod);
        self.insist(pod, || {
            volumes::remove(&self.node, &self.uid)?;
            clear_cgroup(&*self.node.config.os.cgroups, &cgroup)
        })
        .await;
    }

    /// Tries until the system agrees.
    async fn insist(&self, pod: &Pod, mut attempt: impl FnMut() -> std::io::Result<()>) {
        let mut pause = RETRY.0;
        while let Err(error) = attempt() {
            tracing::warn!(pod = facts::described(pod), "clean-up is tried again: {error}");
            self.node.world.sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn until_deleted(&self) {
        loop {
            let (pod, gone) = self.mailbox.pod();
            if gone || pod.metadata.deletion_timestamp.is_some() {
                return;
            }
            self.mailbox.wait().await;
        }
    }

    /// Removes containers, sandboxes and logs.
    async fn erase(&mut self, state: &RuntimeState) {
        let (pod, _) = self.mailbox.pod();
        let mut pause = RETRY.0;
        loop {
            let left = match self.look(&[]).await {
                Ok(left) if left.is_empty() => break,
                Ok(left) => left,
                Err(error) => {
                    tracing::warn!(pod = facts::described(&pod), "{error}");
                    state.clone()
                }
            };
            let removals = left.sandboxes.iter().map(|sandbox| self.node.runtime.remove_pod_sandbox(&sandbox.id));
            let removed = join_all(removals).await;
            let mut well = !left.sandboxes.is_empty();
            for error in removed.into_iter().filter_map(Result::err) {
                tracing::warn!(pod = facts::described(&pod), "sandbox was not removed: {error}");
                well = false;
            }
            // Containers go with their sandbox; any that has lost it goes alone.
            for container in left.containers.iter().filter(|c| !left.sandboxes.iter().any(|s| s.id == c.sandbox)) {
                well &= self.node.runtime.remove_container(&container.id).await.is_ok();
            }
            if !well {
                self.node.world.sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
        for id in state.sandboxes.iter().map(|s| &s.id).chain(state.containers.iter().map(|c| &c.id)) {
            self.node.registry.forget(id);
        }
        let logs = sandbox::log_directory(&self.node.config.log_directory, &pod);
        self.insist(&pod, || self.node.config.os.files.remove(&logs)).await;
    }

    /// Tells the API that nothing is left of the pod.
    async fn release(&self, pod: &Pod) {
        let mut pause = RETRY.0;
        let api = self.node.client.namespaced::<Pod>(facts::namespace(pod));
        let options = DeleteOptions::uid(&self.uid).grace(0);
        while !self.mailbox.pod().1 {
            match api.delete(facts::name(pod), &options).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() || error.is_conflict() => return,
                Err(error) => tracing::warn!(pod = facts::described(pod), "was not deleted: {error}"),
            }
            self.node.world.sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

/// Removes a pod's cgroup once the runtime says that nothing of the pod runs. A process that is in it all the same is one
/// that the runtime has lost, as when it was killed while it made the sandbox: it is ended here, for nobody else knows of
/// it, and the next attempt finds the group empty.
///
/// # Errors
/// When the group could not be removed yet.
pub(super) fn clear_cgroup(cgroups: &dyn Cgroups, path: &str) -> std::io::Result<()> {
    let Err(busy) = cgroups.remove(path) else { return Ok(()) };
    cgroups.kill(path)?;
    Err(busy)
}

/// Seconds that the pod's containers are given to leave by themselves.
fn grace(pod: &Pod) -> i64 {
    let spec = facts::spec(pod).termination_grace_period_seconds.unwrap_or(30);
    // Zero asks the API to forget at once; a container is given a second all the same, as upstream does.
    if pod.metadata.deletion_timestamp.is_some() {
        pod.metadata.deletion_grace_period_seconds.unwrap_or(spec).max(1)
    } else {
        spec.max(1)
    }
}

/// The same as things are now, the node's own decisions included.
fn time(mailbox: &Mailbox) -> i64 {
    let own = grace(&mailbox.pod().0);
    mailbox.most_grace().map_or(own, |most| most.clamp(1, own))
}

/// Completes when the pod's grace period has become shorter than `now`.
async fn shorter_grace(mailbox: &Mailbox, now: i64) {
    loop {
        mailbox.wait().await;
        if time(mailbox) < now {
            return;
        }
    }
}

fn probe_grace(container: &Container, cause: KillCause) -> Option<i64> {
    let probe = match cause {
        KillCause::Liveness => container.liveness_probe.as_ref(),
        KillCause::Startup => container.startup_probe.as_ref(),
        KillCause::Replaced | KillCause::Resized => None,
    };
    probe?.termination_grace_period_seconds
}

/// Runs the hook, then stops the container with what is left of the grace period.
async fn stop(victim: &Victim, grace: i64) {
    let Victim { record, target, .. } = victim;
    let node = &target.node;
    let begun = node.world.elapsed();
    let hook = target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook {
        let limit = Duration::from_secs(grace.unsigned_abs());
        let answer = node.world.timeout(limit, action::run(hook, None, target, limit)).await;
        if !matches!(answer, Some(Answer::Success)) {
            let about = node.about(&target.pod, &record.name);
            node.recorder.warning(&about, "FailedPreStopHook", "PreStopHook failed");
        }
    }
    let used = i64::try_from((node.world.elapsed() - begun).as_secs()).unwrap_or(i64::MAX);
    let left = if hook.is_some() { (grace - used).max(LEAST_GRACE) } else { grace };
    if let Err(error) = node.runtime.stop_container(&record.id, left).await {
        tracing::warn!(id = record.id, "container was not stopped: {error}");
    }
}
