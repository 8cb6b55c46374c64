//! Kinds that hold data for pods.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::faults::At;
use crate::kind::{AGE, ColumnFacts, KindRules, NAME};
use crate::show::{created, name};
use crate::tree::{fill, items, members, object, put, text};

/// All values together, in bytes.
const MOST: usize = 1024 * 1024;
const DATA: ColumnFacts = ("Data", "string", 0, "Number of keys");

pub(crate) static CONFIG_MAP: KindRules = KindRules {
    validate: |at, faults| {
        let (data, binary) = (at.get("data"), at.get("binaryData"));
        let mut total = 0;
        for list in [&data, &binary] {
            total += keys(list, faults);
        }
        for (key, _) in members(binary.value).filter(|(key, _)| data.value.get(key.as_str()).is_some()) {
            faults.push(FieldError::invalid(
                &data.path.key(key),
                key.clone(),
                "duplicate of key present in binaryData",
            ));
        }
        if total > MOST {
            faults.push(FieldError::too_long(&at.path, MOST));
        }
    },
    validate_change: frozen,
    columns: &[NAME, DATA, AGE],
    cells: |object, now| {
        let count = members(&object["data"]).count() + members(&object["binaryData"]).count();
        vec![name(object), count.into(), created(object, now)]
    },
    ..KindRules::new("", "ConfigMap")
};

/// Checks keys; the size of the values.
fn keys(at: &At<'_>, faults: &mut FieldErrors) -> usize {
    let mut total = 0;
    for (key, value) in members(at.value) {
        for fault in names::config_key(key) {
            faults.push(FieldError::invalid(&at.path.key(key), key.clone(), &fault));
        }
        total += text(value).len();
    }
    total
}

/// What was declared immutable stays, and stays immutable.
fn frozen(new: &At<'_>, old: &At<'_>, faults: &mut FieldErrors) {
    if old.value["immutable"] != true {
        return;
    }
    if new.value["immutable"] != true {
        new.get("immutable").forbidden(faults, "field is immutable when `immutable` is set");
    }
    for field in ["data", "binaryData"] {
        if new.get(field).value != old.get(field).value {
            new.get(field).forbidden(faults, "field is immutable when `immutable` is set");
        }
    }
}

pub(crate) static SECRET: KindRules = KindRules {
    default: |secret| {
        fill(secret, "type", "Opaque");
        let plain: Vec<(String, String)> =
            members(&secret["stringData"]).map(|(k, v)| (k.clone(), STANDARD.encode(text(v)))).collect();
        if !plain.is_empty() {
            let data = object(secret, "data");
            for (key, value) in plain {
                data[key] = json!(value);
            }
        }
        put(secret, "stringData", Value::Null);
    },
    validate: |at, faults| {
        let data = at.get("data");
        if keys(&data, faults) > MOST * 4 / 3 {
            faults.push(FieldError::too_long(&data.path, MOST));
        }
        let needed: &[&str] = match at.get("type").text() {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for key in needed.iter().filter(|key| data.value.get(**key).is_none()) {
            faults.push(FieldError::required(&data.path.key(key), ""));
        }
        if at.get("type").text() == "kubernetes.io/service-account-token"
            && at.value["metadata"]["annotations"]["kubernetes.io/service-account.name"].is_null()
        {
            faults.push(FieldError::required(
                &at.walk("metadata.annotations").path.key("kubernetes.io/service-account.name"),
                "",
            ));
        }
    },
    validate_change: |new, old, faults| {
        new.get("type").immutable(&old.get("type"), faults);
        frozen(new, old, faults);
    },
    columns: &[NAME, ("Type", "string", 0, "What the secret is for"), DATA, AGE],
    cells: |object, now| {
        vec![name(object), object["type"].clone(), members(&object["data"]).count().into(), created(object, now)]
    },
    fields: |object| vec![("type", text(&object["type"]).to_owned())],
    ..KindRules::new("", "Secret")
};

pub(crate) static SERVICE_ACCOUNT: KindRules = KindRules {
    columns: &[NAME, ("Secrets", "string", 0, "Number of secrets"), AGE],
    cells: |object, now| vec![name(object), items(&object["secrets"]).len().into(), created(object, now)],
    ..KindRules::new("", "ServiceAccount")
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    #[test]
    fn plain_text_becomes_data() {
        let mut object = json!({"stringData": {"a": "hello"}, "data": {"b": "eA=="}});
        Rules::default(&SECRET, &mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "aGVsbG8=", "b": "eA=="}}));
    }

    #[test]
    fn immutable_data_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"immutable": true, "data": {"a": "2"}});
        assert_eq!(CONFIG_MAP.validate_update(&new, &old, Part::Main).len(), 1);
        assert!(CONFIG_MAP.validate_update(&old, &old, Part::Main).is_empty());
        assert_eq!(CONFIG_MAP.validate_create(&json!({"data": {"a b": ""}})).len(), 1);
    }
}
