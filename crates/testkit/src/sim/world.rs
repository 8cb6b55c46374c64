//! The simulated world as its tasks see it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use skiff_meta::World;
use skiff_meta::world::Task;

use super::state::{Shared, TimerId};

/// Seconds since 1970 at the beginning of every world: 2026-01-01T00:00:00Z.
const BEGINNING: i64 = 1_767_225_600;

pub(super) struct SimWorld {
    shared: Arc<Shared>,
}

impl SimWorld {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl World for SimWorld {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(BEGINNING).unwrap_or_default() + self.shared.elapsed()
    }

    fn elapsed(&self) -> Duration {
        self.shared.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(Sleep { timer: self.shared.new_timer(duration), shared: self.shared.clone() })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Task {
        let (id, mut end) = self.shared.spawn(name, task);
        let shared = Arc::downgrade(&self.shared);
        let abort = move || {
            if let Some(shared) = shared.upgrade() {
                shared.abort(id);
            }
        };
        Task::new(abort, Box::pin(async move { while end.changed().await.is_ok() {} }))
    }

    fn random(&self) -> u64 {
        self.shared.random()
    }
}

struct Sleep {
    timer: TimerId,
    shared: Arc<Shared>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.wait(self.timer, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.shared.cancel(self.timer);
    }
}
