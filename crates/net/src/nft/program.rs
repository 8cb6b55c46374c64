//! The `nft` program.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use async_trait::async_trait;

/// nftables refused a script, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be run.
    #[error("cannot run {program}: {source}; install nftables")]
    Run {
        /// The program.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The script was refused; nothing of it happened.
    #[error("nftables refused a change: {0}")]
    Refused(String),
}

/// Loads scripts into the kernel.
#[async_trait]
pub trait Nft: Send + Sync + 'static {
    /// Runs a script, all of it or nothing.
    ///
    /// # Errors
    /// When nftables refuses it or is not there.
    async fn run(&self, script: String) -> Result<(), NftError>;
}

/// The program on this machine.
pub struct Program;

#[async_trait]
impl Nft for Program {
    async fn run(&self, script: String) -> Result<(), NftError> {
        let program = program();
        let run = async {
            let mut child = tokio::process::Command::from(command(program)).kill_on_drop(true).spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                tokio::io::AsyncWriteExt::write_all(&mut stdin, script.as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        judge(program, run.await)
    }
}

/// Runs a script without an async runtime, for the CNI plugin and for clean-up.
///
/// # Errors
/// When nftables refuses it or is not there.
pub fn run_blocking(script: &str) -> Result<(), NftError> {
    let program = program();
    let run = || {
        let mut child = command(program).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        child.wait_with_output()
    };
    judge(program, run())
}

/// Container runtimes start plugins with a bare `PATH`, so the usual place is tried first.
fn program() -> &'static str {
    const USUAL: &str = "/usr/sbin/nft";
    if Path::new(USUAL).exists() { USUAL } else { "nft" }
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn judge(program: &'static str, output: io::Result<Output>) -> Result<(), NftError> {
    let output = output.map_err(|source| NftError::Run { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let first = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(NftError::Refused(first.to_owned()))
}
