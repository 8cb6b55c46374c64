//! Definitions of custom kinds (`apis/apiextensions/validation` upstream).
//!
//! What is the same in all versions is judged once, and under the path it had before versions could differ
//! (`spec.validation`, `spec.subresources`, `spec.additionalPrinterColumns`): upstream still names it so.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use crate::Part;
use crate::custom::structural;
use crate::custom::validations::path;
use crate::faults::At;
use crate::kind::{KindRules, NAME};
use crate::show::name;
use crate::tree::{fill, is_empty, items, object, put, text};

const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE: usize = 8;

pub(crate) static CUSTOM_RESOURCE_DEFINITION: KindRules = KindRules {
    default,
    first_status: Some(|| json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": null})),
    counts_generation: true,
    create: store_versions,
    carry: |new, old, part| {
        if part == Part::Main {
            put(new, "status", old["status"].clone());
            store_versions(new);
        }
    },
    validate,
    validate_new: object_name,
    validate_change,
    validate_status: |at, faults| accepted_names(&at.walk("status.acceptedNames"), faults),
    columns: &[NAME, ("Created At", "date", 0, "Time at which the object was created")],
    cells: |object, _| vec![name(object), object["metadata"]["creationTimestamp"].clone()],
    ..KindRules::new("apiextensions.k8s.io", "CustomResourceDefinition")
};

fn default(definition: &mut Value) {
    let spec = object(definition, "spec");
    let names = object(spec, "names");
    let kind = text(&names["kind"]).to_owned();
    if !kind.is_empty() {
        for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if text(&names[field]).is_empty() {
                put(names, field, value.into());
            }
        }
    }
    fill(spec, "conversion", json!({"strategy": "None"}));
    // A webhook of which nothing is said is none.
    let conversion = object(spec, "conversion");
    if is_empty(&conversion["webhook"]["clientConfig"]) && is_empty(&conversion["webhook"]["conversionReviewVersions"])
    {
        put(conversion, "webhook", Value::Null);
    }
    if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service").filter(|s| s.is_object()) {
        fill(service, "port", 443);
    }
}

/// The version that objects are stored in is one of the stored versions from now on.
fn store_versions(definition: &mut Value) {
    let storage = items(&definition["spec"]["versions"]).iter().find(|v| v["storage"] == true);
    let Some(storage) = storage.map(|v| v["name"].clone()) else { return };
    let status = object(definition, "status");
    fill(status, "storedVersions", json!([]));
    if let Some(stored) = status["storedVersions"].as_array_mut()
        && !stored.contains(&storage)
    {
        stored.push(storage);
    }
}

fn validate(at: &At<'_>, faults: &mut FieldErrors) {
    let spec = at.get("spec");
    faults.extend(approval_fault(at));
    group(&spec.get("group"), faults);
    if spec.get("scope").required(faults, "") {
        spec.get("scope").one_of(faults, &["Cluster", "Namespaced"]);
    }
    versions(&spec.get("versions"), faults);
    for required in ["plural", "singular", "kind", "listKind"] {
        spec.get("names").get(required).required(faults, "");
    }
    accepted_names(&spec.get("names"), faults);
    for (schema, has_status) in schemas(&spec) {
        structural::check(&schema, has_status, faults);
    }
    for place in same_or_each(&spec, "subresources", "subresources") {
        scale(&place.get("scale"), faults);
    }
    for place in same_or_each(&spec, "additionalPrinterColumns", "additionalPrinterColumns") {
        place.items().for_each(|column| self::column(&column, faults));
    }
    selectable_fields(&spec, faults);
    conversion(&spec.get("conversion"), faults);
    accepted_names(&at.walk("status.acceptedNames"), faults);
    stored_versions(at, faults);
    if spec.get("preserveUnknownFields").value == &Value::Bool(true) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        spec.get("preserveUnknownFields").invalid(faults, detail);
    }
}

