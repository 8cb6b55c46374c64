//! The Node object: what the machine is and how it is.
//!
//! [`labels`] and [`status`] are pure; [`Heartbeat`] registers the node, writes its status when it has changed (and once
//! in five minutes anyway), and renews its Lease, which is what tells the cluster every ten seconds that it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node as ApiNode, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use serde_json::{Value, json};
use skiff_api::resources::ResourceList;
use skiff_api::volumes::CONTROLLED;
use skiff_client::{ClientError, Patch};
use skiff_cri::RuntimeError;
use skiff_cri::v1::Image;
use skiff_meta::Quantity as Amount;
use skiff_meta::quantity::Format;

use crate::config::NodeConfig;
use crate::devices;
use crate::make::resources::shares;
use crate::node::Node;
use crate::os::{Limits, MachineFacts};
use crate::pressure::{Scarce, Signal};
use crate::settings::Settings;

/// How long a Lease lasts, and how often it is renewed.
const LEASE_SECONDS: i32 = 40;
const RENEWAL: Duration = Duration::from_secs(10);
/// How often the runtime is asked how it is: at once again where it is not ready, then less and less often.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How often it is asked while all is well.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// An unchanged status is written again after this long.
const REPEAT: Duration = Duration::from_secs(300);
/// Images told of, the largest first.
const MAX_IMAGES: usize = 50;
/// Pauses while the API does not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What the node can hold.
pub(crate) fn capacity(facts: &MachineFacts, max_pods: u32) -> BTreeMap<String, Quantity> {
    let kibibytes = |bytes: u64| Quantity(format!("{}Ki", bytes / 1024));
    let mut capacity: BTreeMap<String, Quantity> = [
        ("cpu".to_owned(), Quantity(facts.processors.to_string())),
        ("memory".to_owned(), kibibytes(facts.memory)),
        ("ephemeral-storage".to_owned(), kibibytes(facts.storage)),
        ("pods".to_owned(), Quantity(max_pods.to_string())),
    ]
    .into();
    for (size, total) in &facts.huge_pages {
        capacity.insert(
            format!("hugepages-{}", binary(*size)),
            Quantity(if *total == 0 { "0".into() } else { binary(*total) }),
        );
    }
    capacity
}

/// `2Mi`, `1Gi`: bytes in the largest unit that fits.
fn binary(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi"];
    let unit = units.len().min(1 + bytes.trailing_zeros() as usize / 10) - 1;
    format!("{}{}", bytes >> (unit * 10), units[unit])
}

/// What is left of memory or disk, in bytes, after what is reserved for others.
pub(crate) fn for_pods(facts: &MachineFacts, settings: &Settings, resource: &str) -> u64 {
    let whole = if resource == "memory" { facts.memory } else { facts.storage };
    let reserved = settings.reserved.get(resource).map_or(0, |amount| amount.value());
    whole.saturating_sub(reserved.unsigned_abs())
}

/// What all pods together may have: not what is reserved.
pub(crate) fn limits(facts: &MachineFacts, settings: &Settings) -> Limits {
    let processors = i64::try_from(facts.processors).unwrap_or(i64::MAX).saturating_mul(1000);
    let reserved = settings.reserved.get("cpu").map_or(0, |amount| amount.milli());
    let memory = i64::try_from(for_pods(facts, settings, "memory")).unwrap_or(0);
    Limits { cpu_shares: shares(processors - reserved), memory, ..Limits::default() }
}

