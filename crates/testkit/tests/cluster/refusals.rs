//! Wrong starts: one clear line, exit code 2, nothing half-written.

use std::os::unix::fs::PermissionsExt as _;
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
    let node = ["server", "--data-dir", &fresh, "--secure-port", "0", "--kubelet-port", "0"];
    let alone = ["server", "--data-dir", &fresh, "--bind-address", "127.0.0.1", "--disable", "agent", "--secure-port"];
    let with = |first: &[&str], more: &[&str]| [first, more].concat().into_iter().map(str::to_owned).collect();
    let mut starts: Vec<(Vec<String>, &str)> = vec![
        (with(&["server", "--no-such-flag"], &[]), "--no-such-flag"),
        (with(&["server", "--data-dir", &used, "--secure-port", "0", "--disable", "agent"], &[]), "in use"),
        (with(&alone, &[&port]), &port),
        (with(&alone, &["0", "--service-cidr", "nonsense"]), "nonsense"),
    ];
    let binary = binary().display().to_string();
    for (words, _) in &mut starts {
        words.insert(0, binary.clone());
    }
    // For one process, the machine lacks a program: an empty device lies over it.
    for (program, part) in [("containerd", "containerd"), ("runc", "runc"), ("nft", "nftables")] {
        let script = "mount --bind /dev/null \"$(command -v $0)\" && exec \"$@\"";
        starts.push((with(&["unshare", "--mount", "sh", "-c", script, program, &binary], &node), part));
    }
    // Nobody may not be able to reach the binary where it lies.
    let readable = empty.path().join("skiff");
    std::fs::copy(&binary, &readable).map_err(|e| e.to_string())?;
    for path in [empty.path(), &readable] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &readable.display().to_string()];
    starts.push((with(&nobody, &node), "root"));
    for (words, part) in starts {
        // One that starts after all is ended, and has failed the test.
        let out = Command::new("timeout").arg("30").args(&words).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let holding = out.status.code() == Some(2) && said.contains(part);
        holds(&format!("{words:?}: {:?} {said}", out.status), holding)?;
        let left = std::fs::read_dir(&fresh).is_ok_and(|mut entries| entries.next().is_some());
        holds(&format!("{words:?} left something behind in {fresh}"), !left)?;
    }
    Ok(())
}
