//! `skiff server`: the whole cluster, wired on one page.
//!
//! From the store upwards: store, certificates, API, then everything that is a client of the API, each with its own
//! user. At the end in the opposite order; containers are left running unless the cluster is ephemeral.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skiff_client::config::Kubeconfig;
use skiff_client::http::HttpBackend;
use skiff_client::{Backend, Client};
use skiff_meta::WorldRef;
use skiff_meta::quantity::Quantity;
use skiff_meta::world::Task;
use skiff_node::os::code;
use skiff_server::chain::{Explainer, User};
use skiff_server::pki::{AccountKey, Pki, ServingNames, write_if_changed};
use skiff_server::{Server, ServerConfig};
use skiff_store::{EmbeddedStore, Engine, EtcdConfig, EtcdStore, HistoryLimits, MemoryStore, Store, StoreError};

use crate::error::StartError;
use crate::flags::{self, Part};
use crate::join::{self, ClusterFacts};
use crate::leader::Turns;
use crate::node::{self, Identity, Node, NodeClients};
use crate::place::{DataDir, host_name, own_address};
use crate::ranges;

/// Runs until told to stop.
pub(crate) async fn run(flags: &flags::Server, world: WorldRef) -> Result<(), StartError> {
    let config = ServerConfig { encryption: flags.api.keyring(&world)?, ..config(flags, &world)? };
    let scheduler_config = scheduler_config("scheduler-config", flags.scheduler_config.as_deref(), &world)?;
    if flags.node.runs(Part::Agent) {
        node::fit(&flags.node)?;
        ranges::parse("cluster-cidr", &flags.cluster_cidr)?;
    }
    let listener = Server::bind(config.bind)?;
    let place = Place::of(flags, config)?;
    let (store, face) = store(flags, &place, &world).await?;
    let pki = Pki::open(&place.data.join("pki"), world.now())?;
    let (asker, questions) = skiff_scheduler::why::channel();
    // Where servers take turns, the scheduler may be at work in another one.
    let has_scheduler = flags.node.runs(Part::Scheduler) && !place.config.shared_store;
    let explainer = has_scheduler.then(|| Arc::new(Scheduler(asker)) as Arc<dyn Explainer>);
    let config = ServerConfig { explainer, ..place.config.clone() };
    let server = Server::start(listener, config, &pki, store.clone(), world.clone()).await?;
    write_kubeconfigs(flags, &place, &pki, &server, &world)?;
    tracing::info!(address = %server.address(), data = %place.data.path().display(), "API server is ready");

    let api = server.api().clone();
    let make = move |user: User| Client::new(api.backend(user));
    let mut turns = Turns::new(place.config.shared_store, &world);
    if flags.node.runs(Part::ControllerManager) {
        let (make, options, world) = (make.clone(), controller_options(flags, &place, &pki)?, world.clone());
        let client = make(User::new(CONTROLLER_MANAGER, AUTHENTICATED));
        turns.take("kube-controller-manager", client, move || controllers(&make, options.clone(), &world));
    }
    if flags.node.runs(Part::Scheduler) {
        let client = make(User::new("system:kube-scheduler", AUTHENTICATED)).with_manager("kube-scheduler");
        let options =
            skiff_scheduler::Options { config: scheduler_config, questions: Some(questions), ..Default::default() };
        let (own, world, first, file) =
            (client.clone(), world.clone(), Mutex::new(Some(options)), flags.scheduler_config.clone());
        turns.take("kube-scheduler", client, move || {
            let options =
                first.lock().ok().and_then(|mut first| first.take()).unwrap_or_else(|| another_turn(&file, &world));
            vec![scheduler(own.clone(), options, &world)]
        });
    }

    let facts = ClusterFacts::of(flags);
    let url = format!("https://{}", SocketAddr::new(place.config.advertise, server.address().port()));
    let publisher = make(User::new("skiff", MASTERS)).with_manager("skiff");
    let publishing = join::publish(publisher, &facts, url, pki.ca_pem().to_owned(), &world);

    let node = match flags.node.runs(Part::Agent) {
        true => Some(Node::start(&flags.node, identity(&place, &pki, facts, &make, &world)?, &world).await?),
        false => None,
    };

    let settling = world.spawn("settling", Box::pin(code::give_back_when_quiet(world.clone())));
    let ended = tokio::select! {
        ended = stopped(node.as_ref()) => ended,
        never = renew_certificates(flags, &place, &pki, &server, &world) => match never {},
    };
    tracing::info!("stopping");
    settling.abort();
    drop(face);
    publishing.abort();
    turns.end().await;
    if let Some(node) = node {
        node.stop(flags.ephemeral).await;
    }
    server.shutdown().await;
    store.close().await?;
    ended
}

