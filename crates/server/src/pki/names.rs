//! The names a server answers to.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// DNS names and addresses for a serving certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingNames {
    /// DNS names.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl ServingNames {
    /// What the API server is called: locally, as the `kubernetes` Service of `cluster_domain`, and by `others` (host
    /// names, addresses, the Service's address, `--tls-san`).
    pub fn new(cluster_domain: &str, others: impl IntoIterator<Item = String>) -> Self {
        let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        let full = format!("kubernetes.default.svc.{cluster_domain}");
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        Self::of(service.into_iter().chain([full]).chain(local).chain(others))
    }

    /// Just these names and addresses.
    pub fn of(names: impl IntoIterator<Item = String>) -> Self {
        let mut result = Self::default();
        for name in names.into_iter().filter(|n| !n.is_empty()) {
            match name.parse() {
                Ok(address) => {
                    result.addresses.insert(address);
                }
                Err(_) => {
                    result.dns.insert(name.to_ascii_lowercase());
                }
            }
        }
        result
    }
}
