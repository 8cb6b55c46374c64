//! The audit log over HTTP: lists of events to whoever a kubeconfig names.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use serde_json::{Value, json};
use skiff_client::config::Remote;
use skiff_client::http::HttpBackend;
use skiff_client::{Backend, ClientError};
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;

use super::backend::Sink;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is tried.
const TRIES: u32 = 5;

/// Whom to tell.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// Its address and how it is trusted.
    pub remote: Remote,
    /// Pause before the second try; each later one is half as long again.
    pub initial_backoff: Duration,
}

pub(super) struct Webhook {
    backend: HttpBackend,
    backoff: Duration,
    world: WorldRef,
}

impl Webhook {
    pub(super) fn new(options: WebhookOptions, world: WorldRef) -> Result<Self, ClientError> {
        let backend = HttpBackend::new(options.remote, world.clone(), "kube-apiserver")?;
        Ok(Self { backend, backoff: options.initial_backoff, world })
    }

    async fn send(&self, body: &Bytes) -> Result<(), String> {
        let request = Request::post("/").header(header::CONTENT_TYPE, "application/json").body(body.clone());
        let request = request.map_err(|e| e.to_string())?;
        let answer = self.world.timeout(PATIENCE, self.backend.send(request)).await;
        let answer = answer.ok_or("it does not answer")?.map_err(|e| e.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("it answers {}", answer.status())) }
    }
}

#[async_trait]
impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    async fn write(&self, events: &[Value]) -> Result<(), String> {
        let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events});
        let body = Bytes::from(list.to_string());
        let mut pause = self.backoff;
        for _ in 1..TRIES {
            match self.send(&body).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!("the audit webhook is tried again: {error}"),
            }
            self.world.sleep(pause).await;
            pause = pause * 3 / 2;
        }
        self.send(&body).await
    }
}
