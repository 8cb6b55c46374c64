//! TLS on both sides of the API server: towards clients, and towards kubelets.
//!
//! A client certificate is asked for but not demanded, and in the handshake only the proof that the client holds its
//! key is checked: an expired certificate, or one of another authority, must end in a 401 that a person can read and
//! not in a broken handshake. Whether a certificate is worth anything is the authenticator's to say.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;

use skiff_client::Renewable;

use super::{Pki, PkiError, ServingNames};

impl Pki {
    /// What the API server's listener needs: its certificate for `names`, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn server_tls(&self, names: &ServingNames, now: Timestamp) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = provider();
        let verifier = Arc::new(ProofOfKey { algorithms: provider.signature_verification_algorithms });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.server_identity(names, now)?);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// With what the API server calls kubelets: its client certificate, trusting this authority only. HTTP/1.1, since
    /// upgrades need it.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn kubelet_tls(&self, now: Timestamp) -> Result<Arc<ClientConfig>, PkiError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_cert_resolver(self.kubelet_client(now)?);
        Ok(Arc::new(config))
    }

    /// Checks client certificates against this authority.
    ///
    /// # Errors
    /// Never for an authority that could be opened.
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        verifier(self.roots()?)
    }

    /// Checks the certificates of front proxies.
    ///
    /// # Errors
    /// Never for an authority that could be opened.
    pub fn front_proxy_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        verifier(roots(self.front_proxy_ca_pem().as_bytes())?)
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        roots(self.ca_pem().as_bytes())
    }
}

/// Where distributions keep the authorities they trust.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// With what the API server calls an extension server: showing `identity`, trusting the authorities of `bundle` (PEM), or
/// the system's where there are none, or anybody.
pub(crate) fn extension_tls(
    identity: &Arc<Renewable>,
    bundle: &[u8],
    insecure: bool,
) -> Result<Arc<ClientConfig>, PkiError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = if insecure {
        builder.dangerous().with_custom_certificate_verifier(crate::proxy::anybody(provider()))
    } else if bundle.is_empty() {
        let system = SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
        builder.with_root_certificates(roots(&system)?)
    } else {
        builder.with_root_certificates(roots(bundle)?)
    };
    Ok(Arc::new(builder.with_client_cert_resolver(identity.clone())))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(unreadable)?)?;
    }
    Ok(roots)
}

fn verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| PkiError::Tls(Error::General(e.to_string())))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unreadable(error: rustls_pki_types::pem::Error) -> PkiError {
    PkiError::Tls(Error::General(error.to_string()))
}

/// Takes any certificate whose key the client holds.
#[derive(Debug)]
struct ProofOfKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ProofOfKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
