//! Certificates that the authority signs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PkiError, ServingNames};

/// A certificate and its key, both as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
}

impl Pair {
    /// Both from one text; `None` when either is not there.
    pub(super) fn from_pem(pem: &str) -> Option<Self> {
        let at = pem.find("-----BEGIN PRIVATE KEY-----")?;
        let pair = Self { certificate: pem.get(..at)?.to_owned(), key: pem.get(at..)?.to_owned() };
        pair.certificate_der().ok()?;
        pair.key_der().ok()?;
        Some(pair)
    }

    /// The certificate as rustls takes it.
    ///
    /// # Errors
    /// When the PEM is damaged.
    pub fn certificate_der(&self) -> Result<CertificateDer<'static>, rustls_pki_types::pem::Error> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
    }

    /// The key as rustls takes it.
    ///
    /// # Errors
    /// When the PEM is damaged.
    pub fn key_der(&self) -> Result<PrivateKeyDer<'static>, rustls_pki_types::pem::Error> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes())
    }
}

/// What a certificate should say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    name: String,
    group: String,
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    server: bool,
}

impl Wanted {
    pub(super) fn client(name: &str, group: &str) -> Self {
        Self {
            name: name.to_owned(),
            group: group.to_owned(),
            dns: BTreeSet::new(),
            addresses: BTreeSet::new(),
            server: false,
        }
    }

    pub(super) fn serving(names: &ServingNames) -> Self {
        let first = names.dns.first().cloned().or_else(|| names.addresses.first().map(ToString::to_string));
        Self {
            name: first.unwrap_or_default(),
            group: String::new(),
            dns: names.dns.clone(),
            addresses: names.addresses.clone(),
            server: true,
        }
    }

    /// What the node called `node` serves with.
    pub(super) fn kubelet_serving(node: &str, names: &ServingNames) -> Self {
        Self { name: format!("system:node:{node}"), group: "system:nodes".to_owned(), ..Self::serving(names) }
    }

    /// Whether it serves under all of `names`.
    pub(super) fn covers(&self, names: &ServingNames) -> bool {
        self.server && self.dns.is_superset(&names.dns) && self.addresses.is_superset(&names.addresses)
    }

    /// What an existing certificate says; `None` when it cannot be read.
    pub(super) fn read(certificate: &X509Certificate<'_>) -> Option<Self> {
        let (name, group) = subject(certificate)?;
        let server = certificate.extended_key_usage().ok()??.value.server_auth;
        let mut found = Self { name, group: group.unwrap_or_default(), server, ..Self::client("", "") };
        let names = certificate.subject_alternative_name().ok()?;
        for name in names.map(|n| n.value.general_names.as_slice()).unwrap_or_default() {
            match name {
                GeneralName::DNSName(name) => {
                    found.dns.insert((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    found.addresses.insert(address(bytes)?);
                }
                _ => return None,
            }
        }
        Some(found)
    }

    /// The parameters of a certificate that says this, but for its time.
    pub(super) fn params(&self) -> Result<CertificateParams, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !self.group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, self.group.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        for name in &self.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(self.addresses.iter().map(|&a| SanType::IpAddress(a)));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usage = if self.server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![usage];
        Ok(params)
    }
}

/// Common name and first organization.
fn subject(certificate: &X509Certificate<'_>) -> Option<(String, Option<String>)> {
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let group = certificate.subject().iter_organization().next().and_then(|g| g.as_str().ok()).map(str::to_owned);
    Some((name, group))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The key identifier of a certificate's issuer.
pub(super) fn issuer_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0.to_vec()),
        _ => None,
    })
}

/// Parses DER for the time of a call.
pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}
