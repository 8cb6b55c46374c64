//! Public keys as issuers publish them (RFC 7517), and signatures by them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;

/// One key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: String,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
}

/// The keys of a set that can be used for signatures; others are passed over.
pub(super) fn read(set: &Value) -> Vec<Key> {
    let all = set.get("keys").and_then(Value::as_array).into_iter().flatten();
    all.filter(|key| key.get("use").is_none_or(|purpose| purpose == "sig")).filter_map(key).collect()
}

fn key(key: &Value) -> Option<Key> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
    let point = || Some([&[4][..], &bytes("x")?, &bytes("y")?].concat());
    let material = match (text("kty")?, text("crv")) {
        ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
        ("EC", Some("P-256")) => Material::P256(point()?),
        ("EC", Some("P-384")) => Material::P384(point()?),
        _ => return None,
    };
    Some(Key { id: text("kid").unwrap_or_default().to_owned(), material })
}

impl Key {
    /// Whether it is meant by a token that names its key, or does not.
    pub(super) fn is(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| id == self.id)
    }

    /// Whether it made a signature.
    pub(super) fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let rsa = |parameters| match &self.material {
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok(),
            _ => false,
        };
        match (algorithm, &self.material) {
            ("RS256", _) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            ("RS384", _) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            ("RS512", _) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            ("PS256", _) => rsa(&signature::RSA_PSS_2048_8192_SHA256),
            ("PS384", _) => rsa(&signature::RSA_PSS_2048_8192_SHA384),
            ("PS512", _) => rsa(&signature::RSA_PSS_2048_8192_SHA512),
            ("ES256", Material::P256(point)) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            ("ES384", Material::P384(point)) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            // `none`, and keys that both sides know, are nobody's signature.
            _ => false,
        }
    }
}
