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

use super::leaf::Pair;
use super::{Pki, PkiError, ServingNames};

impl Pki {
    /// What the API server's listener needs: its certificate for `names`, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn server_tls(&self, names: &ServingNames, now: Timestamp) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = provider();
        let verifier = Arc::new(ProofOfKey { algorithms: provider.signature_verification_algorithms });
        let (chain, key) = identity(&self.serving(names, now)?)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// With what the API server calls kubelets: its client certificate, trusting this authority only. HTTP/1.1, since
    /// upgrades need it.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn kubelet_tls(&self, now: Timestamp) -> Result<Arc<ClientConfig>, PkiError> {
        let (chain, key) = identity(&self.kubelet_client(now)?)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)?;
        Ok(Arc::new(config))
    }

    /// Checks client certificates against this authority.
    ///
    /// # Errors
    /// Never for an authority that could be opened.
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .build()
            .map_err(|e| PkiError::Tls(Error::General(e.to_string())))
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem().as_bytes()).map_err(unreadable)?)?;
        Ok(roots)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unreadable(error: rustls_pki_types::pem::Error) -> PkiError {
    PkiError::Tls(Error::General(error.to_string()))
}

type Identity = (Vec<CertificateDer<'static>>, rustls_pki_types::PrivateKeyDer<'static>);

fn identity(pair: &Pair) -> Result<Identity, PkiError> {
    Ok((vec![pair.certificate_der().map_err(unreadable)?], pair.key_der().map_err(unreadable)?))
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
