//! Users by client certificate: the common name is the user, each organization a group.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chain::User;

/// Certificates whose chain is remembered.
const REMEMBERED: usize = 10_000;
/// The subject attribute that carries a user's UID.
const UID: &str = "1.3.6.1.4.1.57683.2";

/// Verifies chains against the cluster's authority, each certificate once while it lasts.
pub(crate) struct Certificates {
    verifier: Arc<dyn ClientCertVerifier>,
    known: RwLock<HashMap<CertificateDer<'static>, Known>>,
}

#[derive(Clone)]
struct Known {
    user: Arc<User>,
    /// Seconds since 1970.
    ends: i64,
}

/// A certificate that is not good, and why.
#[derive(Debug, thiserror::Error)]
#[error("verifying certificate failed: {0}")]
pub(crate) struct BadCertificate(String);

impl Certificates {
    pub(crate) fn new(verifier: Arc<dyn ClientCertVerifier>) -> Self {
        Self { verifier, known: RwLock::default() }
    }

    /// The user behind a chain, leaf first; `None` when it names nobody.
    pub(crate) fn check(
        &self,
        chain: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<Option<Arc<User>>, BadCertificate> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Ok(None) };
        if let Some(known) = self.known.read().get(leaf)
            && known.ends >= now.as_second()
        {
            return Ok(Some(known.user.clone()));
        }
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        self.verifier.verify_client_cert(leaf, intermediates, time).map_err(|e| BadCertificate(e.to_string()))?;
        let Some(known) = read(leaf)? else { return Ok(None) };
        let mut all = self.known.write();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(leaf.clone(), known.clone());
        Ok(Some(known.user))
    }
}

fn read(leaf: &CertificateDer<'_>) -> Result<Option<Known>, BadCertificate> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| BadCertificate(e.to_string()))?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let Some(name) = subject.iter_common_name().last().and_then(text).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let uids: Vec<_> =
        subject.iter_attributes().filter(|a| a.attr_type().to_id_string() == UID).filter_map(text).collect();
    let uid = match &*uids {
        [] => String::new(),
        [uid] if !uid.is_empty() => uid.clone(),
        _ => return Err(BadCertificate("the subject must have one UID at most, and no empty one".to_owned())),
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, leaf);
    let id: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let user = User {
        name,
        uid,
        groups: subject.iter_organization().filter_map(text).collect(),
        extra: BTreeMap::from([(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("X509SHA256={id}")],
        )]),
    };
    let user = Arc::new(super::with_authenticated(user));
    Ok(Some(Known { user, ends: certificate.validity().not_after.timestamp() }))
}
