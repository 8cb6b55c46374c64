//! Plugins that have devices: they make themselves known on the agent's socket in `DIRECTORY/device-plugins`, or by one
//! of their own (see `crate::plugins`), and say from then on what devices they have and how those do.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use skiff_plugins::devices::device_plugin_client::DevicePluginClient;
use skiff_plugins::devices::registration_server::{Registration, RegistrationServer};
use skiff_plugins::devices::{Device, DevicePluginOptions, Empty, RegisterRequest};
use skiff_plugins::{Channel, Request, Response, Status, async_trait, connect, limited, serve};
use tokio::net::UnixListener;

use super::{Devices, Shared, podresources};
use crate::pinning::Nodes;

/// The directory of the agent's socket and of those of plugins, below the agent's directory.
pub(crate) const DIRECTORY: &str = "device-plugins";
const SOCKET: &str = "kubelet.sock";
const VERSION: &str = "v1beta1";

/// The client of a plugin.
type Client = DevicePluginClient<Channel>;

/// A plugin and its devices.
#[derive(Default)]
pub(super) struct Plugin {
    pub(super) client: Option<Client>,
    /// It wants to say which devices it would choose.
    pub(super) prefers: bool,
    /// It wants to be told before containers start.
    pub(super) before_start: bool,
    /// By id.
    pub(super) devices: BTreeMap<String, Has>,
    /// When it went; `None`: it is there, or has not been seen by this agent.
    pub(super) gone_at: Option<Duration>,
    /// The last of its registrations counts.
    generation: u64,
}

impl Plugin {
    pub(super) fn healthy(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().filter(|(_, has)| has.healthy).map(|(id, _)| id.as_str())
    }
}

/// A device as its plugin tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Has {
    pub(super) healthy: bool,
    /// The memory nodes that it is near; none: it does not say.
    pub(super) nodes: Nodes,
}

impl From<&Device> for Has {
    fn from(told: &Device) -> Self {
        let nodes = told.topology.iter().flat_map(|topology| &topology.nodes);
        let bits = nodes.filter_map(|node| u32::try_from(node.id).ok().and_then(|id| Nodes::checked_shl(1, id)));
        Self { healthy: told.health == "Healthy", nodes: bits.fold(0, |all, bit| all | bit) }
    }
}

/// A plugin that has made itself known.
pub(super) struct Arrival {
    resource: String,
    client: Client,
    generation: u64,
}

impl Devices {
    /// A plugin for this resource serves on `endpoint`.
    pub(crate) fn arrived(&self, resource: &str, endpoint: &Path, options: &DevicePluginOptions) {
        let client = DevicePluginClient::new(connect(endpoint));
        let mut state = self.state.lock();
        state.record.resources.insert(resource.to_owned());
        let plugin = state.plugins.entry(resource.to_owned()).or_default();
        plugin.generation += 1;
        plugin.client = Some(client.clone());
        plugin.prefers = options.get_preferred_allocation_available;
        plugin.before_start = options.pre_start_required;
        let arrival = Arrival { resource: resource.to_owned(), client, generation: plugin.generation };
        drop(state);
        self.arrivals.lock().push(arrival);
        self.news.notify_one();
    }

    /// The plugin says what it has. Whether it is still the one that counts.
    fn told(&self, arrival: &Arrival, devices: Vec<Device>) -> bool {
        let mut state = self.state.lock();
        let plugin = state.plugins.get_mut(&arrival.resource).filter(|p| p.generation == arrival.generation);
        let Some(plugin) = plugin else { return false };
        plugin.gone_at = None;
        plugin.devices = devices.into_iter().map(|device| (device.id.clone(), Has::from(&device))).collect();
        true
    }

    /// The plugin does not say anything any more: none of its devices is well.
    fn fell_silent(&self, arrival: &Arrival, now: Duration) {
        let mut state = self.state.lock();
        let plugin = state.plugins.get_mut(&arrival.resource).filter(|p| p.generation == arrival.generation);
        if let Some(plugin) = plugin {
            plugin.devices.values_mut().for_each(|has| has.healthy = false);
            (plugin.client, plugin.gone_at) = (None, Some(now));
        }
    }
}

/// Lets plugins make themselves known and follows them, for ever.
pub(crate) async fn run(node: Shared) {
    let directory = node.config.directory.join(DIRECTORY);
    let socket = match listen(&directory) {
        Ok(socket) => socket,
        Err(error) => {
            return tracing::error!(directory = %directory.display(), "device plugins are not served: {error}");
        }
    };
    let registrar = RegistrationServer::new(Registrar { node: node.clone(), directory });
    let served = serve(socket, registrar, node.world.clone());
    let told = podresources::serve_pods(node.clone());
    let follow = async {
        let mut followed = FuturesUnordered::new();
        loop {
            let arrivals = std::mem::take(&mut *node.devices.arrivals.lock());
            followed.extend(arrivals.into_iter().map(|arrival| follow(&node, arrival)));
            tokio::select! {
                () = node.devices.news.notified() => {}
                Some(()) = followed.next() => {}
            }
        }
    };
    tokio::join!(served, told, follow.map(|never: std::convert::Infallible| match never {}));
}