const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// How often certificates are looked at: seldom would do, but for machines whose clock jumps after the start.
const RENEWAL: Duration = Duration::from_secs(600);
const AUTHENTICATED: &[&str] = &["system:authenticated"];
const MASTERS: &[&str] = &["system:masters", "system:authenticated"];

/// Renews the certificates that end soon, and kubeconfig files with them.
async fn renew_certificates(
    flags: &flags::Server,
    place: &Place,
    pki: &Pki,
    server: &Server,
    world: &WorldRef,
) -> std::convert::Infallible {
    loop {
        world.sleep(RENEWAL).await;
        let renewed = pki.renew(world.now()).map_err(StartError::from);
        if let Err(error) = renewed.and_then(|()| write_kubeconfigs(flags, place, pki, server, world)) {
            tracing::warn!("certificates are not renewed yet: {error}");
        }
    }
}

/// Who this server's own node is.
fn identity(
    place: &Place,
    pki: &Pki,
    cluster: ClusterFacts,
    make: &dyn Fn(User) -> Client,
    world: &WorldRef,
) -> Result<Identity, StartError> {
    let addresses = place.addresses.clone();
    let own = addresses.iter().map(IpAddr::to_string);
    let names = ServingNames::of(own.chain([place.node.clone(), host_name()]));
    let user = User::new(format!("system:node:{}", place.node), &["system:nodes", "system:authenticated"]);
    Ok(Identity {
        data: place.data.path().to_path_buf(),
        name: place.node.clone(),
        addresses,
        serving: pki.node_identity(&names, world.now())?,
        authority: pki.ca_pem().to_owned(),
        clients: NodeClients {
            node: make(user),
            proxy: make(User::new("system:kube-proxy", AUTHENTICATED)),
            policy: make(service_account("network-policy")),
            dns: make(service_account("kube-dns")),
        },
        cluster,
    })
}

/// What is fixed before anything starts: directories, names, addresses.
struct Place {
    data: DataDir,
    /// The node's name.
    node: String,
    /// Its addresses.
    addresses: Vec<IpAddr>,
    config: ServerConfig,
}

impl Place {
    fn of(flags: &flags::Server, config: ServerConfig) -> Result<Self, StartError> {
        let chosen = flags.node.data_dir != Path::new(flags::DATA_DIR);
        let data = DataDir::open(&flags.node.data_dir, flags.ephemeral, chosen)?;
        let node = flags.node.node_name.clone().unwrap_or_else(host_name);
        let config = ServerConfig { data_dir: Some(data.path().to_path_buf()), ..config };
        let addresses = ranges::node_ips(&flags.node.node_ip, || config.advertise)?;
        Ok(Self { data, node, addresses, config })
    }
}

