//! Skiff: a complete Kubernetes in one binary.
//!
//! Called `kubectl`, it is kubectl; called `skiff-cni`, it is the network plugin; otherwise its first word says what to
//! be. Everything is wired in [`server`].

mod agent;
mod api_flags;
mod check;
mod cluster;
mod config;
mod error;
mod flags;
mod follow;
mod image;
mod join;
mod leader;
mod log;
mod node;
mod place;
mod ranges;
mod server;
mod snapshot;
mod token;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use skiff_meta::world::RealWorld;

use flags::{Command, Skiff};

/// Freed memory goes back to the system, and many threads allocate without waiting for each other.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut words = std::env::args();
    let variable = |name: &str| std::env::var(name).ok();
    let called = words.next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(|name| name.to_str()) {
        Some("kubectl") => kubectl(words.collect()),
        Some("skiff-cni") => exit_code(skiff_net::cni::main(variable, std::io::stdin(), std::io::stdout())),
        Some("loopback") => exit_code(skiff_net::cni::loopback::main(variable, std::io::stdin(), std::io::stdout())),
        _ => match config::expand(std::env::args().collect()) {
            Ok(words) => skiff(Skiff::parse_from(words)),
            Err(error) => {
                eprintln!("skiff: {error}");
                ExitCode::from(2)
            }
        },
    }
}

fn skiff(flags: Skiff) -> ExitCode {
    match flags.command {
        Command::Kubectl { words } => kubectl(words),
        Command::Diff { words } => exit_code(runtime().block_on(skiff_cli::diff(words, RealWorld::shared()))),
        Command::Version => {
            println!("skiff {} (Kubernetes 1.36)", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        command => {
            let done = runtime().block_on(run(command));
            match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("skiff: {error}");
                    ExitCode::from(2)
                }
            }
        }
    }
}

async fn run(command: Command) -> Result<(), error::StartError> {
    let world = RealWorld::shared();
    match command {
        Command::Server(flags) => {
            log::start(&flags.node.log);
            server::run(&flags, world).await
        }
        Command::Apiserver(mut flags) => {
            log::start(&flags.node.log);
            flags.node.disable = flags::Part::all();
            server::run(&flags, world).await
        }
        Command::Agent(flags) => {
            log::start(&flags.node.log);
            agent::run(&flags, world).await
        }
        Command::Cluster(verb) => cluster::run(&verb, world).await,
        Command::Check(flags) => check::run(&flags),
        Command::Token(verb) => token::run(&verb, world).await,
        Command::Image(verb) => image::run(&verb, world).await,
        Command::ControllerManager(flags) => {
            log::start(&flags.log);
            server::controllers_alone(&flags.kubeconfig, world).await
        }
        Command::Scheduler(flags) => {
            log::start(&flags.component.log);
            server::scheduler_alone(&flags, world).await
        }
        Command::Snapshot { command: flags::Snapshot::Save { file, kubeconfig } } => {
            snapshot::save(&file, kubeconfig.as_deref(), world).await
        }
        Command::Snapshot { command: flags::Snapshot::Restore { file, data_dir } } => {
            snapshot::restore(&file, &data_dir, &world)
        }
        Command::Cleanup { data_dir, purge } => server::cleanup(&data_dir, purge, world).await,
        Command::Kubectl { .. } | Command::Diff { .. } | Command::Version => Ok(()),
    }
}

fn kubectl(words: Vec<String>) -> ExitCode {
    let code = runtime().block_on(skiff_cli::main(words, RealWorld::shared()));
    exit_code(code)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn runtime() -> tokio::runtime::Runtime {
    // Without threads and timers nothing can run, and there is nobody to tell but the terminal.
    tokio::runtime::Runtime::new().unwrap_or_else(|error| {
        eprintln!("skiff: cannot start threads: {error}");
        std::process::exit(2)
    })
}