fn validate_change(new: &At<'_>, old: &At<'_>, faults: &mut FieldErrors) {
    let established =
        items(old.walk("status.conditions").value).iter().any(|c| c["type"] == "Established" && c["status"] == "True");
    let fixed: &[&str] = if established { &["scope", "names.kind"] } else { &[] };
    for field in fixed.iter().chain(&["group", "names.plural"]) {
        new.get("spec").walk(field).immutable(&old.get("spec").walk(field), faults);
    }
}

/// The name is made of the names of what is defined.
fn object_name(at: &At<'_>, faults: &mut FieldErrors) {
    let (names, group) = (at.walk("spec.names.plural"), at.walk("spec.group"));
    let name = at.walk("metadata.name");
    if !name.is_empty() && name.text() != format!("{}.{}", names.text(), group.text()) {
        name.invalid(faults, "must be spec.names.plural+\".\"+spec.group");
    }
}

fn group(group: &At<'_>, faults: &mut FieldErrors) {
    if !group.required(faults, "") {
        return;
    }
    let found = names::dns1123_subdomain(group.text());
    if !found.is_empty() {
        group.invalid(faults, &found.join(","));
    } else if !group.text().contains('.') {
        group.invalid(faults, "should be a domain with at least one dot");
    }
}

/// Groups of the community are defined by those whom the community let.
fn approval_fault(at: &At<'_>) -> Option<FieldError> {
    let group = at.walk("spec.group");
    let is_of = |domain: &str| group.text() == domain || group.text().ends_with(&format!(".{domain}"));
    if !is_of("k8s.io") && !is_of("kubernetes.io") {
        return None;
    }
    let annotations = at.walk("metadata.annotations");
    let (path, said) = (annotations.path.key(APPROVAL), text(&annotations.value[APPROVAL]));
    let help = "see https://github.com/kubernetes/enhancements/pull/1111";
    if said.is_empty() {
        let detail = format!("protected groups must have approval annotation {APPROVAL:?}, {help}");
        return Some(FieldError::required(&path, &detail));
    }
    let is_url = said.split_once("://").is_some_and(|(scheme, host)| !scheme.is_empty() && !host.is_empty());
    (!is_url && !said.starts_with("unapproved")).then(|| {
        let detail = format!(
            "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
             \"unapproved\", {help}"
        );
        FieldError::invalid(&path, said, &detail)
    })
}

fn versions(versions: &At<'_>, faults: &mut FieldErrors) {
    let mut seen = Vec::new();
    let (mut storage, mut twice) = (0, false);
    for schema in versions.items().map(|version| version.walk("schema.openAPIV3Schema")).filter(|s| !s.exists()) {
        faults.push(FieldError::required(&schema.path, ""));
    }
    for version in versions.items() {
        let name = version.get("name");
        let found = names::dns1035_label(name.text());
        if !found.is_empty() {
            name.invalid(faults, &found.join(","));
        }
        deprecation(&version, faults);
        storage += usize::from(version.get("storage").value == &Value::Bool(true));
        twice |= seen.contains(&name.text());
        seen.push(name.text());
    }
    if twice {
        versions.invalid(faults, "must contain unique version names");
    }
    if storage != 1 {
        versions.invalid(faults, "must have exactly one version marked as storage version");
    }
    // The first one is told under the name it had before there were several.
    if let Some(first) = seen.first().filter(|first| !first.is_empty()) {
        let found = names::dns1035_label(first);
        if !found.is_empty() {
            faults.push(FieldError::invalid(&FieldPath::new("spec.version"), *first, &found.join(",")));
        }
    }
}

fn deprecation(version: &At<'_>, faults: &mut FieldErrors) {
    let warning = version.get("deprecationWarning");
    if !warning.exists() {
        return;
    }
    if version.get("deprecated").value != &Value::Bool(true) {
        warning.invalid(faults, "can only be set for deprecated versions");
    }
    if warning.text().len() > 256 {
        warning.invalid(faults, "must be <= 256 characters long");
    }
    if warning.text().is_empty() {
        warning.invalid(faults, "must not be an empty string");
    }
}

