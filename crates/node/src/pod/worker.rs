//! The life of one pod on this node: look, plan, act, tell; and in the end, clean up.
//!
//! Whatever the worker knows it can find again by looking, so it may be stopped at any moment, with the whole process,
//! and another one carries on. A step that fails is tried again later; nothing is undone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use skiff_api::qos::{QosClass, qos_class};
use skiff_client::trace;
use skiff_cri::RuntimeError;
use skiff_meta::world::WorldExt;

use super::backoff::BackOff;
use super::granted::{Granted, Record};
use super::mailbox::{Mailbox, News};
use super::plan::{Actions, Delayed, View, plan};
use super::start::Step;
use super::state::{Life, Observer, RuntimeState};
use super::status::{self, Ending, Resizes, Trouble, Troubles, Why, is_terminal};
use super::{facts, last_words};
use crate::allocation;
use crate::make::Referenced;
use crate::make::fields::Addresses;
use crate::metrics::Measure;
use crate::node::Node;
use crate::os::Limits;
use crate::probe::Probes;
use crate::references::{self, Reference};
use crate::volumes::{self, Tokens, Volumes};

/// Steps in a row before others get their turn; no pod needs as many.
const STEPS: usize = 32;
/// How long the API may take to show what a pod refers to.
const REFERENCES_LIMIT: Duration = Duration::from_secs(60);
/// Pauses after a step that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// One pod's worker.
pub(crate) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) uid: String,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) backoff: BackOff,
    pub(super) troubles: Troubles,
    pub(super) probes: Probes,
    pub(super) volumes: Option<Volumes>,
    /// The pod as its volumes show it.
    shown: Option<Arc<Pod>>,
    /// Whether they may show what is not so any more. At first nobody knows: another agent may have set them up.
    outdated: bool,
    /// What the pod has been granted of the node.
    pub(super) record: Record,
    pub(super) resizes: Resizes,
    /// What the pod's group was told last.
    pub(super) limits: Option<Limits>,
    pub(super) observer: Observer,
    references: Option<(Arc<Pod>, Vec<Arc<Reference>>)>,
    tokens: Tokens,
    previous: PodStatus,
    /// Last words by container id.
    words: HashMap<String, String>,
    /// Until when each container waits, as it was told last.
    delays: HashMap<String, Timestamp>,
    pauses: Pauses,
    /// When it was first seen; until it runs, and only if it did not run before.
    seen: Option<Duration>,
}

/// What failed and is not to be tried again before a while: a container by its name, the whole pod by [`POD`].
#[derive(Default)]
struct Pauses {
    until: HashMap<String, Timestamp>,
    failures: HashMap<String, u32>,
}

/// The pod as a whole: its sandbox, its first volumes, the look at it.
pub(super) const POD: &str = "";
/// Bringing volumes up to date that are there; no container has such a name.
const VOLUMES: &str = " volumes";

/// How a look at a pod ended.
enum Turn {
    /// Nothing to do until then, or until there are news.
    Wait(Option<Timestamp>),
    /// All its containers have ended for good.
    Finished,
}

impl Worker {
    pub(crate) fn new(node: Arc<Node>, mailbox: Arc<Mailbox>, fresh: bool) -> Self {
        let (pod, _) = mailbox.pod();
        let uid = facts::uid(&pod).to_owned();
        let known = Record::load(&*node.config.os.files, &node.pod_directory(&uid));
        let record = known.unwrap_or_else(|| Record { granted: Granted::of(&pod), ..Record::default() });
        if facts::has_begun(&pod) {
            node.admitted.take_in(&pod, &record.granted);
        }
        node.registry.owns(&mailbox, &uid);
        let seen = (!facts::has_begun(&pod)).then(|| node.world.elapsed());
        Self {
            node,
            uid,
            mailbox,
            backoff: BackOff::default(),
            troubles: Troubles::new(),
            probes: Probes::default(),
            volumes: None,
            shown: None,
            outdated: true,
            record,
            resizes: Resizes::default(),
            limits: None,
            observer: Observer::new(fresh),
            references: None,
            tokens: Tokens::default(),
            previous: pod.status.clone().unwrap_or_default(),
            words: HashMap::new(),
            delays: HashMap::new(),
            pauses: Pauses::default(),
            seen,
        }
    }

