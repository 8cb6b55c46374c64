//! A private containerd under our own directory, started, watched over and started again.
//!
//! The system's own containerd is never touched: root, state and socket are ours. Containers belong to their shims and
//! outlive containerd, and containerd outlives us when we are killed; whoever starts in the same directory next adopts
//! it as it runs, unless its configuration would differ now.

mod config;
mod import;
mod leftovers;
mod pause;
mod process;
mod programs;
mod registries;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use skiff_meta::WorldRef;
use skiff_meta::world::{Task, WorldExt};
use tokio::sync::watch;

use crate::grpc::GrpcRuntime;
use crate::runtime::{Runtime, RuntimeError};
use config::{Machine, Paths};
pub(crate) use import::Importer;
pub(crate) use leftovers::Known;
use leftovers::Leftovers;
use process::Process;
use programs::Programs;
pub use programs::{PROGRAMS, is_installed};
use registries::Registries;

/// Whether the programs that a private containerd needs are there.
///
/// # Errors
/// [`ContainerdError::Missing`] names the first that is not.
pub fn installed() -> Result<(), ContainerdError> {
    Programs::find().map(drop)
}

/// The image of every sandbox's own process.
pub const PAUSE_IMAGE: &str = pause::IMAGE;
/// How long containerd may take from its start to its first answer; a full disk check can take a while.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is started before we give up: it may be killed while it starts as at any other time.
const START_ATTEMPTS: usize = 3;
/// The kernel's limit for the path of a socket, without the final zero.
const SOCKET_PATH_LIMIT: usize = 107;
/// containerd appends this for its second socket.
const SECOND_SOCKET: &str = ".ttrpc";
/// A log larger than this is set aside at the next start.
const LOG_LIMIT: u64 = 16 << 20;

/// Why containerd does not run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// A program is not there.
    #[error("{0} is not installed; install the packages containerd and runc (Debian: apt-get install containerd runc)")]
    Missing(&'static str),
    /// A file or directory of ours cannot be written, or the program cannot be run.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended, or did not answer in time.
    #[error("containerd does not start ({reason}); its log is {log}")]
    NotReady {
        /// What was seen.
        reason: String,
        /// Where to read more.
        log: String,
    },
    /// The file of registries is not what it should be.
    #[error("{file}: {why}")]
    Registries {
        /// Which file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The pause image could not be put in place.
    #[error("the pause image cannot be imported: {0}")]
    Pause(#[source] RuntimeError),
}

impl ContainerdError {
    /// Whether it may be that somebody has killed containerd, so that another attempt may go well.
    fn may_pass(&self) -> bool {
        matches!(self, Self::NotReady { .. } | Self::Pause(RuntimeError::Unavailable(_) | RuntimeError::Import { .. }))
    }
}

/// Where a private containerd lives and finds its network plugins.
#[derive(Clone, Debug)]
pub struct ContainerdOptions {
    /// Its directory, such as `DATA-DIR/containerd`; made when missing.
    pub directory: PathBuf,
    /// Where network configurations appear.
    pub cni_conf_dir: PathBuf,
    /// Where network plugins are.
    pub cni_bin_dir: PathBuf,
    /// Mirrors of registries and credentials for them, if the file is there.
    pub registries: PathBuf,
    /// Whether nobody else has sandboxes in that network, so that what ours do not have can be given back.
    pub own_network: bool,
}

/// A private containerd that is kept running until [`Containerd::stop`]. Dropping this leaves it running, for the next
/// process to adopt.
pub struct Containerd {
    socket: PathBuf,
    runtime: Arc<GrpcRuntime>,
    stop: watch::Sender<bool>,
    keeper: Mutex<Option<Task>>,
}

/// What it takes to start one, again and again.
struct Keeper {
    programs: Programs,
    paths: Paths,
    config: PathBuf,
    log: PathBuf,
    runtime: Arc<GrpcRuntime>,
    world: WorldRef,
}

impl Containerd {
    /// Starts containerd, or adopts the one that still runs from this directory, and returns once it answers and has
    /// the pause image. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// When a program is missing, the directory cannot be written, or containerd does not come up.
    pub async fn start(options: ContainerdOptions, world: WorldRef) -> Result<Self, ContainerdError> {
        let programs = Programs::find()?;
        let directory = std::path::absolute(&options.directory).map_err(io("its directory"))?;
        for child in ["", "root", "state", "certs.d"] {
            let path = directory.join(child);
            std::fs::create_dir_all(&path).map_err(io(format!("making {}", path.display())))?;
        }
        let paths = Paths {
            root: directory.join("root"),
            state: directory.join("state"),
            socket: socket_path(&directory)?,
            registry: directory.join("certs.d"),
            cni_conf: options.cni_conf_dir,
            cni_bin: options.cni_bin_dir,
            own_network: options.own_network,
        };
        let machine = Machine::detect(&paths.root);
        let importer = Importer {
            ctr: programs.ctr.clone(),
            socket: paths.socket.clone(),
            snapshotter: config::snapshotter(machine),
            world: world.clone(),
        };
        let keeper = Keeper {
            config: directory.join("config.toml"),
            log: directory.join("containerd.log"),
            runtime: Arc::new(GrpcRuntime::new(&paths.socket).with_importer(importer)),
            programs,
            paths,
            world: world.clone(),
        };
        let registries = Registries::read(&options.registries)
            .map_err(|why| ContainerdError::Registries { file: options.registries.display().to_string(), why })?;
        write_hosts(&keeper.paths.registry, &registries)?;
        let config = config::file(&keeper.paths, machine, &registries.credentials());
        let mut attempts = 1;
        let process = loop {
            match keeper.prepare(&config, &directory).await {
                Ok(process) => break process,
                Err(error) if error.may_pass() && attempts < START_ATTEMPTS => tracing::warn!("{error}; once more"),
                Err(error) => return Err(error),
            }
            attempts += 1;
        };

        let (stop, stopped) = watch::channel(false);
        let (socket, runtime) = (keeper.paths.socket.clone(), keeper.runtime.clone());
        let keeper = world.spawn("containerd", Box::pin(keeper.keep(process, stopped)));
        Ok(Self { socket, runtime, stop, keeper: Mutex::new(Some(keeper)) })
    }

    /// The runtime it serves.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops containerd, by force after five seconds. Containers run on.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            keeper.await;
        }
    }
}

