//! Leaves that are shown in handshakes for as long as the process runs, and renewed under whoever shows them.

use std::sync::Arc;

use jiff::Timestamp;
use skiff_client::Renewable;

use super::leaf::{Pair, Wanted};
use super::{FRONT_PROXY, Pki, PkiError, ServingNames};

/// One of them.
pub(super) struct Shown {
    leaf: Leaf,
    pair: Pair,
    identity: Arc<Renewable>,
}

/// Which leaf it is: the file it is kept in, what it says, and whether the front proxy's authority signs it.
struct Leaf {
    file: &'static str,
    wanted: Wanted,
    front: bool,
}

impl Pki {
    /// Renews every leaf in use that ends within 90 days, or has ended since the clock has jumped.
    ///
    /// # Errors
    /// When files cannot be read or written; what was shown is shown on.
    pub fn renew(&self, now: Timestamp) -> Result<(), PkiError> {
        for shown in &mut *self.shown.lock() {
            let pair = self.leaf(&shown.leaf, now)?;
            if pair != shown.pair {
                shown.identity.renew(pair.certificate.as_bytes(), pair.key.as_bytes())?;
                shown.pair = pair;
            }
        }
        Ok(())
    }

    /// What the node of this process serves with.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn node_identity(&self, names: &ServingNames, now: Timestamp) -> Result<Arc<Renewable>, PkiError> {
        self.show(Leaf { file: "kubelet-serving", wanted: Wanted::serving(names), front: false }, now)
    }

    /// What the API server serves with.
    pub(super) fn server_identity(&self, names: &ServingNames, now: Timestamp) -> Result<Arc<Renewable>, PkiError> {
        self.show(Leaf { file: "apiserver", wanted: Wanted::serving(names), front: false }, now)
    }

    /// With what the API server calls kubelets.
    pub(super) fn kubelet_client(&self, now: Timestamp) -> Result<Arc<Renewable>, PkiError> {
        let wanted = Wanted::client("system:kube-apiserver-kubelet-client", "system:masters");
        self.show(Leaf { file: "apiserver-kubelet-client", wanted, front: false }, now)
    }

    /// With what the API server speaks for its users to extension servers.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub(crate) fn front_proxy_client(&self, now: Timestamp) -> Result<Arc<Renewable>, PkiError> {
        self.show(Leaf { file: FRONT_PROXY, wanted: Wanted::client(FRONT_PROXY, ""), front: true }, now)
    }

    fn show(&self, leaf: Leaf, now: Timestamp) -> Result<Arc<Renewable>, PkiError> {
        let pair = self.leaf(&leaf, now)?;
        let identity = Renewable::new(pair.certificate.as_bytes(), pair.key.as_bytes())?;
        self.shown.lock().push(Shown { leaf, pair, identity: identity.clone() });
        Ok(identity)
    }

    fn leaf(&self, leaf: &Leaf, now: Timestamp) -> Result<Pair, PkiError> {
        let authority = if leaf.front { &self.front } else { &self.authority };
        self.kept_by(authority, leaf.file, &leaf.wanted, now)
    }
}
