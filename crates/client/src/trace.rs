//! Which change is being reacted to: the cause that rides along with every write.
//!
//! The reconcile runner wraps each reconciliation in [`within`]; [`crate::Client`] asks [`current`] when it builds a
//! request and sends the answer as `traceparent`. The server makes the child span, so the client passes its cause on
//! unchanged. A task-local rather than a parameter, since the cause belongs to the whole reconciliation, and a parameter
//! forgotten once would break the chain for everything behind it.

use std::future::Future;

use skiff_meta::TraceContext;

tokio::task_local! {
    static CAUSE: Option<TraceContext>;
}

/// Runs `future` with `cause` as the cause of its requests. Tasks it spawns do not inherit it.
pub async fn within<F: Future>(cause: Option<TraceContext>, future: F) -> F::Output {
    CAUSE.scope(cause, future).await
}

/// The cause of what is being done now, where there is one.
pub fn current() -> Option<TraceContext> {
    CAUSE.try_with(|cause| *cause).ok().flatten()
}