/// What of it is for pods: not what is reserved, nor that below which pods would be evicted.
pub(crate) fn allocatable(facts: &MachineFacts, settings: &Settings) -> BTreeMap<String, Quantity> {
    let kept = |signal: Signal, whole: u64| {
        let hard =
            settings.eviction.thresholds.iter().filter(|threshold| threshold.signal == signal && threshold.is_hard());
        hard.map(|threshold| threshold.least.of(whole)).max().unwrap_or(0)
    };
    let huge: u64 = facts.huge_pages.iter().map(|(_, total)| total).sum();
    let memory = for_pods(facts, settings, "memory").saturating_sub(kept(Signal::Memory, facts.memory) + huge);
    let disk = for_pods(facts, settings, "ephemeral-storage").saturating_sub(kept(Signal::NodeSpace, facts.storage));
    let mut allocatable = capacity(facts, settings.max_pods);
    allocatable.insert("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024)));
    allocatable.insert("ephemeral-storage".to_owned(), Quantity(disk.to_string()));
    if let Some(reserved) = settings.reserved.get("cpu") {
        let whole = i64::try_from(facts.processors).unwrap_or(i64::MAX).saturating_mul(1000);
        let left = Amount::from_milli(whole.saturating_sub(reserved.milli()).max(0), Format::DecimalSi);
        allocatable.insert("cpu".to_owned(), Quantity(left.to_string()));
    }
    allocatable
}

/// The same for computing.
pub(crate) fn amounts(list: &BTreeMap<String, Quantity>) -> ResourceList {
    skiff_api::resources::parse(&Some(list.clone()))
}

/// The labels every node has, and its own.
pub(crate) fn labels(config: &NodeConfig, facts: &MachineFacts) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in [
        ("kubernetes.io/hostname", &config.name),
        ("kubernetes.io/arch", &facts.architecture),
        ("beta.kubernetes.io/arch", &facts.architecture),
        ("kubernetes.io/os", &"linux".to_owned()),
        ("beta.kubernetes.io/os", &"linux".to_owned()),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    labels.extend(config.labels.clone());
    labels
}

/// The annotation that says where a node's own volumes lie, for whoever provisions them.
const STORAGE: &str = "skiff.io/local-path-directory";

/// What the node says of itself beside its labels.
fn annotations(config: &NodeConfig) -> BTreeMap<String, String> {
    let storage = config.storage_directory.display().to_string();
    [(STORAGE.to_owned(), storage), (CONTROLLED.to_owned(), "true".to_owned())].into()
}

/// How the runtime is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RuntimeHealth {
    /// Such as `containerd://1.6.20`.
    pub(crate) version: String,
    /// Why pods cannot run now; empty: they can.
    pub(crate) faults: Vec<String>,
    pub(crate) images: Vec<ContainerImage>,
    /// As of which arrival of images.
    generation: u64,
}

/// Asks the runtime how it is. Its images are listed only when some have come since `before`.
async fn health(node: &Node, before: Option<&RuntimeHealth>) -> RuntimeHealth {
    let runtime = &*node.runtime;
    let unanswered = |error: RuntimeError| RuntimeHealth {
        faults: vec![format!("container runtime is down: {error}")],
        ..before.cloned().unwrap_or_default()
    };
    let (version, status) = match (runtime.version().await, runtime.status().await) {
        (Ok(version), Ok(status)) => (version, status),
        (Err(error), _) | (_, Err(error)) => return unanswered(error),
    };
    node.abilities.tell(&status);
    let generation = node.images.generation();
    let images = match before.filter(|before| before.generation == generation && before.faults.is_empty()) {
        Some(before) => before.images.clone(),
        None => largest(runtime.list_images().await.unwrap_or_default()),
    };
    let mut faults = Vec::new();
    for condition in status.status.unwrap_or_default().conditions {
        let what = match condition.r#type.as_str() {
            _ if condition.status => continue,
            "NetworkReady" => "container runtime network not ready: NetworkReady=false",
            "RuntimeReady" => "container runtime not ready: RuntimeReady=false",
            _ => continue,
        };
        faults.push(format!("{what} reason:{} message:{}", condition.reason, condition.message));
    }
    RuntimeHealth {
        version: format!("{}://{}", version.runtime_name, version.runtime_version),
        faults,
        images,
        generation,
    }
}

