//! The cluster's own certificates and keys: one authority, what it signs, and the key that signs service account tokens.
//!
//! Everything is ECDSA on P-256, because making and loading such keys costs microseconds and a server must be ready in
//! a tenth of a second. One authority signs client and serving certificates alike; their extended key usage keeps one
//! from passing as the other. What can be made anew (every leaf) is made anew when it is missing, unreadable, near its
//! end, or no longer says what it should; what cannot (the two keys) is synced to disk and never overwritten.
//!
//! ```text
//! DATA-DIR/pki/ca.key ca.crt          the authority
//! DATA-DIR/pki/front-proxy-ca.*       the authority of the front proxy, which speaks for others
//! DATA-DIR/pki/service-account.key    signs tokens
//! DATA-DIR/pki/NAME.pem               a leaf: certificate and key in one file, so that they cannot disagree
//! ```

mod authority;
mod kubeconfig;
mod leaf;
mod names;
pub(crate) mod pair;
mod place;
mod request;
mod shown;
mod signing;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use authority::Authority;
use place::Place;

pub use kubeconfig::{Component, write_if_changed};
pub use leaf::Pair;
pub use names::ServingNames;
pub use request::{KeyedRequest, fingerprint};
pub use signing::{AccountKey, BadSignature};
pub(crate) use tls::extension_tls;

/// The name of the front proxy, and of its certificate.
pub(crate) const FRONT_PROXY: &str = "front-proxy-client";

/// What cannot be made anew: whoever restores a cluster elsewhere needs these to be trusted by those who knew it.
pub const IRREPLACEABLE: [&str; 3] = ["ca.key", "ca.crt", "service-account.key"];