fn config(flags: &flags::Server, world: &WorldRef) -> Result<ServerConfig, StartError> {
    let wrong = |flag, value: &str, why: &str| StartError::Flag { flag, value: value.to_owned(), why: why.to_owned() };
    let service_cidrs = ranges::services(&flags.service_cidr)?;
    let range = &flags.service_node_port_range;
    let node_ports = range
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| wrong("service-node-port-range", range, "is no range of ports, such as 30000-32767"))?;
    let loopback = flags.node.bind_address.is_loopback();
    let advertise = flags
        .node
        .node_ip
        .first()
        .copied()
        .unwrap_or_else(|| if loopback { flags.node.bind_address } else { own_address() });
    if service_cidrs.first().is_some_and(|range| range.addr().is_ipv4() != advertise.is_ipv4()) {
        let why = format!("the first range is not of the family of {advertise}, where the API is; name it second");
        return Err(wrong("service-cidr", &flags.service_cidr, &why));
    }
    let mut config = ServerConfig {
        bind: SocketAddr::new(flags.node.bind_address, flags.secure_port),
        advertise,
        host: host_name(),
        tls_sans: flags.tls_san.iter().cloned().chain([host_name()]).collect(),
        service_cidrs,
        node_ports,
        shared_store: !flags.datastore_endpoint.is_empty(),
        cluster_domain: flags.cluster_domain.clone(),
        admin_token: flags.token.clone(),
        ..ServerConfig::default()
    };
    flags.api.apply(&mut config, world)?;
    Ok(config)
}

/// The store, and its face where asked for.
async fn store(
    flags: &flags::Server,
    place: &Place,
    world: &WorldRef,
) -> Result<(Arc<dyn Store>, Option<Face>), StartError> {
    if !flags.datastore_endpoint.is_empty() {
        return Ok((Arc::new(EtcdStore::connect(&etcd(flags)?, world.clone()).await?), None));
    }
    if flags.ephemeral {
        let store = Arc::new(MemoryStore::new(world.clone()));
        let face = Face::start(flags, store.clone(), world).await?;
        return Ok((store, face));
    }
    let options = skiff_store::Options { history: history(flags)?, ..Default::default() };
    let store = Arc::new(open(&place.data.join("store"), options, world).await?);
    let face = Face::start(flags, store.clone(), world).await?;
    Ok((store, face))
}

/// Whoever was killed a moment ago may still have its directory: a child of it holds on until it has become another
/// program.
async fn open(path: &Path, options: skiff_store::Options, world: &WorldRef) -> Result<EmbeddedStore, StoreError> {
    let patience = world.elapsed() + Duration::from_secs(1);
    loop {
        match EmbeddedStore::open(path, world.clone(), options) {
            Err(StoreError::InUse(_)) if world.elapsed() < patience => world.sleep(Duration::from_millis(20)).await,
            opened => return opened,
        }
    }
}

/// etcd's face while it is open.
struct Face {
    /// Dropped, it ends the face.
    _open: tokio::sync::oneshot::Sender<()>,
    _task: Task,
}

impl Face {
    async fn start<M: 'static>(
        flags: &flags::Server,
        store: Arc<Engine<M>>,
        world: &WorldRef,
    ) -> Result<Option<Self>, StartError> {
        let Some(address) = flags.etcd_listen else { return Ok(None) };
        let wrong = |why: String| StartError::Flag { flag: "etcd-listen", value: address.to_string(), why };
        if !address.ip().is_loopback() {
            let why = "is no loopback address, and whoever reached it could read and write everything";
            return Err(wrong(why.to_owned()));
        }
        let listener =
            tokio::net::TcpListener::bind(address).await.map_err(|e| wrong(format!("cannot listen: {e}")))?;
        let (open, closed) = tokio::sync::oneshot::channel::<()>();
        let stop = async move { drop(closed.await) };
        let serve = async move {
            if let Err(error) = skiff_store::face::serve(store, listener, stop).await {
                tracing::error!("the etcd face has ended: {error}");
            }
        };
        Ok(Some(Self { _open: open, _task: world.spawn("etcd-face", Box::pin(serve)) }))
    }
}

