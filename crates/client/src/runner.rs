//! The reconcile runner: workers that take keys from a queue and bring the world in line with them.
//!
//! A reconciliation gets a key, never an event: it reads the caches, plans, writes, and can be run again at any time.
//! Its requests carry the cause of the key (see [`crate::trace`]). What fails comes again with back-off.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::backend::ClientError;
use crate::informer::Synced;
use crate::queue::WorkQueue;
use crate::trace;

/// What a reconciliation wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing, until something changes.
    Change,
    /// Another look after this time, if nothing changes before.
    Delay(Duration),
}

/// An error that is part of the game (somebody was faster) rather than worth a warning.
pub trait Expected: Display {
    /// Whether it is.
    fn expected(&self) -> bool;
}

impl Expected for ClientError {
    fn expected(&self) -> bool {
        self.is_conflict() || self.is_not_found() || self.is_already_exists()
    }
}

/// Who works, and on what conditions.
pub struct Workers {
    /// Clock and tasks.
    pub world: WorldRef,
    /// Name in logs.
    pub name: &'static str,
    /// How many keys at the same time.
    pub count: usize,
    /// Caches that must be filled before the first key is looked at; they live as long as the workers.
    pub synced: Vec<Synced>,
}

impl Workers {
    /// Starts the workers; dropping the tasks does not stop them, aborting does.
    pub fn start<T, F, R, E>(self, queue: WorkQueue<T>, reconcile: F) -> Vec<Task>
    where
        T: Ord + Clone + Debug + Send + Sync + 'static,
        F: Fn(T) -> R + Send + Sync + 'static,
        R: Future<Output = Result<After, E>> + Send + 'static,
        E: Expected + Send,
    {
        let reconcile = Arc::new(reconcile);
        let worker = |_| {
            let (name, queue, reconcile, synced) = (self.name, queue.clone(), reconcile.clone(), self.synced.clone());
            let work = async move {
                for cache in &synced {
                    cache.wait().await;
                }
                loop {
                    one(name, &queue, &*reconcile).await;
                }
            };
            self.world.spawn(name, Box::pin(work))
        };
        (0..self.count).map(worker).collect()
    }
}

/// One round: takes a key, reconciles it, and decides when to come back to it.
async fn one<T, F, R, E>(name: &'static str, queue: &WorkQueue<T>, reconcile: &F)
where
    T: Ord + Clone + Debug + Send + Sync + 'static,
    F: Fn(T) -> R,
    R: Future<Output = Result<After, E>>,
    E: Expected,
{
    let (key, cause) = queue.next().await;
    // In a block of its own, so that what `reconcile` does before its future is polled has the cause as well.
    let outcome = trace::within(cause, async { reconcile(key.clone()).await }).await;
    match outcome {
        Ok(After::Change) => queue.forget(&key),
        Ok(After::Delay(delay)) => {
            queue.forget(&key);
            queue.add_after(key.clone(), delay, cause);
        }
        Err(error) => {
            if error.expected() {
                tracing::debug!(controller = name, ?key, "again: {error}");
            } else {
                tracing::warn!(controller = name, ?key, "failed, will try again: {error}");
            }
            queue.add_rate_limited(key.clone(), cause);
        }
    }
    queue.done(&key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use skiff_meta::world::RealWorld;
    use skiff_meta::{Status, TraceContext};

    #[tokio::test]
    async fn failures_come_again_with_their_cause() {
        let queue = WorkQueue::new(RealWorld::shared());
        let cause = TraceContext { trace_id: 7, span_id: 8, flags: 1 };
        queue.add("a", Some(cause));
        let seen = Mutex::new(Vec::new());
        let reconcile = |key: &'static str| {
            seen.lock().push((key, trace::current()));
            let first = seen.lock().len() == 1;
            async move { if first { Err(ClientError::Api(Status::unauthorized())) } else { Ok(After::Change) } }
        };
        one("test", &queue, &reconcile).await;
        assert_eq!(queue.failures(&"a"), 1);
        one("test", &queue, &reconcile).await;
        assert_eq!(queue.failures(&"a"), 0);
        assert_eq!(*seen.lock(), [("a", Some(cause)), ("a", Some(cause))]);
    }
}
