//! Objects in several forms: versions of custom kinds with and without a webhook between them, schemas that change under
//! objects, forms that answers take. Against the API of `CONFORMANCE_KUBECONFIG`, or against a server that is started
//! for it; webhooks listen on loopback, where that API must be too.

#[path = "wire_versions/custom.rs"]
mod custom;
#[path = "../../server/tests/support/hook.rs"]
mod hook;
mod support;

use hook::{Hook, at_once};
use http::Method;
use serde_json::{Value, json};
use skiff_conformance::{Answer, Credentials};
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Outcome, accepted, expect};

const CASES: &[Case<Run>] = &[
    ("a_webhook_converts_between_versions", webhook_converts),
    ("a_webhook_that_fails_fails_what_needs_it", webhook_fails),
    ("objects_are_stored_anew_in_the_stored_version", stored_anew),
    ("versions_without_a_webhook_show_what_their_schemas_know", versions_without_a_webhook),
    ("objects_follow_a_schema_that_changes", schema_changes),
    ("events_of_both_groups_are_the_same_objects", events),
    ("discovery_has_a_protobuf_form", discovery_in_protobuf),
    ("questions_are_no_tables", questions_are_no_tables),
    ("lines_of_yaml_that_say_something_twice_are_told", repeated_lines),
    ("documents_describe_custom_kinds", documents_describe),
    ("documents_follow_versions_and_kinds", custom::documents_follow),
    ("definitions_are_objects", custom::definitions_are_objects),
    ("discovery_tells_of_custom_kinds", custom::discovery),
    ("fields_of_custom_kinds_are_looked_at", custom::fields_are_looked_at),
];

fn main() {
    std::process::exit(cases::run_with(Run::start(74), CASES));
}

const GROUP: &str = "versions.example.com";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A custom kind, as it was defined.
struct Defined {
    plural: String,
    kind: String,
    path: String,
}

impl Defined {
    fn objects(&self, version: &str) -> String {
        format!("/apis/{GROUP}/{version}/namespaces/default/{}", self.plural)
    }

    fn object(&self, version: &str, name: &str, members: Value) -> Value {
        let mut object =
            json!({"apiVersion": format!("{GROUP}/{version}"), "kind": self.kind, "metadata": {"name": name}});
        for (member, value) in members.as_object().into_iter().flatten() {
            object[member] = value.clone();
        }
        object
    }
}

fn version(name: &str, properties: Value, selectable: &[&str]) -> Value {
    let fields: Vec<Value> = selectable.iter().map(|path| json!({"jsonPath": path})).collect();
    let mut version = json!({"name": name, "served": true, "storage": name == "v1",
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}});
    if !fields.is_empty() {
        version["selectableFields"] = fields.into();
    }
    version
}

impl Run {
    fn define(&mut self, versions: Value, conversion: Value) -> Result<Defined, String> {
        let plural = format!("forms{}{}", std::process::id(), self.number());
        let kind = format!("Form{}", &plural[5..]);
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{GROUP}")}, "spec": {"group": GROUP, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": versions, "conversion": conversion}});
        let path = self.make(DEFINITIONS, &definition)?;
        let defined = Defined { plural, kind, path };
        for version in versions.as_array().into_iter().flatten().filter_map(|version| version["name"].as_str()) {
            let objects = defined.objects(version);
            self.until(|| self.get(&objects), |answer| answer.code == 200)?;
        }
        Ok(defined)
    }

    fn get(&self, path: &str) -> Result<Answer, String> {
        self.json(Method::GET, path, &Value::Null)
    }

    /// Changes a definition; what is served follows a moment later.
    fn redefine(&self, defined: &Defined, patch: Value) -> Outcome {
        let types = ("application/json-patch+json", "application/json");
        let patched = self.wire.send(Credentials::Own, &Method::PATCH, &defined.path, types, patch.to_string());
        accepted(&self.runtime.block_on(patched)?)
    }

    /// A kind that keeps address and port together in `v1` and apart in `v2`, and the webhook between them.
    fn addresses(&mut self) -> Result<(Defined, Hook), String> {
        let hook = self.runtime.block_on(Hook::start(at_once(convert)));
        let text = || json!({"type": "string"});
        let versions = json!([
            version("v1", json!({"hostPort": text()}), &[".hostPort"]),
            version("v2", json!({"host": text(), "port": text()}), &[".host", ".port"]),
        ]);
        let client = json!({"url": hook.url, "caBundle": hook.bundle});
        let webhook = json!({"clientConfig": client, "conversionReviewVersions": ["v1"]});
        let defined = self.define(versions, json!({"strategy": "Webhook", "webhook": webhook}))?;
        Ok((defined, hook))
    }
}