/// A client of the containerd that runs from `directory`, whoever started it. Must be called inside a Tokio runtime.
///
/// # Errors
/// When a program is missing or the path cannot be made absolute.
pub fn client(directory: &Path, world: WorldRef) -> Result<impl Runtime, ContainerdError> {
    let programs = Programs::find()?;
    let directory = std::path::absolute(directory).map_err(io("its directory"))?;
    let socket = socket_path(&directory)?;
    let snapshotter = config::snapshotter(Machine::detect(&directory.join("root")));
    Ok(GrpcRuntime::new(&socket).with_importer(Importer { ctr: programs.ctr, socket, snapshotter, world }))
}

/// Stops the containerd that runs from `directory`, if one does. Its containers run on; for cleaning up after a process
/// that was killed.
pub async fn stop_left_over(directory: &Path, world: WorldRef) {
    let Ok(directory) = std::path::absolute(directory) else { return };
    if let Some(process) = Process::find(&directory.join("config.toml"), world) {
        process.stop().await;
    }
}

impl Keeper {
    /// A containerd that answers and has the pause image.
    async fn prepare(&self, config: &str, directory: &Path) -> Result<Process, ContainerdError> {
        let process = self.begin(config).await?;
        self.ensure_pause(directory).await?;
        Ok(process)
    }

    /// Adopts or starts, and waits for the first answer.
    async fn begin(&self, config: &str) -> Result<Process, ContainerdError> {
        let unchanged = std::fs::read_to_string(&self.config).is_ok_and(|present| present == config);
        if let Some(mut process) = Process::find(&self.config, self.world.clone()) {
            if unchanged && self.ready(&mut process).await.is_ok() {
                tracing::info!(pid = process.pid(), "adopted the containerd that still runs");
                return Ok(process);
            }
            tracing::info!(pid = process.pid(), "replacing the containerd that still runs");
            process.stop().await;
        }
        std::fs::write(&self.config, config).map_err(io(format!("writing {}", self.config.display())))?;
        // It may hold credentials.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&self.config, private).map_err(io(format!("closing {}", self.config.display())))?;
        self.launch().await
    }

