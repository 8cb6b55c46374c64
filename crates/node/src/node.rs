//! What all parts of one agent share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as ApiNode, ObjectReference, Pod, Service};
use skiff_api::resources::ResourceList;
use skiff_client::{Client, Informer, Involved, Recorder, involved};
use skiff_cri::Runtime;
use skiff_meta::WorldRef;
use skiff_meta::quantity::{Format, Quantity};
use tokio::sync::Notify;

use crate::abilities::Abilities;
use crate::config::NodeConfig;
use crate::csi::Drivers;
use crate::devices::Devices;
use crate::dra::Claims;
use crate::images::Images;
use crate::make::dns::Resolvers;
use crate::make::resources;
use crate::make::sandbox::Surroundings;
use crate::make::services;
use crate::metrics::Metrics;
use crate::node_status;
use crate::os::{Limits, MachineFacts};
use crate::pinning::Pinning;
use crate::pod::admission::{Admitted, Place};
use crate::pod::facts;
use crate::pod::mailbox::Registry;
use crate::pod::status::Ending;
use crate::pressure::{Pressure, Scarce};
use crate::references::References;
use crate::shutdown::Shutdown;
use crate::static_pods::Statics;
use crate::stats::{Disks, Rates};
use crate::status_writer::StatusWriter;
use crate::user_namespaces::Ranges;
use crate::volumes::LocalDisks;

/// What all parts of one agent share.
pub(crate) struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Such as `containerd`, the scheme of container ids.
    pub(crate) runtime_name: String,
    pub(crate) runtime_version: String,
    pub(crate) world: WorldRef,
    pub(crate) recorder: Recorder,
    pub(crate) facts: MachineFacts,
    pub(crate) allocatable: ResourceList,
    pub(crate) services: Informer<Service>,
    /// The pods of this node.
    pub(crate) pods: Informer<Pod>,
    /// This node, as the API has it.
    pub(crate) own: Informer<ApiNode>,
    pub(crate) admitted: Admitted,
    pub(crate) rates: Rates,
    /// What pods had on disk at the last look.
    pub(crate) disks: Disks,
    /// Where claimed volumes lie that are disks of this node.
    pub(crate) local_disks: LocalDisks,
    pub(crate) pressure: Pressure,
    pub(crate) shutdown: Shutdown,
    /// When the agent began.
    pub(crate) started: Timestamp,
    pub(crate) references: References,
    pub(crate) images: Images,
    pub(crate) writer: StatusWriter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) statics: Arc<Statics>,
    pub(crate) registry: Registry,
    /// What the runtime can do.
    pub(crate) abilities: Abilities,
    /// Ids of pods in user namespaces.
    pub(crate) ranges: Ranges,
    /// Drivers of dynamic resources and what they have made ready.
    pub(crate) claims: Claims,
    /// One pod at a time is given what it is to have for itself.
    pub(crate) allocating: tokio::sync::Mutex<()>,
    /// Device plugins and their devices.
    pub(crate) devices: Devices,
    /// Processors and memory that containers have for themselves.
    pub(crate) pinning: Pinning,
    /// Storage drivers and their volumes.
    pub(crate) drivers: Drivers,
    /// The node's status has changed and shall be written.
    pub(crate) heartbeat: Notify,
}

