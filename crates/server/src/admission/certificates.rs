//! Who may approve and sign certificate requests, and what nobody may ask for.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use skiff_meta::{GroupVersionResource, Status};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{refuse, text};
use crate::auth::names::MASTERS;
use crate::chain::{Admission, AdmissionRequest, Attributes, Authorizer, Decision, Extra, Operation};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn is_request(resource: &GroupVersionResource) -> bool {
    resource.group == GROUP && resource.resource == "certificatesigningrequests"
}

/// Whether the author may `verb` for the signer, by its name or by all of its domain (`example.com/*`).
async fn may(authorizer: &dyn Authorizer, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer, &format!("{domain}/*")] {
        let attributes = Attributes {
            user: request.user,
            verb,
            group: GROUP,
            version: "*",
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
            fields: "",
            labels: "",
            path: "",
        };
        if matches!(authorizer.authorize(&attributes).await, Decision::Allow(_)) {
            return true;
        }
    }
    false
}

/// The subject that a request asks for: common name and organizations.
pub(super) fn subject(request: &Value) -> Option<(String, Vec<String>)> {
    let pem = base64::engine::general_purpose::STANDARD.decode(text(&request["spec"], "request")).ok()?;
    let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).ok()?;
    let subject = &parsed.certification_request_info.subject;
    let name = subject.iter_common_name().last().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned();
    let groups = subject.iter_organization().filter_map(|g| g.as_str().ok()).map(str::to_owned).collect();
    Some((name, groups))
}

/// CertificateApproval: approving takes the right to approve for that signer.
pub(super) struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateApproval {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Update && is_request(resource) && subresource == "approval"
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let signer = request.old.map(|old| text(&old["spec"], "signerName")).unwrap_or_default();
        if may(&*self.authorizer, request, "approve", signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        Err(refuse(request, object, &why))
    }
}

/// CertificateSigning: handing in a certificate takes the right to sign for that signer.
pub(super) struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateSigning {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Update && is_request(resource) && subresource == "status"
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let (Some(old), Some(new)) = (request.old, object) else { return Ok(()) };
        let same = |field: &str| old["status"][field] == new["status"][field];
        let signer = text(&old["spec"], "signerName");
        if (same("certificate") && same("conditions")) || may(&*self.authorizer, request, "sign", signer).await {
            return Ok(());
        }
        Err(refuse(request, object, &format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// CertificateSubjectRestriction: nobody becomes a member of `system:masters` by asking for it.
pub(super) struct CertificateSubjectRestriction;

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Create && is_request(resource) && subresource.is_empty()
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let wanted = object.filter(|object| text(&object["spec"], "signerName") == CLIENT_SIGNER);
        let Some(wanted) = wanted else { return Ok(()) };
        let (_, groups) = subject(wanted).ok_or_else(|| refuse(request, object, "failed to parse CSR"))?;
        if groups.iter().any(|group| group == MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(refuse(request, object, &why));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admission::testing::Trial;
    use serde_json::json;

    /// Allows what is listed, as `VERB NAME`.
    struct Only(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
            let asked = format!("{} {}", attributes.verb, attributes.name);
            let allowed = self.0.contains(&&*asked);
            if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    pub(in crate::admission) fn csr(signer: &str, name: &str, group: &str) -> Value {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(pem);
        json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": request}})
    }

    const RESOURCE: &str = "certificatesigningrequests.certificates.k8s.io";

    #[test]
    fn approving_and_signing_take_rights_on_the_signer() {
        let old = json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/a"}});
        let mut signed = old.clone();
        signed["status"]["certificate"] = json!("x");
        let rights: [(&'static [&'static str], bool); 3] = [
            (&[], false),
            (&["approve example.com/a", "sign example.com/a"], true),
            (&["approve example.com/*", "sign example.com/*"], true),
        ];
        for (rights, expected) in rights {
            let approval = Trial::new(CertificateApproval::new(Arc::new(Only(rights))));
            let outcome = approval.update(RESOURCE, old.clone()).subresource("approval").validate(&old);
            assert_eq!(outcome.is_ok(), expected, "{rights:?}");
            let signing = Trial::new(CertificateSigning::new(Arc::new(Only(rights))));
            let update = || signing.update(RESOURCE, old.clone()).subresource("status");
            assert_eq!(update().validate(&signed).is_ok(), expected, "{rights:?}");
            assert!(update().validate(&old).is_ok());
        }
    }

    #[test]
    fn nobody_asks_for_masters() {
        let trial = Trial::new(CertificateSubjectRestriction);
        let cases = [
            (csr(CLIENT_SIGNER, "a", "ops"), None),
            (
                csr(CLIENT_SIGNER, "a", MASTERS),
                Some("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"),
            ),
            (csr("example.com/a", "a", MASTERS), None),
            (
                json!({"metadata": {"name": "r"}, "spec": {"signerName": CLIENT_SIGNER, "request": "?"}}),
                Some("failed to parse CSR"),
            ),
        ];
        for (request, expected) in cases {
            let told = trial.create(RESOURCE).validate(&request).err().map(|status| status.message).unwrap_or_default();
            assert!(expected.map_or(told.is_empty(), |words| told.ends_with(words)), "{told}");
        }
    }
}
