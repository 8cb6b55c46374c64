//! Devices of plugins: who has them says so ([`plugins`]), pods that ask for them get them when they are let in, and
//! what a container needs to use its own is said by the plugin then and kept in a file, so that neither a restart of the
//! container nor of the agent changes what it has.

mod choice;
mod given;
pub(crate) mod plugins;
mod podresources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use skiff_api::resources;
use skiff_meta::Quantity;
use skiff_plugins::devices::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest, PreStartContainerRequest,
    PreferredAllocationRequest,
};
use skiff_plugins::{Status, limited};
use tokio::sync::Notify;

use crate::node::Node;
use crate::os::Files;
use crate::pinning::{Hint, Nodes};
use crate::pod::facts::{self, Role};
use choice::{Choice, Lack};
use given::{Given, Record};
pub(crate) use given::{Needs, NeedsDevice, NeedsMount};
use plugins::{Arrival, Plugin};

/// Devices of a plugin that went are told of, as unhealthy ones, for this long.
const GRACE: Duration = Duration::from_secs(300);

/// Why a pod does not get its devices.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("cannot allocate unregistered device {0}")]
    Unregistered(String),
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    Unhealthy(String),
    #[error("requested number of devices unavailable for {resource}. Requested: {wanted}, Available: {there}")]
    TooFew { resource: String, wanted: usize, there: usize },
    #[error("{call} of the device plugin for {resource}: rpc error: code = {:?} desc = {}", status.code(), status.message())]
    Refused { call: &'static str, resource: String, status: Status },
    #[error("the device plugin for {0} does not say what its devices need")]
    Silent(String),
    #[error("what pods were given cannot be kept: {0}")]
    Io(#[from] std::io::Error),
}

#[derive(Default)]
struct State {
    plugins: BTreeMap<String, Plugin>,
    record: Record,
}

impl State {
    /// The devices of a resource that are well and that no pod has.
    fn free(&self, resource: &str) -> BTreeSet<String> {
        let healthy = self.plugins.get(resource).into_iter().flat_map(Plugin::healthy);
        let taken: BTreeSet<&str> = self.record.taken(resource).collect();
        healthy.filter(|id| !taken.contains(id)).map(str::to_owned).collect()
    }
}

/// What earlier containers of a pod have had and later ones may have again, by resource.
pub(crate) type Reusable = BTreeMap<String, BTreeSet<String>>;

/// All devices and whose they are.
pub(crate) struct Devices {
    state: Mutex<State>,
    directory: PathBuf,
    /// Plugins that have made themselves known and are not followed yet.
    arrivals: Mutex<Vec<Arrival>>,
    news: Notify,
}

impl Devices {
    /// What pods were given by the last agent, from the directory of device plugins.
    pub(crate) fn found(files: &dyn Files, directory: &Path) -> Self {
        let record = Record::load(files, directory);
        let plugins = record.resources.iter().map(|name| (name.clone(), Plugin::default())).collect();
        Self {
            state: Mutex::new(State { plugins, record }),
            directory: directory.to_owned(),
            arrivals: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Each resource with how many devices there are, and how many of them are well.
    pub(crate) fn amounts(&self, now: Duration) -> Vec<(String, usize, usize)> {
        let state = self.state.lock();
        let amount = |(name, plugin): (&String, &Plugin)| {
            let late = plugin.gone_at.is_some_and(|gone| now.saturating_sub(gone) > GRACE);
            let all = if late { 0 } else { plugin.devices.len() };
            (name.clone(), all, plugin.healthy().count())
        };
        state.plugins.iter().map(amount).collect()
    }

    /// How many devices pods may have: those that are well, and those that pods have, whatever became of them.
    pub(crate) fn allocatable(&self) -> Vec<(String, usize)> {
        let state = self.state.lock();
        let count = |(name, plugin): (&String, &Plugin)| {
            let mut all: BTreeSet<&str> = plugin.healthy().collect();
            all.extend(state.record.taken(name));
            (name.clone(), all.len())
        };
        state.plugins.iter().map(count).collect()
    }

    /// What the pod's container was given.
    pub(crate) fn of_container(&self, uid: &str, container: &str) -> Needs {
        self.state.lock().record.of_container(uid, container)
    }

    /// Whether a pod asks for any.
    pub(crate) fn concern(&self, pod: &Pod) -> bool {
        facts::containers(pod).iter().any(|(_, container)| !self.asked(container).is_empty())
    }

    /// Near which memory the devices can be had that a container asks for: one list for each resource whose devices say where
    /// they are.
    pub(crate) fn hints(&self, pod: &Pod, container: &Container, reusable: &Reusable, known: Nodes) -> Vec<Vec<Hint>> {
        let (asked, state, none) = (self.asked(container), self.state.lock(), BTreeSet::new());
        let hints = |(resource, wanted): (String, usize)| {
            let devices = &state.plugins.get(&resource)?.devices;
            match state.record.get(facts::uid(pod), &container.name, &resource) {
                Some(given) => choice::hints(devices, &given.ids, &none, wanted, known),
                None => {
                    let reusable = reusable.get(&resource).unwrap_or(&none);
                    choice::hints(devices, &state.free(&resource), reusable, wanted, known)
                }
            }
        };
        asked.into_iter().filter_map(hints).collect()
    }

    /// The same for all that a pod asks for together.
    pub(crate) fn hints_of_all(&self, pod: &Pod, known: Nodes) -> Vec<Vec<Hint>> {
        let (state, none) = (self.state.lock(), BTreeSet::new());
        let hints = |(resource, wanted): (String, Quantity)| {
            let devices = &state.plugins.get(&resource)?.devices;
            let own = state.record.of_pod(facts::uid(pod)).into_iter().flat_map(BTreeMap::values);
            let own = own.filter_map(|all| all.get(&resource)).flat_map(|given| given.ids.iter().cloned());
            let available = own.chain(state.free(&resource)).collect();
            choice::hints(devices, &available, &none, usize::try_from(wanted.value()).unwrap_or(0), known)
        };
        resources::requests(facts::spec(pod), None).into_iter().filter_map(hints).collect()
    }

    /// The resources of plugins that a container asks for, and how many of each.
    fn asked(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.as_ref().map(|r| resources::parse(&r.limits)).unwrap_or_default();
        let state = self.state.lock();
        let ours = limits.into_iter().filter(|(name, amount)| state.plugins.contains_key(name) && !amount.is_zero());
        ours.map(|(name, amount)| (name, usize::try_from(amount.value()).unwrap_or(0))).collect()
    }

    /// Gives a container the devices that it asks for, near some memory if that can be; one pod at a time. What an init
    /// container has had is free for those that come after it.
    ///
    /// # Errors
    /// When there are too few, or the plugin refuses; the pod has whatever it was given until it is forgotten.
    pub(crate) async fn give(
        &self,
        pod: &Pod,
        role: Role,
        container: &Container,
        near: Option<Nodes>,
        reusable: &mut Reusable,
    ) -> Result<(), DeviceError> {
        for (resource, wanted) in self.asked(container) {
            let reusable = reusable.entry(resource.clone()).or_default();
            let ids = self.give_one(pod, container, (&resource, wanted), near, reusable).await?;
            match role {
                Role::Init => reusable.extend(ids),
                _ => reusable.retain(|id| !ids.contains(id)),
            }
        }
        Ok(())
    }

    async fn give_one(
        &self,
        pod: &Pod,
        container: &Container,
        (resource, wanted): (&str, usize),
        near: Option<Nodes>,
        reusable: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, DeviceError> {
        let refused = |call: &'static str| {
            let resource = resource.to_owned();
            move |status| DeviceError::Refused { call, resource, status }
        };
        let (client, prefers, mut choice) = {
            let state = self.state.lock();
            if let Some(given) = state.record.get(facts::uid(pod), &container.name, resource) {
                return Ok(given.ids.clone());
            }
            let plugin = state.plugins.get(resource);
            let plugin = plugin.ok_or_else(|| DeviceError::Unregistered(resource.to_owned()))?;
            let client = plugin.client.clone().ok_or_else(|| DeviceError::Unregistered(resource.to_owned()))?;
            let choice = Choice {
                healthy: plugin.healthy().map(str::to_owned).collect(),
                places: plugin.devices.iter().map(|(id, has)| (id.clone(), has.nodes)).collect(),
                near,
                taken: state.record.taken(resource).map(str::to_owned).collect(),
                reusable: reusable.clone(),
                preferred: BTreeSet::new(),
            };
            (client, plugin.prefers, choice)
        };
        if let Some((available, included)) = choice.offer(wanted).filter(|_| prefers) {
            let one = ContainerPreferredAllocationRequest {
                available_device_i_ds: available.into_iter().collect(),
                must_include_device_i_ds: included.into_iter().collect(),
                allocation_size: i32::try_from(wanted).unwrap_or(i32::MAX),
            };
            let request = limited(PreferredAllocationRequest { container_requests: vec![one] });
            let answer = client.clone().get_preferred_allocation(request).await;
            let answer = answer.map_err(refused("GetPreferredAllocation"))?.into_inner().container_responses;
            choice.preferred = answer.into_iter().flat_map(|answer| answer.device_i_ds).collect();
        }
        let ids = choice.made(wanted).map_err(|lack| match lack {
            Lack::Unhealthy => DeviceError::Unhealthy(resource.to_owned()),
            Lack::TooFew { there } => DeviceError::TooFew { resource: resource.to_owned(), wanted, there },
        })?;
        let one = ContainerAllocateRequest { devices_ids: ids.iter().cloned().collect() };
        let request = limited(AllocateRequest { container_requests: vec![one] });
        let answer = client.clone().allocate(request).await.map_err(refused("Allocate"))?.into_inner();
        let answer = answer.container_responses.into_iter().next();
        let needs = Needs::from(answer.ok_or_else(|| DeviceError::Silent(resource.to_owned()))?);
        let given = Given { ids: ids.clone(), needs };
        self.state.lock().record.insert(facts::uid(pod), &container.name, resource, given);
        Ok(ids)
    }

    /// A container is about to start: plugins that want to know are told.
    ///
    /// # Errors
    /// When one of them refuses, or is not there.
    pub(crate) async fn before_start(&self, pod: &Pod, container: &Container) -> Result<(), DeviceError> {
        for (resource, _) in self.asked(container) {
            let (client, ids) = {
                let state = self.state.lock();
                let plugin = state.plugins.get(&resource).filter(|plugin| plugin.before_start);
                let given = state.record.get(facts::uid(pod), &container.name, &resource);
                let (Some(plugin), Some(given)) = (plugin, given) else { continue };
                let client = plugin.client.clone().ok_or_else(|| DeviceError::Unregistered(resource.clone()))?;
                (client, given.ids.iter().cloned().collect())
            };
            let told = client.clone().pre_start_container(limited(PreStartContainerRequest { devices_ids: ids })).await;
            let refused =
                |status| DeviceError::Refused { call: "PreStartContainer", resource: resource.clone(), status };
            told.map_err(refused)?;
        }
        Ok(())
    }

    /// Nothing of the pod runs any more: what it had is free.
    pub(crate) fn forget(&self, files: &dyn Files, uid: &str) {
        if self.state.lock().record.forget(uid)
            && let Err(error) = self.save(files)
        {
            tracing::warn!("what pods were given cannot be kept: {error}");
        }
    }

    /// Forgets what pods had that do not stay.
    pub(crate) fn keep_only(&self, files: &dyn Files, stays: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.state.lock().record.pods().filter(|uid| !stays(uid)).cloned().collect();
        gone.iter().for_each(|uid| self.forget(files, uid));
    }

    /// What pods were given outlives the agent.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn save(&self, files: &dyn Files) -> std::io::Result<()> {
        self.state.lock().record.save(files, &self.directory)
    }
}

/// What the node counts beside its own resources.
pub(crate) fn of(node: &Node) -> Vec<(String, usize, usize)> {
    node.devices.amounts(node.world.elapsed())
}

/// What all parts of the module share.
type Shared = Arc<Node>;
