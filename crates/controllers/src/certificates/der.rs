//! Certificates, written byte by byte: subject, key and names of a request go over as they are, whatever they hold.
//!
//! DER (X.690) is tag, length, content; a certificate (RFC 5280) is three of them, the first of which is signed.

use base64::Engine;
use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::plan::Validity;
use super::request::Request;
use crate::SigningAuthority;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const TRUE: [u8; 3] = [0x01, 0x01, 0xff];

/// Extensions, as the content of their OIDs.
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const OTHER_NAMES: [u8; 3] = [0x55, 0x1d, 0x11];
const CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
const AUTHORITY_KEY: [u8; 3] = [0x55, 0x1d, 0x23];
const EXTENDED_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];

/// Usages that are bits of the key usage, by their number.
const BITS: [(&str, u8); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// `1.3.6.1.5.5.7.3`, under which most extended usages are.
const PURPOSES: [u8; 7] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03];
const EXTENDED: [(&str, u8); 10] = [
    ("server auth", 1),
    ("client auth", 2),
    ("code signing", 3),
    ("email protection", 4),
    ("s/mime", 4),
    ("ipsec end system", 5),
    ("ipsec tunnel", 6),
    ("ipsec user", 7),
    ("timestamping", 8),
    ("ocsp signing", 9),
];
const ANY_PURPOSE: [u8; 4] = [0x55, 0x1d, 0x25, 0x00];

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// The authority's own certificate.
    #[error("the authority's certificate cannot be read")]
    Authority,
    /// The authority's key.
    #[error("the authority's key cannot be used: {0}")]
    Key(#[from] rcgen::Error),
    /// A kind of key whose signatures we cannot name.
    #[error("the authority's key is of an unknown kind")]
    KeyKind,
    /// A usage nobody knows.
    #[error("unrecognized usage: {0}")]
    Usage(String),
    /// The authority ends before the certificate begins.
    #[error("the authority has expired")]
    Expired,
}

/// Signs certificates.
pub(super) struct Signer {
    key: KeyPair,
    /// Algorithm identifier of its signatures, in DER.
    algorithm: Vec<u8>,
    /// Its name, in DER.
    issuer: Vec<u8>,
    key_id: Option<Vec<u8>>,
    ends: Timestamp,
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = vec![tag];
    if length < 0x80 {
        bytes.push(length as u8);
    } else {
        let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        bytes.push(0x80 | digits.len() as u8);
        bytes.extend(digits);
    }
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// Two-digit years until 2049, four-digit ones after.
fn time(at: Timestamp) -> Vec<u8> {
    let text = at.strftime("%Y%m%d%H%M%SZ").to_string();
    match text.get(2..).filter(|_| text.as_str() < "2050") {
        Some(short) => tlv(0x17, &[short.as_bytes()]),
        None => tlv(0x18, &[text.as_bytes()]),
    }
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &TRUE } else { &[] };
    tlv(SEQUENCE, &[&tlv(OID, &[oid]), critical, &tlv(OCTET_STRING, &[value])])
}

/// The two extensions that say what a key is for.
fn usages(usages: &[String]) -> Result<Vec<Vec<u8>>, SignError> {
    let (mut bits, mut purposes) = (0u16, Vec::new());
    for usage in usages {
        let find = |table: &[(&str, u8)]| table.iter().find(|(name, _)| name == usage).map(|(_, number)| *number);
        if let Some(bit) = find(&BITS) {
            bits |= 0x8000 >> bit;
        } else if let Some(number) = find(&EXTENDED) {
            purposes.push(tlv(OID, &[&PURPOSES, &[number]]));
        } else if usage == "any" {
            purposes.push(tlv(OID, &[&ANY_PURPOSE]));
        } else {
            return Err(SignError::Usage(usage.clone()));
        }
    }
    let mut extensions = Vec::new();
    if bits != 0 {
        // Trailing zero bits are left out, and counted.
        let used: Vec<u8> = bits.to_be_bytes().into_iter().take(if bits & 0xff == 0 { 1 } else { 2 }).collect();
        let unused = (bits.trailing_zeros() % 8) as u8;
        extensions.push(extension(&KEY_USAGE, true, &tlv(BIT_STRING, &[&[unused], &used])));
    }
    if !purposes.is_empty() {
        let purposes: Vec<&[u8]> = purposes.iter().map(Vec::as_slice).collect();
        extensions.push(extension(&EXTENDED_USAGE, false, &tlv(SEQUENCE, &purposes)));
    }
    Ok(extensions)
}

