//! Configuration files of the server: YAML or JSON that says of which kind it is.

use serde::de::DeserializeOwned;
use serde_json::Value;
use skiff_meta::codec::yaml;

/// The tree of a file.
pub(crate) fn tree(text: &str) -> Result<Value, String> {
    yaml::decode(text.as_bytes()).map(|found| found.value).map_err(|error| error.to_string())
}

/// What a tree of this kind, in one of these versions, says beside that.
pub(crate) fn of_kind<T: DeserializeOwned>(mut tree: Value, kind: &str, versions: &[&str]) -> Result<T, String> {
    let mut take = |name: &str| match tree.as_object_mut().and_then(|members| members.remove(name)) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (version, found) = (take("apiVersion"), take("kind"));
    if found != kind || !versions.contains(&&*version) {
        return Err(format!("kind {found:?} of {version:?} is not {kind} of {}", versions.join(" or ")));
    }
    serde_json::from_value(tree).map_err(|error| error.to_string())
}

/// The same of a file's text.
pub(crate) fn read<T: DeserializeOwned>(text: &str, kind: &str, versions: &[&str]) -> Result<T, String> {
    of_kind(tree(text)?, kind, versions)
}
