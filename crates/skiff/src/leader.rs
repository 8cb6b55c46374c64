//! Components of which only one may be at work, whatever the number of servers.
//!
//! A server that has its store for itself starts them at once. Servers on a shared store take turns by Leases with
//! upstream's names, so that upstream's components may be among the candidates; each goes on trying after it has lost.

use std::sync::Arc;

use skiff_client::Client;
use skiff_client::leader::Candidate;
use skiff_meta::WorldRef;
use skiff_meta::world::{Task, WorldExt};

use crate::place::host_name;

/// Components that run now or take turns.
pub(crate) struct Turns {
    shared: bool,
    world: WorldRef,
    identity: String,
    tasks: Vec<Task>,
    candidates: Vec<Arc<Candidate>>,
}

impl Turns {
    /// `shared`: there may be other servers.
    pub(crate) fn new(shared: bool, world: &WorldRef) -> Self {
        let identity = format!("{}_{}", host_name(), world.uuid());
        Self { shared, world: world.clone(), identity, tasks: Vec::new(), candidates: Vec::new() }
    }

    /// Starts a component, now or whenever this server leads. `client` writes the Lease `name`.
    pub(crate) fn take(&mut self, name: &str, client: Client, start: impl Fn() -> Vec<Task> + Send + Sync + 'static) {
        if !self.shared {
            self.tasks.extend(start());
            return;
        }
        let candidate = Candidate::new(client, self.world.clone(), "kube-system", name, &self.identity);
        let candidate = Arc::new(candidate);
        self.candidates.push(candidate.clone());
        let work = async move {
            loop {
                candidate.lead(&start).await;
            }
        };
        self.tasks.push(self.world.spawn("leader-election", Box::pin(work)));
    }

    /// Stops everything and lets others lead at once.
    pub(crate) async fn end(self) {
        self.tasks.iter().for_each(Task::abort);
        for candidate in &self.candidates {
            if let Err(error) = candidate.release().await {
                tracing::warn!(lease = %candidate.name, "leadership ends by itself, as the Lease was not written: {error}");
            }
        }
    }
}
