//! etcd clusters on loopback, with data in a temporary directory, gone with the value.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use skiff_meta::WorldRef;
use skiff_meta::world::RealWorld;
use skiff_store::{EtcdConfig, EtcdStore};
use tempfile::TempDir;

/// Members, some of which may be dead at the moment.
pub(crate) struct Cluster {
    members: Vec<Member>,
    _data: TempDir,
}

struct Member {
    url: String,
    args: Vec<String>,
    process: Option<Child>,
}

/// What etcd is told beyond where it is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Flags<'a> {
    /// More flags.
    pub(crate) more: &'a [&'a str],
    /// Clients use https.
    pub(crate) tls: bool,
    /// As in production: etcd's own times, and every write synced.
    pub(crate) careful: bool,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Cluster {
    /// Members that elect and answer fast.
    pub(crate) fn start(size: usize) -> Self {
        Self::with(size, Flags::default())
    }

    pub(crate) fn with(size: usize, flags: Flags<'_>) -> Self {
        // Memory where there is some, so that a busy disk delays no test that is not about disks.
        let memory = std::path::Path::new("/dev/shm");
        let data = if memory.is_dir() && !flags.careful { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let data = data.expect("a temporary directory");
        let peers: Vec<_> = (0..size).map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
        let all: Vec<_> = peers.iter().enumerate().map(|(number, url)| format!("m{number}={url}")).collect();
        let scheme = if flags.tls { "https" } else { "http" };
        let members = peers.iter().enumerate().map(|(number, peer)| {
            let url = format!("{scheme}://127.0.0.1:{}", free_port());
            let directory = data.path().join(number.to_string()).display().to_string();
            let mut args: Vec<String> = [
                ["--name", &format!("m{number}")],
                ["--data-dir", &directory],
                ["--listen-client-urls", &url],
                ["--advertise-client-urls", &url],
                ["--listen-peer-urls", peer],
                ["--initial-advertise-peer-urls", peer],
                ["--initial-cluster", &all.join(",")],
                ["--logger", "zap"],
                ["--log-level", "fatal"],
            ]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
            if !flags.careful {
                args.extend(
                    ["--unsafe-no-fsync", "--heartbeat-interval=50", "--election-timeout=500"].map(str::to_owned),
                );
            }
            args.extend(flags.more.iter().map(|flag| (*flag).to_owned()));
            Member { url, args, process: None }
        });
        let mut cluster = Self { members: members.collect(), _data: data };
        (0..size).for_each(|number| cluster.revive(number));
        cluster
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig::new(self.urls())
    }

    pub(crate) fn urls(&self) -> impl Iterator<Item = String> {
        self.members.iter().map(|member| member.url.clone())
    }

    /// A store on this cluster, once it answers.
    pub(crate) async fn store(&self) -> EtcdStore {
        let world: WorldRef = RealWorld::shared();
        let mut attempt = 0;
        loop {
            attempt += 1;
            match EtcdStore::connect(&self.config(), world.clone()).await {
                Ok(store) => return store,
                // A busy machine may take its time to start it.
                Err(error) => assert!(attempt < 6, "etcd does not answer: {error}"),
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.members[number].process.take() {
            process.kill().expect("it was running");
            process.wait().expect("a child of ours");
        }
    }

    pub(crate) fn revive(&mut self, number: usize) {
        let member = &mut self.members[number];
        let command = &mut Command::new("etcd");
        command.args(&member.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process =
            command.spawn().expect("etcd starts (Debian's package etcd-server; `cargo xtask test` installs it)");
        member.process = Some(process);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|number| self.kill(number));
    }
}

/// Runs a test that talks to etcd.
pub(crate) fn block_on<T>(main: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(main)
}
