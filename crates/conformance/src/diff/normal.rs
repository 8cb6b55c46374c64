//! What two servers may tell differently: identities, times, versions, addresses they gave out.

use std::net::IpAddr;

use serde_json::{Value, json};

/// What has no order, or one of chance: the rules somebody has, and causes, which some of upstream's validators repeat.
fn sort(map: &mut serde_json::Map<String, Value>) {
    for name in ["causes", "resourceRules", "nonResourceRules"] {
        if let Some(items) = map.get_mut(name).and_then(Value::as_array_mut) {
            items.sort_by_key(ToString::to_string);
            items.dedup();
        }
    }
    if map.contains_key("signerName") && map.contains_key("request") {
        map.retain(|key, _| !matches!(key.as_str(), "username" | "uid" | "groups" | "extra"));
    }
}

/// Statuses that parts of the servers themselves write, each in its own time. Types of policies are checked by our
/// server and by their controllers.
fn without_followers(map: &mut serde_json::Map<String, Value>, kind: &str) {
    if matches!(kind, "CustomResourceDefinition" | "APIService" | "FlowSchema" | "PriorityLevelConfiguration") {
        map.remove("status");
        // Nor does whom it belongs to say anything then.
        if let Some(fields) = map.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields")) {
            fields
                .as_array_mut()
                .into_iter()
                .for_each(|fields| fields.retain(|entry| entry["subresource"] != "status"));
        }
    }
    if kind == "ValidatingAdmissionPolicy"
        && let Some(status) = map.get_mut("status").and_then(Value::as_object_mut)
    {
        status.retain(|key, _| !matches!(key.as_str(), "typeChecking" | "observedGeneration"));
    }
    let own = |entry: &Value| {
        let manager = entry["manager"].as_str().unwrap_or_default();
        let managers = ["kube-apiserver", "api-priority-and-fairness", "validatingadmissionpolicy-status"];
        entry["subresource"] == "status" && managers.iter().any(|own| manager.starts_with(own))
    };
    if let Some(fields) = map.get_mut("managedFields").and_then(Value::as_array_mut) {
        fields.retain(|entry| !own(entry));
        if fields.is_empty() {
            map.remove("managedFields");
        }
    }
}

