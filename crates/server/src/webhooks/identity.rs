//! As whom the server shows itself to webhooks: the users of a kubeconfig, whose names are the webhooks' hosts
//! (upstream: `k8s.io/apiserver/pkg/util/webhook/authentication.go`).

use std::path::Path;
use std::sync::Arc;

use skiff_client::config::{Kubeconfig, User};

/// The users of a kubeconfig.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identities(Arc<[(String, Identity)]>);

/// One of them.
#[derive(Default)]
pub(crate) struct Identity {
    /// PEM; empty where there is no certificate.
    pub(super) certificate: Vec<u8>,
    /// PEM of its key.
    pub(super) key: Vec<u8>,
    pub(super) token: Option<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identities {
    /// Reads a kubeconfig with the files that it names.
    pub(crate) fn load(path: &str) -> Result<Self, String> {
        let path = Path::new(path);
        if !path.is_absolute() {
            return Err(format!("kubeConfigFile must be an absolute path, but got {path:?}"));
        }
        let config = Kubeconfig::load(path).map_err(|error| error.to_string())?;
        let users = config.users.into_iter().map(|user| Ok((user.name, Identity::of(&user.value)?)));
        users.collect::<Result<_, String>>().map(Self)
    }

    /// The one for a webhook at this host and port, and its name: named whole, by the end of its name after a star, or
    /// the one for all others.
    pub(super) fn of(&self, host: &str, port: u16) -> Option<(&str, &Identity)> {
        let named = |name: &str| self.0.iter().find(|(known, _)| known == name);
        let by_end = |target: &str| {
            let ends = target.match_indices('.').map(|(dot, _)| &target[dot..]);
            named(target).or_else(|| ends.filter_map(|end| named(&format!("*{end}"))).next())
        };
        let found = by_end(&format!("{host}:{port}"));
        let found = found.or_else(|| by_end(host).filter(|_| port == 443)).or_else(|| named("*"));
        found.map(|(name, identity)| (name.as_str(), identity))
    }
}

impl Identity {
    fn of(user: &User) -> Result<Self, String> {
        let (certificate, key) = user.pair().map_err(|error| error.to_string())?;
        if certificate.is_empty() != key.is_empty() {
            return Err("a client certificate and its key must come together".to_owned());
        }
        let token = match (&user.token, &user.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
                Some(text.trim().to_owned())
            }
            (None, None) => None,
        };
        Ok(Self { certificate, key, token: token.filter(|token| !token.is_empty()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let users = ["*", "hook.ns.svc", "*.ns.svc", "*.example.com", "a.example.com:8443"];
        let users: String = users.iter().map(|name| format!("- {{name: '{name}', user: {{token: t}}}}\n")).collect();
        std::fs::write(file.path(), format!("apiVersion: v1\nkind: Config\nusers:\n{users}")).unwrap();
        let identities = Identities::load(file.path().to_str().unwrap()).unwrap();
        for (host, port, expected) in [
            ("hook.ns.svc", 443, "hook.ns.svc"),
            ("hook.ns.svc", 8443, "*"),
            ("other.ns.svc", 443, "*.ns.svc"),
            ("deep.down.example.com", 443, "*.example.com"),
            ("a.example.com", 8443, "a.example.com:8443"),
            ("a.example.com", 443, "*.example.com"),
            ("elsewhere", 443, "*"),
        ] {
            assert_eq!(identities.of(host, port).map(|(name, _)| name), Some(expected), "{host}:{port}");
        }
        assert!(Identities::default().of("hook.ns.svc", 443).is_none());
        assert!(Identities::load("beside").unwrap_err().contains("absolute"));
    }
}
