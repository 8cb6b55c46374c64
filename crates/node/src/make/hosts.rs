//! A pod's host name and /etc/hosts.

use std::fmt::Write;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::facts;

/// The longest host name the kernel takes.
const LONGEST: usize = 63;

/// The pod's host name, and its domain where it has a subdomain.
pub(crate) fn names(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = facts::spec(pod);
    let given = [&spec.hostname_override, &spec.hostname].into_iter().flatten().find(|name| !name.is_empty());
    let name = given.map_or(facts::name(pod), String::as_str);
    let name: String = name.chars().take(LONGEST).collect();
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let domain = match spec.subdomain.as_deref().filter(|sub| !sub.is_empty() && spec.hostname_override.is_none()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", facts::namespace(pod)),
        None => String::new(),
    };
    (name, domain)
}

/// What `hostname` prints in the pod.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> String {
    let (name, domain) = names(pod, cluster_domain);
    let full = facts::spec(pod).set_hostname_as_fqdn == Some(true) && !domain.is_empty();
    if full { format!("{name}.{domain}") } else { name }
}

/// /etc/hosts of a pod with these addresses; on the host's network, the host's own file with the pod's aliases.
pub(crate) fn file(pod: &Pod, addresses: &[String], cluster_domain: &str, host_file: &str) -> String {
    let mut out = String::new();
    if facts::on_host_network(pod) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (name, domain) = names(pod, cluster_domain);
        for address in addresses {
            // Writing to a string cannot fail.
            let _ = match domain.as_str() {
                "" => writeln!(out, "{address}\t{name}"),
                domain => writeln!(out, "{address}\t{name}.{domain}\t{name}"),
            };
        }
    }
    let aliases = facts::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(out, "{}\t{names}", alias.ip);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn names_and_file() {
        let plain = pod(json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        assert_eq!(hostname(&plain, "d"), "p");
        let text = file(&plain, &["10.0.0.1".into()], "d", "");
        assert!(text.ends_with("10.0.0.1\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        let named = pod(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(hostname(&named, "d"), "h.s.n.svc.d");
        assert!(file(&named, &["10.0.0.1".into()], "d", "").contains("10.0.0.1\th.s.n.svc.d\th\n"));
        let host = pod(json!({"hostNetwork": true}));
        assert!(file(&host, &[], "d", "127.0.0.1 localhost\n").ends_with("127.0.0.1 localhost\n"));
    }
}
