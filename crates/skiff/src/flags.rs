//! Commands and flags: the one source of help and parsing. They follow what k3s and upstream users know.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Skiff: a complete Kubernetes in one binary.
#[derive(Parser)]
#[command(name = "skiff", version, disable_help_subcommand = true)]
pub(crate) struct Skiff {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to be.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Control plane and node agent in one process
    Server(Box<Server>),
    /// The API server alone
    Apiserver(Box<Server>),
    /// A worker node
    Agent(Box<Agent>),
    /// A local cluster of several nodes, each in a network namespace
    #[command(subcommand)]
    Cluster(LocalCluster),
    /// What machines show that are to become nodes
    #[command(subcommand)]
    Token(Token),
    /// Images of the nodes on this machine
    #[command(subcommand)]
    Image(Image),
    /// One component alone, against any Kubernetes API
    ControllerManager(Component),
    /// One component alone, against any Kubernetes API
    Scheduler(SchedulerAlone),
    /// The CLI; also what runs when the binary is called `kubectl`
    #[command(disable_help_flag = true)]
    Kubectl {
        /// kubectl's own words
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// What changed since a moment of the past: skiff diff --from 10m KIND/NAME
    #[command(disable_help_flag = true)]
    Diff {
        /// Objects and flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Save the whole state of a running server to a file, or make a data directory of one
    Snapshot {
        #[command(subcommand)]
        command: Snapshot,
    },
    /// Stop whatever still runs from a data directory and remove its devices, mounts, cgroups and rules
    Cleanup {
        /// The data directory
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
        /// Remove the data as well
        #[arg(long)]
        purge: bool,
    },
    /// Is this machine fit to be a server or node?
    Check(Check),
    /// Print the version
    Version,
}

/// What to do with a snapshot.
#[derive(Subcommand)]
pub(crate) enum Snapshot {
    /// Save the state of a running server; it holds all secrets and keys of the cluster
    Save {
        /// Where to put it
        file: PathBuf,
        /// How to reach the server, as a cluster administrator
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
    },
    /// Restore a snapshot into an empty data directory
    Restore {
        /// The snapshot
        file: PathBuf,
        /// The data directory
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
    },
}

pub(crate) const DATA_DIR: &str = "/var/lib/skiff";
const CLUSTER_DIR: &str = "/var/lib/skiff-cluster";

/// Flags of a component that runs alone.
#[derive(Args)]
pub(crate) struct Component {
    /// How to reach the API
    #[arg(long)]
    pub(crate) kubeconfig: PathBuf,
    #[command(flatten)]
    pub(crate) log: Log,
}

/// Flags of `skiff scheduler`.
#[derive(Args)]
pub(crate) struct SchedulerAlone {
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, alias = "scheduler-config")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) component: Component,
}

/// Flags of every long-running command.
#[derive(Args)]
pub(crate) struct Log {
    /// Form of the log on stderr
    #[arg(long, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or a filter such as `skiff_node=debug`
    #[arg(long, default_value = "info")]
    pub(crate) log_level: String,
}

/// Form of the log.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Parts of `skiff server` that can be left out.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The node agent
    Agent,
    Scheduler,
    ControllerManager,
    /// Services
    Proxy,
    /// Cluster DNS
    Dns,
    /// Network policies
    NetworkPolicy,
    /// Addresses for Services of type LoadBalancer
    ServiceLb,
}

impl Part {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }
}

/// The pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Nodes anywhere: packets between them travel in UDP
    Vxlan,
    /// Nodes on one wire: plain routes
    Routed,
    /// Nodes anywhere: packets between them are encrypted, where the kernel has WireGuard
    Wireguard,
    /// One node only
    Bridge,
    /// A CNI of yours in --cni-conf-dir and --cni-bin-dir
    None,
}

