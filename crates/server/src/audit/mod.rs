//! The audit log: who did what, as the policy file wants it told (upstream: `k8s.io/apiserver/pkg/audit`).
//!
//! A [`Record`] goes along with the request and learns on its way; at each stage it is written as it then is. Bodies are
//! looked at only where the policy asks for them, so that no secret reaches a log that holds metadata.

mod backend;
mod body;
mod log;
mod policy;
mod record;
mod webhook;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::Value;
use skiff_meta::{Status, WorldRef};

use backend::Backend;
pub use backend::{Batching, Mode};
pub(crate) use body::watch;
pub use log::LogOptions;
pub use policy::{Level, Policy, Stage};
pub(crate) use record::{Asks, Record};
pub use webhook::WebhookOptions;

/// What is to be written, and where.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// What of which requests.
    pub policy: Policy,
    /// Into a file.
    pub log: Option<(LogOptions, Mode)>,
    /// To a server.
    pub webhook: Option<(WebhookOptions, Mode)>,
    /// How events are gathered where they are.
    pub batching: Batching,
}

/// The audit log cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The policy is none.
    #[error("the audit policy is not good: {0}")]
    Policy(String),
    /// The file cannot be written.
    #[error("the audit log {0} cannot be written: {1}")]
    File(String, std::io::Error),
    /// The server cannot be reached by what its kubeconfig says.
    #[error("the audit webhook cannot be used: {0}")]
    Webhook(#[from] skiff_client::ClientError),
}

/// The audit log.
pub(crate) struct Audit {
    policy: Policy,
    backends: Vec<Backend>,
    world: WorldRef,
    events: AtomicU64,
    refused: AtomicU64,
}

impl Audit {
    /// Opens it.
    pub(crate) fn open(config: AuditConfig, world: &WorldRef) -> Result<Arc<Self>, AuditError> {
        let mut backends = Vec::new();
        if let Some((options, mode)) = config.log {
            let path = options.path.display().to_string();
            let sink = log::Log::open(options, world.clone()).map_err(|e| AuditError::File(path, e))?;
            backends.push(Backend::new(Arc::new(sink), mode, config.batching, world));
        }
        if let Some((options, mode)) = config.webhook {
            let sink = webhook::Webhook::new(options, world.clone())?;
            backends.push(Backend::new(Arc::new(sink), mode, config.batching, world));
        }
        let (events, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Arc::new(Self { policy: config.policy, backends, world: world.clone(), events, refused }))
    }

    /// A request has come; `None` when nothing of it is written.
    ///
    /// # Errors
    /// 500 when it must be written and cannot be.
    pub(crate) async fn begin(self: &Arc<Self>, asks: Asks<'_>) -> Result<Option<Arc<Record>>, Status> {
        let decided = self.policy.decide(&asks.digest);
        if decided.level == Level::None {
            return Ok(None);
        }
        let record = Arc::new(Record::new(self.clone(), decided, asks));
        if record.write(Stage::RequestReceived).await {
            return Ok(Some(record));
        }
        self.refused.fetch_add(1, Relaxed);
        Err(Status::internal("failed to store audit event"))
    }

    /// A request whose credentials are not good is written as a failure, and that is all.
    pub(crate) async fn unauthenticated(self: &Arc<Self>, asks: Asks<'_>, status: &Status) {
        let decided = self.policy.decide(&asks.digest);
        if decided.level == Level::None {
            return;
        }
        let mut told = serde_json::to_value(status).unwrap_or_default();
        told["message"] = Value::from(record::attempts(&asks));
        let record = Record::new(self.clone(), decided, asks);
        record.outcome(status.code, Some(&told));
        record.write(Stage::ResponseStarted).await;
    }

    /// Writes an event everywhere; false when the request must not go on.
    async fn write(&self, event: &Value) -> bool {
        self.events.fetch_add(1, Relaxed);
        let mut fine = true;
        for backend in &self.backends {
            fine &= backend.write(event).await;
        }
        fine
    }

    /// Writes what still waits.
    pub(crate) async fn close(&self) {
        for backend in &self.backends {
            backend.close().await;
        }
    }

    /// Metrics, in their text form.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        let counts = [("event_total", &self.events), ("requests_rejected_total", &self.refused)];
        for (name, count) in counts {
            let count = count.load(Relaxed);
            let _ = writeln!(out, "# TYPE apiserver_audit_{name} counter\napiserver_audit_{name} {count}");
        }
        let _ = writeln!(out, "# TYPE apiserver_audit_error_total counter");
        for (name, lost) in self.backends.iter().map(Backend::lost) {
            let _ = writeln!(out, "apiserver_audit_error_total{{plugin=\"{name}\"}} {lost}");
        }
    }
}
