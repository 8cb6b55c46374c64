//! A certificate that is replaced while it is in use.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What one side of TLS shows: every handshake takes the newest certificate, connections that are open stay as they are.
#[derive(Debug)]
pub struct Renewable(RwLock<Arc<CertifiedKey>>);

impl Renewable {
    /// A certificate chain and its key, as PEM.
    ///
    /// # Errors
    /// When one of them cannot be read, or they do not belong together.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(RwLock::new(read(chain, key)?))))
    }

    /// The certificate that is shown now, without those that signed it.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.0.read().cert.first().cloned()
    }

    /// Shows another one from now on.
    ///
    /// # Errors
    /// As [`Renewable::new`]; the old one stays.
    pub fn renew(&self, chain: &[u8], key: &[u8]) -> Result<(), Error> {
        *self.0.write() = read(chain, key)?;
        Ok(())
    }
}

fn read(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, Error> {
    let unreadable = |error: rustls_pki_types::pem::Error| Error::General(error.to_string());
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(unreadable)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?))
}

impl ResolvesServerCert for Renewable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl ResolvesClientCert for Renewable {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}
