//! What goes wrong between a component and its API server: answers that are lost, requests that never arrive, somebody
//! else who was faster, watches that lag behind, and a process that dies between any two of its writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use skiff_client::config::Remote;
use skiff_client::{Backend, Body, ClientError, Event, ListTarget};
use skiff_meta::{GroupResource, Status, WorldRef};
use tokio::sync::watch;

/// How often things go wrong, in parts of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The request is carried out, and its answer never arrives.
    pub lost_answers: u64,
    /// The request never arrives.
    pub lost_requests: u64,
    /// An update meets a newer object.
    pub conflicts: u64,
    /// An event of a watch is held up, and all behind it,
    pub lags: u64,
    /// for less than this.
    pub longest_lag: Duration,
}

impl Rates {
    /// Bad weather.
    pub const STORM: Self =
        Self { lost_answers: 40, lost_requests: 40, conflicts: 40, lags: 50, longest_lag: Duration::from_millis(1500) };
}

/// Trouble for the clients that are made through it; clones share it.
#[derive(Clone)]
pub struct Faults {
    world: WorldRef,
    rates: Rates,
    on: Arc<AtomicBool>,
    /// Writes until the process dies; it is dead at zero.
    writes_left: Arc<AtomicU64>,
    dead: Arc<watch::Sender<bool>>,
}

impl Faults {
    /// Trouble at these rates, from now on.
    pub fn new(world: WorldRef, rates: Rates) -> Self {
        Self {
            world,
            rates,
            on: Arc::new(AtomicBool::new(true)),
            writes_left: Arc::new(AtomicU64::new(u64::MAX)),
            dead: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The weather clears.
    pub fn stop(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    /// After so many more writes nothing these clients ask for happens any more: their process is as good as dead.
    pub fn die_after(&self, writes: u64) {
        self.writes_left.store(writes, Ordering::Relaxed);
    }

    /// Waits for that.
    pub async fn death(&self) {
        let mut dead = self.dead.subscribe();
        // The sender lives in `self`.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// `inner`, with trouble.
    pub fn before(&self, inner: Arc<dyn Backend>) -> Arc<dyn Backend> {
        Arc::new(Troubled { inner, faults: self.clone() })
    }

    fn strikes(&self, per_mille: u64) -> bool {
        self.on.load(Ordering::Relaxed) && self.world.random() % 1000 < per_mille
    }

    /// Whether a write still happens; the last one is still carried out.
    fn outlives(&self) -> bool {
        let left = self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
            0 | u64::MAX => None,
            left => Some(left - 1),
        });
        if left == Ok(1) {
            self.dead.send_replace(true);
        }
        left != Err(0)
    }
}

struct Troubled {
    inner: Arc<dyn Backend>,
    faults: Faults,
}

fn conflict(request: &Request<Bytes>) -> Response<Body> {
    let parts: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let name = parts.last().copied().unwrap_or_default();
    let status = Status::stale(&GroupResource::new("", "objects"), name);
    let body = serde_json::to_vec(&status).unwrap_or_default();
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::CONFLICT;
    response
}

impl Backend for Troubled {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        Box::pin(async move {
            let writes = !matches!(*request.method(), Method::GET | Method::HEAD);
            if *faults.dead.borrow() || (writes && !faults.outlives()) {
                return futures::future::pending().await;
            }
            if faults.strikes(faults.rates.lost_requests) {
                return Err(ClientError::Transport("the request is lost".to_owned()));
            }
            if *request.method() == Method::PUT && faults.strikes(faults.rates.conflicts) {
                return Ok(conflict(&request));
            }
            let answer = inner.send(request).await;
            if faults.strikes(faults.rates.lost_answers) {
                return Err(ClientError::Transport("the answer is lost".to_owned()));
            }
            answer
        })
    }

    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        let faults = self.faults.clone();
        let slowly = move |event: Event| {
            let faults = faults.clone();
            async move {
                if faults.strikes(faults.rates.lags) {
                    let longest = (faults.rates.longest_lag.as_micros() as u64).max(1);
                    faults.world.sleep(Duration::from_micros(faults.world.random() % longest)).await;
                }
                event
            }
        };
        self.inner.list_watch(target).then(slowly).boxed()
    }

    fn remote(&self) -> Option<Arc<Remote>> {
        self.inner.remote()
    }
}