    /// From the first look to the last.
    pub(crate) async fn run(mut self) {
        let ending = match self.admit().await {
            Ok(()) => self.live().await,
            Err(refusal) => Some(refusal),
        };
        self.end(ending).await;
    }

    /// A pod that has not begun yet must fit beside those that have.
    async fn admit(&mut self) -> Result<(), Ending> {
        // Until all pods are known, nobody can tell what is left; but what a file describes may have to run for the API's sake.
        if !self.node.statics.contains(&self.uid) {
            self.node.pods.synced().wait().await;
        }
        let (pod, gone) = self.mailbox.pod();
        if gone || facts_end(&pod) || facts::has_begun(&pod) {
            return Ok(());
        }
        let admitted = match allocation::give(&self.node, &pod).await {
            Ok(()) => self.node.admit(&pod),
            Err(refusal) => Err(refusal),
        };
        match &admitted {
            Ok(()) => {
                self.record.granted = Granted::of(&pod);
                // One that asks for nothing cannot ask for more.
                if qos_class(facts::spec(&pod)) != QosClass::BestEffort {
                    self.save_record();
                    self.node.weigh();
                }
            }
            Err(refusal) => {
                self.node.warn(&pod, &refusal.reason, refusal.message.trim_start_matches("Pod was rejected: "));
            }
        }
        admitted
    }

    /// Runs the pod until it has to end; why, where that is not the API's or its own wish.
    async fn live(&mut self) -> Option<Ending> {
        loop {
            let mut news = self.mailbox.take();
            if news.gone || facts_end(&news.pod) {
                return None;
            }
            if news.verdict.is_some() {
                return news.verdict;
            }
            let deadline = self.deadline(&news.pod);
            if deadline.is_some_and(|deadline| deadline <= self.node.world.now()) {
                return Some(Ending {
                    reason: "DeadlineExceeded".to_owned(),
                    message: "Pod was active on the node longer than the specified deadline".to_owned(),
                    why: Why::Deadline,
                    grace: None,
                });
            }
            news.pod = self.settle(&news.pod);
            let wait = match trace::within(news.cause, self.turn(&news)).await {
                Turn::Finished => return None,
                Turn::Wait(until) => [until, deadline].into_iter().flatten().min(),
            };
            let sleep = match wait {
                Some(until) => self.node.world.sleep(self.until(until)),
                None => futures::future::pending().boxed(),
            };
            tokio::select! {
                () = self.mailbox.wait() => {}
                () = sleep => {}
            }
        }
    }

    fn until(&self, time: Timestamp) -> Duration {
        Duration::try_from(time.duration_since(self.node.world.now())).unwrap_or_default()
    }

