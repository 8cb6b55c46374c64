//! What a service account token says.

use serde::{Deserialize, Serialize};

/// The claims of a token, as upstream's `pkg/serviceaccount/claims.go` lays them out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Who may accept it.
    #[serde(deserialize_with = "one_or_many")]
    pub(super) aud: Vec<String>,
    /// No longer good from then on, in seconds since 1970.
    pub(super) exp: i64,
    /// When it was made.
    pub(super) iat: i64,
    /// Who made it.
    pub(super) iss: String,
    /// Its own name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) jti: String,
    /// Whose and bound to what.
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Bindings,
    /// Not good before then.
    pub(super) nbf: i64,
    /// The user name.
    pub(super) sub: String,
}

/// The account, and the objects with which the token lives and dies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Bindings {
    pub(super) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Named>,
    pub(super) serviceaccount: Named,
    /// From then on its holder should long have asked for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) warnafter: Option<i64>,
}

/// An object that may not be another of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(d)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}