fn largest(mut images: Vec<Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let told = images.into_iter().take(MAX_IMAGES).map(|image| ContainerImage {
        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    told.collect()
}

/// What plugins have and what is used of them, and what the runtime can do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// Attached volumes.
    in_use: Vec<String>,
    handlers: Option<Vec<NodeRuntimeHandler>>,
    features: Option<NodeFeatures>,
    /// Resources, how many devices there are, and how many of them are well.
    devices: Vec<(String, usize, usize)>,
}

impl Kept {
    fn by(node: &Node) -> Self {
        Self {
            in_use: node.drivers.in_use(),
            handlers: node.abilities.handlers(),
            features: node.abilities.features(),
            devices: devices::of(node),
        }
    }
}

/// The node's status now. Times of conditions that have not changed are those of `previous`.
pub(crate) fn status(
    config: &NodeConfig,
    facts: &MachineFacts,
    port: u16,
    health: &RuntimeHealth,
    pressures: &[Scarce],
    kept: &Kept,
    previous: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let internal =
        |address: &std::net::IpAddr| NodeAddress { type_: "InternalIP".into(), address: address.to_string() };
    let mut addresses: Vec<NodeAddress> = config.addresses.iter().map(internal).collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: config.name.clone() });
    let with = |mut list: BTreeMap<String, Quantity>, of: fn(&(String, usize, usize)) -> (String, usize)| {
        let devices = kept.devices.iter().map(of);
        list.extend(devices.map(|(name, count)| (name, Quantity(count.to_string()))));
        list
    };
    let endpoint = (port > 0).then(|| DaemonEndpoint { port: i32::from(port) });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(with(capacity(facts, config.settings.max_pods), |(name, all, _)| (name.clone(), *all))),
        allocatable: Some(with(allocatable(facts, &config.settings), |(name, _, well)| (name.clone(), *well))),
        conditions: Some(conditions(health, pressures, previous, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: endpoint }),
        images: Some(health.images.clone()),
        volumes_in_use: Some(kept.in_use.clone()),
        runtime_handlers: kept.handlers.clone(),
        features: kept.features.clone(),
        node_info: Some(NodeSystemInfo {
            architecture: facts.architecture.clone(),
            boot_id: facts.boot_id.clone(),
            container_runtime_version: health.version.clone(),
            kernel_version: facts.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: config.version.clone(),
            machine_id: facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.os_image.clone(),
            swap: None,
            system_uuid: facts.system_uuid.clone(),
        }),
        ..NodeStatus::default()
    }
}

