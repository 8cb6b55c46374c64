//! The project's own commands, a file each; `cargo xtask help` lists them.
//!
//! A tool beside the house: it knows no room of it, only Cargo, Debian's packages and the built binary.

mod bench;
mod check;
mod clients;
mod facts;
mod floors;
mod image;
mod install;
mod run;
mod soak;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What went wrong, in words for the person at the terminal.
pub(crate) type Failure = String;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Skiff's own commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing, build, start a server, and show the example running (as root)
    Up {
        /// Flags for `skiff server`
        #[arg(last = true)]
        server: Vec<String>,
    },
    /// Stop what `up` started and clean up
    Down,
    /// Run the tests and say how many ran
    Test {
        /// Which of them
        #[arg(default_value = "all")]
        group: test::Group,
    },
    /// Measure what is promised
    Bench {
        /// Which bench
        #[arg(default_value = "first")]
        name: bench::Bench,
        /// Give the cluster of this kubeconfig (with a bearer token) the same load, and print ratios
        #[arg(long)]
        vs: Option<std::path::PathBuf>,
    },
    /// Run the long form of tests: hours, not seconds
    Soak {
        /// Which of them
        #[arg(default_value = "all")]
        name: soak::Soak,
        /// For `diff`: kubeconfig of the other API, which runs without controllers
        #[arg(long)]
        vs: Option<std::path::PathBuf>,
    },
    /// Format, lints, floors of the house, licences
    Check,
    /// Regenerate the table of type facts from a live API's OpenAPI documents and a Kubernetes source tree
    Facts {
        /// Folder of OpenAPI v3 documents, a file `apis__GROUP__VERSION_openapi.json` per group and version
        #[arg(long)]
        openapi_dir: std::path::PathBuf,
        /// Kubernetes source tree, for the Go types under `staging/src/k8s.io`
        #[arg(long)]
        source_dir: std::path::PathBuf,
        /// Where to put the table
        #[arg(long, default_value = "crates/api/facts/types.txt")]
        out: std::path::PathBuf,
    },
    /// Build an image archive from Debian's packages
    Image {
        /// Which image: busybox, nginx, cni-plugins, or all
        name: String,
        /// Where to put the archive [default: images/ in Cargo's target directory]
        #[arg(long)]
        out: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Up { server } => up::up(&server),
        Command::Down => up::down(),
        Command::Test { group } => test::test(group),
        Command::Bench { name, vs } => bench::bench(name, vs),
        Command::Soak { name, vs } => soak::soak(name, vs.as_deref()),
        Command::Check => check::check(),
        Command::Facts { openapi_dir, source_dir, out } => facts::facts(&openapi_dir, &source_dir, &out),
        Command::Image { name, out } => image::build(&name, &out.unwrap_or_else(|| run::target().join("images"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