    async fn launch(&self) -> Result<Process, ContainerdError> {
        if std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_LIMIT) {
            // Losing an old log is no reason not to start.
            let _ = std::fs::rename(&self.log, self.log.with_extension("log.1"));
        }
        let _making = self.runtime.pause_making().await;
        let mut leftovers = Leftovers::find(&self.paths);
        let program = &self.programs.containerd;
        let mut process = Process::start(program, &self.config, &self.log, self.world.clone())
            .map_err(io(format!("running {}", program.display())))?;
        tracing::debug!(pid = process.pid(), "started containerd");
        match self.ready(&mut process).await {
            Ok(()) => {
                if let Err(error) = leftovers.clear(&self.runtime, &self.paths).await {
                    tracing::warn!("what the last containerd left half-made was not looked for: {error}");
                }
                let watch = leftovers.watch(self.runtime.clone(), self.paths.clone(), self.world.clone());
                self.world.spawn("leftovers", Box::pin(watch));
                Ok(process)
            }
            Err(error) => {
                process.stop().await;
                Err(error)
            }
        }
    }

    /// Waits until the runtime answers. containerd announces its readiness to nobody but systemd, so we ask, often at
    /// first since it mostly takes a tenth of a second.
    async fn ready(&self, process: &mut Process) -> Result<(), ContainerdError> {
        let not_ready = |reason: String| ContainerdError::NotReady { reason, log: self.log.display().to_string() };
        let answers = self.world.timeout(START_LIMIT, async {
            let mut pause = Duration::from_millis(4);
            loop {
                // The runtime part is registered last: until then it is unknown at a socket that already answers.
                if self.runtime.version().await.is_ok() {
                    return;
                }
                self.world.sleep(pause).await;
                pause = (pause * 5 / 4).min(Duration::from_millis(250));
            }
        });
        tokio::select! {
            answered = answers => answered.ok_or_else(|| not_ready(format!("no answer within {START_LIMIT:?}"))),
            () = process.ended() => Err(not_ready("it ended at once".to_owned())),
        }
    }

    async fn ensure_pause(&self, directory: &Path) -> Result<(), ContainerdError> {
        if self.runtime.image_status(pause::IMAGE).await.map_err(ContainerdError::Pause)?.is_some() {
            return Ok(());
        }
        let file = directory.join("pause.tar");
        let archive = pause::archive().map_err(io("building the pause image"))?;
        std::fs::write(&file, archive).map_err(io(format!("writing {}", file.display())))?;
        self.runtime.import_images(&file).await.map_err(ContainerdError::Pause)?;
        Ok(())
    }

    /// Starts containerd again whenever it ends, with growing pauses while it does not come up.
    async fn keep(self, mut process: Process, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = process.ended() => {}
                asked = async { stopped.wait_for(|stop| *stop).await.is_ok() } => {
                    if asked {
                        process.stop().await;
                    }
                    // Otherwise nobody looks after it any longer; it runs on until somebody adopts it.
                    return;
                }
            }
            let mut pause = Duration::from_millis(50);
            process = loop {
                match self.launch().await {
                    Ok(process) => break process,
                    Err(error) => tracing::error!("{error}"),
                }
                if *stopped.borrow() {
                    return;
                }
                self.world.sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            };
        }
    }
}

/// Hosts that are in the file no more lose theirs.
fn write_hosts(directory: &Path, registries: &Registries) -> Result<(), ContainerdError> {
    let failed = |path: &Path| io(format!("writing {}", path.display()));
    std::fs::remove_dir_all(directory).map_err(failed(directory))?;
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    for (path, text) in registries.files() {
        let path = directory.join(path);
        let parent = path.parent().unwrap_or(directory);
        std::fs::create_dir_all(parent).map_err(failed(parent))?;
        std::fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

/// The socket lies in the directory, unless its path would be too long for the kernel; then in `/run`, under a name
/// made from the directory's.
fn socket_path(directory: &Path) -> Result<PathBuf, ContainerdError> {
    let near = directory.join("containerd.sock");
    if near.as_os_str().len() + SECOND_SOCKET.len() <= SOCKET_PATH_LIMIT {
        return Ok(near);
    }
    let hash = Sha256::digest(directory.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let far = PathBuf::from("/run/skiff").join(name);
    std::fs::create_dir_all(&far).map_err(io(format!("making {}", far.display())))?;
    Ok(far.join("containerd.sock"))
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ContainerdError {
    move |source| ContainerdError::Io { what: what.into(), source }
}