/// Between `hostPort` and `host` with `port`; what is called `bad` has no other form.
fn convert(request: &Value) -> Value {
    let desired = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let objects = request["objects"].as_array().cloned().unwrap_or_default();
    if objects.iter().any(|object| object["metadata"]["name"] == "bad") {
        return json!({"result": {"status": "Failed", "message": "no such form"}});
    }
    let converted = objects.into_iter().map(|mut object| {
        let text = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
        if desired.ends_with("v2") {
            let both = text(&object, "hostPort");
            let (host, port) = both.split_once(':').unwrap_or((&both, ""));
            (object["host"], object["port"]) = (json!(host), json!(port));
        } else {
            object["hostPort"] = json!(format!("{}:{}", text(&object, "host"), text(&object, "port")));
        }
        object["apiVersion"] = json!(desired);
        object["metadata"]["labels"]["converted"] = json!("yes");
        object["metadata"]["generation"] = json!(77);
        object
    });
    json!({"result": {"status": "Success"}, "convertedObjects": converted.collect::<Vec<Value>>()})
}

fn names(list: &Answer) -> Vec<String> {
    let items = list.tree()["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Members of an answer.
fn has(answer: &Answer, members: Value) -> Outcome {
    let tree = answer.tree();
    let differs =
        members.as_object().into_iter().flatten().any(|(name, value)| tree.get(name).unwrap_or(&Value::Null) != value);
    expect(!differs, answer).map_err(|got| format!("wanted {members}\ngot {got}"))
}

fn webhook_converts(run: &mut Run) -> Outcome {
    let (defined, _hook) = run.addresses()?;
    let (one, two) = (defined.objects("v1"), defined.objects("v2"));
    let made = run.post(&two, &defined.object("v2", "a", json!({"host": "h", "port": "80"})))?;
    has(&made, json!({"host": "h", "port": "80", "hostPort": null}))?;
    accepted(&run.post(&one, &defined.object("v1", "b", json!({"hostPort": "h:443"})))?)?;
    let (a, b) = (run.get(&format!("{one}/a"))?, run.get(&format!("{two}/b"))?);
    has(&a, json!({"hostPort": "h:80", "host": null, "apiVersion": format!("{GROUP}/v1")}))?;
    has(&b, json!({"host": "h", "port": "443", "hostPort": null}))?;
    let (was, is) = (made.tree()["metadata"].clone(), a.tree()["metadata"].clone());
    let same = ["uid", "resourceVersion", "generation"].iter().all(|name| was[name] == is[name]);
    expect(same && is["labels"] == json!({"converted": "yes"}), &a)?;
    for (query, expected) in [
        (format!("{two}?fieldSelector=host=h"), &["a", "b"][..]),
        (format!("{two}?fieldSelector=host=h,port=80"), &["a"]),
        (format!("{one}?fieldSelector=hostPort=h:443"), &["b"]),
        (format!("{two}?labelSelector=converted=yes"), &["b"]),
        (format!("{two}?limit=1"), &["a"]),
    ] {
        let list = run.get(&query)?;
        expect(list.code == 200, &list)?;
        // Labels that only the webhook gives depend on what was converted.
        if !query.contains("labelSelector") && names(&list) != expected {
            return Err(format!("{query}: {:?}", names(&list)));
        }
    }
    let patched = run.merge(&format!("{two}/b"), &json!({"host": "other"}))?;
    has(&patched, json!({"host": "other", "port": "443"}))?;
    has(&run.get(&format!("{one}/b"))?, json!({"hostPort": "other:443"}))?;
    let since = a.tree()["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let watched = run.get(&format!("{two}?watch=1&timeoutSeconds=2&resourceVersion={since}&fieldSelector=host=h"))?;
    let told: Vec<String> = String::from_utf8_lossy(&watched.bytes)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .map(|event: Value| format!("{} {}", event["type"], event["object"]["host"]).replace('"', ""))
        .collect();
    if told != ["ADDED h", "DELETED other"] && told != ["ADDED h", "DELETED h"] {
        return Err(format!("{told:?}"));
    }
    let gone = run.json(Method::DELETE, &format!("{two}?fieldSelector=port=80"), &Value::Null)?;
    expect(gone.code == 200 && names(&run.get(&one)?) == ["b"], &gone)
}

fn webhook_fails(run: &mut Run) -> Outcome {
    let (defined, _hook) = run.addresses()?;
    let (one, two) = (defined.objects("v1"), defined.objects("v2"));
    accepted(&run.post(&one, &defined.object("v1", "bad", json!({"hostPort": "h:80"})))?)?;
    accepted(&run.get(&format!("{one}/bad"))?)?;
    let why = format!("conversion webhook for {GROUP}/v1, Kind={} failed: no such form", defined.kind);
    let failed = run.get(&format!("{two}/bad"))?;
    expect(failed.code == 500 && failed.text("message") == why, &failed)?;
    let why = format!("conversion webhook for {GROUP}/v2, Kind={} failed: no such form", defined.kind);
    let failed = run.post(&two, &defined.object("v2", "bad", json!({"host": "h"})))?;
    expect(failed.code == 500 && failed.text("message").ends_with(&why), &failed)?;
    accepted(&run.json(Method::DELETE, &format!("{one}/bad"), &Value::Null)?)?;
    let elsewhere =
        json!([{"op": "add", "path": "/spec/conversion/webhook/clientConfig/url", "value": "https://127.0.0.1:9"}]);
    run.redefine(&defined, elsewhere)?;
    let create = || run.post(&two, &defined.object("v2", "c", json!({"host": "h"})));
    let failed = run.until(create, |answer| answer.code != 201)?;
    let start = format!("conversion webhook for {GROUP}/v2, Kind={} failed: Post \"https://127.0.0.1:9", defined.kind);
    expect(failed.code == 500 && failed.text("message").contains(&start), &failed)
}

fn stored_anew(run: &mut Run) -> Outcome {
    let (defined, hook) = run.addresses()?;
    let one = defined.objects("v1");
    accepted(&run.post(&one, &defined.object("v1", "a", json!({"hostPort": "h:80"})))?)?;
    let flip = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    run.redefine(&defined, flip)?;
    // An object that is written when the definition has come into force is asked about.
    let write = || {
        hook.seen.lock().clear();
        run.json(Method::DELETE, &format!("{one}/probe"), &Value::Null)?;
        run.post(&one, &defined.object("v1", "probe", json!({"hostPort": "h:80"})))
    };
    run.until(write, |_| !hook.seen.lock().is_empty())?;
    let old = run.get(&format!("{one}/a"))?;
    has(&old, json!({"hostPort": "h:80"}))?;
    let put = |object: &Answer| run.json(Method::PUT, &format!("{one}/a"), &object.tree());
    let version = |answer: &Answer| answer.tree()["metadata"]["resourceVersion"].clone();
    let moved = put(&old)?;
    expect(moved.code == 200 && version(&moved) != version(&old), &moved)?;
    let still = put(&moved)?;
    expect(still.code == 200 && version(&still) == version(&moved), &still)?;
    let definition = run.get(&defined.path)?;
    expect(definition.tree()["status"]["storedVersions"] == json!(["v1", "v2"]), &definition)
}

fn versions_without_a_webhook(run: &mut Run) -> Outcome {
    let text = || json!({"type": "string"});
    let versions = json!([
        version("v1", json!({"a": text(), "b": text()}), &[]),
        version("v2", json!({"a": text(), "c": text()}), &[".a"]),
    ]);
    let defined = run.define(versions, json!({"strategy": "None"}))?;
    let (one, two) = (defined.objects("v1"), defined.objects("v2"));
    accepted(&run.post(&one, &defined.object("v1", "x", json!({"a": "1", "b": "2"})))?)?;
    has(&run.get(&format!("{two}/x"))?, json!({"a": "1", "b": null}))?;
    let list = run.get(&format!("{two}?fieldSelector=a=1"))?;
    expect(names(&list) == ["x"] && list.tree()["items"][0].get("b").is_none(), &list)?;
    // What the stored version does not know is not kept.
    accepted(&run.post(&two, &defined.object("v2", "y", json!({"a": "1", "c": "3"})))?)?;
    has(&run.get(&format!("{two}/y"))?, json!({"a": "1", "c": null}))
}

fn schema_changes(run: &mut Run) -> Outcome {
    let text = || json!({"type": "string"});
    let defined =
        run.define(json!([version("v1", json!({"a": text(), "b": text()}), &[])]), json!({"strategy": "None"}))?;
    let objects = defined.objects("v1");
    accepted(&run.post(&objects, &defined.object("v1", "x", json!({"a": "1", "b": "2"})))?)?;
    let properties = json!({"a": text(), "c": {"type": "string", "default": "3"}});
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties";
    run.redefine(&defined, json!([{"op": "replace", "path": path, "value": properties}]))?;
    let one = format!("{objects}/x");
    let seen = run.until(|| run.get(&one), |answer| answer.tree()["c"] == "3")?;
    has(&seen, json!({"a": "1", "b": null, "c": "3"}))?;
    let list = run.until(|| run.get(&objects), |answer| answer.tree()["items"][0]["c"] == "3")?;
    expect(list.tree()["items"][0].get("b").is_none(), &list)?;
    let version = |answer: &Answer| answer.tree()["metadata"]["resourceVersion"].clone();
    let put = run.json(Method::PUT, &one, &seen.tree())?;
    expect(put.code == 200 && version(&put) != version(&seen), &put)?;
    let again = run.json(Method::PUT, &one, &put.tree())?;
    expect(again.code == 200 && version(&again) == version(&put), &again)
}

/// Each group changes what the other has made, and says of it what is its own way to say.
fn events(run: &mut Run) -> Outcome {
    let namespace = run.namespace(json!({}))?;
    let name = namespace.rsplit('/').next().unwrap_or_default();
    let newer = namespace.replacen("/api/v1/", "/apis/events.k8s.io/v1/", 1);
    let about = json!({"kind": "Pod", "namespace": name, "name": "p"});
    let old = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "old"}, "involvedObject": about,
        "reason": "Seen", "message": "m", "type": "Normal"});
    let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "new"}, "regarding": about,
        "reason": "Seen", "note": "m", "type": "Normal", "action": "a", "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c", "reportingInstance": "i"});
    accepted(&run.post(&format!("{namespace}/events"), &old)?)?;
    accepted(&run.post(&format!("{newer}/events"), &new)?)?;
    let label = json!({"metadata": {"labels": {"changed": "elsewhere"}}});
    let changed = run.merge(&format!("{newer}/events/old"), &label)?;
    accepted(&changed)?;
    let tree = changed.tree();
    let silent = ["reportingController", "reportingInstance", "reportingComponent"];
    expect(silent.iter().all(|text| tree.get(text).is_none()) && tree["note"] == "m", &changed)?;
    let changed = run.merge(&format!("{namespace}/events/new"), &label)?;
    accepted(&changed)?;
    has(&changed, json!({"message": "m", "reportingComponent": "example.com/c", "reportingInstance": "i"}))?;
    let read = run.json(Method::GET, &format!("{namespace}/events/old"), &Value::Null)?;
    has(&read, json!({"message": "m", "reportingComponent": "", "reportingInstance": ""}))
}

