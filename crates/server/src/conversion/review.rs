//! What a conversion webhook is asked, and what its answer means (`apiextensions.k8s.io/v1` and `v1beta1`). Pure.

use serde_json::{Map, Value, json};
use skiff_meta::field::FieldErrors;
use skiff_rules::metadata;

/// A version of ConversionReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1beta1,
}

impl Version {
    /// The first that we know of those that the webhook knows.
    pub(super) fn best<'a>(known: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        known.into_iter().find_map(|version| match version {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        })
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "apiextensions.k8s.io/v1",
            Self::V1beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// The review that asks for `objects` in version `desired`.
pub(super) fn question(version: Version, uid: &str, desired: &str, objects: &[Value]) -> Value {
    json!({
        "kind": "ConversionReview",
        "apiVersion": version.api_version(),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
    })
}

/// The objects in the answer; else what is wrong with it.
pub(super) fn answer(version: Version, uid: &str, body: &[u8]) -> Result<Vec<Value>, String> {
    let review: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let text = |path: &str| review.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (said, kind) = (text("/apiVersion"), text("/kind"));
    if (said, kind) != (version.api_version(), "ConversionReview") {
        let expected = version.api_version();
        return Err(format!("expected webhook response of {expected}, Kind=ConversionReview, got {said}, Kind={kind}"));
    }
    if !review["response"].is_object() {
        return Err("no response provided".to_owned());
    }
    let answered = text("/response/uid");
    if version == Version::V1 && answered != uid {
        return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
    }
    match (text("/response/result/status"), text("/response/result/message")) {
        ("Success", _) => {}
        (status, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => return Err(message.to_owned()),
    }
    Ok(review.pointer("/response/convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// The converted object with the metadata it had: only labels and annotations are the webhook's to change.
pub(super) fn accept(original: &Value, mut converted: Value, desired: &str) -> Result<Value, String> {
    let text = |object: &Value, path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let invalid = |why: String| Err(format!("invalid object at index 0: {why}"));
    let (version, kind) = (text(&converted, "/apiVersion"), text(&converted, "/kind"));
    if version != desired {
        return invalid(format!("invalid groupVersion (expected {desired}, received {version})"));
    }
    if kind != text(original, "/kind") {
        return invalid(format!("invalid kind (expected {}, received {kind})", text(original, "/kind")));
    }
    for (path, what) in [("/metadata/name", "name"), ("/metadata/namespace", "namespace"), ("/metadata/uid", "UID")] {
        let (was, is) = (text(original, path), text(&converted, path));
        if was != is {
            return Err(format!("invalid object: must have the same {what}: {was} != {is}"));
        }
    }
    let metadata = restored(&original["metadata"], &converted["metadata"])
        .map_err(|why| format!("invalid metadata in object at index 0: {why}"))?;
    converted["metadata"] = metadata;
    Ok(converted)
}

fn restored(original: &Value, converted: &Value) -> Result<Value, String> {
    let Value::Object(converted) = converted else {
        return Err("missing metadata in converted object".to_owned());
    };
    let mut metadata = original.as_object().cloned().unwrap_or_default();
    for name in ["labels", "annotations"] {
        match converted.get(name).filter(|found| !found.is_null()) {
            None => drop(metadata.remove(name)),
            Some(Value::Object(found)) => {
                if original.get(name).and_then(Value::as_object) != Some(found) {
                    check(name, found)?;
                }
                metadata.insert(name.to_owned(), Value::Object(found.clone()));
            }
            Some(_) => return Err(format!("metadata.{name} is no map in the converted object")),
        }
    }
    Ok(Value::Object(metadata))
}

fn check(name: &str, found: &Map<String, Value>) -> Result<(), String> {
    if let Some((key, _)) = found.iter().find(|(_, value)| !value.is_string()) {
        return Err(format!("metadata.{name}[{key}] must be a string in the converted object"));
    }
    let holder = json!({name: found});
    let faults: FieldErrors = metadata::faults_of(&holder, name);
    let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
    match words.len() {
        0 => Ok(()),
        1 => Err(words.concat()),
        _ => Err(format!("[{}]", words.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": format!("x.io/{version}"), "kind": "A",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 3, "labels": {"k": "v"}}})
    }

    #[test]
    fn answers_are_judged() {
        let review = |response: Value| {
            let tree =
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
            answer(Version::V1, "1", tree.to_string().as_bytes())
        };
        let success = json!({"status": "Success"});
        for (response, expected) in [
            (json!({"uid": "1", "result": success, "convertedObjects": [{}]}), Ok(1)),
            (
                json!({"uid": "2", "result": success, "convertedObjects": [{}]}),
                Err("expected response.uid=\"1\", got \"2\""),
            ),
            (json!({"uid": "1", "result": {"status": "Failed", "message": "no way"}}), Err("no way")),
            (json!({"uid": "1", "result": {"status": "x"}}), Err("response.result.status was 'x', not 'Success'")),
            (Value::Null, Err("no response provided")),
        ] {
            let found = review(response.clone()).map(|objects| objects.len());
            assert_eq!(found, expected.map_err(str::to_owned), "{response}");
        }
        assert_eq!(Version::best(["v9", "v1beta1", "v1"]), Some(Version::V1beta1));
        assert!(answer(Version::V1, "1", b"{}").unwrap_err().starts_with("expected webhook response of"));
    }

    #[test]
    fn metadata_stays_but_for_labels_and_annotations() {
        let mut converted = object("v2");
        converted["metadata"] =
            json!({"name": "a", "namespace": "n", "uid": "u", "generation": 9, "labels": {"k": "w"}});
        converted["spec"] = json!(1);
        let accepted = accept(&object("v1"), converted, "x.io/v2").unwrap();
        let mut expected = object("v2");
        expected["metadata"]["labels"] = json!({"k": "w"});
        expected["spec"] = json!(1);
        assert_eq!(accepted, expected);
        for (edit, why) in [
            (json!({"apiVersion": "x.io/v3"}), "invalid groupVersion (expected x.io/v2, received x.io/v3)"),
            (json!({"kind": "B"}), "invalid kind (expected A, received B)"),
            (json!({"metadata": {"name": "b"}}), "must have the same name: a != b"),
            (json!({"metadata": {"name": "a", "namespace": "n", "uid": "v"}}), "must have the same UID: u != v"),
            (json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"k": 1}}}), "must be a string"),
            (json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"-": "v"}}}), "metadata.labels"),
        ] {
            let mut converted = object("v2");
            let members = edit.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
            converted.as_object_mut().unwrap().extend(members);
            let found = accept(&object("v1"), converted, "x.io/v2").unwrap_err();
            assert!(found.contains(why), "{found}");
        }
    }
}
