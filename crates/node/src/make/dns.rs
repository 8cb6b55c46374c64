//! A pod's resolv.conf.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use skiff_cri::v1::DnsConfig;

use crate::pod::facts;

/// Where names are resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolvers {
    /// The cluster's own.
    pub(crate) cluster: Option<IpAddr>,
    /// Such as `cluster.local`.
    pub(crate) domain: String,
    /// The text of the node's resolv.conf.
    pub(crate) host: String,
}

/// The node's resolv.conf, taken apart; resolvers on loopback are left out, since a pod cannot reach them.
fn host(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.filter(|name| *name != ".").map(str::to_owned).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The pod's resolv.conf.
pub(crate) fn config(pod: &Pod, resolvers: &Resolvers) -> DnsConfig {
    let spec = facts::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !facts::on_host_network(pod),
        _ => false,
    };
    let mut config = match (policy, resolvers.cluster) {
        ("None", _) => DnsConfig::default(),
        (_, Some(server)) if cluster => cluster_first(pod, resolvers, server),
        _ => host(&resolvers.host),
    };
    let Some(own) = &spec.dns_config else { return config };
    let extend = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
        for item in more.iter().flatten() {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    };
    extend(&mut config.servers, &own.nameservers);
    extend(&mut config.searches, &own.searches);
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        config.options.retain(|present| present.split(':').next() != Some(name));
        config.options.push(option.value.as_deref().map_or(name.to_owned(), |value| format!("{name}:{value}")));
    }
    config
}

fn cluster_first(pod: &Pod, resolvers: &Resolvers, server: IpAddr) -> DnsConfig {
    let (namespace, domain) = (facts::namespace(pod), &resolvers.domain);
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    for search in host(&resolvers.host).searches {
        if !searches.contains(&search) {
            searches.push(search);
        }
    }
    DnsConfig { servers: vec![server.to_string()], searches, options: vec!["ndots:5".to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(spec: Value) -> String {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": spec})).expect("a pod");
        let resolvers = Resolvers {
            cluster: "10.43.0.10".parse().ok(),
            domain: "cluster.local".into(),
            host: "# c\nnameserver 1.1.1.1\nsearch corp.example\noptions rotate\n".into(),
        };
        let config = config(&pod, &resolvers);
        format!("{} | {} | {}", config.servers.join(" "), config.searches.join(" "), config.options.join(" "))
    }

    #[test]
    fn policies() {
        let cluster = "10.43.0.10 | n.svc.cluster.local svc.cluster.local cluster.local corp.example | ndots:5";
        let host = "1.1.1.1 | corp.example | rotate";
        assert_eq!(told(json!({})), cluster);
        assert_eq!(told(json!({"hostNetwork": true})), host);
        assert_eq!(told(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})), cluster);
        assert_eq!(told(json!({"dnsPolicy": "Default"})), host);
        let own = json!({"nameservers": ["9.9.9.9"], "searches": ["s"], "options": [{"name": "ndots", "value": "2"}]});
        assert_eq!(told(json!({"dnsPolicy": "None", "dnsConfig": own})), "9.9.9.9 | s | ndots:2");
        assert_eq!(
            told(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}]}})),
            cluster.replace("ndots:5", "ndots:1 edns0")
        );
    }
}
