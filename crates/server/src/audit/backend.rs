//! How events get to where they are kept: at once, or gathered.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::WorldRef;
use skiff_meta::world::{Task, WorldExt};
use tokio::sync::mpsc;

/// Where events are kept.
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// Upstream's name of the plug-in.
    fn name(&self) -> &'static str;
    /// Keeps events.
    async fn write(&self, events: &[Value]) -> Result<(), String>;
}

/// When events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Gathered, while the request goes on.
    Batch,
    /// Before the request goes on.
    Blocking,
    /// The same, and a request whose first event cannot be written is refused.
    BlockingStrict,
}

/// How events are gathered.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Events that may wait; further ones are lost, and counted.
    pub buffer: usize,
    /// Events written at once.
    pub most: usize,
    /// How long the first may wait for more.
    pub wait: Duration,
    /// Batches per second on average; 0: no limit.
    pub rate: u32,
    /// Batches that may follow one another at once.
    pub burst: u32,
}

impl Default for Batching {
    /// Upstream's figures for webhooks.
    fn default() -> Self {
        Self { buffer: 10_000, most: 400, wait: Duration::from_secs(30), rate: 10, burst: 15 }
    }
}

enum Way {
    Direct { strict: bool },
    Gathered(Mutex<Option<(mpsc::Sender<Value>, Task)>>),
}

/// A sink and the way to it.
pub(super) struct Backend {
    sink: Arc<dyn Sink>,
    way: Way,
    lost: Arc<AtomicU64>,
}

impl Backend {
    pub(super) fn new(sink: Arc<dyn Sink>, mode: Mode, batching: Batching, world: &WorldRef) -> Self {
        let lost = Arc::new(AtomicU64::new(0));
        let way = match mode {
            Mode::Blocking | Mode::BlockingStrict => Way::Direct { strict: mode == Mode::BlockingStrict },
            Mode::Batch => {
                let (sender, receiver) = mpsc::channel(batching.buffer.max(1));
                let gather = gather(sink.clone(), receiver, batching, world.clone(), lost.clone());
                Way::Gathered(Mutex::new(Some((sender, world.spawn("audit", Box::pin(gather))))))
            }
        };
        Self { sink, way, lost }
    }

    /// Hands over an event; false when the request must not go on.
    pub(super) async fn write(&self, event: &Value) -> bool {
        match &self.way {
            Way::Direct { strict } => {
                let Err(error) = self.sink.write(std::slice::from_ref(event)).await else { return true };
                self.lost.fetch_add(1, Relaxed);
                tracing::error!(plugin = self.sink.name(), "an audit event was not written: {error}");
                !strict
            }
            Way::Gathered(sender) => {
                let open = sender.lock();
                if open.as_ref().is_none_or(|(sender, _)| sender.try_send(event.clone()).is_err()) {
                    self.lost.fetch_add(1, Relaxed);
                }
                true
            }
        }
    }

    /// Writes what still waits; nothing is taken any more.
    pub(super) async fn close(&self) {
        if let Way::Gathered(sender) = &self.way {
            let open = sender.lock().take();
            if let Some((sender, task)) = open {
                drop(sender);
                task.await;
            }
        }
    }

    /// Name, and how many events were lost.
    pub(super) fn lost(&self) -> (&'static str, u64) {
        (self.sink.name(), self.lost.load(Relaxed))
    }
}

async fn gather(
    sink: Arc<dyn Sink>,
    mut events: mpsc::Receiver<Value>,
    batching: Batching,
    world: WorldRef,
    lost: Arc<AtomicU64>,
) {
    let (mut credit, mut since) = (f64::from(batching.burst.max(1)), world.elapsed());
    let mut batch = Vec::new();
    while let Some(first) = events.recv().await {
        batch.push(first);
        let full = async {
            while batch.len() < batching.most {
                match events.recv().await {
                    Some(event) => batch.push(event),
                    None => break,
                }
            }
        };
        world.timeout(batching.wait, full).await;
        if batching.rate > 0 {
            let now = world.elapsed();
            credit += (now - since).as_secs_f64() * f64::from(batching.rate);
            credit = credit.min(f64::from(batching.burst.max(1)));
            since = now;
            // At the end nobody waits for a rate.
            if credit < 1.0 && !events.is_closed() {
                world.sleep(Duration::from_secs_f64((1.0 - credit) / f64::from(batching.rate))).await;
            }
            credit -= 1.0;
        }
        if let Err(error) = sink.write(&batch).await {
            lost.fetch_add(batch.len() as u64, Relaxed);
            tracing::error!(plugin = sink.name(), events = batch.len(), "audit events were not written: {error}");
        }
        batch.clear();
    }
}
