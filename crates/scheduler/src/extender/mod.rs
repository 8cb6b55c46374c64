//! Extenders: processes of other people that are asked over HTTP which nodes take a pod, how well these suit it, who may be
//! asked to go for it, and that bind it. They speak the same forms as with upstream's scheduler.
//!
//! A decision waits for their answers, and so does every pod behind it: as upstream has it, since what they say is about
//! the cluster as it is.

mod forms;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Container;
use serde_json::Value;
use skiff_client::{Backend, ClientError};
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;

use crate::cluster::PodInfo;
use crate::decide::Candidate;

pub use forms::{Filtered, Nodes};

/// How an extender is reached, and what for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The address, without the verb.
    pub url: String,
    /// Behind the address; empty: it is not asked such things.
    pub filter: String,
    /// Likewise.
    pub prioritize: String,
    /// Likewise.
    pub preempt: String,
    /// Likewise.
    pub bind: String,
    /// Its scores count this much.
    pub weight: i64,
    /// It knows the nodes, so their names are enough.
    pub knows_nodes: bool,
    /// Pods that ask for none of these are none of its business; empty: all are.
    pub resources: Vec<String>,
    /// Scheduling goes on without it when it fails.
    pub is_ignorable: bool,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// An extender.
#[derive(Clone)]
pub struct Extender {
    /// What it is for.
    pub settings: Settings,
    backend: Arc<dyn Backend>,
    world: WorldRef,
}

/// It gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ExtenderError {
    /// It was not reached.
    #[error("extender {0:?}: {1}")]
    Unreached(String, ClientError),
    /// It needed too long.
    #[error("extender {0:?} did not answer {1:?} in time")]
    Late(String, String),
    /// It answered with another code than 200.
    #[error("failed {1} with extender at URL {0}, code {2}")]
    Code(String, String, u16),
    /// It said what went wrong.
    #[error("{0}")]
    Told(String),
    /// Its answer makes no sense.
    #[error("extender {0:?}: {1}")]
    Nonsense(String, String),
}

impl Extender {
    /// One that is reached through this backend.
    pub fn new(settings: Settings, backend: Arc<dyn Backend>, world: WorldRef) -> Self {
        Self { settings, backend, world }
    }

    /// Whether a pod is its business.
    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        let managed = |name: &String| self.settings.resources.contains(name);
        let asks = |container: &Container| {
            let resources = container.resources.iter();
            let mut all = resources.flat_map(|r| [&r.requests, &r.limits]).flatten().flat_map(|amounts| amounts.keys());
            all.any(managed)
        };
        let containers =
            pod.pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        self.settings.resources.is_empty() || containers.into_iter().any(asks)
    }

    /// Which of the nodes take the pod.
    ///
    /// # Errors
    /// When it gives no answer, or names others.
    pub async fn filter(&self, pod: &PodInfo, nodes: &Nodes) -> Result<Filtered, ExtenderError> {
        let answer = self.ask(&self.settings.filter, forms::about(pod, nodes, self.settings.knows_nodes)).await?;
        forms::filtered(&answer, nodes).map_err(|error| self.failed(error))
    }

    /// What it adds to the scores of the nodes, in their order.
    ///
    /// # Errors
    /// When it gives no answer.
    pub async fn prioritize(&self, pod: &PodInfo, nodes: &Nodes) -> Result<Vec<i64>, ExtenderError> {
        let answer = self.ask(&self.settings.prioritize, forms::about(pod, nodes, self.settings.knows_nodes)).await?;
        let scores = forms::scores(&answer, nodes).map_err(|error| self.failed(error))?;
        Ok(scores.into_iter().map(|score| score.saturating_mul(self.settings.weight)).collect())
    }

    /// On which nodes, and of whom, it lets room be made.
    ///
    /// # Errors
    /// When it gives no answer, or names nodes or pods that it was not told of.
    pub async fn preempt(
        &self,
        pod: &PodInfo,
        candidates: &[Arc<Candidate>],
    ) -> Result<Vec<Arc<Candidate>>, ExtenderError> {
        let asked = forms::room(pod, candidates, self.settings.knows_nodes);
        let answer = self.ask(&self.settings.preempt, asked).await?;
        forms::candidates(&answer, candidates, self.settings.is_ignorable).map_err(|error| self.failed(error))
    }

    /// Has the pod bound.
    ///
    /// # Errors
    /// When it was not, or nobody knows.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), ExtenderError> {
        let answer = self.ask(&self.settings.bind, forms::binding(pod, node)).await?;
        forms::error(&answer).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: forms::Fault) -> ExtenderError {
        match error {
            forms::Fault::Told(text) => ExtenderError::Told(text),
            forms::Fault::Nonsense(text) => ExtenderError::Nonsense(self.settings.url.clone(), text),
        }
    }

    async fn ask(&self, verb: &str, body: Value) -> Result<Value, ExtenderError> {
        let url = || self.settings.url.clone();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{}", verb.trim_start_matches('/')))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body.to_string()))
            .map_err(|error| ExtenderError::Nonsense(url(), error.to_string()))?;
        let unreached = |error: ClientError| ExtenderError::Unreached(url(), error);
        let answered = async {
            let response = self.backend.send(request).await.map_err(unreached)?;
            if response.status() != StatusCode::OK {
                return Err(ExtenderError::Code(url(), verb.to_owned(), response.status().as_u16()));
            }
            let body = response.into_body().collect().await;
            let bytes = body.map_err(|error| unreached(ClientError::Transport(error.to_string())))?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|error| ExtenderError::Nonsense(url(), error.to_string()))
        };
        let answer = self.world.timeout(self.settings.timeout, answered).await;
        answer.unwrap_or_else(|| Err(ExtenderError::Late(url(), verb.to_owned())))
    }
}
