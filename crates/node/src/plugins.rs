//! Plugins that make themselves known by a socket in `DIRECTORY/plugins_registry`: storage drivers, drivers of dynamic
//! resources, device plugins. The agent asks who they are and tells them whether they were taken in; a socket that goes
//! takes its plugin along.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skiff_meta::world::AbortOnDrop;
use skiff_plugins::registration::registration_client::RegistrationClient;
use skiff_plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use skiff_plugins::{connect, limited};

use crate::csi::{self, Driver};
use crate::devices;
use crate::node::Node;
use crate::os::Watched;
use crate::pod::manager::Manager;

/// Pauses while a plugin does not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// The directory of the sockets, below the agent's.
pub(crate) const REGISTRY: &str = "plugins_registry";

/// Why a plugin is not taken in.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no handler registered for plugin type: {0}")]
    Kind(String),
    #[error("none of its versions is spoken here: {}", .0.join(", "))]
    Version(Vec<String>),
    #[error("{0}")]
    Csi(#[from] csi::CsiError),
    #[error("{}", .0.message())]
    Device(#[from] skiff_plugins::Status),
}

/// Which file a socket is, so that another one under its name is noticed.
type Identity = (u64, i64, i64);

/// Follows the sockets, for ever.
pub(crate) async fn run(node: Arc<Node>, manager: Arc<Manager>) {
    let directory = node.config.directory.join(REGISTRY);
    let mut watched = match Watched::changes(&directory) {
        Ok(watched) => watched,
        Err(error) => return tracing::error!(directory = %directory.display(), "cannot be watched: {error}"),
    };
    let mut known: BTreeMap<PathBuf, (Identity, AbortOnDrop)> = BTreeMap::new();
    tell_drivers(&node, None).await;
    node.claims.begin(&node).await;
    loop {
        let now = sockets(&directory);
        let gone = known.iter().filter(|(path, (identity, _))| now.get(*path) != Some(identity));
        for path in gone.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            known.remove(&path);
            node.claims.lost(&node, &path);
            if let Some(name) = node.drivers.lost(&path) {
                tracing::info!(name, "a storage driver has gone");
                tell_drivers(&node, Some(&name)).await;
            }
        }
        for (path, identity) in now {
            known.entry(path.clone()).or_insert_with(|| {
                let task = take_in(node.clone(), manager.clone(), path);
                (identity, AbortOnDrop(node.world.spawn("plugin", Box::pin(task))))
            });
        }
        if let Err(error) = watched.changed().await {
            return tracing::error!(directory = %directory.display(), "is not watched any longer: {error}");
        }
    }
}

fn sockets(directory: &Path) -> BTreeMap<PathBuf, Identity> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sockets = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok().filter(|metadata| metadata.file_type().is_socket())?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        (!hidden).then(|| (entry.path(), (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())))
    });
    sockets.collect()
}

/// Tells the cluster which storage drivers there are; tries until it succeeds.
async fn tell_drivers(node: &Node, gone: Option<&str>) {
    let mut pause = RETRY.0;
    while let Err(error) = csi::publish_csi_node(node, gone).await {
        // Before the node is registered there is nothing to be told about.
        tracing::debug!("the node's storage drivers were not told: {error}");
        node.world.sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Takes a plugin in; tries until it succeeds.
async fn take_in(node: Arc<Node>, manager: Arc<Manager>, socket: PathBuf) {
    let mut client = RegistrationClient::new(connect(&socket));
    let mut pause = RETRY.0;
    loop {
        let told = match client.get_info(limited(InfoRequest {})).await {
            Ok(info) => {
                let info = info.into_inner();
                let taken = take(&node, &info, &socket).await;
                match &taken {
                    Ok(()) => tracing::info!(name = info.name, kind = info.r#type, "a plugin is registered"),
                    Err(error) => tracing::warn!(name = info.name, "a plugin is not registered: {error}"),
                }
                let error = taken.as_ref().err().map(ToString::to_string).unwrap_or_default();
                let status = RegistrationStatus { plugin_registered: taken.is_ok(), error };
                let told = client.notify_registration_status(limited(status)).await;
                taken.is_ok() && told.is_ok()
            }
            // It may be about to serve.
            Err(error) => {
                tracing::debug!(socket = %socket.display(), "a plugin does not answer: {error}");
                false
            }
        };
        if told {
            return manager.retry_all();
        }
        node.world.sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn take(node: &Arc<Node>, info: &PluginInfo, socket: &Path) -> Result<(), Refusal> {
    let endpoint = if info.endpoint.is_empty() { socket } else { Path::new(&info.endpoint) };
    match info.r#type.as_str() {
        "CSIPlugin" => {
            let spoken = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
            if !info.supported_versions.iter().any(spoken) {
                return Err(Refusal::Version(info.supported_versions.clone()));
            }
            node.drivers.add(Driver::meet(&info.name, endpoint, socket).await?);
            csi::publish_csi_node(node, None).await.map_err(csi::CsiError::from)?;
            Ok(())
        }
        "DRAPlugin" => {
            if !info.supported_versions.iter().any(|version| version == "v1.DRAPlugin") {
                return Err(Refusal::Version(info.supported_versions.clone()));
            }
            node.claims.add(&info.name, endpoint, socket);
            Ok(())
        }
        "DevicePlugin" => {
            if !info.supported_versions.iter().any(|version| version == "v1beta1") {
                return Err(Refusal::Version(info.supported_versions.clone()));
            }
            Ok(devices::plugins::take_in(node, &info.name, endpoint).await?)
        }
        other => Err(Refusal::Kind(other.to_owned())),
    }
}
