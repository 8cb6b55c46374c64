//! What the cluster's administrator may say about names outside the cluster: the ConfigMap `kube-system/kube-dns`, in the
//! form that Kubernetes documents for it. It is read again whenever it changes; one that makes no sense changes nothing.
//!
//! ```text
//! data:
//!   stubDomains: '{"acme.example": ["10.0.0.53", "10.0.1.53:5353"]}'
//!   upstreamNameservers: '["192.0.2.53"]'
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::ConfigMap;

/// Where names outside the cluster are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// Domains with servers of their own, those with more labels first.
    stubs: Vec<(Name, Vec<SocketAddr>)>,
    /// Servers for all others; empty: the machine's.
    pub(super) upstream: Vec<SocketAddr>,
}

/// A ConfigMap that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is not what it should be: {what}")]
pub(super) struct BadSettings {
    field: &'static str,
    what: String,
}

impl Settings {
    /// What the ConfigMap says.
    pub(super) fn read(map: &ConfigMap) -> Result<Self, BadSettings> {
        let field = |key: &str| map.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
        let bad = |field, what: &dyn std::fmt::Display| BadSettings { field, what: what.to_string() };
        let stubs: BTreeMap<String, Vec<String>> =
            serde_json::from_str(field("stubDomains").unwrap_or("{}")).map_err(|e| bad("stubDomains", &e))?;
        let upstream: Vec<String> = serde_json::from_str(field("upstreamNameservers").unwrap_or("[]"))
            .map_err(|e| bad("upstreamNameservers", &e))?;
        let mut found = Self { upstream: servers("upstreamNameservers", &upstream)?, ..Self::default() };
        for (domain, addresses) in stubs {
            let mut name = Name::from_ascii(&domain).map_err(|e| bad("stubDomains", &e))?.to_lowercase();
            name.set_fqdn(true);
            found.stubs.push((name, servers("stubDomains", &addresses)?));
        }
        found.stubs.sort_by_key(|(name, _)| std::cmp::Reverse(name.num_labels()));
        Ok(found)
    }

    /// The servers to ask for `name`; `None`: the machine's.
    pub(super) fn servers_for(&self, name: &Name) -> Option<&[SocketAddr]> {
        let stub = self.stubs.iter().find(|(domain, _)| domain.zone_of(name));
        stub.map(|(_, servers)| servers)
            .or(Some(&self.upstream).filter(|servers| !servers.is_empty()))
            .map(Vec::as_slice)
    }
}

/// Addresses with or without a port.
fn servers(field: &'static str, texts: &[String]) -> Result<Vec<SocketAddr>, BadSettings> {
    let read = |text: &String| {
        let plain = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        let found = plain.or_else(|_| text.parse::<SocketAddr>());
        found.map_err(|_| BadSettings { field, what: format!("{text:?} is no address") })
    };
    texts.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(data: serde_json::Value) -> Result<Settings, BadSettings> {
        Settings::read(&serde_json::from_value(json!({ "data": data })).unwrap())
    }

    #[test]
    fn the_closest_domain_decides() {
        let found = settings(json!({
            "stubDomains": r#"{"example": ["10.0.0.1"], "deep.Example": ["10.0.0.2:5353", "fd00::1"]}"#,
            "upstreamNameservers": r#"["10.0.0.3"]"#,
        }))
        .unwrap();
        let asked =
            |name: &str| found.servers_for(&Name::from_ascii(name).unwrap()).map(|servers| servers[0].to_string());
        assert_eq!(asked("a.example."), Some("10.0.0.1:53".to_owned()));
        assert_eq!(asked("x.deep.example."), Some("10.0.0.2:5353".to_owned()));
        assert_eq!(asked("notexample."), Some("10.0.0.3:53".to_owned()));
        let none = settings(json!({})).unwrap();
        assert_eq!(none.servers_for(&Name::from_ascii("a.").unwrap()), None);
    }

    #[test]
    fn nonsense_is_told() {
        for data in [
            json!({"stubDomains": "x"}),
            json!({"upstreamNameservers": r#"["x"]"#}),
            json!({"stubDomains": r#"{"a": ["b"]}"#}),
        ] {
            assert!(settings(data.clone()).is_err(), "{data}");
        }
    }
}
