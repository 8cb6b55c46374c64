//! The machine is about to stop: pods end in the order of their priority, new ones are refused, and the machine waits for
//! them as long as it was asked to.

mod plan;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use skiff_meta::world::WorldExt;

use crate::node::Node;
use crate::os::PowerWatch;
use crate::pod::facts;
use crate::pod::manager::Manager;
use crate::pod::status::{Ending, Why};
pub(crate) use plan::{Period, periods};

/// Pauses while the machine cannot be asked.
const RETRY: Duration = Duration::from_secs(1);
/// How long more patience may take to come: the first of five pauses, each twice the one before.
const SETTLE: (Duration, u32) = (Duration::from_millis(100), 5);
/// What pods that end so are told.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Whether the machine is about to stop.
#[derive(Default)]
pub(crate) struct Shutdown {
    now: AtomicBool,
}

impl Shutdown {
    pub(crate) fn is_under_way(&self) -> bool {
        self.now.load(Ordering::Relaxed)
    }

    /// Why no pod is let in now, if none is.
    pub(crate) fn refusal(&self) -> Option<Ending> {
        let message = "Pod was rejected: Pod was rejected as the node is shutting down.";
        self.is_under_way().then(|| Ending::refusal("NodeShutdown", message))
    }
}

/// Watches for ever, where pods are to have any time.
pub(crate) async fn run(node: Arc<Node>, manager: Arc<Manager>) {
    let mut told = false;
    while !node.config.settings.shutdown.is_empty() {
        if let Err(error) = watch(&node, &manager).await
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!("nobody tells when the machine stops, so that pods may have no time to end: {error}");
        }
        node.world.sleep(RETRY).await;
    }
}

async fn watch(node: &Arc<Node>, manager: &Manager) -> io::Result<()> {
    let mut power = node.config.os.power.watch().await?;
    get_patience(node, &mut *power).await?;
    power.hold().await?;
    loop {
        let stops = power.next().await?;
        node.shutdown.now.store(stops, Ordering::Relaxed);
        node.heartbeat.notify_one();
        let what = if stops { "event" } else { "cancellation" };
        node.recorder.normal(&node.itself(), "NodeShutdown", format!("Shutdown manager detected shutdown {what}"));
        tracing::warn!(stops, "the machine tells whether it is about to stop");
        if stops {
            end_pods(node, manager).await;
            power.release();
        } else {
            power.hold().await?;
        }
    }
}

/// Makes sure that the machine waits long enough.
async fn get_patience(node: &Node, power: &mut dyn PowerWatch) -> io::Result<()> {
    let seconds = node.config.settings.shutdown.iter().map(|period| period.seconds.unsigned_abs()).sum();
    let wanted = Duration::from_secs(seconds);
    if power.patience().await? >= wanted {
        return Ok(());
    }
    power.ask_for(wanted).await?;
    for attempt in 0..SETTLE.1 {
        if power.patience().await? >= wanted {
            return Ok(());
        }
        // Nothing tells when it has read its settings again.
        node.world.sleep(SETTLE.0 * 2_u32.pow(attempt)).await;
    }
    Err(io::Error::other(format!("the machine does not wait for {} s before it stops", wanted.as_secs())))
}

async fn end_pods(node: &Node, manager: &Manager) {
    let mut pods = manager.pods();
    pods.retain(|pod| !skiff_api::pods::is_finished(pod));
    for (period, pods) in plan::groups(&node.config.settings.shutdown, &pods) {
        for pod in &pods {
            let (reason, message) = ("Terminated".to_owned(), MESSAGE.to_owned());
            let grace = Some(plan::grace(period, pod));
            manager.end(pod, Ending { reason, message, why: Why::Shutdown, grace });
        }
        let down = join_all(pods.iter().map(|pod| manager.until_down(facts::uid(pod))));
        let limit = Duration::from_secs(period.seconds.unsigned_abs());
        if node.world.timeout(limit, down).await.is_none() {
            tracing::warn!(priority = period.priority, "pods have not ended in the time they were given");
        }
    }
}