/// Flags of every node, and of whatever has a data directory.
#[derive(Args)]
pub(crate) struct Node {
    /// These flags in YAML, such as `secure-port: 6443`; the command line goes before it
    #[arg(long = "config", value_name = "FILE")]
    pub(crate) _config: Option<PathBuf>,
    /// Store, certificates, kubeconfigs, private containerd
    #[arg(long, default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// Port of the node agent (0: any free one)
    #[arg(long, default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// Where CNI configurations are (--network none)
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// Where CNI plugins are (--network none)
    #[arg(long, default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Where pods' volumes and the sockets of plugins are; drivers expect /var/lib/kubelet [default: DATA-DIR/agent]
    #[arg(long, value_name = "DIR")]
    pub(crate) root_dir: Option<PathBuf>,
    /// An existing CRI runtime, unix:///path; without it: a private containerd
    #[arg(long)]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Address of this node, or one of each family, A,B [default: the one that reaches the default route]
    #[arg(long, value_delimiter = ',', num_args = 1, value_name = "A[,B]")]
    pub(crate) node_ip: Vec<IpAddr>,
    /// Labels of this node, KEY=VALUE
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_label: Vec<String>,
    /// Taints of this node, KEY=VALUE:EFFECT
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_taint: Vec<String>,
    /// A KubeletConfiguration (kubelet.config.k8s.io/v1beta1): what is reserved, and when pods are evicted
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_config: Option<PathBuf>,
    /// Leave parts out
    #[arg(long, value_delimiter = ',')]
    pub(crate) disable: Vec<Part>,
    #[command(flatten)]
    pub(crate) log: Log,
}

impl Node {
    /// Whether a part runs.
    pub(crate) fn runs(&self, part: Part) -> bool {
        !self.disable.contains(&part)
    }
}

/// Flags of `skiff server`.
#[derive(Args)]
pub(crate) struct Server {
    /// Keep everything in memory and a temporary directory; at exit pods, containerd and devices go too
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Keep the cluster's state in etcd v3, at these URLs, and not in the data directory
    #[arg(long, value_delimiter = ',', value_name = "URL", conflicts_with = "ephemeral")]
    pub(crate) datastore_endpoint: Vec<String>,
    /// Who signs etcd's certificates (PEM)
    #[arg(long, value_name = "FILE", requires = "datastore_endpoint")]
    pub(crate) datastore_cafile: Option<PathBuf>,
    /// Our certificate for etcd (PEM)
    #[arg(long, value_name = "FILE", requires = "datastore_keyfile")]
    pub(crate) datastore_certfile: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "datastore_certfile")]
    pub(crate) datastore_keyfile: Option<PathBuf>,
    /// Port of the API (0: any free one)
    #[arg(long, default_value_t = 6443)]
    pub(crate) secure_port: u16,
    /// How far back `get --at` and `diff --from` can look, such as 90m or 2d (0s: not at all)
    #[arg(long, default_value = "1h")]
    pub(crate) history: String,
    /// Most bytes on disk for that, such as 256Mi
    #[arg(long, default_value = "256Mi")]
    pub(crate) history_size: String,
    /// Also serve the store as etcd v3 on this loopback address, such as 127.0.0.1:2379: everything in it is open to
    /// whoever connects
    #[arg(long, conflicts_with = "datastore_endpoint")]
    pub(crate) etcd_listen: Option<SocketAddr>,
    /// Addresses of pods; with a second range of the other family, pods have both
    #[arg(long, default_value = "10.42.0.0/16", value_name = "RANGE[,RANGE]")]
    pub(crate) cluster_cidr: String,
    /// How long the prefix of a node's IPv4 addresses for pods is
    #[arg(long, default_value_t = 24, value_name = "BITS")]
    pub(crate) node_cidr_mask_size_ipv4: u8,
    /// How long the prefix of a node's IPv6 addresses for pods is
    #[arg(long, default_value_t = 64, value_name = "BITS")]
    pub(crate) node_cidr_mask_size_ipv6: u8,
    /// Addresses of Services; with a second range of the other family, Services can have both. The first is of the
    /// server's own family, and what Services get that do not say
    #[arg(long, default_value = "10.43.0.0/16", value_name = "RANGE[,RANGE]")]
    pub(crate) service_cidr: String,
    /// Addresses for Services of type LoadBalancer, each a range, FROM-TO or a single one; without it they have the
    /// nodes' own
    #[arg(long, value_delimiter = ',', value_name = "RANGE[,RANGE]")]
    pub(crate) load_balancer_pool: Vec<String>,
    /// How long certificates last that nodes and others ask for, such as 8760h: they are renewed when a third of it is left
    #[arg(long, default_value = "8760h")]
    pub(crate) cluster_signing_duration: String,
    /// Address of the cluster's DNS
    #[arg(long, default_value = "10.43.0.10")]
    pub(crate) cluster_dns: IpAddr,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Ports for Services of type NodePort
    #[arg(long, default_value = "30000-32767")]
    pub(crate) service_node_port_range: String,
    /// The pod network, of all nodes
    #[arg(long, default_value = "vxlan")]
    pub(crate) network: Network,
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long)]
    pub(crate) scheduler_config: Option<PathBuf>,
    /// Also write the administrator's kubeconfig here
    #[arg(long)]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    /// A bearer token that makes its holder administrator
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// More names and addresses for the API's certificate
    #[arg(long, value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
    #[command(flatten)]
    pub(crate) api: crate::api_flags::ApiFlags,
    #[command(flatten)]
    pub(crate) node: Node,
}

