//! One probe of one container: when to ask, and what to make of the answers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe};
use skiff_meta::world::WorldExt;

use super::action::{self, Answer};
use super::{Findings, ProbeKind, Target};
use crate::pod::mailbox::Mailbox;
use crate::pod::plan::Verdict;

/// The first pause of a container that has just started; each further one is twice as long.
const SHORTEST: Duration = Duration::from_millis(25);

/// Asks until the verdict is final, or for ever.
pub(super) async fn run(
    kind: ProbeKind,
    probe: Probe,
    target: Arc<Target>,
    findings: Arc<Findings>,
    mailbox: Arc<Mailbox>,
) {
    let world = target.node.world.clone();
    if kind == ProbeKind::Startup && findings.borrow().startup == Some(true) {
        return;
    }
    if kind != ProbeKind::Startup && target.container.startup_probe.is_some() {
        // The sender is ours, so waiting cannot fail.
        let _ = findings.subscribe().wait_for(|verdict| verdict.startup == Some(true)).await;
    }
    world.sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut counter = Counter::new(&probe, kind);
    let mut starting = kind != ProbeKind::Liveness && findings.borrow().readiness != Some(true);
    loop {
        let answer = ask(&probe, &target).await;
        if let Some((what, text)) = answer.complaint() {
            let message = format!("{} probe {what}: {text}", kind.title());
            let about = target.node.about(&target.pod, &target.container.name);
            target.node.recorder.warning(&about, "Unhealthy", message);
        }
        if let Some(verdict) = counter.count(answer == Answer::Success) {
            let changed = findings.send_if_modified(|findings| set(findings, kind, verdict));
            if changed {
                mailbox.wake();
            }
            if is_final(kind, verdict) {
                return;
            }
        }
        let period = seconds(probe.period_seconds, 10);
        if std::mem::take(&mut starting) && answer != Answer::Success {
            starts_up(&probe, &target, period).await;
        } else {
            world.sleep(period).await;
        }
    }
}

/// A program needs a moment from being started to answering, mostly far less than a period. So the first period is cut
/// short once the program answers well; bad answers on the way mean nothing, they are asked in time that is slept else.
async fn starts_up(probe: &Probe, target: &Target, period: Duration) {
    let world = &target.node.world;
    let (mut waited, mut pause) = (Duration::ZERO, SHORTEST);
    while waited + pause < period {
        world.sleep(pause).await;
        if ask(probe, target).await == Answer::Success {
            return;
        }
        waited += pause;
        pause *= 2;
    }
    world.sleep(period.saturating_sub(waited)).await;
}

/// A startup probe has one verdict. A liveness probe that failed has its container killed, so there is no more to ask.
fn is_final(kind: ProbeKind, verdict: bool) -> bool {
    kind == ProbeKind::Startup || (kind == ProbeKind::Liveness && !verdict)
}

fn set(findings: &mut Verdict, kind: ProbeKind, verdict: bool) -> bool {
    let slot = match kind {
        ProbeKind::Startup => &mut findings.startup,
        ProbeKind::Liveness => &mut findings.liveness,
        ProbeKind::Readiness => &mut findings.readiness,
    };
    let changed = *slot != Some(verdict);
    *slot = Some(verdict);
    changed
}

fn seconds(given: Option<i32>, otherwise: u64) -> Duration {
    Duration::from_secs(given.and_then(|given| u64::try_from(given).ok()).unwrap_or(otherwise))
}

async fn ask(probe: &Probe, target: &Target) -> Answer {
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let handler = LifecycleHandler {
        exec: probe.exec.clone(),
        http_get: probe.http_get.clone(),
        tcp_socket: probe.tcp_socket.clone(),
        sleep: None,
    };
    let answer = target.node.world.timeout(limit, action::run(&handler, probe.grpc.as_ref(), target, limit));
    answer.await.unwrap_or_else(|| Answer::Failure(format!("no answer within {}s", limit.as_secs())))
}

/// Counts equal answers in a row until there are enough for a verdict.
struct Counter {
    successes: i32,
    failures: i32,
    last: Option<bool>,
    run: i32,
}

impl Counter {
    fn new(probe: &Probe, kind: ProbeKind) -> Self {
        let successes = if kind == ProbeKind::Readiness { probe.success_threshold.unwrap_or(1) } else { 1 };
        Self { successes, failures: probe.failure_threshold.unwrap_or(3), last: None, run: 0 }
    }

    fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let enough = if success { self.successes } else { self.failures };
        (self.run >= enough).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Probe::default() };
        let verdicts = |kind, answers: &[bool]| -> Vec<Option<bool>> {
            let mut counter = Counter::new(&probe, kind);
            answers.iter().map(|answer| counter.count(*answer)).collect()
        };
        let answers = [true, true, false, true, false, false];
        assert_eq!(verdicts(ProbeKind::Readiness, &answers), [None, Some(true), None, None, None, Some(false)]);
        assert_eq!(
            verdicts(ProbeKind::Liveness, &answers),
            [Some(true), Some(true), None, Some(true), None, Some(false)]
        );
    }
}