fn conditions(
    health: &RuntimeHealth,
    pressures: &[Scarce],
    previous: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let fault = health.faults.join(", ");
    let ready = if fault.is_empty() {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
    } else {
        ("Ready", "False", "KubeletNotReady", fault.as_str())
    };
    let memory = if pressures.contains(&Scarce::Memory) {
        ("MemoryPressure", "True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
    } else {
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
    };
    let disk = if pressures.contains(&Scarce::Disk) {
        ("DiskPressure", "True", "KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    let pids = if pressures.contains(&Scarce::Pids) {
        ("PIDPressure", "True", "KubeletHasInsufficientPID", "kubelet has insufficient PID available")
    } else {
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available")
    };
    let told = [memory, disk, pids, ready];
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let condition = |(type_, status, reason, message): (&str, &str, &str, &str)| {
        let mut old = previous.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let same = old.find(|old| old.type_ == type_ && old.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same.and_then(|old| old.last_transition_time.clone()).or(Some(now.clone())),
        }
    };
    told.into_iter().map(condition).collect()
}

/// Whether two statuses say the same, whatever the time.
fn says_the_same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(a) == timeless(b)
}

/// Registers the node and keeps its object and its Lease.
pub(crate) struct Heartbeat {
    node: Arc<Node>,
    port: u16,
    written: Option<NodeStatus>,
    written_at: Duration,
    uid: Option<String>,
}

impl Heartbeat {
    pub(crate) fn new(node: Arc<Node>, port: u16) -> Self {
        Self { node, port, written: None, written_at: Duration::ZERO, uid: None }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut health = health(&self.node, None).await;
        self.register(&health).await;
        let lease = crate::node_status::renew_lease(self.node.clone(), self.uid.clone().unwrap_or_default());
        let statuses = async {
            let mut wait = LOOK.0;
            loop {
                let well = health.faults.is_empty();
                let pause = if well { LOOK_AGAIN } else { wait };
                wait = if well { LOOK.0 } else { (wait * 11 / 10).min(LOOK.1) };
                let mut over = self.node.world.sleep(pause);
                loop {
                    self.write(&health).await;
                    tokio::select! {
                        biased;
                        () = &mut over => break,
                        () = self.node.heartbeat.notified() => {}
                    }
                }
                health = crate::node_status::health(&self.node, Some(&health)).await;
            }
        };
        tokio::join!(lease, statuses);
    }

    /// Creates the Node, or takes over the one of this name. Tries until it succeeds.
    async fn register(&mut self, health: &RuntimeHealth) {
        let mut pause = RETRY.0;
        loop {
            match self.try_register(health).await {
                Ok(()) => return,
                Err(error) => tracing::warn!("the node is not registered yet: {error}"),
            }
            self.node.world.sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn try_register(&mut self, health: &RuntimeHealth) -> Result<(), ClientError> {
        let Node { config, facts, client, world, .. } = &*self.node;
        let api = client.all::<ApiNode>();
        let status = status(config, facts, self.port, health, &[], &Kept::by(&self.node), None, world.now());
        let wanted = ApiNode {
            metadata: ObjectMeta {
                name: Some(config.name.clone()),
                labels: Some(labels(config, facts)),
                annotations: Some(annotations(config)),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: Some(config.taints.clone()).filter(|taints| !taints.is_empty()),
                ..NodeSpec::default()
            }),
            status: Some(status),
        };
        let present = match api.create(&wanted).await {
            Ok(created) => created,
            Err(error) if error.is_already_exists() => {
                let metadata = json!({"labels": labels(config, facts), "annotations": annotations(config)});
                api.patch(&config.name, &Patch::Strategic(json!({"metadata": metadata}))).await?
            }
            Err(error) => return Err(error),
        };
        tracing::info!(node = config.name, "registered");
        self.uid = present.metadata.uid;
        self.written = present.status;
        Ok(())
    }

    /// Writes the status if it has changed, or has not been written for long.
    async fn write(&mut self, health: &RuntimeHealth) {
        let Node { config, facts, client, world, .. } = &*self.node;
        let pressures = self.node.pressures();
        let mut health = health.clone();
        health.faults.extend(self.node.shutdown.is_under_way().then(|| "node is shutting down".to_owned()));
        let health = &health;
        let (kept, written) = (Kept::by(&self.node), self.written.as_ref());
        let status = status(config, facts, self.port, health, &pressures, &kept, written, world.now());
        let fresh = world.elapsed() - self.written_at < REPEAT;
        if fresh && self.written.as_ref().is_some_and(|written| says_the_same(written, &status)) {
            return;
        }
        let api = client.all::<ApiNode>();
        match api.patch_status(&config.name, &Patch::Strategic(patch(&status))).await {
            Ok(_) => {
                self.written = Some(status);
                self.written_at = world.elapsed();
            }
            Err(error) if error.is_not_found() => {
                tracing::warn!("the Node object is gone; registering again");
                let health = health.clone();
                self.register(&health).await;
            }
            Err(error) => tracing::warn!("the node's status was not written: {error}"),
        }
    }
}

/// The status as a strategic merge patch: conditions of others stay, lists of ours are replaced.
fn patch(status: &NodeStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    if let Some(addresses) = body.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.push(json!({"$patch": "replace"}));
    }
    json!({"status": body})
}

/// Renews the node's Lease for ever.
async fn renew_lease(node: Arc<Node>, uid: String) {
    let api = node.client.namespaced::<Lease>("kube-node-lease");
    let mut known: Option<Lease> = None;
    let mut pause = RETRY.0;
    loop {
        let present = match known.take() {
            Some(known) => Ok(Some(known)),
            None => api.get_opt(&node.config.name).await,
        };
        let result = match present {
            Ok(Some(present)) => api.update(&lease(&node, &uid, Some(&present))).await,
            Ok(None) => api.create(&lease(&node, &uid, None)).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(lease) => {
                known = Some(lease);
                pause = RETRY.0;
                node.world.sleep(RENEWAL).await;
            }
            Err(error) => {
                tracing::warn!("the node's lease was not renewed: {error}");
                node.world.sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

fn lease(node: &Node, uid: &str, known: Option<&Lease>) -> Lease {
    let name = &node.config.name;
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    let mut metadata = known.map(|lease| lease.metadata.clone()).unwrap_or_default();
    metadata.name = Some(name.clone());
    metadata.namespace = Some("kube-node-lease".to_owned());
    metadata.owner_references = Some(vec![owner]);
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(node.world.now())),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig {
            name: "n".into(),
            hostname: "h".into(),
            addresses: vec!["10.0.0.1".parse().expect("an address")],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            taints: Vec::new(),
            directory: "/none".into(),
            log_directory: "/none".into(),
            storage_directory: "/s".into(),
            image_directory: None,
            static_pod_directory: None,
            cluster_dns: None,
            cluster_domain: "cluster.local".into(),
            settings: Settings::default(),
            watches_pressure: false,
            takes_plugins: false,
            version: "v1.36.2".into(),
            server: None,
            os: crate::os::Os::hollow(facts()),
        }
    }

    fn facts() -> MachineFacts {
        MachineFacts {
            processors: 4,
            memory: 8 << 30,
            storage: 100 << 30,
            huge_pages: vec![(2 << 20, 0), (1 << 30, 2 << 30)],
            architecture: "amd64".into(),
            ..MachineFacts::default()
        }
    }

    #[test]
    fn amounts_of_a_machine() {
        let text = |list: &BTreeMap<String, Quantity>, key: &str| list[key].0.clone();
        let capacity = capacity(&facts(), 110);
        assert_eq!((text(&capacity, "cpu"), text(&capacity, "memory")), ("4".into(), "8388608Ki".into()));
        assert_eq!((text(&capacity, "hugepages-2Mi"), text(&capacity, "hugepages-1Gi")), ("0".into(), "2Gi".into()));
        let allocatable = |settings: &Settings| {
            let list = allocatable(&facts(), settings);
            ["cpu", "memory", "ephemeral-storage"].map(|key| text(&list, key))
        };
        let (memory, disk) = ((6 << 20) - (100 << 10), 99_u64 << 30);
        assert_eq!(allocatable(&Settings::default()), ["4".to_owned(), format!("{memory}Ki"), disk.to_string()]);
        let reserved = [("cpu", "500m"), ("memory", "1Gi")].map(|(k, v)| (k.to_owned(), v.parse().expect("an amount")));
        let reserving = Settings { reserved: reserved.into(), ..Settings::default() };
        assert_eq!(allocatable(&reserving)[..2], ["3500m".to_owned(), format!("{}Ki", memory - (1 << 20))]);
    }

    #[test]
    fn a_node_is_ready_when_its_runtime_is() {
        let now = |second| Timestamp::from_second(second).expect("in range");
        let ready = |status: &NodeStatus| {
            let condition = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").expect("a condition");
            let since = condition.last_transition_time.as_ref().expect("a time").0.as_second();
            (condition.status.clone(), condition.message.clone().unwrap_or_default(), since)
        };
        let faulty = RuntimeHealth { faults: vec!["no network".into()], ..RuntimeHealth::default() };
        let first = status(&config(), &facts(), 10250, &faulty, &[Scarce::Disk], &Kept::default(), None, now(1));
        assert_eq!(ready(&first), ("False".into(), "no network".into(), 1));
        let kept = Kept { devices: vec![("a.com/x".to_owned(), 3, 2)], ..Kept::default() };
        let second = status(&config(), &facts(), 10250, &RuntimeHealth::default(), &[], &kept, Some(&first), now(5));
        assert_eq!(ready(&second).0, "True");
        let count = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().map(|list| list["a.com/x"].0.clone());
        assert_eq!((count(&second.capacity), count(&second.allocatable)), (Some("3".into()), Some("2".into())));
        let third = status(&config(), &facts(), 10250, &RuntimeHealth::default(), &[], &kept, Some(&second), now(9));
        assert_eq!(ready(&third).2, 5);
        assert!(says_the_same(&second, &third) && !says_the_same(&first, &second));
    }

    #[test]
    fn labels_of_every_node() {
        let labels = labels(&config(), &facts());
        assert_eq!((labels["kubernetes.io/hostname"].as_str(), labels["kubernetes.io/os"].as_str()), ("n", "linux"));
        assert_eq!(labels["a"], "b");
    }
}