/// Flags of `skiff agent`.
#[derive(Args)]
pub(crate) struct Agent {
    /// Where the API is, https://HOST:PORT
    #[arg(long)]
    pub(crate) server: String,
    /// What `skiff token create` printed; needed until the node has joined
    #[arg(long, default_value = "")]
    pub(crate) token: String,
    #[command(flatten)]
    pub(crate) node: Node,
}

/// Flags of `skiff check`: those of the server that it is about.
#[derive(Args)]
pub(crate) struct Check {
    /// Where the data would be
    #[arg(long, default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Port of the API (0: any free one)
    #[arg(long, default_value_t = 6443)]
    pub(crate) secure_port: u16,
    /// Port of the node agent (0: any free one)
    #[arg(long, default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// An existing CRI runtime instead of a private containerd
    #[arg(long)]
    pub(crate) container_runtime_endpoint: Option<String>,
}

/// `skiff token`.
#[derive(Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it
    Create {
        /// How long it is good for: 30m, 24h, 7d; 0: for ever
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// List tokens, without their secrets
    List {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Delete tokens, by id or whole
    Delete {
        /// Which
        #[arg(required = true)]
        tokens: Vec<String>,
        #[command(flatten)]
        cluster: Cluster,
    },
}

/// `skiff image`.
#[derive(Subcommand)]
pub(crate) enum Image {
    /// Import OCI or docker archives
    Load {
        /// Which
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The data directory of a node that runs, or of a local cluster
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
    },
    /// List images
    List {
        /// The data directory of a node that runs, or of a local cluster
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
    },
    /// Remove images, by name
    Rm {
        /// Which
        #[arg(required = true)]
        names: Vec<String>,
        /// The data directory of a node that runs, or of a local cluster
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
    },
}

/// `skiff cluster`.
#[derive(Subcommand)]
pub(crate) enum LocalCluster {
    /// Start one and wait until its nodes are ready
    Create {
        /// How many nodes; the first is also the server
        #[arg(long, default_value_t = 3)]
        nodes: u8,
        /// Where everything of it is kept; DIR/images/*.tar are imported on every node
        #[arg(long, default_value = CLUSTER_DIR)]
        data_dir: PathBuf,
        /// Flags for `skiff server`, after `--`
        #[arg(last = true)]
        server_flags: Vec<String>,
    },
    /// Stop one and remove all of it
    Delete {
        /// Where it is kept
        #[arg(long, default_value = CLUSTER_DIR)]
        data_dir: PathBuf,
    },
}

/// Which cluster a command is about.
#[derive(Args)]
pub(crate) struct Cluster {
    /// The server's data directory
    #[arg(long, default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// An administrator's kubeconfig [default: DATA-DIR/admin.kubeconfig]
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
}