fn accepted_names(at: &At<'_>, faults: &mut FieldErrors) {
    let label = |at: &At<'_>, prefix: &str, faults: &mut FieldErrors| {
        let shown = if prefix.is_empty() { at.text().to_owned() } else { at.text().to_lowercase() };
        let found = names::dns1035_label(&shown);
        if !at.is_empty() && !found.is_empty() {
            at.invalid(faults, &format!("{prefix}{}", found.join(",")));
        }
    };
    let mixed = "may have mixed case, but should otherwise match: ";
    for (field, prefix) in [("plural", ""), ("singular", ""), ("kind", mixed), ("listKind", mixed)] {
        label(&at.get(field), prefix, faults);
    }
    at.get("shortNames").items().for_each(|short| label(&short, "", faults));
    let (kind, list) = (at.get("kind"), at.get("listKind"));
    if !kind.is_empty() && kind.text() == list.text() {
        list.invalid(faults, "kind and listKind may not be the same");
    }
    at.get("categories").items().for_each(|category| label(&category, "", faults));
}

/// The part of each version, or the one part that all versions share, under its older path.
fn same_or_each<'a>(spec: &At<'a>, part: &str, shared_path: &str) -> Vec<At<'a>> {
    let all: Vec<At<'a>> = spec.get("versions").items().map(|version| version.get(part)).collect();
    match all.as_slice() {
        [first, rest @ ..] if rest.iter().all(|other| other.value == first.value) => {
            vec![At { value: first.value, path: spec.path.child(shared_path) }]
        }
        _ => all,
    }
}

/// All schemas, and whether the status is a part of its own beside them.
fn schemas<'a>(spec: &At<'a>) -> Vec<(At<'a>, bool)> {
    let has_status = |version: &At<'_>| version.walk("subresources.status").exists();
    let any_status = spec.get("versions").items().any(|version| has_status(&version));
    let all = same_or_each(spec, "schema", "validation");
    let single = all.len() < items(spec.get("versions").value).len() || all.len() == 1;
    let status: Vec<bool> = spec.get("versions").items().map(|version| has_status(&version)).collect();
    let with_status = all.iter().enumerate().map(|(i, schema)| {
        let has = if single { any_status } else { status.get(i).copied().unwrap_or_default() };
        (schema.get("openAPIV3Schema"), has)
    });
    with_status.filter(|(schema, _)| schema.exists()).collect()
}

fn simple_path(at: &At<'_>, faults: &mut FieldErrors) -> bool {
    let simple = at.text().starts_with('.');
    if !simple {
        at.invalid(faults, "must be a simple json path starting with .");
    }
    simple
}

fn scale(scale: &At<'_>, faults: &mut FieldErrors) {
    if !scale.exists() {
        return;
    }
    let fields = [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ];
    for (field, roots, detail) in fields {
        let path = scale.get(field);
        let optional = field == "labelSelectorPath" && path.is_empty();
        if optional || !path.required(faults, "") || !simple_path(&path, faults) {
            continue;
        }
        if !roots.iter().any(|root| path.text().starts_with(root)) {
            path.invalid(faults, detail);
        }
    }
}

