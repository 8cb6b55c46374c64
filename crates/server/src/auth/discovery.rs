//! How others check this cluster's tokens without asking it: OpenID Connect discovery and the key set.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;

use crate::chain::Document;
use crate::pki::AccountKey;

/// The documents, by path.
pub(super) fn documents(issuer: &str, key: &AccountKey) -> BTreeMap<&'static str, Document> {
    let configuration = json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    let document = |content_type, body: String| Document { content_type, body: Bytes::from(body) };
    BTreeMap::from([
        ("/.well-known/openid-configuration", document("application/json", configuration.to_string())),
        ("/openid/v1/jwks", document("application/jwk-set+json", key.key_set().to_string())),
    ])
}
