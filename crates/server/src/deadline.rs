//! Time that is up.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, poll_immediate, select};
use skiff_meta::World;

/// The output of `future`, or `None` when `limit` passes first. What is ready at once, as most answers from the cache
/// are, costs no look at the clock.
pub(crate) async fn within<F: Future>(world: &dyn World, limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if let Some(output) = poll_immediate(future.as_mut()).await {
        return Some(output);
    }
    match select(future, world.sleep(limit)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}
