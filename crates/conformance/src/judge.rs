//! What a webhook of the suites says, by the `kube` crate's words: run beside an API server, and in a pod of its cluster.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use serde_json::{Value, json};

/// The response to the request of a review: what is new gets the label `judged`, and the word `bad` is refused.
pub fn judge(request: &Value) -> Value {
    let Ok(request) = serde_json::from_value::<AdmissionRequest<ConfigMap>>(request.clone()) else {
        return json!(AdmissionResponse::invalid("no config map"));
    };
    let response = AdmissionResponse::from(&request);
    let map = request.object.unwrap_or_default();
    if map.data.as_ref().and_then(|data| data.get("k")).is_some_and(|word| word == "bad") {
        return json!(response.deny("that word is not spoken here"));
    }
    if request.operation != Operation::Create || map.labels().contains_key("judged") {
        return json!(response);
    }
    let labels = match map.metadata.labels {
        Some(_) => json!([{"op": "add", "path": "/metadata/labels/judged", "value": "yes"}]),
        None => json!([{"op": "add", "path": "/metadata/labels", "value": {"judged": "yes"}}]),
    };
    let patched = serde_json::from_value(labels)
        .map_err(|error| error.to_string())
        .and_then(|patch| response.with_patch(patch).map_err(|error| error.to_string()));
    patched.map_or_else(|why| json!(AdmissionResponse::invalid(why)), |response| json!(response))
}
