//! Wrong starts: one clear line, exit code 2, nothing half-written.

use std::process::Command;

use skiff_testkit::process::binary;

use crate::support::{Cluster, holds};

pub(crate) fn starts(cluster: &mut Cluster) -> Result<(), String> {
    let used = cluster.server.data_dir().display().to_string();
    let empty = tempfile::tempdir().map_err(|e| e.to_string())?;
    let fresh = empty.path().join("data").display().to_string();
    let config = std::fs::read_to_string(cluster.server.kubeconfig()).map_err(|e| e.to_string())?;
    let port = config
        .lines()
        .find_map(|l| {
            l.trim().strip_prefix("server: ")?.rsplit(':').next().map(|p| p.trim_matches(['"', '/']).to_owned())
        })
        .unwrap_or_default();
    for (flags, part) in [
        (vec!["server", "--no-such-flag"], "--no-such-flag"),
        (vec!["server", "--data-dir", &used, "--secure-port", "0", "--disable", "agent"], "in use"),
        (
            vec![
                "server",
                "--data-dir",
                &fresh,
                "--bind-address",
                "127.0.0.1",
                "--secure-port",
                &port,
                "--disable",
                "agent",
            ],
            &port,
        ),
        (vec!["server", "--data-dir", &fresh, "--secure-port", "0", "--service-cidr", "nonsense"], "nonsense"),
    ] {
        let out = Command::new(binary()).args(&flags).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        holds(&format!("{flags:?}: {:?} {said}", out.status), out.status.code() == Some(2) && said.contains(part))?;
    }
    Ok(())
}