/// What can go wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key that cannot be replaced is unreadable.
    #[error("{path} is damaged ({what}); restore it, or remove {path} to start with a new one", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The authority's certificate is there, its key is not.
    #[error("{path} is missing; restore it, or remove ca.crt beside it to start with a new authority", path = path.display())]
    KeyMissing {
        /// The missing file.
        path: PathBuf,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up with a certificate.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The cluster's certificates and keys.
pub struct Pki {
    place: Place,
    authority: Authority,
    front: Authority,
    account_key: Arc<AccountKey>,
    shown: Mutex<Vec<shown::Shown>>,
}

impl Pki {
    /// Loads what is in `directory` (`DATA-DIR/pki`) and makes what is missing.
    ///
    /// # Errors
    /// When files cannot be read or written, or a key is damaged.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, PkiError> {
        Self::at(Place::directory(directory)?, now)
    }

    /// A new authority that lives and dies with this value, for `--ephemeral` and tests.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn in_memory(now: Timestamp) -> Result<Self, PkiError> {
        Self::at(Place::memory(), now)
    }

    fn at(place: Place, now: Timestamp) -> Result<Self, PkiError> {
        let complete = place.read("service-account.key")?.is_some();
        let authority = Authority::open(&place, "ca", now)?;
        let front = Authority::open(&place, "front-proxy-ca", now)?;
        let account_key = Arc::new(AccountKey::open(&place)?);
        if !complete {
            place.sync()?;
        }
        Ok(Self { place, authority, front, account_key, shown: Mutex::default() })
    }

    /// PEM of the authority's certificate: what clients trust, and what `kube-root-ca.crt` holds.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// PEM of the authority's key, for whoever signs certificate requests.
    pub fn ca_key_pem(&self) -> String {
        self.authority.key_pem()
    }

    /// PEM of the certificate of the front proxy's authority: by it extension servers know us.
    pub fn front_proxy_ca_pem(&self) -> &str {
        self.front.pem()
    }

    /// The key that signs service account tokens.
    pub fn account_key(&self) -> Arc<AccountKey> {
        self.account_key.clone()
    }

    /// A new client certificate for user `name` in `group` (empty: in none).
    ///
    /// # Errors
    /// When the name cannot stand in a certificate.
    pub fn issue_client(&self, name: &str, group: &str, now: Timestamp) -> Result<Pair, PkiError> {
        self.authority.issue(&leaf::Wanted::client(name, group), now)
    }

    /// A leaf kept in file `NAME.pem`, renewed where it no longer fits.
    fn kept(&self, name: &str, wanted: &leaf::Wanted, now: Timestamp) -> Result<Pair, PkiError> {
        self.kept_by(&self.authority, name, wanted, now)
    }

    fn kept_by(
        &self,
        authority: &Authority,
        name: &str,
        wanted: &leaf::Wanted,
        now: Timestamp,
    ) -> Result<Pair, PkiError> {
        let file = format!("{name}.pem");
        let found = self.place.read(&file)?.and_then(|pem| Pair::from_pem(&pem));
        if let Some(pair) = found
            && authority.still_good(&pair, wanted, now)
        {
            return Ok(pair);
        }
        let pair = authority.issue(wanted, now)?;
        self.place.write(&file, &format!("{}{}", pair.certificate, pair.key))?;
        Ok(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + number * 86_400).unwrap()
    }

    fn names(extra: &[&str]) -> ServingNames {
        ServingNames::new("cluster.local", extra.iter().map(|&s| s.to_owned()))
    }

    #[test]
    fn survives_a_restart_and_renews_what_no_longer_fits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki");
        let first = Pki::open(&path, day(0)).unwrap();
        let serving = |pki: &Pki, name: &str, now| pki.server_identity(&names(&[name]), now).unwrap().certificate();
        let pair = serving(&first, "a.example", day(0));

        let again = Pki::open(&path, day(1)).unwrap();
        assert_eq!(first.ca_pem(), again.ca_pem());
        assert_eq!(first.account_key().id(), again.account_key().id());
        assert_eq!(serving(&again, "a.example", day(1)), pair, "kept while it fits");
        let other = serving(&again, "b.example", day(1));
        assert_ne!(other, pair, "renewed for new names");
        assert_eq!(serving(&again, "b.example", day(200)), other);
        assert_ne!(serving(&again, "b.example", day(300)), other, "renewed near its end");
    }

    #[test]
    fn what_is_shown_is_renewed_while_it_is_in_use() {
        let pki = Pki::in_memory(day(0)).unwrap();
        let all = || {
            let own = [pki.server_identity(&names(&[]), day(0)), pki.node_identity(&names(&["n1"]), day(0))];
            own.into_iter().chain([pki.kubelet_client(day(0)), pki.front_proxy_client(day(0))]).map(Result::unwrap)
        };
        let (shown, again): (Vec<_>, Vec<_>) = (all().collect(), all().collect());
        let certificates =
            |all: &[Arc<skiff_client::Renewable>]| all.iter().map(|one| one.certificate()).collect::<Vec<_>>();
        let first = certificates(&shown);
        pki.renew(day(200)).unwrap();
        assert_eq!(certificates(&shown), first, "there is time");
        pki.renew(day(300)).unwrap();
        let second = certificates(&shown);
        assert!(first.iter().zip(&second).all(|(old, new)| old != new), "all of them");
        assert_eq!(certificates(&again), second, "whoever shows the same one shows the same");
    }

    #[test]
    fn leaves_of_another_authority_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path(), day(0)).unwrap();
        let old = pki.kubelet_client(day(0)).unwrap().certificate();
        std::fs::remove_file(directory.path().join("ca.crt")).unwrap();
        std::fs::remove_file(directory.path().join("ca.key")).unwrap();
        let pki = Pki::open(directory.path(), day(0)).unwrap();
        assert_ne!(pki.kubelet_client(day(0)).unwrap().certificate(), old);
    }

    #[test]
    fn damage_is_told_and_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        Pki::open(directory.path(), day(0)).unwrap();
        for file in ["ca.key", "service-account.key"] {
            let path = directory.path().join(file);
            let good = std::fs::read(&path).unwrap();
            std::fs::write(&path, "rubbish").unwrap();
            assert!(matches!(Pki::open(directory.path(), day(0)), Err(PkiError::Damaged { .. })), "{file}");
            assert_eq!(std::fs::read(&path).unwrap(), b"rubbish");
            std::fs::write(&path, good).unwrap();
        }
        std::fs::write(directory.path().join("apiserver.pem"), "rubbish").unwrap();
        let pki = Pki::open(directory.path(), day(0)).unwrap();
        assert!(pki.server_identity(&names(&[]), day(0)).is_ok(), "a leaf is simply made anew");
        std::fs::remove_file(directory.path().join("ca.key")).unwrap();
        assert!(matches!(Pki::open(directory.path(), day(0)), Err(PkiError::KeyMissing { .. })));
    }

    #[test]
    fn files_are_for_the_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path(), day(0)).unwrap();
        pki.server_identity(&names(&[]), day(0)).unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }
}