fn documents_describe(run: &mut Run) -> Outcome {
    let properties = json!({"a": {"type": "string"}});
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": properties});
    let free = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let defined = run.define(json!([free]), json!({"strategy": "None"}))?;
    let name = format!("com.example.versions.v1.{}", defined.kind);
    // One member would deny all others to kubectl.
    let plain = |answer: &Answer| {
        let mut found = answer.tree()["definitions"][&name].take();
        let gvk = found["x-kubernetes-group-version-kind"][0]["kind"].take();
        found.as_object_mut().map(|found| found.remove("x-kubernetes-group-version-kind"));
        gvk == defined.kind && found == json!({"type": "object"})
    };
    run.until(|| run.get("/openapi/v2"), plain)?;
    let answer = run.until(
        || run.get(&format!("/openapi/v3/apis/{GROUP}/v1")),
        |answer| answer.tree()["components"]["schemas"].get(&name).is_some(),
    )?;
    let schemas = answer.tree()["components"]["schemas"].clone();
    let meta = &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"];
    for (described, start) in [
        (&schemas[&name]["properties"]["apiVersion"], "APIVersion defines"),
        (&schemas[&name]["properties"]["metadata"], "Standard object's metadata"),
        (&meta["properties"]["creationTimestamp"], "CreationTimestamp is a timestamp"),
    ] {
        if !described["description"].as_str().unwrap_or_default().starts_with(start) {
            return Err(format!("{start}: {described}"));
        }
    }
    Ok(())
}

