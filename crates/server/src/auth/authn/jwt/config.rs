//! Who else's tokens are believed (apiserver.config.k8s.io, `AuthenticationConfiguration`).

use serde::Deserialize;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the authentication configuration is not good: {0}")]
pub struct AuthenticationError(pub(super) String);

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationConfig {
    api_version: String,
    kind: String,
    #[serde(default)]
    pub(crate) jwt: Vec<Jwt>,
    #[serde(default)]
    pub(crate) anonymous: Option<Anonymous>,
}

/// Whether requests without credentials are somebody's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anonymous {
    pub(crate) enabled: bool,
    #[serde(default)]
    conditions: Vec<serde_json::Value>,
}

/// One issuer of tokens, and what its claims mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Jwt {
    pub(super) issuer: Issuer,
    #[serde(default)]
    pub(super) claim_validation_rules: Vec<ClaimRule>,
    pub(super) claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Issuer {
    pub(super) url: String,
    #[serde(rename = "discoveryURL")]
    pub(super) discovery_url: String,
    pub(super) certificate_authority: String,
    pub(super) audiences: Vec<String>,
    audience_match_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct ClaimRule {
    pub(super) claim: String,
    pub(super) required_value: String,
    expression: String,
    message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Mappings {
    pub(super) username: Prefixed,
    pub(super) groups: Prefixed,
    pub(super) uid: Prefixed,
    extra: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Prefixed {
    pub(super) claim: String,
    pub(super) prefix: Option<String>,
    expression: String,
}

/// What `--oidc-*` flags say.
#[derive(Clone, Debug, Default)]
pub struct Oidc {
    /// The issuer.
    pub issuer: String,
    /// The audience.
    pub client_id: String,
    /// PEM of the authorities that its certificate is checked by; empty: the system's.
    pub authority: String,
    /// Claim and prefix of the user's name; no prefix: the issuer's address, `-`: none.
    pub username: (String, String),
    /// Claim and prefix of groups.
    pub groups: (String, String),
    /// Claims that must have these values.
    pub required: Vec<(String, String)>,
}

impl AuthenticationConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is none, or asks for something that is not served.
    pub fn read(text: &str) -> Result<Self, AuthenticationError> {
        let bad = |why: String| AuthenticationError(why);
        let decoded = skiff_meta::codec::yaml::decode(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let config: Self = serde_json::from_value(decoded.value).map_err(|e| bad(e.to_string()))?;
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
        if !versions.contains(&&*config.api_version) || config.kind != "AuthenticationConfiguration" {
            let (kind, version) = (&config.kind, &config.api_version);
            return Err(bad(format!(
                "kind {kind:?} of {version:?} is not AuthenticationConfiguration of {versions:?}"
            )));
        }
        for (place, jwt) in config.jwt.iter().enumerate() {
            jwt.check().map_err(|why| bad(format!("jwt[{place}].{why}")))?;
        }
        if config.anonymous.as_ref().is_some_and(|anonymous| !anonymous.conditions.is_empty()) {
            return Err(bad("anonymous.conditions: are not served yet; leave them out".to_owned()));
        }
        Ok(config)
    }

    /// From flags.
    ///
    /// # Errors
    /// As [`AuthenticationConfig::read`].
    pub fn of_flags(oidc: Oidc) -> Result<Self, AuthenticationError> {
        let prefix = match (&*oidc.username.1, &*oidc.username.0) {
            ("-", _) | ("", "email") => String::new(),
            ("", _) => format!("{}#", oidc.issuer),
            (prefix, _) => prefix.to_owned(),
        };
        let rule = |(claim, required_value)| ClaimRule { claim, required_value, ..ClaimRule::default() };
        let claim = |claim: String, prefix: String| Prefixed { claim, prefix: Some(prefix), ..Prefixed::default() };
        let groups = match &*oidc.groups.0 {
            "" => Prefixed::default(),
            _ => claim(oidc.groups.0, oidc.groups.1),
        };
        let jwt = Jwt {
            issuer: Issuer {
                url: oidc.issuer,
                certificate_authority: oidc.authority,
                audiences: vec![oidc.client_id],
                ..Issuer::default()
            },
            claim_validation_rules: oidc.required.into_iter().map(rule).collect(),
            claim_mappings: Mappings { username: claim(oidc.username.0, prefix), groups, ..Mappings::default() },
            user_validation_rules: Vec::new(),
        };
        jwt.check().map_err(AuthenticationError)?;
        Ok(Self { jwt: vec![jwt], ..Self::default() })
    }
}

impl Jwt {
    fn check(&self) -> Result<(), String> {
        let issuer = &self.issuer;
        for (name, url) in [("url", &issuer.url), ("discoveryURL", &issuer.discovery_url)] {
            let needed = name == "url" || !url.is_empty();
            if needed && !url.starts_with("https://") {
                return Err(format!("issuer.{name}: {url:?} must begin with https://"));
            }
        }
        if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
            return Err("issuer.audiences: at least one must be named, and none be empty".to_owned());
        }
        if issuer.audiences.len() > 1 && issuer.audience_match_policy != "MatchAny" {
            return Err("issuer.audienceMatchPolicy: must be MatchAny where several audiences are named".to_owned());
        }
        let mappings = &self.claim_mappings;
        let rules = &self.claim_validation_rules;
        let expressions =
            [&mappings.username, &mappings.groups, &mappings.uid].iter().any(|m| !m.expression.is_empty())
                || rules.iter().any(|rule| !rule.expression.is_empty() || !rule.message.is_empty())
                || !mappings.extra.is_empty()
                || !self.user_validation_rules.is_empty();
        if expressions {
            return Err("claimMappings: expressions are not served yet; use claims".to_owned());
        }
        if mappings.username.claim.is_empty() || mappings.username.prefix.is_none() {
            return Err("claimMappings.username: claim and prefix are required (the prefix may be \"\")".to_owned());
        }
        if !mappings.groups.claim.is_empty() && mappings.groups.prefix.is_none() {
            return Err("claimMappings.groups: prefix is required (it may be \"\")".to_owned());
        }
        match rules.iter().find(|rule| rule.claim.is_empty()) {
            Some(_) => Err("claimValidationRules: claim is required".to_owned()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_work_are_refused() {
        let file = |jwt: &str| {
            let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
            AuthenticationConfig::read(&format!("{head}jwt: [{jwt}]\n"))
        };
        let username = "claimMappings: {username: {claim: sub, prefix: ''}}";
        assert!(file(&format!("{{issuer: {{url: 'https://a', audiences: [b]}}, {username}}}")).is_ok());
        for (jwt, why) in [
            (format!("{{issuer: {{url: 'http://a', audiences: [b]}}, {username}}}"), "https://"),
            (format!("{{issuer: {{url: 'https://a'}}, {username}}}"), "audiences"),
            (format!("{{issuer: {{url: 'https://a', audiences: [b, c]}}, {username}}}"), "MatchAny"),
            ("{issuer: {url: 'https://a', audiences: [b]}, claimMappings: {username: {claim: sub}}}".into(), "prefix"),
            (
                "{issuer: {url: 'https://a', audiences: [b]}, claimMappings: {username: {expression: 'x'}}}".into(),
                "expressions",
            ),
        ] {
            let error = file(&jwt).unwrap_err().to_string();
            assert!(error.contains(why), "{jwt}: {error}");
        }
    }
}
