//! `skiff token`: what machines show that are to become nodes.
//!
//! A token is a bootstrap token as upstream has it, with a hash of the cluster's authority in front, so that whoever
//! bears it knows which server to trust: `K10HASH::ID.SECRET`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use skiff_client::config::{Kubeconfig, Remote};
use skiff_client::http::HttpBackend;
use skiff_client::{Client, ClientError, DeleteOptions, Selection};
use skiff_meta::WorldRef;
use skiff_server::pki::fingerprint;

use crate::error::StartError;
use crate::flags::{Cluster, Token};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";

/// Carries out one of the verbs.
pub(crate) async fn run(verb: &Token, world: WorldRef) -> Result<(), StartError> {
    match verb {
        Token::Create { ttl, description, cluster } => {
            println!("{}", create(cluster, lifetime(ttl)?, description, &world).await?);
            Ok(())
        }
        Token::List { cluster } => list(cluster, &world).await,
        Token::Delete { tokens, cluster } => delete(cluster, tokens, &world).await,
    }
}

fn connect(cluster: &Cluster, world: &WorldRef) -> Result<(Remote, Client), StartError> {
    let path = cluster.kubeconfig.clone().unwrap_or_else(|| cluster.data_dir.join("admin.kubeconfig"));
    let remote = Kubeconfig::load(&path)?.remote(None)?;
    let backend = HttpBackend::new(remote.clone(), world.clone(), "skiff")?;
    Ok((remote, Client::new(std::sync::Arc::new(backend))))
}

/// Makes a token that is good for so long (`None`: for ever).
pub(crate) async fn create(
    cluster: &Cluster,
    lifetime: Option<Duration>,
    description: &str,
    world: &WorldRef,
) -> Result<String, StartError> {
    let (remote, client) = connect(cluster, world)?;
    let (id, secret) = (letters(6, world), letters(16, world));
    let mut fields = vec![
        ("token-id", id.clone()),
        ("token-secret", secret.clone()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("usage-bootstrap-signing", "true".to_owned()),
    ];
    if let Some(lifetime) = lifetime {
        let end = world.now().as_second().saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        fields.push(("expiration", Timestamp::from_second(end).unwrap_or(Timestamp::MAX).to_string()));
    }
    if !description.is_empty() {
        fields.push(("description", description.to_owned()));
    }
    let data = fields.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect();
    let secret_object = Secret {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(format!("{PREFIX}{id}")),
            ..Default::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    };
    client.namespaced::<Secret>(NAMESPACE).create(&secret_object).await?;
    Ok(JoinToken::print(&String::from_utf8_lossy(&remote.certificate_authority), &format!("{id}.{secret}")))
}

/// So many of the characters that tokens are made of; from 0 to 252 a byte has each of 36 equally often.
fn letters(count: usize, world: &WorldRef) -> String {
    let bytes = std::iter::repeat_with(|| world.random().to_ne_bytes()).flatten();
    let digits = bytes.filter(|byte| *byte < 252).map(|byte| char::from_digit(u32::from(byte % 36), 36).unwrap_or('0'));
    digits.take(count).collect()
}

async fn list(cluster: &Cluster, world: &WorldRef) -> Result<(), StartError> {
    let (_, client) = connect(cluster, world)?;
    let selection = Selection { fields: format!("type={TYPE}"), ..Selection::default() };
    let found = client.namespaced::<Secret>(NAMESPACE).list(&selection).await?;
    println!("{:<9} {:<21} DESCRIPTION", "ID", "EXPIRES");
    for secret in found.items {
        let field = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
        let text = |key: &str| field(key).map(|value| String::from_utf8_lossy(&value.0).into_owned());
        let end = text("expiration").unwrap_or_else(|| "never".to_owned());
        let (id, description) = (text("token-id").unwrap_or_default(), text("description").unwrap_or_default());
        println!("{}", format!("{id:<9} {end:<21} {description}").trim_end());
    }
    Ok(())
}

async fn delete(cluster: &Cluster, tokens: &[String], world: &WorldRef) -> Result<(), StartError> {
    let (_, client) = connect(cluster, world)?;
    for token in tokens {
        let secret = token.rsplit("::").next().unwrap_or_default();
        let id = secret.split('.').next().unwrap_or_default();
        let (api, name) = (client.namespaced::<Secret>(NAMESPACE), format!("{PREFIX}{id}"));
        match api.delete(&name, &DeleteOptions::default()).await {
            Ok(()) => println!("token {id:?} deleted"),
            Err(error) if error.is_not_found() => {
                return Err(ClientError::Config(format!("there is no token {id:?}; see skiff token list")).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `90s`, `30m`, `24h`, `7d`; `0` is for ever.
fn lifetime(text: &str) -> Result<Option<Duration>, StartError> {
    let wrong = || StartError::Flag {
        flag: "ttl",
        value: text.to_owned(),
        why: "is no duration such as 30m, 24h or 7d (0: for ever)".to_owned(),
    };
    if text == "0" {
        return Ok(None);
    }
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(|s| Some(Duration::from_secs(s))).ok_or_else(wrong)
}

/// A token as a node is given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinToken {
    /// SHA-256 of the authority's PEM.
    hash: String,
    /// What to show the server.
    pub(crate) bearer: String,
}

impl JoinToken {
    /// Reads `K10HASH::BEARER`.
    pub(crate) fn parse(text: &str) -> Result<Self, StartError> {
        let parsed = text.trim().strip_prefix("K10").and_then(|rest| rest.split_once("::"));
        let (hash, bearer) =
            parsed.filter(|(hash, bearer)| hash.len() == 64 && !bearer.is_empty()).ok_or_else(|| {
                let why = "is no whole join token; give what `skiff token create` prints on the server".to_owned();
                StartError::Flag { flag: "token", value: shortened(text), why }
            })?;
        Ok(Self { hash: hash.to_owned(), bearer: bearer.to_owned() })
    }

    /// The text of a token for the cluster of this authority.
    pub(crate) fn print(authority: &str, bearer: &str) -> String {
        format!("K10{}::{bearer}", fingerprint(authority))
    }

    /// Whether the token is for the cluster of this authority.
    pub(crate) fn pins(&self, authority: &str) -> bool {
        self.hash == fingerprint(authority)
    }
}

/// Enough of a secret to know it by.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(6) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_meta::world::RealWorld;

    #[test]
    fn tokens_pin_an_authority() {
        let token = JoinToken::parse(&JoinToken::print("PEM", "abcdef.0123456789abcdef")).unwrap();
        assert_eq!(token.bearer, "abcdef.0123456789abcdef");
        assert!(token.pins("PEM") && !token.pins("PEM2"));
        for bad in ["", "abcdef.0123456789abcdef", "K10::x", "K10abc::x"] {
            assert!(JoinToken::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lifetimes() {
        let seconds = |text| lifetime(text).ok().map(|d| d.map(|d| d.as_secs()));
        assert_eq!(seconds("0"), Some(None));
        assert_eq!(seconds("90s"), Some(Some(90)));
        assert_eq!(seconds("7d"), Some(Some(604_800)));
        for bad in ["", "h", "1", "-1h", "0h", "1y", "99999999999999999999d"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn letters_are_what_the_server_takes() {
        let made = letters(16, &RealWorld::shared());
        assert!(made.len() == 16 && made.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()), "{made}");
    }
}