/// How much of the past to keep on disk.
fn history(flags: &flags::Server) -> Result<HistoryLimits, StartError> {
    let wrong = |flag, value: &str, why: &str| StartError::Flag { flag, value: value.to_owned(), why: why.to_owned() };
    let time = skiff_meta::duration::parse(&flags.history)
        .ok_or_else(|| wrong("history", &flags.history, "is no length of time, such as 90m, 1h or 2d"))?;
    let bytes = flags.history_size.parse::<Quantity>().ok().and_then(|size| u64::try_from(size.value()).ok());
    let bytes = bytes.ok_or_else(|| wrong("history-size", &flags.history_size, "is no size, such as 256Mi"))?;
    Ok(if time.is_zero() { HistoryLimits::NONE } else { HistoryLimits { time, bytes } })
}

fn etcd(flags: &flags::Server) -> Result<EtcdConfig, StartError> {
    let read = |path: &Option<PathBuf>| {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|e| StartError::Io(path.display().to_string(), e));
        path.as_ref().map(read).transpose()
    };
    let mut config = EtcdConfig::new(&flags.datastore_endpoint);
    config.ca = read(&flags.datastore_cafile)?;
    config.identity = read(&flags.datastore_certfile)?.zip(read(&flags.datastore_keyfile)?);
    Ok(config)
}

fn write_kubeconfigs(
    flags: &flags::Server,
    place: &Place,
    pki: &Pki,
    server: &Server,
    world: &WorldRef,
) -> Result<(), StartError> {
    let host = if flags.node.bind_address.is_unspecified() {
        "127.0.0.1".to_owned()
    } else {
        flags.node.bind_address.to_string()
    };
    let url = format!("https://{host}:{}", server.address().port());
    pki.write_kubeconfigs(place.data.path(), &url, &place.node, world.now())?;
    if let Some(path) = &flags.write_kubeconfig {
        let admin = place.data.join("admin.kubeconfig");
        let text = std::fs::read_to_string(&admin).map_err(|e| StartError::Io(admin.display().to_string(), e))?;
        write_if_changed(path, &text)?;
    }
    Ok(())
}

fn controller_options(
    flags: &flags::Server,
    place: &Place,
    pki: &Pki,
) -> Result<skiff_controllers::Options, StartError> {
    let (v4, v6) = (flags.node_cidr_mask_size_ipv4, flags.node_cidr_mask_size_ipv6);
    let lasting = &flags.cluster_signing_duration;
    let longest =
        skiff_meta::duration::parse(lasting).filter(|time| !time.is_zero()).ok_or_else(|| StartError::Flag {
            flag: "cluster-signing-duration",
            value: lasting.clone(),
            why: "is no length of time, such as 720h".to_owned(),
        })?;
    Ok(skiff_controllers::Options {
        root_ca: Some(pki.ca_pem().to_owned()),
        authority: Some(skiff_controllers::SigningAuthority {
            certificate: pki.ca_pem().to_owned(),
            key: pki.ca_key_pem(),
            longest,
        }),
        token_signer: Some(Arc::new(AccountSigner(pki.account_key()))),
        cluster_cidrs: ranges::pods(&flags.cluster_cidr, v4, v6)?,
        service_cidrs: place.config.service_cidrs.clone(),
        balance: flags.node.runs(Part::ServiceLb),
        balance_pool: ranges::pool(&flags.load_balancer_pool)?,
        control_plane_node: if flags.node.runs(Part::Agent) { place.node.clone() } else { String::new() },
    })
}

/// Signs what Secrets of service accounts hold.
struct AccountSigner(Arc<AccountKey>);

impl std::fmt::Debug for AccountSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountSigner")
    }
}

impl skiff_controllers::TokenSigner for AccountSigner {
    fn sign(&self, claims: &serde_json::Value) -> Option<String> {
        self.0.sign(claims).ok()
    }
}

/// Each controller acts as the service account that upstream gives it.
fn controllers(make: &dyn Fn(User) -> Client, options: skiff_controllers::Options, world: &WorldRef) -> Vec<Task> {
    let client = |name: &str| {
        make(match name {
            skiff_controllers::SHARED_INFORMERS => User::new(CONTROLLER_MANAGER, AUTHENTICATED),
            account => service_account(account),
        })
        .with_manager("kube-controller-manager")
    };
    skiff_controllers::start(&client, world.clone(), options)
}

