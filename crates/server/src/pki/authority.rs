//! The certificate authority.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};

use super::PkiError;
use super::leaf::{self, Pair, Wanted};
use super::place::Place;

const DAY: u64 = 86_400;
const AUTHORITY_DAYS: u64 = 3_650;
const LEAF_DAYS: u64 = 365;
/// A leaf is renewed when less than this is left of it.
const RENEW_DAYS: u64 = 90;
/// Certificates begin this much before they are made, for clients whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// A key that signs certificates, and its own certificate.
pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    key_id: Vec<u8>,
}

impl Authority {
    /// The authority called `name` that is kept at `place`, new where there is none. The certificate follows from the key, so it is written
    /// last and made anew when only the key is there.
    pub(super) fn open(place: &Place, name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let (key_file, file) = (format!("{name}.key"), format!("{name}.crt"));
        let (key, certificate) = (place.read(&key_file)?, place.read(&file)?);
        let key = match key {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|e| damaged(place, &key_file, &e))?,
            None if certificate.is_some() => return Err(PkiError::KeyMissing { path: place.path(&key_file) }),
            None => {
                let key = KeyPair::generate()?;
                place.write_synced(&key_file, &key.serialize_pem())?;
                key
            }
        };
        let pem = match certificate {
            Some(pem) => pem,
            None => {
                let pem = authority_params(name, now)?.self_signed(&key)?.pem();
                place.write_synced(&file, &pem)?;
                pem
            }
        };
        Self::from_parts(pem, key).map_err(|e| damaged(place, &file, &e))
    }

    fn from_parts(pem: String, key: KeyPair) -> Result<Self, rcgen::Error> {
        use rustls_pki_types::pem::PemObject;
        let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let parsed = leaf::parse(&der).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        if parsed.public_key().subject_public_key.data != key.der_bytes() {
            return Err(rcgen::Error::CouldNotParseKeyPair);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        let key_id = subject_key(&parsed).unwrap_or_default();
        Ok(Self { pem, issuer, key_id })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A new certificate with a new key.
    pub(super) fn issue(&self, wanted: &Wanted, now: Timestamp) -> Result<Pair, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = wanted.params()?;
        set_validity(&mut params, now, LEAF_DAYS);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether `pair` was signed by this authority, says what is wanted, and lasts for a while.
    pub(super) fn still_good(&self, pair: &Pair, wanted: &Wanted, now: Timestamp) -> bool {
        let Ok(der) = pair.certificate_der() else { return false };
        let Some(certificate) = leaf::parse(&der) else { return false };
        let left = certificate.validity().not_after.timestamp() - now.as_second();
        left > (RENEW_DAYS * DAY) as i64
            && leaf::issuer_key(&certificate).as_deref() == Some(&self.key_id)
            && Wanted::read(&certificate).as_ref() == Some(wanted)
    }
}

fn damaged(place: &Place, file: &str, error: &rcgen::Error) -> PkiError {
    PkiError::Damaged { path: place.path(file), what: error.to_string() }
}

fn subject_key(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn authority_params(name: &str, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The time tells the authorities of two data directories apart where people look at them.
    params.distinguished_name.push(DnType::CommonName, format!("skiff-{name}@{}", now.as_second()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, now, AUTHORITY_DAYS);
    Ok(params)
}

/// `rcgen` speaks another crate's time, which it hands out by calendar day.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: u64) {
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::from_secs(days * DAY);
}