fn algorithm(key: &KeyPair) -> Option<Vec<u8>> {
    let kind = key.algorithm();
    let ecdsa = |last: u8| tlv(SEQUENCE, &[&tlv(OID, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last]])]);
    if *kind == rcgen::PKCS_ECDSA_P256_SHA256 {
        Some(ecdsa(2))
    } else if *kind == rcgen::PKCS_ECDSA_P384_SHA384 {
        Some(ecdsa(3))
    } else if *kind == rcgen::PKCS_ED25519 {
        Some(tlv(SEQUENCE, &[&tlv(OID, &[&[0x2b, 0x65, 0x70]])]))
    } else if *kind == rcgen::PKCS_RSA_SHA256 {
        let oid = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
        Some(tlv(SEQUENCE, &[&tlv(OID, &[&oid]), &[0x05, 0x00]]))
    } else {
        None
    }
}

impl Signer {
    /// From the PEM of certificate and key.
    pub(super) fn new(authority: &SigningAuthority) -> Result<Self, SignError> {
        let key = KeyPair::from_pem(&authority.key)?;
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(authority.certificate.as_bytes()).map_err(|_| SignError::Authority)?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|_| SignError::Authority)?;
        let key_id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let ends = certificate.validity().not_after.timestamp();
        Ok(Self {
            algorithm: algorithm(&key).ok_or(SignError::KeyKind)?,
            issuer: certificate.subject().as_raw().to_vec(),
            ends: Timestamp::from_second(ends).map_err(|_| SignError::Authority)?,
            key,
            key_id,
        })
    }

    /// The certificate for a request, as PEM.
    pub(super) fn sign(
        &self,
        request: &Request,
        wanted: &[String],
        validity: Validity,
        serial: [u64; 2],
    ) -> Result<String, SignError> {
        if validity.begin >= self.ends {
            return Err(SignError::Expired);
        }
        let mut extensions = usages(wanted)?;
        // No authority: an empty sequence says so.
        extensions.push(extension(&CONSTRAINTS, true, &tlv(SEQUENCE, &[])));
        if let Some(id) = &self.key_id {
            extensions.push(extension(&AUTHORITY_KEY, false, &tlv(SEQUENCE, &[&tlv(0x80, &[id])])));
        }
        if let Some(names) = &request.names {
            extensions.push(extension(&OTHER_NAMES, false, names));
        }
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        // Positive, and not zero.
        let [high, low] = [(serial[0] >> 1) | 1 << 62, serial[1]].map(u64::to_be_bytes);
        let signed = tlv(
            SEQUENCE,
            &[
                &tlv(0xa0, &[&tlv(INTEGER, &[&[2]])]),
                &tlv(INTEGER, &[&high, &low]),
                &self.algorithm,
                &self.issuer,
                &tlv(SEQUENCE, &[&time(validity.begin), &time(validity.end.min(self.ends))]),
                &request.subject,
                &request.public_key,
                &tlv(0xa3, &[&tlv(SEQUENCE, &extensions)]),
            ],
        );
        let signature = self.key.sign(&signed)?;
        let certificate = tlv(SEQUENCE, &[&signed, &self.algorithm, &tlv(BIT_STRING, &[&[0], &signature])]);
        Ok(pem(&certificate))
    }
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests;