impl Node {
    /// The node's addresses as text.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.config.addresses.iter().map(ToString::to_string).collect()
    }

    /// Where a pod's files are.
    pub(crate) fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.directory.join("pods").join(uid)
    }

    /// Where those of a pod's files are that must not reach the disk. One file system of memory serves all pods.
    pub(crate) fn memory_directory(&self, uid: &str) -> PathBuf {
        self.memory_root().join(uid)
    }

    /// Where that file system is mounted.
    pub(crate) fn memory_root(&self) -> PathBuf {
        self.config.directory.join("memory")
    }

    /// How pods resolve names.
    pub(crate) fn resolvers(&self) -> Resolvers {
        Resolvers {
            cluster: self.config.cluster_dns,
            domain: self.config.cluster_domain.clone(),
            host: self.config.os.machine.resolv_conf(),
        }
    }

    /// What the node adds to a sandbox.
    pub(crate) fn surroundings<'a>(&'a self, resolvers: &'a Resolvers, cgroup_root: &'a str) -> Surroundings<'a> {
        Surroundings { resolvers, logs: &self.config.log_directory, cgroup_root }
    }

    /// The variables that tell a pod of Services: those of its namespace, unless it does not want them, and always
    /// that of the API itself.
    pub(crate) fn service_variables(&self, pod: &Pod) -> Vec<(String, String)> {
        let store = self.services.store();
        let mut found: Vec<Arc<Service>> = store.get("default", "kubernetes").into_iter().collect();
        if facts::spec(pod).enable_service_links != Some(false) {
            let mut own = store.in_namespace(facts::namespace(pod));
            own.retain(|service| services::has_address(service));
            own.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
            found.extend(own);
        }
        services::variables(found.iter().map(|service| &**service))
    }

    /// The node's labels; before the API has them, those it will have.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let own = self.own.store().get("", &self.config.name);
        let labels = own.and_then(|node| node.metadata.labels.clone());
        labels.unwrap_or_else(|| node_status::labels(&self.config, &self.facts))
    }

    /// The pod as it is to run here, and why it is not yet given what it asks for by now.
    pub(crate) fn settle(&self, pod: &Arc<Pod>) -> (Arc<Pod>, Option<String>) {
        let settled = self.admitted.settle(pod, &self.allocatable);
        settled.others.iter().for_each(|uid| self.registry.wake(uid));
        (settled.pod, settled.refusal)
    }

    /// A pod has changed, and with it perhaps what is left for others.
    pub(crate) fn changed(&self, pod: &Arc<Pod>) {
        self.admitted.update(pod).iter().for_each(|uid| self.registry.wake(uid));
    }

    /// Nothing of this pod runs any more.
    pub(crate) fn leaves(&self, uid: &str) {
        self.admitted.forget(uid).iter().for_each(|uid| self.registry.wake(uid));
        self.devices.forget(&*self.config.os.files, uid);
        self.pinning.forget(&*self.config.os.files, uid);
        self.weigh();
    }

    /// The class of burstable pods weighs what its pods ask for.
    pub(crate) fn weigh(&self) {
        let pods = self.admitted.pods();
        let cpu_shares = resources::burstable_shares(pods.iter().map(|pod| &**pod));
        let limits = Limits { cpu_shares, ..Limits::default() };
        if let Err(error) = self.config.os.cgroups.set("burstable", limits) {
            tracing::warn!("the weight of burstable pods was not set: {error}");
        }
    }

    /// Lets a pod in if it fits beside those that are in.
    pub(crate) fn admit(&self, pod: &Arc<Pod>) -> Result<(), Ending> {
        if let Some(refusal) = self.shutdown.refusal() {
            return Err(refusal);
        }
        let (own, labels) = (self.own.store().get("", &self.config.name), self.labels());
        let own_taints = own.as_ref().and_then(|node| node.spec.as_ref()?.taints.as_deref());
        let mut allocatable = self.allocatable.clone();
        let counted = |count: usize| Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi);
        allocatable.extend(self.devices.allocatable().into_iter().map(|(name, count)| (name, counted(count))));
        let place = Place {
            name: &self.config.name,
            labels: &labels,
            taints: own_taints.unwrap_or_default(),
            allocatable: &allocatable,
            apparmor: self.facts.apparmor,
            strict_groups: self.abilities.knows_strict_groups(),
            pressures: &self.pressures(),
        };
        self.admitted.admit(pod, &place)
    }

    /// What the node counts as short of.
    pub(crate) fn pressures(&self) -> Vec<Scarce> {
        self.pressure.current(self.world.elapsed(), self.config.settings.eviction.transition)
    }

    /// What of the machine's memory all pods may have together, in bytes.
    pub(crate) fn memory_of_pods(&self) -> u64 {
        node_status::for_pods(&self.facts, &self.config.settings, "memory")
    }

    /// This node, as what an event is about.
    pub(crate) fn itself(&self) -> Involved {
        let name = Some(self.config.name.clone());
        ObjectReference { kind: Some("Node".to_owned()), uid: name.clone(), name, ..ObjectReference::default() }
    }

    /// Something bad happened to a pod.
    pub(crate) fn warn(&self, pod: &Pod, reason: &str, message: impl Into<String>) {
        self.recorder.warning(&involved(pod), reason, message);
    }

    /// The container of a pod, as what an event is about.
    pub(crate) fn about(&self, pod: &Pod, container: &str) -> Involved {
        let list = match facts::container(pod, container).map(|(role, _)| role) {
            Some(facts::Role::Init | facts::Role::Sidecar) => "spec.initContainers",
            Some(facts::Role::Ephemeral) => "spec.ephemeralContainers",
            _ => "spec.containers",
        };
        ObjectReference { field_path: Some(format!("{list}{{{container}}}")), ..involved(pod) }
    }
}
