//! Kubeconfig files: for the administrator, and for each component that may run in a process of its own.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::leaf::{Pair, Wanted};
use super::place::write_private;
use super::{Pki, PkiError};

/// Somebody who gets a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// The administrator, in group `system:masters`.
    Admin,
    /// `system:kube-controller-manager`.
    ControllerManager,
    /// `system:kube-scheduler`.
    Scheduler,
    /// The node agent of the node with this name, in group `system:nodes`.
    Kubelet(String),
    /// `system:kube-proxy`.
    Proxy,
}

impl Component {
    /// User name and group.
    pub fn user(&self) -> (String, &'static str) {
        match self {
            Self::Admin => ("kubernetes-admin".to_owned(), "system:masters"),
            Self::ControllerManager => ("system:kube-controller-manager".to_owned(), ""),
            Self::Scheduler => ("system:kube-scheduler".to_owned(), ""),
            Self::Kubelet(node) => (format!("system:node:{node}"), "system:nodes"),
            Self::Proxy => ("system:kube-proxy".to_owned(), ""),
        }
    }

    fn file(&self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::Kubelet(_) => "kubelet",
            Self::Proxy => "proxy",
        }
    }
}

impl Pki {
    /// The text of a kubeconfig for `component` at `server` (`https://HOST:PORT`); its certificate is kept over restarts.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn kubeconfig(&self, component: &Component, server: &str, now: Timestamp) -> Result<String, PkiError> {
        let (user, group) = component.user();
        let pair = self.kept(component.file(), &Wanted::client(&user, group), now)?;
        Ok(render(server, self.ca_pem(), &user, &pair))
    }

    /// Writes `DATA-DIR/admin.kubeconfig` and `DATA-DIR/kubeconfig/{controller-manager,scheduler,kubelet,proxy}.kubeconfig`,
    /// mode 0600. A file that already says the same is left alone.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn write_kubeconfigs(
        &self,
        data_directory: &Path,
        server: &str,
        node: &str,
        now: Timestamp,
    ) -> Result<(), PkiError> {
        let directory = data_directory.join("kubeconfig");
        fs::create_dir_all(&directory).map_err(|source| PkiError::Io { path: directory.clone(), source })?;
        let kubelet = Component::Kubelet(node.to_owned());
        for component in [Component::ControllerManager, Component::Scheduler, kubelet, Component::Proxy] {
            let path = directory.join(format!("{}.kubeconfig", component.file()));
            write_if_changed(&path, &self.kubeconfig(&component, server, now)?)?;
        }
        let admin = self.kubeconfig(&Component::Admin, server, now)?;
        write_if_changed(&data_directory.join("admin.kubeconfig"), &admin)
    }
}

/// Writes a kubeconfig, mode 0600, for `--write-kubeconfig`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_if_changed(path: &Path, text: &str) -> Result<(), PkiError> {
    if fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    write_private(path, text, false)
}

fn render(server: &str, ca: &str, user: &str, pair: &Pair) -> String {
    let [ca, certificate, key] = [ca, &pair.certificate, &pair.key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: skiff
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: skiff
  context:
    cluster: skiff
    user: {user}
current-context: skiff
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_its_own_file_and_a_restart_leaves_them_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let write = || {
            let pki = Pki::open(&directory.path().join("pki"), now).unwrap();
            pki.write_kubeconfigs(directory.path(), "https://127.0.0.1:6443", "n1", now).unwrap();
            let read = |name: &str| {
                let path = directory.path().join(name);
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
                fs::read_to_string(path).unwrap()
            };
            ["controller-manager", "scheduler", "kubelet", "proxy"]
                .map(|name| read(&format!("kubeconfig/{name}.kubeconfig")))
                .into_iter()
                .chain([read("admin.kubeconfig")])
                .collect::<Vec<_>>()
        };
        let first = write();
        assert!(first[2].contains("user: system:node:n1\n"), "{}", first[2]);
        assert!(first[4].contains("server: https://127.0.0.1:6443\n"));
        assert_eq!(first, write());
    }
}
