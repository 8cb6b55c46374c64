//! Who else's tokens are believed (apiserver.config.k8s.io, `AuthenticationConfiguration`).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;

use super::mapping::Mapper;
use crate::config_file;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the authentication configuration is not good: {0}")]
pub struct AuthenticationError(pub(super) String);

/// Whose tokens are believed, and whether requests without credentials are somebody's.
#[derive(Clone, Debug, Default)]
pub struct AuthenticationConfig {
    pub(crate) jwt: Vec<Arc<Jwt>>,
    pub(crate) anonymous: Option<Anonymous>,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    jwt: Vec<Written>,
    #[serde(default)]
    anonymous: Option<Anonymous>,
}

/// Whether requests without credentials are somebody's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

impl Anonymous {
    /// Whether a request for this path may come from nobody in particular.
    pub(crate) fn may(&self, path: &str) -> bool {
        self.enabled && (self.conditions.is_empty() || self.conditions.iter().any(|condition| condition.path == path))
    }
}

/// One issuer of tokens, and what its claims mean.
#[derive(Debug)]
pub(crate) struct Jwt {
    pub(super) issuer: Issuer,
    pub(super) rules: Vec<ClaimRule>,
    pub(super) mappings: Mappings,
    pub(super) mapper: Mapper,
}

/// The same as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Written {
    issuer: Issuer,
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    user_validation_rules: Vec<UserRule>,
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
    pub(super) expression: String,
    pub(super) message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UserRule {
    pub(super) expression: String,
    pub(super) message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Mappings {
    pub(super) username: Prefixed,
    pub(super) groups: Prefixed,
    pub(super) uid: Prefixed,
    pub(super) extra: Vec<Extra>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Prefixed {
    pub(super) claim: String,
    pub(super) prefix: Option<String>,
    pub(super) expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Extra {
    pub(super) key: String,
    pub(super) value_expression: String,
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
    /// Reads what the file says by now.
    ///
    /// # Errors
    /// As [`Self::read`], and when it says something else than `first` about requests without credentials.
    pub fn read_again(text: &str, first: &Self) -> Result<Self, AuthenticationError> {
        let config = Self::read(text)?;
        match config.anonymous == first.anonymous {
            true => Ok(config),
            false => Err(AuthenticationError("anonymous: cannot change while it runs".to_owned())),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is none, or says something that cannot be.
    pub fn read(text: &str) -> Result<Self, AuthenticationError> {
        let bad = |why: String| AuthenticationError(why);
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
        let File { jwt, anonymous } = config_file::read(text, "AuthenticationConfiguration", &versions).map_err(bad)?;
        let mut config = Self { jwt: Vec::new(), anonymous };
        for (place, written) in jwt.into_iter().enumerate() {
            let jwt = Jwt::new(written).map_err(|why| bad(format!("jwt[{place}].{why}")))?;
            if config.jwt.iter().any(|other| other.issuer.url == jwt.issuer.url) {
                return Err(bad(format!("jwt[{place}].issuer.url: Duplicate value: {:?}", jwt.issuer.url)));
            }
            config.jwt.push(Arc::new(jwt));
        }
        if config.anonymous.as_ref().is_some_and(|anonymous| !anonymous.enabled && !anonymous.conditions.is_empty()) {
            let why = "enabled should be set to true when conditions are defined";
            return Err(bad(format!("anonymous.conditions: {why}")));
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
        let written = Written {
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
        let jwt = Jwt::new(written).map_err(AuthenticationError)?;
        Ok(Self { jwt: vec![Arc::new(jwt)], ..Self::default() })
    }
}

impl Jwt {
    fn new(written: Written) -> Result<Self, String> {
        written.check()?;
        let Written { issuer, claim_validation_rules: rules, claim_mappings: mappings, user_validation_rules } =
            written;
        let mapper = Mapper::new(&mappings, &rules, &user_validation_rules)?;
        Ok(Self { issuer, rules, mappings, mapper })
    }
}

impl Written {
    /// Upstream's rules for it (`pkg/apis/apiserver/validation`).
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
        if !issuer.discovery_url.is_empty()
            && issuer.discovery_url.trim_end_matches('/') == issuer.url.trim_end_matches('/')
        {
            return Err("issuer.discoveryURL: discoveryURL must be different from URL".to_owned());
        }
        let mappings = &self.claim_mappings;
        mappings.username.check("username")?;
        mappings.groups.check("groups")?;
        if mappings.username.claim.is_empty() && mappings.username.expression.is_empty() {
            return Err("claimMappings.username: claim or expression is required".to_owned());
        }
        if !mappings.uid.claim.is_empty() && !mappings.uid.expression.is_empty() {
            return Err("claimMappings.uid: claim and expression can't both be set".to_owned());
        }
        let mut keys = BTreeSet::new();
        for (place, extra) in mappings.extra.iter().enumerate() {
            let wrong = |why: &str| Err(format!("claimMappings.extra[{place}].key: {why}"));
            let Some((domain, path)) = extra.key.split_once('/').filter(|(_, path)| !path.is_empty()) else {
                return wrong("must be a domain-prefixed path (such as \"acme.io/foo\")");
            };
            if !skiff_meta::names::dns1123_subdomain(domain).is_empty() || path.chars().any(char::is_whitespace) {
                return wrong("must be a domain-prefixed path (such as \"acme.io/foo\")");
            }
            if extra.key != extra.key.to_lowercase() {
                return wrong("must be lowercase");
            }
            let reserved = |zone: &str| domain == zone || domain.ends_with(&format!(".{zone}"));
            if reserved("kubernetes.io") || reserved("k8s.io") {
                return wrong("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
            }
            if !keys.insert(&extra.key) {
                return wrong("Duplicate value");
            }
            if extra.value_expression.is_empty() {
                return Err(format!("claimMappings.extra[{place}].valueExpression: Required value"));
            }
        }
        if let Some(place) = self.user_validation_rules.iter().position(|rule| rule.expression.is_empty()) {
            return Err(format!("userValidationRules[{place}].expression: Required value"));
        }
        let mut claims = BTreeSet::new();
        for (place, rule) in self.claim_validation_rules.iter().enumerate() {
            rule.check().map_err(|why| format!("claimValidationRules[{place}]{why}"))?;
            if !rule.claim.is_empty() && !claims.insert(&rule.claim) {
                return Err(format!("claimValidationRules[{place}].claim: Duplicate value: {:?}", rule.claim));
            }
        }
        Ok(())
    }
}

impl ClaimRule {
    fn check(&self) -> Result<(), &'static str> {
        match (!self.claim.is_empty(), !self.expression.is_empty()) {
            (true, true) => Err(": claim and expression can't both be set"),
            (false, false) => Err(": claim or expression is required"),
            (true, false) if !self.message.is_empty() => Err(".message: may not be specified when claim is set"),
            (false, true) if !self.required_value.is_empty() => {
                Err(".requiredValue: may not be specified when expression is set")
            }
            _ => Ok(()),
        }
    }
}

impl Prefixed {
    fn check(&self, field: &str) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("claimMappings.{field}{why}"));
        match (!self.claim.is_empty(), !self.expression.is_empty(), &self.prefix) {
            (true, true, _) => wrong(": claim and expression can't both be set"),
            (false, true, Some(_)) => wrong(".prefix: may not be specified when expression is set"),
            (true, false, None) => wrong(".prefix: is required when claim is set; an empty string disables prefixing"),
            _ => Ok(()),
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
        let issuer = "issuer: {url: 'https://a', audiences: [b]}";
        let named = |mappings: &str| format!("{{{issuer}, claimMappings: {mappings}}}");
        let beside = |rules: &str| format!("{{{issuer}, {username}, {rules}}}");
        for good in [
            named("{username: {expression: 'claims.sub'}, uid: {expression: 'claims.id'}}"),
            named("{username: {expression: 'claims.email_verified ? claims.email : claims.sub'}}"),
            beside("claimValidationRules: [{expression: 'claims.exp - claims.nbf <= 86400', message: 'too long'}]"),
            beside("userValidationRules: [{expression: \"!user.username.startsWith('system:')\"}]"),
        ] {
            assert!(file(&good).is_ok(), "{good}: {:?}", file(&good).err());
        }
        let mail = named("{username: {expression: 'claims.email'}}");
        let mail = mail.trim_end_matches('}').to_owned()
            + "}}, claimValidationRules: [{expression: 'claims.?email_verified.orValue(true) == true'}]}";
        assert!(file(&mail).is_ok(), "{mail}: {:?}", file(&mail).err());
        for (jwt, why) in [
            (format!("{{issuer: {{url: 'http://a', audiences: [b]}}, {username}}}"), "https://"),
            (format!("{{issuer: {{url: 'https://a'}}, {username}}}"), "audiences"),
            (format!("{{issuer: {{url: 'https://a', audiences: [b, c]}}, {username}}}"), "MatchAny"),
            (named("{username: {claim: sub}}"), "username.prefix"),
            (named("{username: {claim: sub, prefix: '', expression: 'claims.sub'}}"), "can't both be set"),
            (named("{username: {prefix: '', expression: 'claims.sub'}}"), "username.prefix"),
            (named("{username: {expression: 'user.name'}}"), "undeclared reference to 'user'"),
            (named("{username: {expression: 'claims.email'}}"), "claims.email_verified must be used"),
            (named("{username: {expression: 'claims.s'}, extra: [{key: a, valueExpression: '1'}]}"), "domain-prefixed"),
            (
                named("{username: {expression: 'claims.s'}, extra: [{key: x.k8s.io/a, valueExpression: '1'}]}"),
                "reserved",
            ),
            (beside("claimValidationRules: [{claim: a, message: b}]"), "Rules[0].message"),
            (beside("claimValidationRules: [{expression: '1'}]"), "must evaluate to bool"),
            (beside("claimValidationRules: [{expression: 'true'}, {expression: 'true'}]"), "Duplicate"),
            (beside("userValidationRules: [{expression: 'user.nam == 1'}]"), "undefined field 'nam'"),
            (beside("userValidationRules: [{message: a}]"), "Required value"),
        ] {
            let error = file(&jwt).unwrap_err().to_string();
            assert!(error.contains(why), "{jwt}: {error}");
        }
    }
}
