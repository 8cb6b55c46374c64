//! A world that exists once per seed: same seed, same run.
//!
//! One thread runs all tasks. Which of the ready ones goes next is drawn from the seed; every step takes a little
//! virtual time, drawn as well, so that timers fire in the midst of work as they do in the real world; and when nobody
//! has anything to do, the clock jumps to the next timer. Hours of a cluster's life pass in a moment, and a run that
//! went wrong can be had again.

mod dice;
mod state;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use skiff_meta::WorldRef;

use state::{Next, Shared};
use world::SimWorld;

/// After so many steps a run is held to be a livelock, which no limit of virtual time would end soon. The largest runs
/// of today need a tenth of it.
const PATIENCE: u64 = 20_000_000;
/// How many steps pass between two looks at their number.
const LOOK: u64 = 4_096;

/// A simulated world and its executor. All its tasks end with it.
pub struct Sim {
    shared: Arc<Shared>,
    patience: u64,
}

/// Why a run ended without the result it was run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// The virtual limit passed.
    Late(Duration),
    /// Nobody has anything to do or a timer to wait for: nothing will ever happen again.
    Still(Duration),
    /// There was work without end, most of it by the tasks of this name: a loop that feeds itself.
    Busy(Duration, u64, &'static str),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(at) => write!(f, "not done after the limit, at {at:?} of the world's time"),
            Self::Busy(at, steps, who) => {
                write!(f, "no end after {steps} steps, most of them by {who}, at {at:?} of the world's time")
            }
            Self::Still(at) => write!(f, "everybody waits for ever, at {at:?} of the world's time"),
        }
    }
}

impl std::error::Error for Stuck {}

impl Sim {
    /// A world at its beginning.
    pub fn new(seed: u64) -> Self {
        Self { shared: Shared::new(seed), patience: PATIENCE }
    }

    /// A world that allows a run so many steps.
    #[must_use]
    pub fn with_patience(mut self, steps: u64) -> Self {
        self.patience = steps;
        self
    }

    /// Clock, tasks and randomness of this world.
    pub fn world(&self) -> WorldRef {
        Arc::new(SimWorld::new(self.shared.clone()))
    }

    /// Runs the world until `future` is done, at most for `limit` of the world's own time.
    ///
    /// # Errors
    /// When the limit passes first, nothing can happen any more, or there is no end of what happens.
    ///
    /// # Panics
    /// As any task does: a panic anywhere ends the run.
    pub fn run_until<F: Future>(&self, future: F, limit: Duration) -> Result<F::Output, Stuck> {
        let (id, cell) = self.shared.enter();
        let waker = Waker::from(cell);
        let mut future = pin!(future);
        let deadline = self.shared.elapsed().saturating_add(limit);
        let mut round = 0u64;
        let outcome = loop {
            round += 1;
            if round.is_multiple_of(LOOK) {
                let (steps, busiest) = self.shared.steps();
                if steps > self.patience {
                    break Err(Stuck::Busy(self.shared.elapsed(), steps, busiest));
                }
            }
            match self.shared.next(deadline) {
                Next::Task(next) if next == id => {
                    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                        break Ok(output);
                    }
                }
                Next::Task(next) => self.shared.step(next),
                Next::Late => break Err(Stuck::Late(self.shared.elapsed())),
                Next::Never => break Err(Stuck::Still(self.shared.elapsed())),
            }
        };
        self.shared.leave(id);
        outcome
    }

    /// Lets the world run for a time.
    pub fn run_for(&self, time: Duration) {
        let sleep = self.world().sleep(time);
        let woken = self.run_until(sleep, time.saturating_mul(2).saturating_add(Duration::from_secs(1)));
        debug_assert!(woken.is_ok(), "a timer of its own ends every run");
    }

    /// A number that stands for everything that has happened so far: which task went when.
    pub fn digest(&self) -> u64 {
        self.shared.digest()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Tasks hold the world and the world holds tasks.
        self.shared.clear();
    }
}
