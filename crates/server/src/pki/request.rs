//! The other side of the authority: what a node needs to ask for a certificate and to keep the answer.

use std::path::Path;

use rcgen::KeyPair;

use super::leaf::{Pair, Wanted, parse};
use super::place::write_private;
use super::{PkiError, ServingNames};

/// A certificate request with the key it is for.
pub struct KeyedRequest {
    /// The request (PKCS #10) as PEM.
    pub request: String,
    key: String,
}

impl KeyedRequest {
    /// A request for a client certificate of user `name` in `group` (empty: in none).
    ///
    /// # Errors
    /// When the name cannot stand in a certificate.
    pub fn client(name: &str, group: &str) -> Result<Self, PkiError> {
        Self::of(&Wanted::client(name, group))
    }

    /// A request of node `node` for a serving certificate.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn serving(node: &str, names: &ServingNames) -> Result<Self, PkiError> {
        Self::of(&Wanted::kubelet_serving(node, names))
    }

    fn of(wanted: &Wanted) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = wanted.params()?;
        // Usages travel in the request object; what the library would add here upstream's signers do not read.
        params.use_authority_key_identifier_extension = false;
        params.is_ca = rcgen::IsCa::NoCa;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        Ok(Self { request: params.serialize_request(&key)?.pem()?, key: key.serialize_pem() })
    }

    /// The pair, once the certificate is there.
    ///
    /// # Errors
    /// When `certificate` is no certificate.
    pub fn answered(self, certificate: &str) -> Result<Pair, PkiError> {
        let pair = Pair { certificate: certificate.to_owned(), key: self.key };
        pair.certificate_der().map_err(|e| PkiError::Tls(rustls::Error::General(e.to_string())))?;
        Ok(pair)
    }
}

impl Pair {
    /// The pair kept in one file; `None` when there is none that can be used.
    pub fn load(path: &Path) -> Option<Self> {
        Self::from_pem(&std::fs::read_to_string(path).ok()?)
    }

    /// Keeps the pair in one file, mode 0600.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), PkiError> {
        write_private(path, &format!("{}{}", self.certificate, self.key), true)
    }

    /// Seconds since 1970 at which it begins and ends.
    pub fn validity(&self) -> Option<(i64, i64)> {
        let der = self.certificate_der().ok()?;
        let certificate = parse(&der)?;
        let validity = certificate.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }

    /// Whether it serves under all of `names`.
    pub fn serves(&self, names: &ServingNames) -> bool {
        let Ok(der) = self.certificate_der() else { return false };
        parse(&der).and_then(|certificate| Wanted::read(&certificate)).is_some_and(|found| found.covers(names))
    }
}

/// The SHA-256 of an authority's PEM, in hexadecimal digits: what a join token pins.
pub fn fingerprint(pem: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, pem.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_kept_and_tells_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        let pki = super::super::Pki::in_memory(now).unwrap();
        let names = ServingNames::of(["n1".to_owned(), "10.0.0.1".to_owned()]);
        let pair = pki.authority.issue(&Wanted::serving(&names), now).unwrap();
        let path = directory.path().join("a.pem");
        assert_eq!(Pair::load(&path), None);
        pair.save(&path).unwrap();
        assert_eq!(Pair::load(&path), Some(pair.clone()));
        assert!(pair.serves(&names) && !pair.serves(&ServingNames::of(["10.0.0.2".to_owned()])));
        let (from, to) = pair.validity().unwrap();
        assert!(from < 1_800_000_000 && to > 1_800_000_000);
        assert_eq!(fingerprint("").len(), 64);
    }
}
