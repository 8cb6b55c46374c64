//! Ends leases in time.
//!
//! One task sleeps until the first lease ends. It begins with the first lease, and it does not keep the store alive.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use skiff_meta::WorldRef;
use tokio::sync::Notify;

use crate::contract::StoreError;
use crate::engine::Shared;

/// How long to wait after the disk refused the end of a lease.
const RETRY: Duration = Duration::from_secs(1);

/// The task's doorbell.
#[derive(Default)]
pub(crate) struct Expiry {
    begun: AtomicBool,
    changed: Notify,
}

impl Expiry {
    /// Makes sure that leases are watched over, the newest one included.
    pub(crate) fn watch_over(shared: &Arc<Shared>) {
        let expiry = shared.expiry.clone();
        if expiry.begun.swap(true, Relaxed) {
            return expiry.nudge();
        }
        let task = run(shared.world.clone(), expiry, Arc::downgrade(shared));
        shared.world.spawn("store-expiry", task.boxed());
    }

    /// Lets the task look again.
    pub(crate) fn nudge(&self) {
        self.changed.notify_one();
    }
}

async fn run(world: WorldRef, expiry: Arc<Expiry>, store: Weak<Shared>) {
    let mut wait = Some(Duration::ZERO);
    loop {
        let sleep = wait.map_or_else(|| futures::future::pending().boxed(), |wait| world.sleep(wait));
        futures::future::select(sleep, std::pin::pin!(expiry.changed.notified())).await;
        let Some(shared) = store.upgrade() else { return };
        wait = match end_due(&shared).await {
            Ok(next) => next,
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!("a lease could not be ended, will try again: {error}");
                Some(RETRY)
            }
        };
    }
}

/// Ends what is due; in how long the next lease ends.
async fn end_due(shared: &Shared) -> Result<Option<Duration>, StoreError> {
    let due = shared.read(|state| Ok(state.core.leases().ended(shared.world.elapsed())))?;
    for id in due {
        shared.mutate(|core, clock| core.expire(id, clock)).await?;
    }
    let first = shared.read(|state| Ok(state.core.leases().first_end()))?;
    Ok(first.map(|ends| ends.saturating_sub(shared.world.elapsed())))
}
