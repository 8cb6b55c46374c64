//! Leader election over a Lease: of several copies of a component one is active.
//!
//! The protocol is upstream's (`client-go/tools/leaderelection`), so that copies of both can take turns: a candidate
//! takes a lease that is free or whose renewal it has not seen change for the lease's duration, by its own clock; the
//! leader renews every 2 s and steps down when it could not for 10 s. Safety comes from the compare-and-swap on the
//! Lease, not from clocks agreeing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use skiff_meta::WorldRef;
use skiff_meta::world::{AbortOnDrop, Task, WorldExt};

use crate::api::Api;
use crate::backend::ClientError;
use crate::client::Client;

/// One candidate.
pub struct Candidate {
    /// Speaks for us.
    pub client: Client,
    /// Clock and tasks.
    pub world: WorldRef,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are; unique among the candidates.
    pub identity: String,
    /// For how long a lease is good.
    pub lease_duration: Duration,
    /// After how long without renewal we step down.
    pub renew_deadline: Duration,
    /// How often to renew, and to look whether the lease is free.
    pub retry_period: Duration,
}

/// What a candidate has seen of the lease: the renewal, and when by its own clock.
#[derive(Clone, Debug, Default, PartialEq)]
struct Observed {
    record: Option<LeaseSpec>,
    at: Duration,
}

/// What to do with a lease.
#[derive(Clone, Debug, PartialEq)]
enum Move {
    /// Somebody else holds it.
    Wait,
    /// Write this.
    Take(LeaseSpec),
}

impl Candidate {
    /// A candidate with upstream's times: 15 s, 10 s, 2 s.
    pub fn new(client: Client, world: WorldRef, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            client,
            world,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// Waits for leadership, starts the work, and returns once leadership is lost, with the work aborted.
    pub async fn lead(&self, start: impl FnOnce() -> Vec<Task> + Send) {
        let mut observed = Observed::default();
        while !self.try_once(&mut observed).await {
            self.pause().await;
        }
        tracing::info!(lease = %self.name, identity = %self.identity, "became leader");
        let work: Vec<AbortOnDrop> = start().into_iter().map(AbortOnDrop).collect();
        let mut renewed = self.world.elapsed();
        loop {
            self.world.sleep(self.retry_period).await;
            let left = (renewed + self.renew_deadline).saturating_sub(self.world.elapsed());
            let attempt = self.world.timeout(left, self.try_once(&mut observed)).await;
            if attempt == Some(true) {
                renewed = self.world.elapsed();
            } else if self.world.elapsed() >= renewed + self.renew_deadline {
                break;
            }
        }
        tracing::error!(lease = %self.name, identity = %self.identity, "lost leadership");
        drop(work);
    }

    /// Gives the lease up, so that the next leader need not wait for its end.
    ///
    /// # Errors
    /// When the server refuses or is not reached; the lease then ends by itself.
    pub async fn release(&self) -> Result<(), ClientError> {
        let api = self.api();
        let Some(mut lease) = api.get_opt(&self.name).await? else { return Ok(()) };
        match lease.spec.as_mut() {
            Some(spec) if spec.holder_identity.as_deref() == Some(&self.identity) => {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
            }
            _ => return Ok(()),
        }
        api.update(&lease).await.map(drop)
    }

    fn api(&self) -> Api<Lease> {
        self.client.namespaced(&self.namespace)
    }

    /// The retry period with up to a fifth more, so that candidates do not march in step.
    async fn pause(&self) {
        let jitter = self.retry_period.mul_f64((self.world.random() % 1000) as f64 / 5000.0);
        self.world.sleep(self.retry_period + jitter).await;
    }

    async fn try_once(&self, observed: &mut Observed) -> bool {
        match self.acquire(observed).await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(lease = %self.name, "lease not written: {error}");
                false
            }
        }
    }

    async fn acquire(&self, observed: &mut Observed) -> Result<bool, ClientError> {
        let api = self.api();
        let Some(mut lease) = api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            };
            let spec = Some(self.record(None, self.world.now()));
            api.create(&Lease { metadata, spec }).await?;
            return Ok(true);
        };
        let elapsed = self.world.elapsed();
        if observed.record != lease.spec {
            *observed = Observed { record: lease.spec.clone(), at: elapsed };
        }
        let next = self.decide(lease.spec.as_ref(), elapsed.saturating_sub(observed.at), self.world.now());
        let Move::Take(spec) = next else { return Ok(false) };
        lease.spec = Some(spec);
        let written = api.update(&lease).await?;
        *observed = Observed { record: written.spec, at: elapsed };
        Ok(true)
    }

    /// Pure: whether the lease, unchanged for `unchanged`, may be taken.
    fn decide(&self, spec: Option<&LeaseSpec>, unchanged: Duration, now: Timestamp) -> Move {
        let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() && unchanged < self.lease_duration {
            return Move::Wait;
        }
        Move::Take(self.record(spec, now))
    }

    fn record(&self, before: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let holder = before.and_then(|s| s.holder_identity.as_deref());
        let ours = holder == Some(&*self.identity);
        let transitions = before.and_then(|s| s.lease_transitions).unwrap_or(0);
        let acquired = before.and_then(|s| s.acquire_time.clone()).filter(|_| ours);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.lease_duration.as_secs()).ok(),
            acquire_time: acquired.or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if ours || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Body, Event, ListTarget};
    use skiff_meta::world::RealWorld;
    use std::sync::Arc;

    struct Nowhere;
    impl Backend for Nowhere {
        fn send(
            &self,
            _: http::Request<bytes::Bytes>,
        ) -> futures::future::BoxFuture<'static, Result<http::Response<Body>, ClientError>> {
            Box::pin(async { Err(ClientError::Transport("nowhere".into())) })
        }
        fn list_watch(&self, _: ListTarget) -> futures::stream::BoxStream<'static, Event> {
            Box::pin(futures::stream::pending())
        }
        fn remote(&self) -> Option<Arc<crate::config::Remote>> {
            None
        }
    }

    #[test]
    fn who_may_take_the_lease() {
        let us = Candidate::new(Client::new(Arc::new(Nowhere)), RealWorld::shared(), "ns", "lease", "us");
        let now = Timestamp::from_second(1_000).unwrap();
        let held = |by: &str| LeaseSpec {
            holder_identity: Some(by.to_owned()),
            lease_transitions: Some(4),
            acquire_time: Some(MicroTime(Timestamp::from_second(1).unwrap())),
            ..LeaseSpec::default()
        };
        let (fresh, stale) = (Duration::from_secs(14), Duration::from_secs(15));
        let outcome = |spec: Option<&LeaseSpec>, unchanged| match us.decide(spec, unchanged, now) {
            Move::Wait => None,
            Move::Take(spec) => Some((spec.lease_transitions.unwrap(), spec.acquire_time.unwrap().0.as_second())),
        };
        let table = [
            ("none yet", None, fresh, Some((0, 1_000))),
            ("theirs", Some(held("them")), fresh, None),
            ("theirs, expired", Some(held("them")), stale, Some((5, 1_000))),
            ("given up", Some(held("")), fresh, Some((5, 1_000))),
            ("ours", Some(held("us")), fresh, Some((4, 1))),
        ];
        for (name, spec, unchanged, expected) in table {
            assert_eq!(outcome(spec.as_ref(), unchanged), expected, "{name}");
        }
    }
}
