//! Whether the key of a TLS secret is that of its certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::ring::sign::any_supported_type;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

/// Why a server could not use certificate and key of a secret, in the words of Go's `crypto/tls`. That there are blocks
/// of both is looked at elsewhere; of a key that is of no sort we know nothing is said.
pub(crate) fn fault(secret: &Value) -> Option<&'static str> {
    if secret["type"] != "kubernetes.io/tls" {
        return None;
    }
    let data = |name: &str| BASE64.decode(secret["data"][name].as_str().unwrap_or_default()).unwrap_or_default();
    let certificate = CertificateDer::from_pem_slice(&data("tls.crt")).ok()?;
    let key = PrivateKeyDer::from_pem_slice(&data("tls.key")).ok()?;
    let Ok((_, certificate)) = X509Certificate::from_der(&certificate) else {
        return Some("x509: malformed certificate");
    };
    let key = any_supported_type(&key).ok()?;
    let own = key.public_key()?;
    let (_, own) = SubjectPublicKeyInfo::from_der(&own).ok()?;
    let shown = certificate.public_key();
    if own.algorithm.algorithm != shown.algorithm.algorithm {
        return Some("tls: private key type does not match public key type");
    }
    (own.subject_public_key.data != shown.subject_public_key.data)
        .then_some("tls: private key does not match public key")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_fit_their_certificates() {
        let pair = |algorithm| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            (CertificateParams::default().self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let (one, two, three) = (pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ED25519));
        let secret = |certificate: &str, key: &str| {
            json!({"type": "kubernetes.io/tls",
                "data": {"tls.crt": BASE64.encode(certificate), "tls.key": BASE64.encode(key)}})
        };
        assert_eq!(fault(&secret(&one.0, &one.1)), None);
        assert_eq!(fault(&secret(&three.0, &three.1)), None);
        assert_eq!(fault(&secret(&one.0, &two.1)), Some("tls: private key does not match public key"));
        assert_eq!(fault(&secret(&one.0, &three.1)), Some("tls: private key type does not match public key type"));
        assert_eq!(fault(&secret(&one.0, "")), None);
        assert_eq!(fault(&json!({"type": "Opaque"})), None);
    }
}
