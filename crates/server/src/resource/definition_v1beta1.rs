//! `apiextensions.k8s.io/v1beta1`, which nobody is served any more, but as which upstream's API server keeps its
//! CustomResourceDefinitions to this day (`staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver`): what all versions
//! share stands beside their list, not in it.

use serde_json::{Map, Value, json};

/// The version as it is found in stores.
pub(crate) const VERSION: &str = "apiextensions.k8s.io/v1beta1";
/// Members of the definition that are members of each of its versions now: then, now.
const SHARED: &[(&str, &str)] = &[
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

/// The same definition in version `v1`.
pub(crate) fn to_v1(object: &mut Map<String, Value>) {
    object.insert("apiVersion".to_owned(), Value::from("apiextensions.k8s.io/v1"));
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let only = spec.remove("version");
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    if versions.as_array().is_none_or(Vec::is_empty)
        && let Some(name) = only
    {
        *versions = json!([{"name": name, "served": true, "storage": true}]);
    }
    let mut versions = versions.take();
    for (then, now) in SHARED {
        let Some(shared) = spec.remove(*then) else { continue };
        for version in versions.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            version.entry(*now).or_insert_with(|| shared.clone());
        }
    }
    for version in versions.as_array_mut().into_iter().flatten() {
        let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
        for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(path) = column.remove("JSONPath") {
                column.insert("jsonPath".to_owned(), path);
            }
        }
    }
    spec.insert("versions".to_owned(), versions);
    // Then it was so unless told otherwise, now it is the other way around.
    spec.entry("preserveUnknownFields").or_insert(Value::Bool(true));
    let conversion = spec.get_mut("conversion").and_then(Value::as_object_mut);
    if let Some(conversion) = conversion
        && let Some(client) = conversion.remove("webhookClientConfig")
    {
        let reviews = conversion.remove("conversionReviewVersions").unwrap_or_else(|| json!([]));
        let webhook = json!({"clientConfig": client, "conversionReviewVersions": reviews});
        conversion.insert("webhook".to_owned(), webhook);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_share_goes_to_each() {
        let schema = |ty: &str| json!({"openAPIV3Schema": {"type": ty}});
        let column = |path: &str| json!([{"name": "Size", "type": "integer", path: ".spec.size"}]);
        let (one, two) =
            (json!({"name": "v1", "served": true, "storage": true}), json!({"name": "v2", "served": true}));
        let with = |version: &Value, more: Value| {
            let mut version = version.clone();
            version.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            version
        };
        let table = [
            (
                "one version",
                json!({"version": "v1", "versions": [one], "preserveUnknownFields": false,
                    "validation": schema("object"), "additionalPrinterColumns": column("JSONPath")}),
                json!({"preserveUnknownFields": false, "versions": [with(&one,
                    json!({"schema": schema("object"), "additionalPrinterColumns": column("jsonPath")}))]}),
            ),
            (
                "no list of versions",
                json!({"version": "v1", "subresources": {"status": {}}}),
                json!({"preserveUnknownFields": true, "versions": [with(&one, json!({"subresources": {"status": {}}}))]}),
            ),
            (
                "versions that differ",
                json!({"version": "v1", "preserveUnknownFields": false, "versions": [
                    with(&one, json!({"schema": schema("object"), "additionalPrinterColumns": column("JSONPath")})), two]}),
                json!({"preserveUnknownFields": false, "versions": [
                    with(&one, json!({"schema": schema("object"), "additionalPrinterColumns": column("jsonPath")})), two]}),
            ),
            (
                "a webhook",
                json!({"versions": [one], "preserveUnknownFields": false, "conversion": {"strategy": "Webhook",
                    "webhookClientConfig": {"url": "u"}, "conversionReviewVersions": ["v1"]}}),
                json!({"versions": [one], "preserveUnknownFields": false, "conversion": {"strategy": "Webhook",
                    "webhook": {"clientConfig": {"url": "u"}, "conversionReviewVersions": ["v1"]}}}),
            ),
        ];
        for (name, then, now) in table {
            let mut object = json!({"apiVersion": VERSION, "spec": then});
            to_v1(object.as_object_mut().unwrap());
            assert_eq!(object, json!({"apiVersion": "apiextensions.k8s.io/v1", "spec": now}), "{name}");
        }
    }
}
