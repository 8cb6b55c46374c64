//! The one door to clock, tasks and randomness.
//!
//! Nothing else in the workspace reads a clock, spawns a task or draws a random number (clippy refuses it), so that the
//! whole control plane can run under a seeded scheduler with a virtual clock: same seed, same run. Tokio's channels and
//! locks are fine anywhere, since they need no runtime; `tokio::time`, `tokio::spawn` and sockets are not, outside the
//! rooms that do real I/O.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;

/// Clock, tasks and randomness.
pub trait World: Send + Sync + 'static {
    /// Wall-clock time. May jump; use [`World::elapsed`] to measure.
    fn now(&self) -> Timestamp;
    /// Monotonic time since this world began.
    fn elapsed(&self) -> Duration;
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Starts a task; `name` appears in logs when it panics. Dropping the handle does not stop the task.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Task;
    /// 64 uniformly random bits; cryptographically strong in the real world.
    fn random(&self) -> u64;
}

/// A shared [`World`].
pub type WorldRef = Arc<dyn World>;

/// A handle to a spawned task: await it for its end, or [`Task::abort`] it.
pub struct Task {
    abort: Box<dyn Fn() + Send + Sync>,
    done: BoxFuture<'static, ()>,
}

impl Task {
    /// Made by implementations of [`World`].
    pub fn new(abort: impl Fn() + Send + Sync + 'static, done: BoxFuture<'static, ()>) -> Self {
        Self { abort: Box::new(abort), done }
    }
    /// Stops the task at its next await point.
    pub fn abort(&self) {
        (self.abort)();
    }
}

impl Future for Task {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.done.as_mut().poll(cx)
    }
}

/// Aborts its task when dropped.
pub struct AbortOnDrop(pub Task);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What every [`World`] can do, told once.
pub trait WorldExt: World {
    /// `future`'s output, or `None` when `limit` passes first.
    fn timeout<'a, F: Future + Send + 'a>(&self, limit: Duration, future: F) -> BoxFuture<'a, Option<F::Output>>
    where
        F::Output: Send,
    {
        let sleep = self.sleep(limit);
        Box::pin(async move {
            futures::pin_mut!(future);
            match futures::future::select(future, sleep).await {
                futures::future::Either::Left((output, _)) => Some(output),
                futures::future::Either::Right(_) => None,
            }
        })
    }

    /// A random (version 4) UUID, as `metadata.uid` wants it.
    fn uuid(&self) -> String {
        let (high, low) = (self.random(), self.random());
        let high = (high & !0xf000) | 0x4000;
        let low = (low & !(0b11 << 62)) | (0b10 << 62);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    /// `length` characters as `generateName` appends them: no vowels, and none that look alike, so that no words arise.
    fn name_suffix(&self, length: usize) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..length).map(|_| char::from(ALPHABET[(self.random() % ALPHABET.len() as u64) as usize])).collect()
    }
}

impl<W: World + ?Sized> WorldExt for W {}

thread_local! {
    /// A request draws several numbers, and asking the kernel for each costs more than the numbers themselves.
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; 512], used: 512 }) };
}

/// Random bytes fetched from the kernel and not given out yet.
struct Stock {
    bytes: [u8; 512],
    used: usize,
}

impl Stock {
    fn draw(&mut self) -> u64 {
        let Some(next) = self.bytes.get_mut(self.used..).and_then(|rest| rest.first_chunk_mut::<8>()) else {
            // The kernel's generator cannot fail once seeded; were it missing, no secret this process makes could be
            // trusted.
            getrandom::fill(&mut self.bytes).unwrap_or_else(|error| panic!("no randomness from the kernel: {error}"));
            self.used = 0;
            return self.draw();
        };
        self.used += 8;
        // Whoever reads this memory later shall not learn what was given out.
        u64::from_ne_bytes(std::mem::take(next))
    }
}

/// The real world: Tokio's clock and tasks, the kernel's randomness.
pub struct RealWorld {
    #[allow(clippy::disallowed_types)]
    start: std::time::Instant,
}

impl RealWorld {
    /// The real world, beginning now. Spawning needs a Tokio runtime.
    #[allow(clippy::disallowed_methods, reason = "this is the one door to the clock")]
    pub fn shared() -> WorldRef {
        Arc::new(Self { start: std::time::Instant::now() })
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the one door to clock, tasks and randomness")]
impl World for RealWorld {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Task {
        let handle = tokio::spawn(task);
        let abort = handle.abort_handle();
        Task::new(
            move || abort.abort(),
            Box::pin(async move {
                if let Err(error) = handle.await
                    && error.is_panic()
                {
                    tracing::error!(task = name, "task panicked: {error}");
                }
            }),
        )
    }
    fn random(&self) -> u64 {
        STOCK.with_borrow_mut(|stock| stock.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_out_once() {
        let mut stock = Stock { bytes: [0; 512], used: 512 };
        let drawn: std::collections::BTreeSet<u64> = (0..1_000).map(|_| stock.draw()).collect();
        assert_eq!(drawn.len(), 1_000);
        assert!(stock.bytes[..stock.used].iter().all(|byte| *byte == 0), "what was given out is forgotten");
    }
}
