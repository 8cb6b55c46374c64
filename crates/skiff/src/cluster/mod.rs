//! `skiff cluster`: a cluster of several nodes on one machine.
//!
//! Every node is a process of its own in a network namespace of its own, with its own data directory, containerd and
//! cgroups; they join as nodes anywhere do. The first is the server. The machine is on the same wire, so that the
//! kubeconfig works from here.

mod wire;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use skiff_client::config::Kubeconfig;
use skiff_client::http::HttpBackend;
use skiff_client::{Call, Client, Event, Selection};
use skiff_meta::WorldRef;
use skiff_server::pki::write_if_changed;

use crate::error::StartError;
use crate::flags::{self, LocalCluster};
use crate::node::check_root;
use crate::token;
use wire::{Wire, program};

const PORT: u16 = 6443;
/// How often another process is looked at, where the system offers nothing to wait for.
const LOOK: Duration = Duration::from_millis(20);
/// How long the nodes' token is good for.
const JOIN_TIME: Duration = Duration::from_secs(3_600);
/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries out one of the verbs.
pub(crate) async fn run(verb: &LocalCluster, world: WorldRef) -> Result<(), StartError> {
    check_root()?;
    match verb {
        LocalCluster::Create { nodes, data_dir, server_flags } => {
            std::fs::create_dir_all(data_dir.join("images")).map_err(|e| failed(data_dir, e))?;
            let place = Place { directory: data_dir.canonicalize().map_err(|e| failed(data_dir, e))?, world };
            if place.directory.join("netns").exists() {
                return Err(StartError::ClusterThere(place.directory.display().to_string()));
            }
            let created = place.create((*nodes).clamp(1, 99), server_flags).await;
            if created.is_err() {
                place.stop_all().await?;
            }
            created
        }
        LocalCluster::Delete { data_dir } => {
            let directory = data_dir.canonicalize().map_err(|e| failed(data_dir, e))?;
            let place = Place { directory, world };
            place.stop_all().await?;
            crate::node::purge(&place.directory).map_err(|e| failed(&place.directory, e))
        }
    }
}

fn failed(path: &Path, error: std::io::Error) -> StartError {
    StartError::Io(path.display().to_string(), error)
}

/// The addresses of a node in the families that pods have, as `--cluster-cidr` tells; the main one first.
fn node_ips(server_flags: &[String], [v4, v6]: [IpAddr; 2]) -> Vec<IpAddr> {
    let mut words = server_flags.iter().flat_map(|flag| flag.split('='));
    let ranges = words.find(|word| *word == "--cluster-cidr").and_then(|_| words.next()).unwrap_or_default();
    ranges.split(',').map(|range| if range.contains(':') { v6 } else { v4 }).collect()
}

/// Whether somebody else brings the pod network.
fn is_foreign(server_flags: &[String]) -> bool {
    let mut pairs = server_flags.windows(2);
    pairs.any(|pair| pair == ["--network", "none"]) || server_flags.iter().any(|flag| flag == "--network=none")
}

struct Place {
    directory: PathBuf,
    world: WorldRef,
}

impl Place {
    async fn create(&self, nodes: u8, server_flags: &[String]) -> Result<(), StartError> {
        let wire = Wire::of(&self.directory);
        let subnet = wire.lay()?;
        for number in 1..=nodes {
            wire.add(&node(number), number, subnet)?;
        }
        let addresses = |number| node_ips(server_flags, subnet.node(number));
        let own = addresses(1).into_iter().next().unwrap_or(subnet.node(1)[0]);
        let url = format!("https://{}", SocketAddr::new(own, PORT));
        let mut words = vec!["server".to_owned(), "--secure-port".to_owned(), PORT.to_string()];
        words.extend(server_flags.iter().cloned());
        let mut server = self.start(&wire, 1, &addresses(1), words)?;
        let client = self.ready(&mut server, &url).await?;
        let cluster = flags::Cluster { data_dir: self.directory.clone(), kubeconfig: None };
        let token = token::create(&cluster, Some(JOIN_TIME), "nodes of this machine", &self.world).await?;
        let mut children = vec![server];
        for number in 2..=nodes {
            let words = ["agent", "--server", &url, "--token", &token].map(str::to_owned).to_vec();
            children.push(self.start(&wire, number, &addresses(number), words)?);
        }
        // Without a network of ours, nodes are ready once somebody brings another one.
        let foreign = is_foreign(server_flags);
        self.nodes_ready(&client, children, foreign).await?;
        let are = if foreign { "have joined" } else { "are ready" };
        println!("{nodes} nodes {are}; export KUBECONFIG={}", self.directory.join("admin.kubeconfig").display());
        Ok(())
    }

