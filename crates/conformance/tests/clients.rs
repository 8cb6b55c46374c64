//! Programs written with clients that nobody here wrote, against the API of `CONFORMANCE_KUBECONFIG`, or against a
//! server without nodes that is started for them. The same programs end well on upstream.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use skiff_testkit::cases::{self, Case};
use skiff_testkit::process::Process;

use support::Outcome;

struct Run {
    clients: PathBuf,
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
    server: Option<Process>,
}

const CASES: &[Case<Run>] = &[
    ("kr8s_asks_and_watches", |run| run.python("kr8s_client.py")),
    ("an_operator_of_kopf_keeps_its_kind", |run| run.python("kopf_operator.py")),
    ("the_client_of_javascript_asks_and_watches", |run| run.javascript("client.mjs")),
];

fn main() {
    std::process::exit(cases::run_with(start(), CASES));
}

fn start() -> Result<Run, String> {
    let clients = std::env::var_os("SKIFF_CLIENTS").ok_or("SKIFF_CLIENTS is not set; run `cargo xtask test api`")?;
    let (kubeconfig, server) = support::api(82, "agent,scheduler,proxy,dns,controller-manager")?;
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    Ok(Run { clients: clients.into(), kubeconfig, home, server })
}

impl Run {
    fn python(&self, name: &str) -> Outcome {
        let mut command = Command::new(self.clients.join("bin/python"));
        // Warnings: that 1.36 is newer than a client knows.
        command.args(["-B", "-W", "ignore"]).arg(programs().join(name));
        self.ends_well(name, &mut command)
    }

    /// Packages are looked for beside the program: it is run where both are.
    fn javascript(&self, name: &str) -> Outcome {
        let (program, packages) = (self.home.path().join(name), self.home.path().join("node_modules"));
        std::fs::copy(programs().join(name), &program).map_err(|e| format!("{name}: {e}"))?;
        std::os::unix::fs::symlink(self.clients.join("node_modules"), packages).map_err(|e| e.to_string())?;
        self.ends_well(name, Command::new("node").arg(program))
    }

    /// The program is told the namespace that it makes; it must say in the end that it came there.
    fn ends_well(&self, name: &str, command: &mut Command) -> Outcome {
        let namespace = format!("clients-{}-{}", name.split(['_', '.']).next().unwrap_or_default(), std::process::id());
        command.arg(namespace).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.home.path());
        let output = command.output().map_err(|e| format!("{name}: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && said.trim_end().ends_with("all done") {
            return Ok(());
        }
        let log = self.server.as_ref().map(Process::log_end).unwrap_or_default();
        Err(format!("{name}: {}\n{said}{}\n{log}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}
