//! Which requests of nodes are approved. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const SERVING: &str = "kubernetes.io/kubelet-serving";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
/// Users whom the parts of a node act as beside the node itself. They may read Services, pods and policies, and DNS may
/// tell where it is.
const NODE_PARTS: [&str; 3] = [
    "system:kube-proxy",
    "system:serviceaccount:kube-system:network-policy",
    "system:serviceaccount:kube-system:kube-dns",
];

/// Who has which address already.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    pub(super) nodes: Vec<Arc<Node>>,
    /// Where the API is served.
    pub(super) servers: Vec<Arc<EndpointSlice>>,
}

/// What a request asks for, where it asks for nothing strange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    groups: Vec<String>,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Wanted {
    /// `None` when it cannot be read.
    fn read(pem: &[u8]) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &parsed.certification_request_info.subject;
        let mut names = subject.iter_common_name();
        // Of two names, readers may take either.
        let (Some(name), None) = (names.next(), names.next()) else { return None };
        let name = name.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|g| g.as_str().ok()).map(str::to_owned).collect();
        let mut wanted = Self { name, groups, ..Self::default() };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => wanted.dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => wanted.addresses.push(address(bytes)?),
                    _ => return None,
                }
            }
        }
        Some(wanted)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Why `request` is approved; `None`: it is not, here.
pub(super) fn approval(request: &CertificateSigningRequest, around: &Surroundings) -> Option<&'static str> {
    let (spec, status) = (&request.spec, request.status.clone().unwrap_or_default());
    let requester = spec.username.as_deref().unwrap_or_default();
    let is_node = requester.starts_with(NODE_PREFIX) && spec.groups.iter().flatten().any(|group| group == NODES);
    if !is_node || status.conditions.is_some_and(|conditions| !conditions.is_empty()) || status.certificate.is_some() {
        return None;
    }
    let wanted = Wanted::read(&spec.request.0)?;
    let usages: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let only = |purpose: &str| {
        usages.contains(purpose)
            && usages
                .iter()
                .all(|usage| *usage == purpose || matches!(*usage, "digital signature" | "key encipherment"))
    };
    let named = !wanted.dns.is_empty() || !wanted.addresses.is_empty();
    match spec.signer_name.as_str() {
        SERVING => (wanted.name == requester
            && wanted.groups == [NODES]
            && only("server auth")
            && named
            && is_free(&wanted, around))
        .then_some("Auto approving self kubelet serving certificate: nobody else has its names."),
        CLIENT => {
            (NODE_PARTS.contains(&wanted.name.as_str()) && wanted.groups.is_empty() && only("client auth") && !named)
                .then_some("Auto approving the client certificate of a part of a node.")
        }
        _ => None,
    }
}

/// Whether a node may serve under the names it wants: its own, and addresses that neither another node nor the API
/// server has. One authority signs all serving certificates, so this is what keeps a node from passing as another.
fn is_free(wanted: &Wanted, around: &Surroundings) -> bool {
    let node = wanted.name.trim_start_matches(NODE_PREFIX);
    let others = around.nodes.iter().filter(|other| other.metadata.name.as_deref() != Some(node));
    let of_nodes = others
        .flat_map(|other| other.status.iter().flat_map(|status| status.addresses.iter().flatten()))
        .map(|address| address.address.as_str());
    let endpoints = around.servers.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let of_servers = endpoints.flat_map(|endpoint| endpoint.addresses.iter().map(String::as_str));
    let taken: BTreeSet<IpAddr> = of_nodes.chain(of_servers).filter_map(|address| address.parse().ok()).collect();
    wanted.dns.iter().all(|name| name == node)
        && wanted.addresses.iter().all(|address| !address.is_loopback() && !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use serde_json::json;

    use super::*;

    /// A request for `name` in `groups` with alternative names, as `requester` hands it in.
    fn request(
        requester: &str,
        signer: &str,
        subject: (&str, &str),
        names: &[&str],
        usages: &[&str],
    ) -> CertificateSigningRequest {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !subject.1.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, subject.1);
        }
        params.distinguished_name.push(DnType::CommonName, subject.0);
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let groups = if requester.starts_with(NODE_PREFIX) { vec![NODES] } else { vec!["system:bootstrappers"] };
        let spec = json!({"username": requester, "groups": groups, "signerName": signer, "usages": usages,
            "request": k8s_openapi::ByteString(pem.into_bytes())});
        serde_json::from_value(json!({"metadata": {"name": "r", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn around() -> Surroundings {
        let node = |name: &str, address: &str| json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        let slice = json!({"metadata": {"name": "kubernetes"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.9"]}]});
        Surroundings {
            nodes: [node("n1", "10.0.0.1"), node("n2", "10.0.0.2")]
                .map(|node| Arc::new(serde_json::from_value(node).unwrap()))
                .to_vec(),
            servers: vec![Arc::new(serde_json::from_value(slice).unwrap())],
        }
    }

    #[test]
    fn what_a_node_needs_is_approved_and_nothing_else() {
        let client = ["digital signature", "client auth"];
        let serving = ["digital signature", "server auth"];
        let (node, boot) = ("system:node:n1", "system:bootstrap:abcdef");
        let own = (node, NODES);
        for (case, request, expected) in [
            ("own names", request(node, SERVING, own, &["n1", "10.0.0.1"], &serving), true),
            ("a new address", request(node, SERVING, own, &["10.0.0.7"], &serving), true),
            ("no names", request(node, SERVING, own, &[], &serving), false),
            ("another node's address", request(node, SERVING, own, &["10.0.0.2"], &serving), false),
            ("the server's address", request(node, SERVING, own, &["10.0.0.9"], &serving), false),
            ("loopback", request(node, SERVING, own, &["127.0.0.1"], &serving), false),
            ("the server's name", request(node, SERVING, own, &["kubernetes"], &serving), false),
            ("another node", request(node, SERVING, ("system:node:n2", NODES), &["n2"], &serving), false),
            ("no node", request(boot, SERVING, own, &["n1"], &serving), false),
            ("for more than serving", request(node, SERVING, own, &["n1"], &["server auth", "client auth"]), false),
            ("its proxy", request(node, CLIENT, ("system:kube-proxy", ""), &[], &client), true),
            ("a proxy for somebody", request(boot, CLIENT, ("system:kube-proxy", ""), &[], &client), false),
            ("an administrator", request(node, CLIENT, ("admin", ""), &[], &client), false),
            ("a proxy with a group", request(node, CLIENT, ("system:kube-proxy", NODES), &[], &client), false),
            ("a proxy with a name", request(node, CLIENT, ("system:kube-proxy", ""), &["n1"], &client), false),
            ("another's signer", request(node, "example.com/x", own, &[], &client), false),
        ] {
            assert_eq!(approval(&request, &around()).is_some(), expected, "{case}");
        }
        let mut denied = request(node, SERVING, own, &["n1"], &serving);
        denied.status = serde_json::from_value(json!({"conditions": [{"type": "Denied", "status": "True"}]})).unwrap();
        assert_eq!(approval(&denied, &around()), None, "somebody has decided");
    }
}