    fn deadline(&self, pod: &Pod) -> Option<Timestamp> {
        let seconds = facts::spec(pod).active_deadline_seconds?;
        let begun = self.previous.start_time.as_ref().or(pod.status.as_ref()?.start_time.as_ref())?;
        begun.0.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// Whether the pod is to end, so that a step under way is better left.
    pub(super) fn is_to_end(&self) -> bool {
        let (pod, gone) = self.mailbox.pod();
        gone || facts_end(&pod) || self.mailbox.is_condemned()
    }

    /// One turn: steps until there is nothing more to do now, then the status.
    async fn turn(&mut self, news: &News) -> Turn {
        if news.refresh || news.retry {
            self.pauses = Pauses::default();
        }
        match self.steps(news).await {
            Ok(state) => {
                self.follow_resize(&news.pod, &state);
                let status = self.tell(&news.pod, &state, false, None);
                if is_terminal(status.phase.as_deref().unwrap_or_default()) {
                    return Turn::Finished;
                }
            }
            Err(error) => {
                tracing::warn!(pod = facts::described(&news.pod), "{error}");
                self.failed(POD);
            }
        }
        let now = self.node.world.now();
        self.pauses.until.retain(|_, until| *until > now);
        let times = self.pauses.until.values().chain(self.delays.values()).copied();
        // What is outdated by now waits for the end of its pause.
        let renewal = self.tokens.renew_at().filter(|_| !self.outdated);
        Turn::Wait(times.chain(renewal).min())
    }

    async fn steps(&mut self, news: &News) -> Result<RuntimeState, RuntimeError> {
        let pod = &news.pod;
        let renew = self.tokens.renew_at().is_some_and(|time| time <= self.node.world.now());
        let mut state = self.look(&news.ended).await?;
        let differs = self.shown.as_ref().is_some_and(|shown| !looks_the_same(shown, pod));
        self.outdated |= news.refresh || renew || differs;
        let there = self.volumes.is_some() || state.running().next().is_some();
        if self.outdated && there && !self.is_paused(self.volumes_pause()) {
            self.bring_volumes(pod, &state).await;
        }
        for _ in 0..STEPS {
            self.probes.follow(&self.node, &self.mailbox, pod, &state, &self.previous);
            let actions = self.plan(pod, &state);
            self.note_delays(pod, &actions.delayed);
            if actions.is_empty() {
                break;
            }
            let step = self.act(pod, &state, &actions).await;
            let goes_on = !matches!(step, Step::Failed) && !self.is_to_end();
            state = match step {
                Step::Known(state) => self.note(state),
                _ => self.look(&[]).await?,
            };
            if !goes_on {
                self.probes.follow(&self.node, &self.mailbox, pod, &state, &self.previous);
                break;
            }
        }
        Ok(state)
    }

    fn plan(&self, pod: &Pod, state: &RuntimeState) -> Actions {
        let now = self.node.world.now();
        plan(&View { pod, state, verdicts: &self.probes, backoff: &self.backoff, limits: self.limits, now })
    }

    /// It failed: it is tried again later, and ever later.
    pub(super) fn failed(&mut self, what: &str) {
        let failures = self.pauses.failures.entry(what.to_owned()).or_default();
        let pause = RETRY.0 * 2u32.saturating_pow((*failures).min(8));
        *failures = failures.saturating_add(1);
        if let Ok(until) = self.node.world.now().checked_add(pause.min(RETRY.1)) {
            self.pause(what, until);
        }
    }

    /// It is not tried again before `until`, unless something that it may depend on changes.
    pub(super) fn pause(&mut self, what: &str, until: Timestamp) {
        self.pauses.until.insert(what.to_owned(), until);
    }

    /// It worked.
    pub(super) fn worked(&mut self, what: &str) {
        self.pauses.until.remove(what);
        self.pauses.failures.remove(what);
    }

    /// What pauses when volumes fail: nothing starts without any, but everything goes on with those that were there.
    fn volumes_pause(&self) -> &'static str {
        if self.volumes.is_some() { VOLUMES } else { POD }
    }

    /// Whether it failed lately and is not to be tried yet.
    pub(super) fn is_paused(&self, what: &str) -> bool {
        self.pauses.until.get(what).is_some_and(|until| *until > self.node.world.now())
    }

    /// The runtime's state of the pod. Containers in `ended` are known to have ended; the runtime may take a moment to
    /// say so too.
    pub(super) async fn look(&mut self, ended: &[String]) -> Result<RuntimeState, RuntimeError> {
        let mut pause = Duration::from_millis(2);
        let mut state = self.observer.look(&*self.node.runtime, &self.uid).await?;
        while pause < Duration::from_secs(2) && still_runs(&state, ended) {
            self.node.world.sleep(pause).await;
            pause = pause * 3 / 2;
            state = self.observer.look(&*self.node.runtime, &self.uid).await?;
        }
        Ok(self.note(state))
    }

    /// Adds to what the runtime says what it does not know.
    fn note(&mut self, mut state: RuntimeState) -> RuntimeState {
        for sandbox in &state.sandboxes {
            self.node.registry.owns(&self.mailbox, &sandbox.id);
        }
        let mut words = HashMap::new();
        for container in &mut state.containers {
            self.node.registry.owns(&self.mailbox, &container.id);
            if let Some(changed) = self.record.changed.get(&container.id) {
                container.resources = Some(changed.clone());
            }
            if container.life == Life::Exited && container.message.is_empty() {
                let known = self.words.remove(&container.id);
                let said = known.unwrap_or_else(|| last_words::read(&*self.node.config.os.files, container));
                container.message.clone_from(&said);
                words.insert(container.id.clone(), said);
            }
        }
        self.words = words;
        state
    }

