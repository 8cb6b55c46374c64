//! What a certificate request asks for, read from its PEM. Pure.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// A request whose signature is right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    /// Alternative names by kind.
    pub(super) dns: usize,
    pub(super) ip: usize,
    pub(super) email: usize,
    pub(super) uri: usize,
    /// DER as it is taken over into the certificate: subject, public key, the value of the extension of other names.
    pub(super) subject: Vec<u8>,
    pub(super) public_key: Vec<u8>,
    pub(super) names: Option<Vec<u8>>,
}

impl Request {
    /// Reads PEM; `None` where it is no request, or not signed by the key it is for.
    pub(super) fn parse(pem: &[u8]) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        parsed.verify_signature().ok()?;
        let info = &parsed.certification_request_info;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
        let mut request = Self {
            common_name: info.subject.iter_common_name().find_map(text).unwrap_or_default(),
            organizations: info.subject.iter_organization().filter_map(text).collect(),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for attribute in info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else { continue };
            for extension in &wanted.extensions {
                let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
                request.names = Some(extension.value.to_vec());
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(_) => request.dns += 1,
                        GeneralName::IPAddress(_) => request.ip += 1,
                        GeneralName::RFC822Name(_) => request.email += 1,
                        GeneralName::URI(_) => request.uri += 1,
                        _ => {}
                    }
                }
            }
        }
        Some(request)
    }

    /// Why this is no request of a kubelet for usage `auth` (`client auth` or `server auth`); `None`: it is one.
    pub(super) fn not_for_kubelet(&self, usages: &[String], auth: &str) -> Option<&'static str> {
        let serving = auth == "server auth";
        let mut wanted: Vec<&str> =
            usages.iter().map(String::as_str).filter(|usage| *usage != "key encipherment").collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut expected = ["digital signature", auth];
        expected.sort_unstable();
        match self {
            _ if self.organizations != ["system:nodes"] => Some("subject organization is not system:nodes"),
            _ if serving && self.dns + self.ip == 0 => Some("DNS or IP subjectAltName is required"),
            _ if !serving && self.dns > 0 => Some("DNS subjectAltNames are not allowed"),
            _ if self.email > 0 => Some("Email subjectAltNames are not allowed"),
            _ if !serving && self.ip > 0 => Some("IP subjectAltNames are not allowed"),
            _ if self.uri > 0 => Some("URI subjectAltNames are not allowed"),
            _ if !self.common_name.starts_with("system:node:") => {
                Some("subject common name does not begin with system:node:")
            }
            _ if wanted != expected => Some("usages are not those of a kubelet"),
            _ => None,
        }
    }
}
