//! The key that signs service account tokens, and the form of signed tokens (JWS compact serialization, RFC 7515, ES256).
//!
//! Signing and verifying are `ring`'s; around them only base64 and two dots. A token is checked on every request that
//! carries one, so the parse does no more than it must.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::PublicKeyData;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::PkiError;
use super::place::Place;

const FILE: &str = "service-account.key";

/// Signs and verifies service account tokens.
pub struct AccountKey {
    pair: EcdsaKeyPair,
    id: String,
    header: String,
    random: SystemRandom,
}

/// A token that this key did not sign, or that is no token at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this cluster")]
pub struct BadSignature;

impl AccountKey {
    /// The key kept at `place`, new where there is none.
    pub(super) fn open(place: &Place) -> Result<Self, PkiError> {
        let pem = match place.read(FILE)? {
            Some(pem) => pem,
            None => {
                let pem = rcgen::KeyPair::generate()?.serialize_pem();
                place.write_synced(FILE, &pem)?;
                pem
            }
        };
        Self::from_pem(&pem).map_err(|what| PkiError::Damaged { path: place.path(FILE), what })
    }

    fn from_pem(pem: &str) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|e| e.to_string())?;
        let id = key_id(&rcgen::KeyPair::from_pem(pem).map_err(|e| e.to_string())?);
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "kid": id}).to_string());
        Ok(Self { pair, id, header, random })
    }

    /// The key's name in token headers and in the key set.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A token that carries `claims`.
    ///
    /// # Errors
    /// When the kernel has no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, BadSignature> {
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.pair.sign(&self.random, token.as_bytes()).map_err(|_| BadSignature)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of a token that this key signed. Says nothing about its time, audience or what it is bound to.
    ///
    /// # Errors
    /// When it is not such a token.
    pub fn verify(&self, token: &str) -> Result<Value, BadSignature> {
        let (signed, signature) = token.rsplit_once('.').ok_or(BadSignature)?;
        let (header, claims) = signed.split_once('.').ok_or(BadSignature)?;
        // Our own tokens all begin with the same text; any other header is parsed for what counts of it.
        if header != self.header && !self.names_this_key(header) {
            return Err(BadSignature);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadSignature)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| BadSignature)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| BadSignature)?;
        serde_json::from_slice(&claims).map_err(|_| BadSignature)
    }

    fn names_this_key(&self, header: &str) -> bool {
        let header = URL_SAFE_NO_PAD.decode(header).ok().and_then(|h| serde_json::from_slice::<Value>(&h).ok());
        let Some(header) = header else { return false };
        header["alg"] == "ES256" && header.get("kid").is_none_or(|id| id == self.id.as_str())
    }

    /// The public key as a JSON Web Key Set, as `/openid/v1/jwks` serves it.
    pub fn key_set(&self) -> Value {
        // The public key is the point in uncompressed form: 4, then x and y.
        let point = self.pair.public_key().as_ref();
        let coordinate = |from: usize| URL_SAFE_NO_PAD.encode(point.get(from..from + 32).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": coordinate(1), "y": coordinate(33),
        }]})
    }
}

/// As upstream derives it: the SHA-256 of the public key (PKIX DER) in URL-safe base64.
fn key_id(key: &rcgen::KeyPair) -> String {
    let public = key.subject_public_key_info();
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &public))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_refuses() {
        let (key, other) = (AccountKey::open(&Place::memory()).unwrap(), AccountKey::open(&Place::memory()).unwrap());
        let claims = json!({"sub": "system:serviceaccount:a:b", "exp": 12});
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token), Ok(claims));
        assert_eq!(other.verify(&token), Err(BadSignature));

        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let changed = URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:a:c","exp":12}"#);
        for bad in [
            String::new(),
            "..".to_owned(),
            "a.b".to_owned(),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{changed}.{}", parts[0], parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{token}x"),
            format!("{token}.x"),
        ] {
            assert_eq!(key.verify(&bad), Err(BadSignature), "{bad}");
        }
    }

    #[test]
    fn the_key_set_names_the_key() {
        let key = AccountKey::open(&Place::memory()).unwrap();
        let set = key.key_set();
        assert_eq!(set["keys"][0]["kid"], key.id());
        for coordinate in ["x", "y"] {
            let bytes = URL_SAFE_NO_PAD.decode(set["keys"][0][coordinate].as_str().unwrap()).unwrap();
            assert_eq!(bytes.len(), 32);
        }
    }
}