    /// Containers that wait after a failure say so, once per pause.
    fn note_delays(&mut self, pod: &Pod, delayed: &[Delayed]) {
        let mut delays = HashMap::new();
        for Delayed { name, pause, until } in delayed {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                go_duration(*pause),
                facts::described(pod)
            );
            if self.delays.get(name) != Some(until) {
                let told = format!("Back-off restarting failed container {name} in pod {}", facts::described(pod));
                self.node.recorder.warning(&self.node.about(pod, name), "BackOff", told);
            }
            self.troubles.insert(name.clone(), Trouble { reason: "CrashLoopBackOff", message });
            delays.insert(name.clone(), *until);
        }
        self.delays = delays;
    }

    /// What the pod refers to, as it is now.
    pub(super) async fn referenced(&mut self, pod: &Arc<Pod>) -> Option<Referenced> {
        let known = self.references.as_ref().filter(|(of, _)| of.spec == pod.spec);
        let references = match known {
            Some((_, references)) => references.clone(),
            None => {
                let references = self.node.references.of(pod, &self.mailbox);
                self.references = Some((pod.clone(), references.clone()));
                references
            }
        };
        self.node.world.timeout(REFERENCES_LIMIT, references::resolve(&references)).await
    }

    pub(super) fn addresses(&self, pod: &Pod, state: &RuntimeState) -> Addresses {
        let host = self.node.addresses();
        let own = state.sandbox().map(|sandbox| sandbox.addresses.clone()).unwrap_or_default();
        Addresses { pod: if facts::on_host_network(pod) { host.clone() } else { own }, host }
    }

    /// Sets up the pod's volumes or brings them up to date. Whether they are ready.
    pub(super) async fn bring_volumes(&mut self, pod: &Arc<Pod>, state: &RuntimeState) -> bool {
        let Some(referenced) = self.referenced(pod).await else {
            let message = "timed out waiting for the config maps and secrets that the pod refers to";
            self.node.warn(pod, "FailedMount", message);
            self.failed(self.volumes_pause());
            return false;
        };
        let addresses = self.addresses(pod, state);
        let sources = volumes::Sources {
            pod,
            referenced: &referenced,
            addresses: &addresses,
            allocatable: &self.node.allocatable,
        };
        match volumes::prepare(&self.node, &sources, &mut self.tokens).await {
            Ok(volumes) => {
                self.volumes = Some(volumes);
                self.shown = Some(pod.clone());
                self.outdated = false;
                self.worked(VOLUMES);
                true
            }
            Err(error) => {
                if error.is_waiting() {
                    tracing::debug!(pod = facts::described(pod), "{error}");
                } else {
                    self.node.warn(pod, "FailedMount", error.to_string());
                }
                self.failed(self.volumes_pause());
                false
            }
        }
    }

    /// Computes the status and hands it to the writer.
    pub(super) fn tell(&mut self, pod: &Pod, state: &RuntimeState, final_: bool, ending: Option<&Ending>) -> PodStatus {
        let addresses = self.node.addresses();
        let status = status::compute(&status::Sources {
            pod,
            previous: &self.previous,
            state,
            verdicts: &self.probes,
            troubles: &self.troubles,
            final_,
            node_addresses: &addresses,
            runtime_name: &self.node.runtime_name,
            resizes: &self.resizes,
            verdict: ending,
            now: self.node.world.now(),
        });
        if is_terminal(status.phase.as_deref().unwrap_or_default()) && state.running().next().is_none() {
            // Before the API hears of it: the scheduler gives its room away at once.
            self.node.leaves(&self.uid);
        }
        self.node.writer.set(pod, status.clone(), trace::current());
        if status.phase.as_deref() == Some("Running")
            && let Some(seen) = self.seen.take()
        {
            self.node.metrics.observe(Measure::PodStart, self.node.world.elapsed() - seen);
        }
        self.previous = status.clone();
        status
    }
}

/// Whether the pod's own object says that it is to end, or has ended.
fn facts_end(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || is_terminal(phase.unwrap_or_default())
}

/// Whether volumes show the same of both: labels, annotations, resources.
fn looks_the_same(a: &Pod, b: &Pod) -> bool {
    (&a.metadata.labels, &a.metadata.annotations, &a.spec) == (&b.metadata.labels, &b.metadata.annotations, &b.spec)
}

fn still_runs(state: &RuntimeState, ended: &[String]) -> bool {
    let containers = state.running().map(|container| &container.id);
    let sandboxes = state.sandboxes.iter().filter(|sandbox| sandbox.ready).map(|sandbox| &sandbox.id);
    containers.chain(sandboxes).any(|id| ended.contains(id))
}

/// `10s`, `1m20s`, `5m0s`: as Go prints a duration.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