fn column(column: &At<'_>, faults: &mut FieldErrors) {
    column.get("name").required(faults, "");
    let (ty, format) = (column.get("type"), column.get("format"));
    let types = format!("must be one of {}", COLUMN_TYPES.join(","));
    if ty.required(faults, &types) && !COLUMN_TYPES.contains(&ty.text()) {
        ty.invalid(faults, &types);
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format.text()) {
        format.invalid(faults, &format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    let path = At { path: column.path.child("JSONPath"), ..column.get("jsonPath") };
    if path.required(faults, "") {
        simple_path(&path, faults);
    }
}

/// Fields to select by, together with the schema they lie in: both of one version, or both of all.
fn selectable_fields(spec: &At<'_>, faults: &mut FieldErrors) {
    let of_all = |part: &str, place: &At<'_>| place.path == spec.path.child(part);
    let schemas = same_or_each(spec, "schema", "validation");
    let schema_of_all = matches!(&*schemas, [only] if of_all("validation", only));
    for (i, fields) in same_or_each(spec, "selectableFields", "selectableFields").iter().enumerate() {
        let fields_of_all = of_all("selectableFields", fields);
        let schema =
            schemas.get(i).filter(|_| fields_of_all == schema_of_all).map(|schema| schema.get("openAPIV3Schema"));
        match schema.filter(At::exists) {
            _ if fields.is_empty() => {}
            Some(schema) => selectable(fields, &schema, faults),
            None => {
                let detail = if fields_of_all {
                    "may only be set when validations.schema is included"
                } else {
                    "may only be set when `version.schema.openAPIV3Schema` is not included"
                };
                faults.push(FieldError::invalid(&fields.path, "", detail));
            }
        }
    }
}

fn selectable(fields: &At<'_>, schema: &At<'_>, faults: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for path in fields.items().map(|field| field.get("jsonPath")) {
        if !path.required(faults, "") {
            continue;
        }
        let found = match path::follow(path.text(), schema.value, false) {
            Ok(found) => found,
            Err(why) => {
                path.invalid(faults, &format!("is an invalid path: {why}"));
                continue;
            }
        };
        if found.path == ".metadata" || found.path.starts_with(".metadata.") || found.path.starts_with(".metadata[") {
            path.invalid(faults, "must not point to fields in metadata");
        }
        if !matches!(text(&found.schema["type"]), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                          formats are allowed.";
            path.invalid(faults, detail);
        }
        if !seen.insert(found.path) {
            faults.push(FieldError::duplicate(&path.path, path.text()));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        faults.push(FieldError::too_many(&fields.path, seen.len(), MAX_SELECTABLE));
    }
}

fn conversion(conversion: &At<'_>, faults: &mut FieldErrors) {
    let strategy = conversion.get("strategy");
    if !conversion.exists() || !strategy.required(faults, "") {
        return;
    }
    strategy.one_of(faults, &["None", "Webhook"]);
    let webhook = conversion.get("webhook");
    let (client, reviews) = (webhook.get("clientConfig"), webhook.get("conversionReviewVersions"));
    let client_path = conversion.path.child("webhookClientConfig");
    let reviews_path = conversion.path.child("conversionReviewVersions");
    if strategy.text() != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        for (part, path) in [(&client, &client_path), (&reviews, &reviews_path)] {
            if !part.is_empty() {
                faults.push(FieldError::forbidden(path, detail));
            }
        }
        return;
    }
    if !client.exists() {
        faults.push(FieldError::required(&client_path, "required when strategy is set to Webhook"));
    } else if client.get("url").exists() == client.get("service").exists() {
        faults.push(FieldError::required(&client_path, "exactly one of url or service is required"));
    }
    review_versions(reviews.value, &reviews_path, faults);
}

fn review_versions(versions: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    let all: Vec<&str> = items(versions).iter().map(text).collect();
    if all.is_empty() {
        faults.push(FieldError::required(path, ""));
    } else if !all.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        faults.push(FieldError::invalid(path, versions.clone(), "must include at least one of v1, v1beta1"));
    }
}

/// What was ever stored in a version must stay readable in it.
fn stored_versions(at: &At<'_>, faults: &mut FieldErrors) {
    let stored = at.walk("status.storedVersions");
    if stored.items().next().is_none() {
        return stored.invalid(faults, "must have at least one stored version");
    }
    let mut left: BTreeSet<&str> = items(stored.value).iter().map(text).collect();
    for version in items(at.walk("spec.versions").value) {
        let name = text(&version["name"]);
        if !left.remove(name) && version["storage"] == true {
            stored.invalid(faults, &format!("must have the storage version {name}"));
        }
    }
    for version in stored.items() {
        if left.contains(version.text()) {
            let name = version.text();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            version.invalid(faults, &detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    fn definition() -> Value {
        let mut definition = json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object"}}}}}]},
        });
        CUSTOM_RESOURCE_DEFINITION.default(&mut definition);
        CUSTOM_RESOURCE_DEFINITION.prepare_create(&mut definition);
        definition
    }

    fn faults_of(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut changed = definition();
        change(&mut changed);
        CUSTOM_RESOURCE_DEFINITION.validate_create(&changed).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_and_first_status() {
        let definition = definition();
        let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"});
        assert_eq!(definition["spec"]["names"], names);
        assert_eq!(definition["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!(
            definition["status"],
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": null, "storedVersions": ["v1"]})
        );
        assert_eq!(definition["metadata"]["generation"], 1);
        assert_eq!(faults_of(|_| {}), [""; 0]);
    }

    #[test]
    fn faults() {
        type Change = fn(&mut Value);
        let table: [(Change, &str); 15] = [
            (
                |d| d["metadata"]["name"] = json!("x.example.com"),
                "metadata.name: Invalid value: \"x.example.com\": must be spec.names.plural+\".\"+spec.group",
            ),
            (
                |d| d["spec"]["scope"] = json!("Global"),
                "spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\"",
            ),
            (|d| d["spec"]["versions"][0]["storage"] = json!(false), "spec.versions: Invalid value: "),
            (|d| d["spec"]["versions"][0]["name"] = json!("V1"), "spec.versions[0].name: Invalid value: \"V1\": "),
            (
                |d| d["spec"]["versions"][0]["schema"] = json!(null),
                "spec.versions[0].schema.openAPIV3Schema: Required value",
            ),
            (
                |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["type"] = json!("string"),
                "spec.validation.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root",
            ),
            (
                |d| d["spec"]["names"]["listKind"] = json!("Widget"),
                "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same",
            ),
            (|d| d["spec"]["names"]["shortNames"] = json!(["W"]), "spec.names.shortNames[0]: Invalid value: \"W\": "),
            (|d| d["spec"]["names"]["kind"] = json!(""), "spec.names.kind: Required value"),
            (
                |d| d["spec"]["conversion"] = json!({"strategy": "Webhook"}),
                "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            ),
            (
                |d| d["spec"]["preserveUnknownFields"] = json!(true),
                "spec.preserveUnknownFields: Invalid value: true: cannot set to true",
            ),
            (
                |d| {
                    d["spec"]["versions"][0]["additionalPrinterColumns"] =
                        json!([{"name": "A", "type": "text", "jsonPath": ".a"}])
                },
                "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
            ),
            (
                |d| d["spec"]["versions"][0]["additionalPrinterColumns"] = json!([{"name": "A", "type": "string"}]),
                "spec.additionalPrinterColumns[0].JSONPath: Required value",
            ),
            (
                |d| {
                    d["spec"]["versions"][0]["subresources"] =
                        json!({"scale": {"specReplicasPath": ".spec.r", "statusReplicasPath": ".r"}})
                },
                "spec.subresources.scale.statusReplicasPath: Invalid value: \".r\": should be a json path under .status",
            ),
            (
                |d| d["status"]["storedVersions"] = json!(["v1", "v0"]),
                "status.storedVersions[1]: Invalid value: \"v0\": missing from spec.versions; ",
            ),
        ];
        for (change, expected) in table {
            let found = faults_of(change);
            assert!(found[0].starts_with(expected), "{found:?}\n{expected}");
        }
    }

    #[test]
    fn lists_are_selected_by_plain_fields_of_the_schema() {
        let found = |paths: Value| {
            faults_of(|d| {
                let schema = &mut d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
                schema["metadata"] = json!({"type": "object", "properties": {"name": {"type": "string"}}});
                schema["spec"]["properties"] =
                    json!({"size": {"type": "integer"}, "list": {"type": "array", "items": {"type": "string"}}});
                let fields = items(&paths).iter().map(|path| json!({"jsonPath": path})).collect();
                d["spec"]["versions"][0]["selectableFields"] = Value::Array(fields);
            })
        };
        assert_eq!(found(json!([".spec.size"])), [""; 0]);
        let begin = "spec.selectableFields[0].jsonPath: Invalid value: ";
        for (path, why) in [
            (".metadata.name", "must not point to fields in metadata"),
            (".spec.list", "must point to a field of type string, boolean or integer. "),
            (".spec.none", "is an invalid path: does not refer to a valid field"),
            ("spec", "is an invalid path: expected [ or . but got: spec"),
            (".spec['size']", "is an invalid path: array notation is not allowed"),
        ] {
            let all = found(json!([path]));
            assert!(all[0].starts_with(&format!("{begin}{path:?}: {why}")), "{all:?}");
        }
        assert_eq!(
            found(json!([".spec.size", ".spec.size"])),
            ["spec.selectableFields[1].jsonPath: Duplicate value: \".spec.size\""]
        );
    }

    #[test]
    fn fields_of_one_version_lie_in_its_own_schema() {
        let found = |change: fn(&mut Value)| {
            faults_of(|d| {
                let mut second = d["spec"]["versions"][0].clone();
                second["name"] = json!("v2");
                second["storage"] = json!(false);
                d["spec"]["versions"].as_array_mut().unwrap().push(second);
                change(&mut d["spec"]["versions"]);
            })
        };
        let in_one = found(|versions| versions[1]["selectableFields"] = json!([{"jsonPath": ".spec"}]));
        assert!(
            in_one[0].starts_with("spec.versions[1].selectableFields: Invalid value: \"\": may only be set"),
            "{in_one:?}"
        );
        let in_all = found(|versions| {
            for version in versions.as_array_mut().unwrap() {
                version["selectableFields"] = json!([{"jsonPath": ".spec"}]);
            }
            versions[1]["schema"]["openAPIV3Schema"]["properties"]["more"] = json!({"type": "string"});
        });
        assert!(in_all[0].starts_with("spec.selectableFields: Invalid value: \"\": may only be set"), "{in_all:?}");
    }

    #[test]
    fn versions_that_differ_have_paths_of_their_own() {
        let found = faults_of(|d| {
            let second = json!({"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "array"}}});
            d["spec"]["versions"].as_array_mut().unwrap().push(second);
        });
        assert!(found[0].starts_with("spec.versions[1].schema.openAPIV3Schema.items: Required value"), "{found:?}");
    }

    #[test]
    fn protected_groups_need_approval() {
        let named = |d: &mut Value| {
            d["spec"]["group"] = json!("example.k8s.io");
            d["metadata"]["name"] = json!("widgets.example.k8s.io");
        };
        let missing = faults_of(named);
        assert!(missing[0].starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value"));
        let approved = |value: &'static str| {
            faults_of(move |d| {
                named(d);
                d["metadata"]["annotations"] = json!({ APPROVAL: value });
            })
        };
        assert!(approved("https://github.com/x").is_empty() && approved("unapproved, testing").is_empty());
        assert_eq!(approved("yes").len(), 1);
    }

    #[test]
    fn what_objects_depend_on_may_not_change() {
        let mut old = definition();
        let update = |old: &Value, change: fn(&mut Value)| -> Vec<String> {
            let mut new = old.clone();
            change(&mut new);
            CUSTOM_RESOURCE_DEFINITION.prepare_update(&mut new, old, Part::Main);
            let faults = CUSTOM_RESOURCE_DEFINITION.validate_update(&new, old, Part::Main);
            faults.iter().map(ToString::to_string).collect()
        };
        let other_scope: fn(&mut Value) = |d| d["spec"]["scope"] = json!("Cluster");
        assert!(update(&old, other_scope).is_empty());
        old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        assert_eq!(update(&old, other_scope), ["spec.scope: Invalid value: \"Cluster\": field is immutable"]);
        let new_storage: fn(&mut Value) = |d| {
            let mut second = d["spec"]["versions"][0].clone();
            second["name"] = json!("v2");
            d["spec"]["versions"][0]["storage"] = json!(false);
            d["spec"]["versions"].as_array_mut().unwrap().push(second);
        };
        let mut new = old.clone();
        new_storage(&mut new);
        CUSTOM_RESOURCE_DEFINITION.prepare_update(&mut new, &old, Part::Main);
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        assert_eq!(new["metadata"]["generation"], 2);
    }
}
