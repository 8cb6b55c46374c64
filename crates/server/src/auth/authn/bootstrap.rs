//! Bootstrap tokens: what a machine shows that is to become a node, kept as Secrets in `kube-system`.
//!
//! The rules are upstream's: the Secret is found by the token's id, and everything about it must be right.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use skiff_meta::{GroupResource, Object};

use super::TokenError;
use super::same;
use crate::chain::{User, View};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The id and the secret of a text that has the form of a bootstrap token.
pub(super) fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// Who bears the token.
pub(super) async fn check(
    view: &dyn View,
    (id, secret): (&str, &str),
    now: Timestamp,
) -> Result<Arc<User>, TokenError> {
    let secrets = GroupResource::new("", "secrets");
    let find = || view.get(&secrets, "kube-system", &format!("bootstrap-token-{id}"));
    let found = match find() {
        Some(found) => Some(found),
        None => {
            // It may have been made a moment ago, and the cache not know it yet.
            view.refresh(&secrets).await.map_err(|_| TokenError::Unknown)?;
            find()
        }
    };
    let found = found.ok_or(TokenError::Unknown)?;
    let groups = judge(&found, id, secret, now).map_err(|why| {
        TokenError::Refused(format!("bootstrap secret kube-system/bootstrap-token-{id} matching bearer token {why}"))
    })?;
    let mut user = User { name: format!("system:bootstrap:{id}"), ..User::default() };
    user.groups = groups;
    Ok(Arc::new(super::with_authenticated(user)))
}

fn judge(object: &Object, id: &str, secret: &str, now: Timestamp) -> Result<Vec<String>, &'static str> {
    let found = object.typed::<Secret>().map_err(|_| "cannot be read")?;
    if found.metadata.deletion_timestamp.is_some() {
        return Err("is deleted and awaiting removal");
    }
    let data = found.data.as_ref().filter(|_| found.type_.as_deref() == Some(TYPE)).ok_or("has invalid type")?;
    let field = |key: &str| data.get(key).map(|value| String::from_utf8_lossy(&value.0).into_owned());
    let text = |key: &str| field(key).unwrap_or_default();
    if !same(&text("token-secret"), secret) {
        return Err("has invalid value for key token-secret");
    }
    if text("token-id") != id {
        return Err("has invalid value for key token-id");
    }
    if let Some(end) = field("expiration").filter(|end| !end.is_empty())
        && end.parse::<Timestamp>().map_or(true, |end| end <= now)
    {
        return Err("has expired");
    }
    if text("usage-bootstrap-authentication") != "true" {
        return Err("is not marked usage-bootstrap-authentication=true");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in text("auth-extra-groups").split(',').filter(|group| !group.is_empty()) {
        if !is_bootstrap_group(group) {
            return Err("has invalid value for key auth-extra-groups");
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Ok(groups)
}

/// `system:bootstrappers:` and up to 256 characters, the last of which is a letter or a digit.
fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    rest.len() <= 256
        && rest.bytes().all(|byte| plain(byte) || matches!(byte, b':' | b'-'))
        && rest.bytes().next_back().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn tokens_have_a_form() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in
            ["", "abcdef", "abcde.0123456789abcdef", "abcdef.0123456789abcde", "Abcdef.0123456789abcdef", "a.b.c"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn everything_about_a_secret_must_be_right() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let judged = |change: (&str, Value)| {
            let mut data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef",
                "usage-bootstrap-authentication": "true", "expiration": "2026-01-01T01:00:00Z"});
            let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE,
                "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system", "uid": "u"}});
            match change.0 {
                "type" | "metadata" => secret[change.0] = change.1,
                field => data[field] = change.1,
            }
            for value in data.as_object_mut().unwrap().values_mut() {
                let bytes = ByteString(value.as_str().unwrap().as_bytes().to_vec());
                *value = serde_json::to_value(bytes).unwrap();
            }
            secret["data"] = data;
            judge(&Object::from_wire(secret).unwrap(), "abcdef", "0123456789abcdef", now)
        };
        assert_eq!(judged(("more", json!(""))), Ok(vec![GROUP.to_owned()]));
        let groups = judged(("auth-extra-groups", json!("system:bootstrappers:a-b:c,system:bootstrappers:d")));
        assert_eq!(groups.unwrap(), [GROUP, "system:bootstrappers:a-b:c", "system:bootstrappers:d"]);
        for (field, value) in [
            ("type", json!("Opaque")),
            ("token-secret", json!("0123456789abcdeg")),
            ("token-id", json!("abcdeg")),
            ("expiration", json!("2026-01-01T00:00:00Z")),
            ("expiration", json!("soon")),
            ("usage-bootstrap-authentication", json!("false")),
            ("auth-extra-groups", json!("system:masters")),
            ("auth-extra-groups", json!("system:bootstrappers:-")),
        ] {
            assert!(judged((field, value.clone())).is_err(), "{field} {value}");
        }
    }
}
