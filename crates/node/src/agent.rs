//! The agent as a whole: what runs, and in which order it begins.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod, Service};
use skiff_client::{Change, Client, Informers, Recorder, Selection};
use skiff_cri::v1::ContainerFilter;
use skiff_cri::{Runtime, RuntimeError};
use skiff_meta::WorldRef;
use skiff_meta::world::AbortOnDrop;
use tokio::sync::Notify;

use crate::abilities::Abilities;
use crate::archives;
use crate::config::{NodeConfig, NodeError};
use crate::csi::Drivers;
use crate::devices::{self, Devices};
use crate::dra::Claims;
use crate::images::Images;
use crate::log_rotation;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::node_status::{self, Heartbeat};
use crate::os::{Limits, MachineFacts};
use crate::pinning::{self, Pinning};
use crate::plugins;
use crate::pod::admission::Admitted;
use crate::pod::mailbox::Registry;
use crate::pod::manager::Manager;
use crate::pressure::{self, Pressure};
use crate::references::References;
use crate::server;
use crate::shutdown::{self, Shutdown};
use crate::static_pods::{self, Statics};
use crate::stats::{self, Disks, Rates};
use crate::status_writer::StatusWriter;
use crate::timed::Timed;
use crate::user_namespaces::Ranges;
use crate::volumes::{self, LocalDisks};

/// How often containers are listed where the runtime tells nothing by itself, and where it does (to be on the safe side).
const RELIST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Pauses while the runtime does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// Runs a node's pods until `shutdown` completes, and leaves them running then.
///
/// `client` speaks as the node (`system:node:NAME`), `runtime` runs the containers.
///
/// # Errors
/// When the agent cannot begin: its port is taken, its directories cannot be made, or the runtime cannot be used.
pub async fn run(
    config: NodeConfig,
    client: Client,
    runtime: Arc<dyn Runtime>,
    world: WorldRef,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), NodeError> {
    let facts = config.os.machine.facts();
    prepare(&config, &facts)?;
    let listener = config.server.as_ref().map(server::Listener::bind).transpose()?;
    let (metrics, statics): (Arc<Metrics>, Arc<Statics>) = (Arc::default(), Arc::default());
    let timed = Timed { inner: runtime, metrics: metrics.clone(), world: world.clone() };
    let runtime: Arc<dyn Runtime> = Arc::new(timed);
    let version = runtime.version().await?;
    let abilities = Abilities::default();
    abilities.tell(&runtime.status().await?);
    let client = client.with_manager("kubelet");
    let informers = Informers::new(client.clone(), world.clone());
    let fields = format!("spec.nodeName={}", config.name);
    let pods = informers.select::<Pod>("", Selection { fields, ..Selection::default() });
    let named = Selection { fields: format!("metadata.name={}", config.name), ..Selection::default() };
    let node = Arc::new(Node {
        recorder: Recorder::new(client.clone(), world.clone(), "kubelet", &config.name),
        allocatable: node_status::amounts(&node_status::allocatable(&facts, &config.settings)),
        services: informers.all::<Service>(),
        pods: pods.clone(),
        own: informers.select::<ApiNode>("", named),
        admitted: Admitted::default(),
        rates: Rates::default(),
        disks: Disks::default(),
        local_disks: LocalDisks::default(),
        pressure: Pressure::default(),
        shutdown: Shutdown::default(),
        started: world.now(),
        references: References::new(client.clone(), world.clone()),
        writer: StatusWriter::new(client.clone(), world.clone(), metrics.clone(), statics.clone()),
        metrics,
        statics,
        images: Images::default(),
        registry: Registry::default(),
        abilities,
        ranges: Ranges::found(&*config.os.files, &config.directory.join("pods")),
        claims: Claims::found(&*config.os.files, &config.directory),
        allocating: tokio::sync::Mutex::default(),
        devices: Devices::found(&*config.os.files, &config.directory.join(devices::plugins::DIRECTORY)),
        pinning: Pinning::found(
            &*config.os.files,
            &config.directory,
            facts.topology.clone(),
            config.settings.pinning.clone(),
        ),
        drivers: Drivers::found(&*config.os.files, &config.directory.join("pods")),
        heartbeat: Notify::new(),
        facts,
        runtime_name: version.runtime_name,
        runtime_version: version.runtime_version,
        runtime,
        world: world.clone(),
        client,
        config,
    });
    let manager = Manager::new(node.clone());
    static_pods::begin(&node, &manager);
    follow_attachments(&node, &manager);
    let port = listener.as_ref().map_or(0, server::Listener::port);
    let spawn = |name, task| AbortOnDrop(world.spawn(name, task));
    let mut tasks = vec![
        spawn("heartbeat", Box::pin(Heartbeat::new(node.clone(), port).run())),
        spawn("runtime events", Box::pin(follow_runtime(node.clone()))),
        spawn("static pods", Box::pin(static_pods::run(node.clone(), manager.clone()))),
        spawn("pinning", Box::pin(pinning::run(node.clone()))),
        spawn("shutdown", Box::pin(shutdown::run(node.clone(), manager.clone()))),
        spawn("images", Box::pin(archives::follow(node.clone(), manager.clone()))),
    ];
    if listener.is_some() {
        // A node that shows nothing keeps no logs and no measurements.
        tasks.push(spawn("stats", Box::pin(stats::run(node.clone()))));
        tasks.push(spawn("log rotation", Box::pin(log_rotation::run(node.clone(), manager.clone()))));
    }
    if node.config.watches_pressure {
        tasks.push(spawn("pressure", Box::pin(pressure::run(node.clone(), manager.clone()))));
    }
    if node.config.takes_plugins {
        tasks.push(spawn("device plugins", Box::pin(devices::plugins::run(node.clone()))));
        tasks.push(spawn("plugins", Box::pin(plugins::run(node.clone(), manager.clone()))));
    }
    if let Some(listener) = listener {
        tasks.push(spawn("node server", Box::pin(listener.serve(node.clone(), manager.clone()))));
    }
    manager.follow(&pods);
    let adopt = async {
        pods.synced().wait().await;
        while let Err(error) = manager.adopt_orphans().await {
            tracing::warn!("pods left over in the runtime are not known yet: {error}");
            world.sleep(RETRY).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = adopt => {}
        () = shutdown => {}
    }
    tracing::info!(pods = manager.count(), "the node agent stops; its pods run on");
    Ok(())
}

/// Whoever waits for a volume looks again when the control plane has attached some.
fn follow_attachments(node: &Node, manager: &Arc<Manager>) {
    let manager = Arc::downgrade(manager);
    node.own.on(move |change: &Change<'_, ApiNode>| {
        let volumes = |node: &Arc<ApiNode>| {
            let status = node.status.as_ref()?;
            Some((status.volumes_attached.clone(), status.volumes_in_use.clone()))
        };
        if change.old.and_then(volumes) != change.new.and_then(volumes)
            && let Some(manager) = manager.upgrade()
        {
            manager.retry_all();
        }
    });
}