fn service_account(name: &str) -> User {
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    User::new(format!("system:serviceaccount:kube-system:{name}"), &groups)
}

fn scheduler(client: Client, options: skiff_scheduler::Options, world: &WorldRef) -> Task {
    world.spawn("scheduler", Box::pin(skiff_scheduler::run(client, world.clone(), options)))
}

/// What a scheduler is told that begins after an earlier one has lost its leadership.
fn another_turn(file: &Option<PathBuf>, world: &WorldRef) -> skiff_scheduler::Options {
    let config = scheduler_config("scheduler-config", file.as_deref(), world).unwrap_or_else(|error| {
        tracing::error!("the scheduler goes on with its defaults: {error}");
        skiff_scheduler::Config::default()
    });
    skiff_scheduler::Options { config, ..Default::default() }
}

fn scheduler_config(
    flag: &'static str,
    path: Option<&Path>,
    world: &WorldRef,
) -> Result<skiff_scheduler::Config, StartError> {
    let Some(path) = path else { return Ok(skiff_scheduler::Config::default()) };
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| StartError::Io(shown.clone(), e))?;
    let read = skiff_scheduler::Config::read(&text, world);
    read.map_err(|source| StartError::SchedulerConfig { flag, path: shown, source })
}

/// Lets the API server ask the scheduler of the same process.
#[derive(Clone)]
struct Scheduler(skiff_scheduler::why::Asker);

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scheduler")
    }
}

#[async_trait::async_trait]
impl Explainer for Scheduler {
    async fn why(&self, namespace: &str, name: &str) -> Option<serde_json::Value> {
        serde_json::to_value(self.0.ask(namespace, name).await?).ok()
    }
}

fn remote(kubeconfig: &Path, agent: &str, world: &WorldRef) -> Result<Client, StartError> {
    let remote = Kubeconfig::load(kubeconfig)?.remote(None)?;
    let backend: Arc<dyn Backend> = Arc::new(HttpBackend::new(remote, world.clone(), agent)?);
    Ok(Client::new(backend))
}

/// `skiff controller-manager`: against any Kubernetes API.
pub(crate) async fn controllers_alone(kubeconfig: &Path, world: WorldRef) -> Result<(), StartError> {
    let client = remote(kubeconfig, "kube-controller-manager", &world)?;
    let tasks = skiff_controllers::start(&|_| client.clone(), world, skiff_controllers::Options::default());
    stopped(None).await?;
    tasks.iter().for_each(Task::abort);
    Ok(())
}

/// `skiff scheduler`: against any Kubernetes API.
pub(crate) async fn scheduler_alone(flags: &flags::SchedulerAlone, world: WorldRef) -> Result<(), StartError> {
    let config = scheduler_config("config", flags.config.as_deref(), &world)?;
    let options = skiff_scheduler::Options { config, ..Default::default() };
    let task = scheduler(remote(&flags.component.kubeconfig, "kube-scheduler", &world)?, options, &world);
    stopped(None).await?;
    task.abort();
    Ok(())
}

/// `skiff cleanup`.
pub(crate) async fn cleanup(data: &Path, purge: bool, world: WorldRef) -> Result<(), StartError> {
    node::cleanup(data, world).await;
    if purge && data.exists() {
        node::purge(data).map_err(|e| StartError::DataDir(data.display().to_string(), e))?;
    }
    Ok(())
}

/// Returns when the process is asked to end, or with the reason why it must.
pub(crate) async fn stopped(node: Option<&Node>) -> Result<(), StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e| StartError::Io("signals cannot be received".to_owned(), e);
    let (mut term, mut int) =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
    let fault = async {
        match node {
            Some(node) => node.failed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        error = fault => Err(error),
    }
}