fn repeated_lines(run: &mut Run) -> Outcome {
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: twice\ndata:\n  a: v\n  b: v\n  a: w\n  b: w\n";
    let send = |method: &Method, path: &str, media: &str| {
        let types = (media, "application/json");
        run.runtime.block_on(run.wire.send(Credentials::Own, method, path, types, body.to_owned()))
    };
    let collection = "/api/v1/namespaces/default/configmaps";
    let apply = format!("{collection}/twice?fieldManager=m&dryRun=All&fieldValidation=");
    let create = format!("{collection}?dryRun=All&fieldValidation=");
    let lines = ["line 8: key \"a\" already set in map", "line 9: key \"b\" already set in map"];
    let joined = format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "));
    let applied = format!("error strict decoding YAML: error converting YAML to JSON: {joined}");
    let created =
        format!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {joined}");
    for (method, path, media, message) in [
        (Method::PATCH, apply, "application/apply-patch+yaml", applied),
        (Method::POST, create, "application/yaml", created),
    ] {
        let strict = send(&method, &format!("{path}Strict"), media)?;
        expect(strict.code == 400 && strict.text("message") == message, &strict)?;
        let warned = send(&method, &format!("{path}Warn"), media)?;
        expect(warned.code == 201 && warned.warnings() == lines, &warned)?;
        let ignored = send(&method, &format!("{path}Ignore"), media)?;
        expect(ignored.code == 201 && ignored.warnings().is_empty(), &ignored)?;
    }
    Ok(())
}

fn accepting(run: &Run, method: Method, path: &str, accept: &str, body: &Value) -> Result<Answer, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    run.runtime.block_on(run.wire.send(Credentials::Own, &method, path, ("application/json", accept), body))
}

fn discovery_in_protobuf(run: &mut Run) -> Outcome {
    let kinds = [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/api/v1", "APIResourceList"),
        ("/apis/apps/v1", "APIResourceList"),
    ];
    kinds.into_iter().try_for_each(|(path, kind)| {
        let answer = accepting(run, Method::GET, path, "application/vnd.kubernetes.protobuf", &Value::Null)?;
        let bytes = &answer.bytes;
        let named = bytes.starts_with(b"k8s\0") && bytes.windows(kind.len()).any(|part| part == kind.as_bytes());
        expect(answer.code == 200 && named, &answer).map_err(|got| format!("{path}: {got}"))
    })
}

fn questions_are_no_tables(run: &mut Run) -> Outcome {
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let question = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let refused = accepting(run, Method::POST, path, table, &question)?;
    expect(refused.code == 406, &refused)?;
    accepted(&accepting(run, Method::POST, path, &format!("{table},application/json"), &question)?)
}