fn prepare(config: &NodeConfig, facts: &MachineFacts) -> Result<(), NodeError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| NodeError::Io { what, source }
    };
    let (files, mounts) = (&*config.os.files, &*config.os.mounts);
    let directory =
        |path: &PathBuf| files.make_directory(path, 0o755).map_err(failed(&format!("cannot make {}", path.display())));
    directory(&config.directory)?;
    directory(&config.directory.join("pods"))?;
    directory(&config.log_directory)?;
    directory(&config.directory.join(plugins::REGISTRY))?;
    config.image_directory.iter().chain(&config.static_pod_directory).try_for_each(directory)?;
    volumes::mount_memory(files, mounts, &config.directory.join("memory"))
        .map_err(failed("cannot mount memory for secrets"))?;
    let least = Limits { cpu_shares: 2, ..Limits::default() };
    for (class, limits) in
        [("", node_status::limits(facts, &config.settings)), ("besteffort", least), ("burstable", least)]
    {
        config.os.cgroups.set(class, limits).map_err(failed("cannot make the cgroups of pods"))?;
    }
    Ok(())
}

/// Passes on what the runtime tells, for ever; lists now and then what it might not have told.
async fn follow_runtime(node: Arc<Node>) {
    let mut relist = Relist::default();
    loop {
        let mut pause = RELIST.1;
        match node.runtime.events().await {
            Ok(mut events) => {
                // Whatever happened before the subscription is found by looking.
                node.registry.wake_all();
                while let Some(event) = next(&node, &mut events, &mut relist).await {
                    node.registry.ended(&event);
                }
                pause = RETRY;
            }
            Err(RuntimeError::Unsupported(_)) => pause = RELIST.0,
            Err(error) => {
                tracing::warn!("the runtime's events cannot be followed: {error}");
                pause = pause.min(RETRY);
            }
        }
        node.world.sleep(pause).await;
        relist.look(&node).await;
    }
}

/// The next event's id; `None` when the stream has broken.
async fn next(node: &Node, events: &mut skiff_cri::EventStream, relist: &mut Relist) -> Option<String> {
    loop {
        tokio::select! {
            event = events.next() => match event? {
                Ok(event) => return Some(event.id),
                Err(RuntimeError::Unsupported(_)) => {
                    node.world.sleep(RELIST.0).await;
                    return None;
                }
                Err(error) => {
                    tracing::warn!("the runtime's events broke off: {error}");
                    return None;
                }
            },
            () = node.world.sleep(RELIST.1) => relist.look(node).await,
        }
    }
}

/// What the runtime had at the last look.
#[derive(Default)]
struct Relist {
    states: std::collections::HashMap<String, i32>,
}

impl Relist {
    /// Tells of every container and sandbox that has changed or gone since the last look.
    async fn look(&mut self, node: &Node) {
        let containers = node.runtime.list_containers(ContainerFilter::default()).await;
        let sandboxes = node.runtime.list_pod_sandboxes(skiff_cri::v1::PodSandboxFilter::default()).await;
        let (Ok(containers), Ok(sandboxes)) = (containers, sandboxes) else { return };
        let containers = containers.into_iter().map(|container| (container.id, container.state));
        let sandboxes = sandboxes.into_iter().map(|sandbox| (sandbox.id, sandbox.state));
        let now: std::collections::HashMap<String, i32> = containers.chain(sandboxes).collect();
        let changed = self.states.iter().filter(|(id, state)| now.get(*id) != Some(state));
        for (id, _) in changed {
            node.registry.ended(id);
        }
        self.states = now;
    }
}