/// Replaces what may differ by its name.
pub(super) fn normalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // Descriptions of a table's columns are prose, and everybody's own.
            for column in map.get_mut("columnDefinitions").and_then(Value::as_array_mut).into_iter().flatten() {
                column["description"] = json!("");
            }
            // A distribution's own certificate authority in every pod.
            if let Some(sources) = map.get_mut("sources").and_then(Value::as_array_mut) {
                let name = |source: &Value| source.pointer("/configMap/name")?.as_str().map(str::to_owned);
                sources.retain(|source| name(source).is_none_or(|name| !name.ends_with("-service-ca.crt")));
            }
            // Keys of managed fields that hold the name of a pod's own volume.
            if map.keys().any(|key| key.starts_with("k:{") && key.contains("kube-api-access-")) {
                *map = std::mem::take(map).into_iter().map(|(key, value)| (words(&key), value)).collect();
            }
            // A name that was made up.
            let prefix = map.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
            if let Some(name) = map.get_mut("name").filter(|_| !prefix.is_empty())
                && name.as_str().is_some_and(|name| name.starts_with(&prefix) && name.len() == prefix.len() + 5)
            {
                *name = json!("<name>");
            }
            sort(map);
            let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            without_followers(map, &kind);
            if let (Some(kind), Some(items)) = (kind.strip_suffix("List"), map.get_mut("items")) {
                let items = items.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
                items.for_each(|item| without_followers(item, kind));
            }
            for (key, value) in map {
                let hidden = match key.as_str() {
                    "uid"
                    | "resourceVersion"
                    | "creationTimestamp"
                    | "deletionTimestamp"
                    | "lastPhaseTransitionTime"
                    | "time"
                    | "token"
                    | "continue"
                    | "expirationTimestamp" => value.is_string(),
                    // Whom the kubeconfig makes us.
                    "userInfo" => value.is_object(),
                    "nodePort" | "healthCheckNodePort" => value.as_i64().is_some_and(|p| (30_000..32_768).contains(&p)),
                    // Addresses that were given out, if any were.
                    "clusterIP" => value != "None",
                    _ => false,
                };
                if key == "clusterIPs" {
                    normalise_all(value);
                } else if hidden && value != "" {
                    *value = json!(format!("<{key}>"));
                } else {
                    normalise(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::String(text) => {
            let plain = embedded(&without_record(&without_tree(text)));
            // The issuer is an administrator's choice, and so is where in the store things lie.
            let plain = plain.replace("kubernetes.default.svc.cluster.local", "kubernetes.default.svc");
            *text = words(&plain.replace("Key: /registry/", "Key: /"));
        }
        _ => {}
    }
}

/// Puts in the place of our identities, in a tree made of what we have, those that the other has at the same place.
pub(super) fn translate(tree: &mut Value, ours: &Value, theirs: &Value) {
    if tree == ours {
        *tree = theirs.clone();
        return;
    }
    match (tree, ours, theirs) {
        (Value::Object(tree), Value::Object(ours), Value::Object(theirs)) => {
            // What only we have, and nobody has changed, was told when it came to be.
            tree.retain(|key, value| theirs.contains_key(key) || ours.get(key) != Some(value));
            for (key, value) in tree {
                if let (Some(ours), Some(theirs)) = (ours.get(key), theirs.get(key)) {
                    translate(value, ours, theirs);
                }
            }
        }
        (Value::Array(tree), Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (at, value) in tree.iter_mut().enumerate() {
                // Items may have come, gone or been doubled.
                let same = ours.iter().position(|ours| ours == value).unwrap_or(at);
                if let (Some(ours), Some(theirs)) = (ours.get(same), theirs.get(same)) {
                    translate(value, ours, theirs);
                }
            }
        }
        _ => {}
    }
}

fn normalise_all(addresses: &mut Value) {
    let given = addresses.as_array_mut().into_iter().flatten().filter(|a| **a != "None");
    given.for_each(|address| *address = json!("<clusterIP>"));
}

/// A refusal quotes whole objects as Go holds them inside, and patches without the directives it has taken out.
fn without_tree(text: &str) -> String {
    // Go prints how the two differ, in lines of their own.
    let cut = ["\n@@", "\nchanged: "].iter().filter_map(|start| text.find(start)).min();
    let text = cut.map_or(text.to_owned(), |at| {
        let (text, several) = (&text[..at], text.contains(" is invalid: ["));
        format!("{}{}", text.trim_end(), if several { "]" } else { "" })
    });
    let mut out = String::new();
    let mut rest = &*text;
    let first = |rest: &'_ str| {
        ["Invalid value: ", "Unsupported value: ", "Duplicate value: "]
            .iter()
            .filter_map(|w| Some((rest.find(w)?, w.len())))
            .min()
    };
    while let Some((at, words)) = first(rest) {
        let (before, quoted) = (&rest[..at], &rest[at + words..]);
        out.push_str(before);
        // What is empty is shown by its type there, and a struct of which nothing is set with all its members.
        if let Some(after) = ["\"\"", "null", "[]", "{}"].iter().find_map(|none| quoted.strip_prefix(none))
            && after.starts_with(": ")
        {
            out.push_str("value: <object>");
            rest = after;
            continue;
        }
        // Objects as JSON, plainly or in a text, which Go may quote in its own way, and as Go prints maps. Quotes inside
        // are escaped, so that the first end is the end.
        let mut json = serde_json::Deserializer::from_str(quoted).into_iter::<Value>();
        let object = json.next().and_then(Result::ok).filter(|value| {
            let nested = value.as_array().is_some_and(|items| items.iter().any(Value::is_object));
            nested || value.is_object() || value.as_str().is_some_and(|text| text.starts_with('{'))
        });
        let ends: &[&str] = match quoted {
            _ if object.is_some() => &[],
            _ if quoted.starts_with("\"{") => &["}\": ", "}\\n\": "],
            _ if quoted.starts_with("\"map[") => &["]\": "],
            _ => &[],
        };
        let end = ends.iter().find_map(|end| Some(quoted.find(end)? + end.len() - ": ".len()));
        let cut = object.map(|_| json.byte_offset()).or(end);
        out.push_str(if cut.is_some() { "value: <object>" } else { "value: " });
        rest = &quoted[cut.unwrap_or_default()..];
    }
    out.push_str(rest);
    // Fields of schemas are named as Go does.
    match out.split_once(": only [").and_then(|(before, rest)| Some((before, rest.split_once("] fields are allowed")?)))
    {
        Some((before, (_, after))) => format!("{before}: only <fields> are allowed{after}"),
        None => out,
    }
}

/// The version that a refused precondition was compared with.
fn without_record(text: &str) -> String {
    const VERSIONS: [&str; 2] = ["ResourceVersion in record (", "ResourceVersion in object meta: "];
    let Some((before, words, rest)) =
        VERSIONS.iter().find_map(|words| text.split_once(words).map(|(before, rest)| (before, words, rest)))
    else {
        return text.to_owned();
    };
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}{words}<resourceVersion>{after}")
}

/// Go names embedded structs on the way to a field, of which only Go knows.
fn embedded(text: &str) -> String {
    const FIELD: &str = "Go struct field ";
    let Some((before, rest)) = text.split_once(FIELD) else { return text.to_owned() };
    let (path, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_embedded = |step: &&str| step.starts_with(|c: char| c.is_ascii_uppercase());
    let mut steps = path.split('.');
    let within = steps.next().unwrap_or_default();
    let steps: Vec<&str> = steps.filter(|step| !is_embedded(step)).collect();
    format!("{before}{FIELD}{within}.{} {after}", steps.join("."))
}

/// Identities, versions and generated names inside of texts.
fn words(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '+');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        out.push_str(hidden(word).unwrap_or(word));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn hidden(word: &str) -> Option<&'static str> {
    let dashes = word.bytes().filter(|b| *b == b'-').count();
    let hex = word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if word.len() == 36 && dashes == 4 && hex {
        return Some("<uid>");
    }
    // Ranges of addresses of Services are an administrator's choice.
    let given = ["10.43.", "10.97."].iter().any(|range| word.starts_with(range)) && word.parse::<IpAddr>().is_ok();
    if given {
        return Some("<clusterIP>");
    }
    word.starts_with("kube-api-access-").then_some("<volume>")
}

/// A text with quoted parts and numbers left out, so that equal complaints about different values are one.
pub(super) fn outline(text: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                out.push(c);
            }
            _ if quoted => {}
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            _ => out.push(c),
        }
    }
    out.chars().take(160).collect()
}
