//! What containers are told: config maps, secrets, service accounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use crate::age;
use crate::row::{Row, name_and_age, name_cell};
use crate::view::{Change, View};
use crate::warnings;

/// Most bytes of all values together.
const MAX_SIZE: usize = 1 << 20;

pub(crate) const CONFIG_MAP: Row = Row {
    validate: |object, out| {
        let binary = object.get_or_null("binaryData");
        let mut size = 0;
        for (key, value) in object.entries("data") {
            let path = keys(key, "data", out);
            if binary.has(key) {
                out.push(FieldError::invalid(&path, key, "duplicate of key present in binaryData"));
            }
            size += value.as_str().map_or(0, str::len);
        }
        for (key, value) in object.entries("binaryData") {
            keys(key, "binaryData", out);
            size += decoded_size(value);
        }
        if size > MAX_SIZE {
            out.push(FieldError::too_long(&FieldPath::root(), MAX_SIZE));
        }
    },
    validate_update: |new, old, out| immutable(new, old, &["data", "binaryData"], out),
    columns: "Name,Data,Age",
    cells: |object, now| {
        let count = object.count("data") + object.count("binaryData");
        vec![name_cell(object), count.into(), age::cell(object, now)]
    },
    ..Row::new("", "ConfigMap")
};

pub(crate) const SECRET: Row = Row {
    default: |object| {
        object.default_text("type", "Opaque");
        // Clients may send text; it is kept as data only.
        let Some(texts) = object.get_or_null("stringData").as_object().cloned() else { return };
        for (key, text) in texts {
            object.child("data").put(&key, BASE64.encode(text.as_str().unwrap_or_default()).into());
        }
        object.drop_member("stringData");
    },
    validate: validate_secret,
    validate_update: |new, old, out| {
        immutable(new, old, &["data"], out);
        let path = FieldPath::new("type");
        crate::metadata::immutable(new.get_or_null("type"), old.get_or_null("type"), &path, out);
    },
    warnings: warnings::of_secret,
    selectable: |object| vec![("type", object.text("type").to_owned())],
    columns: "Name,Type,Data,Age",
    cells: |object, now| {
        vec![name_cell(object), object.text("type").into(), object.count("data").into(), age::cell(object, now)]
    },
    ..Row::new("", "Secret")
};

pub(crate) const SERVICE_ACCOUNT: Row = Row {
    prepare_create: bare_references,
    prepare_update: |new, _, _| bare_references(new),
    warnings: warnings::of_service_account,
    columns: "Name,Age",
    cells: name_and_age,
    ..Row::new("", "ServiceAccount")
};

/// Secrets are referred to by their names alone.
fn bare_references(account: &mut Value) {
    for secret in account.items_mut("secrets") {
        let name = secret.text("name").to_owned();
        *secret = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    }
}

fn keys(key: &str, list: &str, out: &mut FieldErrors) -> FieldPath {
    let path = FieldPath::new(list).key(key);
    out.extend(names::config_key(key).iter().map(|why| FieldError::invalid(&path, key, why)));
    path
}

fn decoded_size(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
}

fn immutable(new: &Value, old: &Value, fields: &[&str], out: &mut FieldErrors) {
    if !old.flag("immutable") {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    for field in ["immutable"].iter().chain(fields) {
        if new.get_or_null(field) != old.get_or_null(field) {
            out.push(FieldError::forbidden(&FieldPath::new(*field), why));
        }
    }
}

fn validate_secret(object: &Value, out: &mut FieldErrors) {
    let data = object.get_or_null("data");
    let path = FieldPath::new("data");
    let mut size = 0;
    for (key, value) in object.entries("data") {
        keys(key, "data", out);
        size += decoded_size(value);
    }
    if size > MAX_SIZE {
        out.push(FieldError::too_long(&path, MAX_SIZE));
    }
    let mut require = |key: &str| {
        if data.get(key).is_none() {
            out.push(FieldError::required(&path.key(key), ""));
        }
    };
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if object.at("metadata").get_or_null("annotations").text(name).is_empty() {
                out.push(FieldError::required(&FieldPath::new("metadata.annotations").key(name), ""));
            }
        }
        "kubernetes.io/dockercfg" => require(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => require(".dockerconfigjson"),
        "kubernetes.io/basic-auth" if data.get("username").is_none() && data.get("password").is_none() => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if data.text("ssh-privatekey").is_empty() => {
            out.push(FieldError::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};
    use serde_json::json;

    #[test]
    fn config_maps() {
        let object = json!({"metadata": {"name": "a"}, "data": {"a/b": "x", "c": "y"}, "binaryData": {"c": "eA=="}});
        let found: Vec<_> = CONFIG_MAP.validate_create(&object).iter().map(ToString::to_string).collect();
        assert!(
            found[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must consist"),
            "{found:?}"
        );
        assert_eq!(found[1], "data[c]: Invalid value: \"c\": duplicate of key present in binaryData");
        let large = json!({"data": {"a": "x".repeat(MAX_SIZE + 1)}});
        assert_eq!(
            CONFIG_MAP.validate_create(&large)[0].to_string(),
            "<nil>: Too long: may not be more than 1048576 bytes"
        );
        assert_eq!(CONFIG_MAP.cells(&object, jiff::Timestamp::UNIX_EPOCH)[1], 3);
    }

    #[test]
    fn immutability() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"data": {"a": "2"}});
        let found: Vec<_> =
            CONFIG_MAP.validate_update(&new, &old, Part::Main).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }

    #[test]
    fn secrets() {
        let mut object = json!({"stringData": {"a": "x", "b": "é!", "c": ""}, "data": {"a": "b2xk"}});
        SECRET.default(&mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "eA==", "b": "w6kh", "c": ""}}));
        for (kind, missing) in [
            ("kubernetes.io/tls", vec!["data[tls.crt]", "data[tls.key]"]),
            ("kubernetes.io/basic-auth", vec!["data[username]", "data[password]"]),
            ("kubernetes.io/dockerconfigjson", vec!["data[.dockerconfigjson]"]),
            ("my/own", vec![]),
        ] {
            let found = SECRET.validate_create(&json!({"type": kind, "data": {}}));
            let paths: Vec<_> = found.iter().map(|f| f.path.as_str()).collect();
            assert_eq!(paths, missing, "{kind}");
        }
        let found = SECRET.validate_update(&json!({"type": "a"}), &json!({"type": "b"}), Part::Main);
        assert_eq!(found[0].to_string(), "type: Invalid value: \"a\": field is immutable");
    }
}
