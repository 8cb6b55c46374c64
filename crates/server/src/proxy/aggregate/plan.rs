//! Whether an extension server can be used, as far as the cluster's objects tell.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::ServiceReference;
use serde_json::{Value, json};

use crate::tree;

/// What is found out: status, reason, message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) available: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    /// It answers.
    pub(super) fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }
    /// It does not.
    pub(super) fn failed(message: String) -> Self {
        Self { available: false, reason: "FailedDiscoveryCheck", message }
    }
}

/// Namespace, name and port of a reference.
pub(super) fn place(reference: &ServiceReference) -> (&str, &str, i32) {
    (
        reference.namespace.as_deref().unwrap_or_default(),
        reference.name.as_deref().unwrap_or_default(),
        reference.port.unwrap_or(443),
    )
}

/// What is wrong with the service behind a reference; `None` when it is worth asking.
pub(super) fn fault(
    reference: &ServiceReference,
    service: Option<&Service>,
    slices: &[EndpointSlice],
) -> Option<Verdict> {
    let (namespace, name, port) = place(reference);
    let about = format!("service/{name} in {namespace:?}");
    let no = |reason, message| Some(Verdict { available: false, reason, message });
    let Some(spec) = service.map(|service| service.spec.clone().unwrap_or_default()) else {
        return no("ServiceNotFound", format!("{about} is not present"));
    };
    if spec.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let Some(found) = spec.ports.iter().flatten().find(|p| p.port == port) else {
        return no("ServicePortError", format!("{about} is not listening on port {port}"));
    };
    if slices.is_empty() {
        return no("EndpointsNotFound", format!("cannot find endpointslices for {about}"));
    }
    let port_name = found.name.clone().unwrap_or_default();
    let serves = |slice: &EndpointSlice| {
        let ready = |c: &k8s_openapi::api::discovery::v1::EndpointConditions| c.ready.unwrap_or(true);
        let mut endpoints = slice.endpoints.iter().flatten();
        endpoints.any(|e| e.conditions.as_ref().is_none_or(ready))
            && slice
                .ports
                .iter()
                .flatten()
                .any(|p| p.name.as_deref().unwrap_or_default() == port_name && p.port.is_some())
    };
    if slices.iter().any(serves) {
        return None;
    }
    no("MissingEndpoints", format!("endpointslices for {about} have no addresses with port name {port_name:?}"))
}

/// The APIService with the verdict in its status, when that is news.
pub(super) fn judged(service: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let status = if verdict.available { "True" } else { "False" };
    let conditions = tree::at(service, &["status", "conditions"]).and_then(Value::as_array);
    let old = conditions.into_iter().flatten().find(|c| c["type"] == "Available");
    let same = |c: &Value| c["status"] == status && c["reason"] == verdict.reason && c["message"] == verdict.message;
    if old.is_some_and(same) {
        return None;
    }
    let since = old.filter(|c| c["status"] == status).map_or(json!(now), |c| c["lastTransitionTime"].clone());
    let condition = json!({
        "type": "Available", "status": status, "reason": verdict.reason, "message": verdict.message,
        "lastTransitionTime": since,
    });
    let mut judged = service.clone();
    judged["status"] = json!({"conditions": [condition]});
    Some(judged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_an_extension_from_being_asked() {
        let reference = ServiceReference { name: Some("s".into()), namespace: Some("n".into()), port: Some(443) };
        let service = |port: i32, ty: &str| -> Service {
            serde_json::from_value(json!({"spec": {"type": ty, "ports": [{"name": "https", "port": port}]}})).unwrap()
        };
        let slice = |port: &str, ready: bool| -> EndpointSlice {
            serde_json::from_value(json!({
                "addressType": "IPv4", "ports": [{"name": port, "port": 8443}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
            }))
            .unwrap()
        };
        let reason = |service: Option<&Service>, slices: &[EndpointSlice]| {
            fault(&reference, service, slices).map_or("", |verdict| verdict.reason)
        };
        assert_eq!(reason(None, &[]), "ServiceNotFound");
        assert_eq!(reason(Some(&service(80, "ClusterIP")), &[]), "ServicePortError");
        assert_eq!(reason(Some(&service(443, "ClusterIP")), &[]), "EndpointsNotFound");
        assert_eq!(reason(Some(&service(443, "ClusterIP")), &[slice("https", false)]), "MissingEndpoints");
        assert_eq!(reason(Some(&service(443, "ClusterIP")), &[slice("other", true)]), "MissingEndpoints");
        assert_eq!(reason(Some(&service(443, "ClusterIP")), &[slice("https", true)]), "");
        assert_eq!(reason(Some(&service(80, "ExternalName")), &[]), "");
    }

    #[test]
    fn a_verdict_is_written_once() {
        let service = json!({"metadata": {"name": "v1.x"}});
        let judged = judged(&service, &Verdict::passed(), "now").unwrap();
        assert_eq!(judged["status"]["conditions"][0]["reason"], "Passed");
        assert!(super::judged(&judged, &Verdict::passed(), "later").is_none());
        let failed = super::judged(&judged, &Verdict::failed("no".into()), "later").unwrap();
        assert_eq!(failed["status"]["conditions"][0]["lastTransitionTime"], "later");
    }
}
