//! A whole cluster in one process and one world: API server on the memory store, controllers, scheduler, hollow nodes.
//!
//! Each part acts as the user it is in a real cluster, so that every right it lacks shows (see [`Cluster::refused`]).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use skiff_client::{Client, Event, Kind, ListTarget, Selection};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;
use skiff_server::chain::{Explainer, User};
use skiff_server::pki::{Pki, PkiError};
use skiff_server::{Api, ServerConfig, ServerError};
use skiff_store::{Store, StoreError};

use crate::faults::{Faults, Rates};
use crate::ground::Ground;
use crate::hollow;
use crate::witness::Notes;

/// How large a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes, named `node-0` and on.
    pub nodes: u8,
    /// How many pods each takes.
    pub pods_per_node: u32,
    /// The longest a container takes to start or stop; how long it does take is drawn.
    pub slowest_container: Duration,
    /// What goes wrong between controllers and scheduler and their API server.
    pub faults: Rates,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, pods_per_node: 110, slowest_container: Duration::from_secs(2), faults: Rates::default() }
    }
}

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Its API server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What every cluster begins with.
    #[error("the first server: {0}")]
    Ground(String),
}

/// Lets the API server ask the scheduler of the day, as in one process.
#[derive(Default)]
struct Asker(parking_lot::Mutex<Option<skiff_scheduler::why::Asker>>);

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}

#[async_trait::async_trait]
impl Explainer for Asker {
    async fn why(&self, namespace: &str, name: &str) -> Option<serde_json::Value> {
        let asker = self.0.lock().clone()?;
        serde_json::to_value(asker.ask(namespace, name).await?).ok()
    }
}

/// A running cluster; its tasks end with it.
pub struct Cluster {
    api: Arc<Api>,
    store: Arc<dyn Store>,
    notes: Notes,
    pki: Arc<Pki>,
    world: WorldRef,
    rates: Rates,
    /// What befalls the controllers and the scheduler of today.
    faults: Faults,
    controllers: Vec<Task>,
    nodes: Vec<Task>,
    asker: Arc<Asker>,
}

/// What there is of one kind, by namespace and name.
pub type Seen<K> = BTreeMap<(String, String), Arc<K>>;

impl Cluster {
    /// Starts everything, and returns as soon as all nodes take pods and namespace `default` can have some.
    ///
    /// # Errors
    /// When the API server cannot be made.
    pub async fn start(world: WorldRef, options: &Options) -> Result<Self, StartError> {
        let ground = Ground::shared()?;
        let (store, pki) = (ground.store(world.clone()).await?, ground.pki.clone());
        let asker = Arc::new(Asker::default());
        let config = ServerConfig { explainer: Some(asker.clone()), ..ServerConfig::default() };
        let api = Api::new(config, &pki, store.clone(), world.clone()).await?;
        let (notes, rates) = (Notes::default(), options.faults);
        let faults = Faults::new(world.clone(), rates);
        let (controllers, nodes) = (Vec::new(), Vec::new());
        let world_of = world.clone();
        let mut cluster = Self { api, store, notes, pki, world: world_of, rates, faults, controllers, nodes, asker };
        cluster.start_controllers();
        for number in 0..options.nodes {
            cluster.start_node(&world, number, options);
        }
        cluster.ready(options.nodes.into()).await;
        Ok(cluster)
    }

    fn start_controllers(&mut self) {
        let client = |user: User| {
            let name = user.name.clone();
            Client::new(self.notes.watch(self.faults.before(self.api.backend(user)), &name))
        };
        let named = |name: &str| {
            client(match name {
                skiff_controllers::SHARED_INFORMERS => User::new("system:kube-controller-manager", AUTHENTICATED),
                account => service_account(account),
            })
        };
        let (certificate, key) = (self.pki.ca_pem().to_owned(), self.pki.ca_key_pem());
        let options = skiff_controllers::Options {
            root_ca: Some(certificate.clone()),
            authority: Some(skiff_controllers::SigningAuthority { certificate, key, longest: DAY }),
            ..skiff_controllers::Options::default()
        };
        let mut tasks = skiff_controllers::start(&named, self.world.clone(), options);
        let scheduler = client(User::new("system:kube-scheduler", AUTHENTICATED));
        let (asker, questions) = skiff_scheduler::why::channel();
        *self.asker.0.lock() = Some(asker);
        let options = skiff_scheduler::Options { questions: Some(questions), ..Default::default() };
        let work = skiff_scheduler::run(scheduler, self.world.clone(), options);
        tasks.push(self.world.spawn("scheduler", Box::pin(work)));
        self.controllers = tasks;
    }

