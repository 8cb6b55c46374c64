//! TLS from a [`Remote`]: whom we trust and who we are.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::backend::ClientError;
use crate::config::Remote;

/// Where distributions keep the authorities they trust.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

fn config_error(what: &str, error: impl std::fmt::Display) -> ClientError {
    ClientError::Config(format!("{what}: {error}"))
}

pub(super) fn client_config(remote: &Remote) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| config_error("TLS", e))?;
    let builder = if remote.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)))
    } else {
        builder.with_root_certificates(authorities(remote)?)
    };
    if remote.client_certificate.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let chain = certificates("client certificate", &remote.client_certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&remote.client_key).map_err(|e| config_error("client key", e))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| config_error("client certificate", e))
}

fn authorities(remote: &Remote) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    if remote.certificate_authority.is_empty() {
        let system = SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
        roots.add_parsable_certificates(certificates("system's authorities", &system)?);
        return Ok(roots);
    }
    for certificate in certificates("certificate authority", &remote.certificate_authority)? {
        roots.add(certificate).map_err(|e| config_error("certificate authority", e))?;
    }
    Ok(roots)
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| config_error(what, e))
}

/// `insecure-skip-tls-verify`: takes any certificate, but checks that the server holds its key.
#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
