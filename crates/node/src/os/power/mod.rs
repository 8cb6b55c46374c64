//! Whether the machine is about to stop, and how it is made to wait.

mod dbus;
mod logind;

use std::io;
use std::time::Duration;

use async_trait::async_trait;
pub use logind::Logind;

/// Knows when the machine is about to stop.
#[async_trait]
pub trait Power: Send + Sync + 'static {
    /// Begins to watch.
    ///
    /// # Errors
    /// When nobody can be asked.
    async fn watch(&self) -> io::Result<Box<dyn PowerWatch>>;
}

/// What watches.
#[async_trait]
pub trait PowerWatch: Send {
    /// How long the machine waits at most for those who ask it to.
    ///
    /// # Errors
    /// When nobody answers any more.
    async fn patience(&mut self) -> io::Result<Duration>;
    /// Asks for more of it, which may take a moment to come.
    ///
    /// # Errors
    /// When that is refused.
    async fn ask_for(&mut self, patience: Duration) -> io::Result<()>;
    /// When the machine is to stop next it waits, until [`Self::release`].
    ///
    /// # Errors
    /// When that is refused.
    async fn hold(&mut self) -> io::Result<()>;
    /// The machine need not wait any more.
    fn release(&mut self);
    /// News: whether the machine is about to stop, or goes on after all.
    ///
    /// # Errors
    /// When nobody answers any more.
    async fn next(&mut self) -> io::Result<bool>;
}

/// A machine that never stops.
pub struct NoPower;

#[async_trait]
impl Power for NoPower {
    async fn watch(&self) -> io::Result<Box<dyn PowerWatch>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