    /// The trouble that controllers and scheduler are in.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Ends controllers and scheduler wherever they are, and starts others, who know nothing of them.
    pub fn restart_controllers(&mut self) {
        self.controllers.iter().for_each(Task::abort);
        self.notes.forget_waiting();
        self.faults = Faults::new(self.world.clone(), self.rates);
        self.start_controllers();
    }

    fn start_node(&mut self, world: &WorldRef, number: u8, options: &Options) {
        let name = format!("node-{number}");
        let user = User::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
        let (pods, slowest) = (options.pods_per_node, options.slowest_container);
        let work = hollow::run(self.client(user), world.clone(), hollow::Options { name, number, pods, slowest });
        self.nodes.push(world.spawn("hollow", Box::pin(work)));
    }

    async fn ready(&self, nodes: usize) {
        let takes_pods = |node: &Arc<Node>| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            taints.is_none_or(Vec::is_empty)
        };
        self.until::<Node>("", |seen| seen.values().filter(|node| takes_pods(node)).count() == nodes).await;
        let account = ("default".to_owned(), "default".to_owned());
        self.until::<ServiceAccount>("default", |seen| seen.contains_key(&account)).await;
    }

    /// Cuts off a node's power.
    pub fn kill_node(&self, number: usize) {
        self.nodes.iter().skip(number).take(1).for_each(Task::abort);
    }

    /// The API as `user`.
    pub fn client(&self, user: User) -> Client {
        let name = user.name.clone();
        Client::new(self.notes.watch(self.api.backend(user), &name))
    }

    /// The API with all rights.
    pub fn admin(&self) -> Client {
        Client::new(self.api.backend(User::new("admin", &["system:masters", "system:authenticated"])))
    }

    /// What is behind the API.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What was forbidden to parts of the cluster, or is not answered.
    pub fn refused(&self) -> Vec<String> {
        [self.notes.refused(), self.notes.waiting()].concat()
    }

    /// Looks at all objects of a kind in a namespace (empty: all) at every change, until told to stop.
    pub async fn follow<K: Kind, B>(
        &self,
        namespace: &str,
        mut look: impl FnMut(&Seen<K>) -> ControlFlow<B>,
    ) -> Option<B> {
        let resource = K::gvr();
        let target = ListTarget { resource, namespace: namespace.to_owned(), selection: Selection::default() };
        let mut events = self.admin().list_watch(target);
        let mut seen = Seen::new();
        while let Some(event) = events.next().await {
            match event {
                Event::Replace(objects) => {
                    seen.clear();
                    objects.iter().for_each(|object| put(&mut seen, object));
                }
                Event::Apply(object) => put(&mut seen, &object),
                Event::Delete(object) => drop(seen.remove(&key(&object))),
            }
            if let ControlFlow::Break(result) = look(&seen) {
                return Some(result);
            }
        }
        None
    }

    /// Waits until what is there of a kind suits.
    pub async fn until<K: Kind>(&self, namespace: &str, mut suits: impl FnMut(&Seen<K>) -> bool) {
        let look = |seen: &Seen<K>| if suits(seen) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        self.follow(namespace, look).await;
    }
}

const AUTHENTICATED: &[&str] = &["system:authenticated"];
const DAY: Duration = Duration::from_secs(86_400);

fn service_account(name: &str) -> User {
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    User::new(format!("system:serviceaccount:kube-system:{name}"), &groups)
}

fn key(object: &skiff_meta::Object) -> (String, String) {
    (object.meta().namespace.to_string(), object.meta().name.to_string())
}

fn put<K: Kind>(seen: &mut Seen<K>, object: &skiff_meta::Object) {
    match object.typed::<K>() {
        Ok(typed) => drop(seen.insert(key(object), typed)),
        Err(error) => panic!("the server sent what is no {}: {error}", K::KIND),
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controllers.iter().chain(&self.nodes).for_each(Task::abort);
    }
}