/// The agent's socket. Those of plugins that served the last agent go: that is how they notice that there is a new one.
fn listen(directory: &Path) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(directory)?;
    for entry in std::fs::read_dir(directory)?.flatten() {
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    UnixListener::bind(directory.join(SOCKET))
}

/// Follows a plugin until it goes.
async fn follow(node: &Shared, arrival: Arrival) {
    let stream = arrival.client.clone().list_and_watch(Request::new(Empty {})).await;
    match stream {
        Ok(stream) => {
            tracing::info!(resource = arrival.resource, "a device plugin is there");
            let mut stream = stream.into_inner();
            while let Ok(Some(told)) = stream.message().await {
                if !node.devices.told(&arrival, told.devices) {
                    return;
                }
                node.heartbeat.notify_one();
            }
            tracing::info!(resource = arrival.resource, "a device plugin has gone");
        }
        Err(error) => tracing::warn!(resource = arrival.resource, "a device plugin does not list devices: {error}"),
    }
    node.devices.fell_silent(&arrival, node.world.elapsed());
    node.heartbeat.notify_one();
}

/// A plugin that was found by its own socket.
///
/// # Errors
/// When its name is no resource's, or it does not answer.
pub(crate) async fn take_in(node: &Shared, resource: &str, endpoint: &Path) -> Result<(), Status> {
    is_resource(resource)?;
    let options = DevicePluginClient::new(connect(endpoint)).get_device_plugin_options(limited(Empty {})).await?;
    node.devices.arrived(resource, endpoint, &options.into_inner());
    Ok(())
}

/// Only names of a domain other than Kubernetes' own are.
fn is_resource(name: &str) -> Result<(), Status> {
    let domain = name.split_once('/').map(|(domain, _)| domain).unwrap_or_default();
    if domain.is_empty() || domain.ends_with("kubernetes.io") || name.starts_with("requests.") {
        return Err(Status::invalid_argument(format!("the ResourceName {name:?} is invalid")));
    }
    Ok(())
}

struct Registrar {
    node: Shared,
    directory: PathBuf,
}

#[async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let told = request.into_inner();
        if told.version != VERSION {
            let message = format!(
                "requested API version {:?} is not supported by kubelet. Supported version is {VERSION:?}",
                told.version
            );
            return Err(Status::invalid_argument(message));
        }
        is_resource(&told.resource_name)?;
        if told.endpoint.contains('/') || told.endpoint.is_empty() {
            return Err(Status::invalid_argument("the endpoint is no file name"));
        }
        let endpoint = self.directory.join(&told.endpoint);
        self.node.devices.arrived(&told.resource_name, &endpoint, &told.options.unwrap_or_default());
        Ok(Response::new(Empty {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_plugins::devices::{NumaNode, TopologyInfo};

    #[test]
    fn names_of_resources() {
        for (name, is) in
            [("example.com/x", true), ("x", false), ("kubernetes.io/x", false), ("requests.a.com/x", false)]
        {
            assert_eq!(is_resource(name).is_ok(), is, "{name}");
        }
    }

    #[test]
    fn where_devices_are() {
        for (nodes, expected) in
            [(None, 0), (Some(vec![]), 0), (Some(vec![0, 2]), 0b101), (Some(vec![-1, 64, 1]), 0b10)]
        {
            let nodes: Option<Vec<NumaNode>> = nodes.map(|ids| ids.into_iter().map(|id| NumaNode { id }).collect());
            let topology = nodes.map(|nodes| TopologyInfo { nodes });
            let told = Device { id: "d".to_owned(), health: "Healthy".to_owned(), topology };
            assert_eq!(Has::from(&told), Has { healthy: true, nodes: expected });
        }
    }

    #[test]
    fn devices_of_a_plugin_that_comes_and_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _guard = runtime.enter();
        let devices = Devices::found(&crate::os::RealFiles, dir.path());
        let named = |id: &str, health: &str| Device { id: id.to_owned(), health: health.to_owned(), topology: None };
        devices.arrived("a.com/x", Path::new("/none"), &DevicePluginOptions::default());
        let first = devices.arrivals.lock().remove(0);
        assert!(devices.told(&first, vec![named("1", "Healthy"), named("2", "Unhealthy")]));
        let at = |seconds| devices.amounts(Duration::from_secs(seconds));
        assert_eq!(at(0), [("a.com/x".to_owned(), 2, 1)]);
        devices.arrived("a.com/x", Path::new("/none"), &DevicePluginOptions::default());
        let second = devices.arrivals.lock().remove(0);
        assert!(!devices.told(&first, Vec::new()), "another has taken its place");
        devices.fell_silent(&first, Duration::ZERO);
        assert!(devices.told(&second, vec![named("1", "Healthy")]));
        devices.fell_silent(&second, Duration::from_secs(10));
        assert_eq!(at(20), [("a.com/x".to_owned(), 1, 0)], "it may come back");
        assert_eq!(at(400), [("a.com/x".to_owned(), 0, 0)]);
    }
}