    /// Starts the process of a node; it outlives us.
    fn start(&self, wire: &Wire, number: u8, addresses: &[IpAddr], words: Vec<String>) -> Result<Child, StartError> {
        let (name, directory) = (node(number), self.directory.join(node(number)));
        let images = directory.join("images");
        std::fs::create_dir_all(&directory).map_err(|e| failed(&directory, e))?;
        std::os::unix::fs::symlink(self.directory.join("images"), &images).map_err(|e| failed(&images, e))?;
        let log = directory.join("skiff.log");
        let log = std::fs::File::create(&log).map_err(|e| failed(&log, e))?;
        let errors = log.try_clone().map_err(|e| failed(&directory, e))?;
        let mut command = enter(&wire.namespace(&name))?;
        command.args(words).arg("--data-dir").arg(&directory);
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        command.args(["--node-name", &name, "--node-ip", &texts.join(",")]);
        if addresses.first().is_some_and(IpAddr::is_ipv6) {
            command.args(["--bind-address", "::"]);
        }
        // Where a plugin of somebody else's goes: the machine's own directories are not this host's.
        command.arg("--cni-bin-dir").arg(directory.join("cni/bin"));
        command.arg("--cni-conf-dir").arg(directory.join("cni/net.d"));
        // A group of its own: what is typed at this terminal is not meant for it.
        command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(|e| StartError::Program(format!("nsenter cannot be run: {e}")))?;
        let pid = directory.join("pid");
        std::fs::write(&pid, child.id().to_string()).map_err(|e| failed(&pid, e))?;
        Ok(child)
    }

    /// Waits until the API is ready, and writes the kubeconfig for this machine.
    async fn ready(&self, server: &mut Child, url: &str) -> Result<Client, StartError> {
        let (inner, outer) =
            (self.directory.join(node(1)).join("admin.kubeconfig"), self.directory.join("admin.kubeconfig"));
        loop {
            self.check(server, 1)?;
            if let Ok(text) = std::fs::read_to_string(&inner) {
                // Inside, the server is on loopback.
                let text = text.replace(&format!("https://127.0.0.1:{PORT}"), url);
                write_if_changed(&outer, &text)?;
                let remote = Kubeconfig::load(&outer)?.remote(None)?;
                let client = Client::new(Arc::new(HttpBackend::new(remote, self.world.clone(), "skiff")?));
                if client.bytes(Call::get("/readyz")).await.is_ok() {
                    return Ok(client);
                }
            }
            self.world.sleep(LOOK).await;
        }
    }

    /// Waits until every node is ready, or a process has ended.
    async fn nodes_ready(&self, client: &Client, mut children: Vec<Child>, foreign: bool) -> Result<(), StartError> {
        let mut events = client.list_watch(client.all::<Node>().target(Selection::default()));
        let mut waiting: std::collections::BTreeSet<String> =
            (1..=children.len()).map(|i| format!("node-{i}")).collect();
        while !waiting.is_empty() {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.world.sleep(Duration::from_secs(1)) => None,
            };
            for (child, number) in children.iter_mut().zip(1..) {
                self.check(child, number)?;
            }
            let changed = match event {
                Some(Event::Replace(nodes)) => nodes,
                Some(Event::Apply(node)) => vec![node],
                _ => continue,
            };
            let done = |node: &Node| foreign || is_ready(node);
            let ready = changed.iter().filter(|object| object.typed::<Node>().is_ok_and(|node| done(&node)));
            ready.for_each(|object| {
                waiting.remove(&object.meta().name);
            });
        }
        Ok(())
    }

    fn check(&self, child: &mut Child, number: u8) -> Result<(), StartError> {
        match child.try_wait() {
            Ok(None) => Ok(()),
            _ => {
                // What it said would go with its directory.
                let log = self.directory.join(node(number)).join("skiff.log");
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                eprint!("{text}");
                Err(StartError::NodeEnded(node(number), log.display().to_string()))
            }
        }
    }

    /// Ends every node and removes what it leaves on the machine, then the wire.
    async fn stop_all(&self) -> Result<(), StartError> {
        let wire = Wire::of(&self.directory);
        let mut nodes: Vec<PathBuf> = entries(&self.directory)
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("node-")))
            .collect();
        // Agents first: the server has nobody to wait for then.
        nodes.sort();
        for directory in nodes.iter().rev() {
            self.stop(directory).await;
            let namespace = wire.namespace(&directory.file_name().unwrap_or_default().to_string_lossy());
            let mut command = match namespace.exists() {
                true => enter(&namespace)?,
                false => Command::new(own_path()?),
            };
            program(command.args(["cleanup", "--purge", "--data-dir"]).arg(directory))?;
        }
        let namespaces = self.directory.join("netns");
        entries(&namespaces).for_each(|path| wire.remove(&path));
        let _ = std::fs::remove_dir(namespaces);
        wire.take_up()
    }

    /// Asks a node's process to end, and insists after a while.
    async fn stop(&self, directory: &Path) {
        use nix::sys::signal::{Signal, kill};
        let Ok(pid) = std::fs::read_to_string(directory.join("pid")).unwrap_or_default().trim().parse() else { return };
        let pid = nix::unistd::Pid::from_raw(pid);
        let deadline = self.world.elapsed() + PATIENCE;
        let _ = is_node(pid, directory).then(|| kill(pid, Signal::SIGTERM));
        // It is no child of ours, so there is nothing to wait for but its name.
        while is_node(pid, directory) {
            if self.world.elapsed() > deadline {
                let _ = kill(pid, Signal::SIGKILL);
            }
            self.world.sleep(LOOK).await;
        }
    }
}

fn node(number: u8) -> String {
    format!("node-{number}")
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn own_path() -> Result<PathBuf, StartError> {
    std::env::current_exe().map_err(|e| StartError::Io("this program's own file is not found".to_owned(), e))
}

/// This program in a namespace. `ip netns exec` would hide the cgroups.
fn enter(namespace: &Path) -> Result<Command, StartError> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg(own_path()?);
    Ok(command)
}

/// Whether the process is still the node of this directory; numbers are used again.
fn is_node(pid: nix::unistd::Pid, directory: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).any(|word| word == directory.as_os_str().as_encoded_bytes())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
