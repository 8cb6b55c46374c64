//! What is done with one object: the requests of a case.

use http::Method;
use serde_json::{Map, Value, json};
use skiff_api::{Kind, Subresource, facts};
use skiff_meta::GroupVersionKind;
use skiff_meta::codec::protobuf;
use skiff_meta::schema::TypeRef;

use super::mutate::{self, Dice};

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const STREAM: &str = "application/json;stream=watch";

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// What it is for, the same for all of its sort.
    pub(super) about: &'static str,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) media: &'static str,
    pub(super) accept: &'static str,
    pub(super) body: Value,
    /// Changes what the server has at `source` instead of sending `body`.
    pub(super) changes: Option<Dice>,
    pub(super) source: String,
    /// What the body is.
    gvk: GroupVersionKind,
}

impl Step {
    /// Changes an object as `dice` say; equal dice change equal objects alike.
    pub(super) fn change(&self, object: &mut Value, dice: Dice) {
        change(object, &self.gvk, dice);
    }

    /// The body as it is sent.
    pub(super) fn encoded(&self, body: &Value) -> Vec<u8> {
        let schema = facts::schema(&self.gvk).filter(|_| self.media == PROTOBUF);
        let encoded = schema.and_then(|schema| protobuf::encode(body, &self.gvk, schema.root()).ok());
        encoded.unwrap_or_else(|| body.to_string().into_bytes())
    }
}

fn change(object: &mut Value, gvk: &GroupVersionKind, mut dice: Dice) {
    let Some(schema) = facts::schema(gvk) else { return };
    for _ in 0..=dice.below(2) {
        mutate::mutate(object, schema.root(), &mut dice);
    }
}

/// One object and its place.
pub(super) struct Plan {
    kind: &'static Kind,
    gvk: GroupVersionKind,
    collection: String,
    name: String,
    sample: Value,
}

impl Plan {
    /// The object `name` of a kind, made of its sample.
    pub(super) fn new(
        kind: &'static Kind,
        version: &str,
        sample: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Self, String> {
        let text = sample.replace("KNAME", &name.to_uppercase()).replace("NAME", name).replace("NS", namespace);
        let mut sample: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", kind.kind))?;
        let gvk = kind.gvk_at(version);
        sample["apiVersion"] = json!(gvk.api_version());
        sample["kind"] = json!(kind.kind);
        if sample["metadata"]["name"].is_null() && kind.is_stored() {
            sample["metadata"]["name"] = json!(name);
        }
        let name = sample["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let base = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let place = if kind.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
        if facts::schema(&gvk).is_none() {
            return Err(format!("{} has no schema", kind.kind));
        }
        Ok(Self { kind, gvk, collection: format!("{base}/{version}{place}/{}", kind.plural), name, sample })
    }

    /// Path of the object.
    pub(super) fn item(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    fn step(&self, about: &'static str, method: Method, path: String, body: Value) -> Step {
        let (gvk, source) = (self.gvk.clone(), self.item());
        Step { about, method, path, media: JSON, accept: JSON, body, changes: None, source, gvk }
    }

    fn changed(&self, dice: &mut Dice) -> Value {
        let mut object = self.sample.clone();
        change(&mut object, &self.gvk, dice.clone());
        dice.below(2);
        object
    }

    /// The requests of one case.
    pub(super) fn steps(&self, dice: &mut Dice) -> Vec<Step> {
        let body = self.changed(dice);
        let mut first = self.step("create", Method::POST, format!("{}{}", self.collection, query(dice)), body);
        if dice.one_in(8) {
            first.media = PROTOBUF;
        }
        let mut steps = vec![first];
        if !self.kind.is_stored() {
            return steps;
        }
        // Refused or only tried so far, it is there after this.
        steps.push(self.step("create", Method::POST, self.collection.clone(), self.sample.clone()));
        for _ in 0..5 {
            steps.push(self.some(dice));
        }
        steps.push(self.step("get", Method::GET, self.item(), Value::Null));
        steps.push(self.delete(dice));
        steps
    }

    fn some(&self, dice: &mut Dice) -> Step {
        if let Some(sub) = dice.of(self.kind.subresources).filter(|_| dice.clone().one_in(3))
            && let Some(step) = self.subresource(sub, dice)
        {
            return step;
        }
        match dice.below(10) {
            0 => self.read(dice),
            1 => self.list(dice),
            _ => self.write(self.item(), dice),
        }
    }

    /// A change of what is at `item`, which is of this kind.
    fn write(&self, item: String, dice: &mut Dice) -> Step {
        let path = format!("{item}{}", query(dice));
        let and = if path.contains('?') { '&' } else { '?' };
        match dice.below(7) {
            0 | 1 => self.update(item, path, dice),
            2 => self.patch("merge patch", path, "application/merge-patch+json", self.part(dice)),
            3 => self.patch("strategic patch", path, "application/strategic-merge-patch+json", self.strategic(dice)),
            4 => self.patch("JSON patch", path, "application/json-patch+json", self.json_patch(dice)),
            _ => {
                let manager = dice.of(&["one", "two"]).copied().unwrap_or_default();
                let force = if dice.one_in(2) { "&force=true" } else { "" };
                let path = format!("{}{and}fieldManager={manager}{force}", path.replace("fieldManager=m", "x=y"));
                let mut body = self.changed(dice);
                if let Some(map) = body.as_object_mut() {
                    map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata") || !dice.one_in(4));
                }
                self.patch("apply", path, "application/apply-patch+yaml", body)
            }
        }
    }

    fn update(&self, source: String, path: String, dice: &mut Dice) -> Step {
        let changes = Some(dice.clone());
        dice.below(2);
        let media = if dice.one_in(8) { PROTOBUF } else { JSON };
        Step { changes, media, source, ..self.step("update", Method::PUT, path, Value::Null) }
    }

    /// Something done to a subresource, where that needs no node.
    fn subresource(&self, sub: &Subresource, dice: &mut Dice) -> Option<Step> {
        let item = format!("{}/{}", self.item(), sub.name);
        let query = query(dice);
        let post = |body: Value, gvk: (&str, &str)| {
            let gvk = GroupVersionKind::new(gvk.0, "v1", gvk.1);
            let mut body = body;
            body["apiVersion"] = json!(gvk.api_version());
            body["kind"] = json!(gvk.kind);
            change(&mut body, &gvk, dice.clone());
            let path = format!("{item}{query}");
            Some(Step { gvk, ..self.step("create of a subresource", Method::POST, path, body) })
        };
        match sub.name {
            "eviction" => post(json!({"metadata": {"name": self.name}}), ("policy", "Eviction")),
            "binding" => {
                post(json!({"metadata": {"name": self.name}, "target": {"kind": "Node", "name": "n"}}), ("", "Binding"))
            }
            "token" => post(
                json!({"spec": {"audiences": ["a"], "expirationSeconds": 3600}}),
                ("authentication.k8s.io", "TokenRequest"),
            ),
            "finalize" => {
                let changes = Some(dice.clone());
                Some(Step { changes, ..self.step("update of a subresource", Method::PUT, item, Value::Null) })
            }
            "scale" => {
                let gvk = GroupVersionKind::new("autoscaling", "v1", "Scale");
                let replicas = json!({"spec": {"replicas": dice.of(&[0, 1, 3, -1])}});
                let path = format!("{item}{query}");
                let step = match dice.below(4) {
                    0 => self.step("get of a subresource", Method::GET, item, Value::Null),
                    1 => Step {
                        changes: Some(dice.clone()),
                        source: item,
                        ..self.step("update of a subresource", Method::PUT, path, Value::Null)
                    },
                    2 => self.patch("merge patch of a subresource", path, "application/merge-patch+json", replicas),
                    _ => {
                        let mut body = replicas;
                        body["apiVersion"] = json!("autoscaling/v1");
                        body["kind"] = json!("Scale");
                        body["metadata"] = json!({"name": self.name});
                        let and = if path.contains('?') { '&' } else { '?' };
                        let path = format!("{path}{and}fieldManager=scaler");
                        self.patch("apply of a subresource", path, "application/apply-patch+yaml", body)
                    }
                };
                Some(Step { gvk, ..step })
            }
            "status" | "approval" | "ephemeralcontainers" | "resize" if dice.one_in(6) => {
                Some(self.step("get of a subresource", Method::GET, item, Value::Null))
            }
            "status" | "approval" | "ephemeralcontainers" | "resize" => Some(self.write(item, dice)),
            "log" => Some(self.step("get of a subresource", Method::GET, item, Value::Null)),
            _ => None,
        }
    }

    fn patch(&self, about: &'static str, path: String, media: &'static str, body: Value) -> Step {
        Step { media, ..self.step(about, Method::PATCH, path, body) }
    }

    fn read(&self, dice: &mut Dice) -> Step {
        let all =
            [TABLE, METADATA, METADATA_LIST, PROTOBUF, "application/yaml", "text/html", "*/*", "application/cbor"];
        let accept = dice.of(&all).copied().unwrap_or(JSON);
        let query =
            dice.of(&["", "", "?resourceVersion=0", "?resourceVersion=x", "?includeObject=Object", "?pretty=1"]);
        let path = format!("{}{}", self.item(), query.copied().unwrap_or_default());
        Step { accept, ..self.step("read in other forms", Method::GET, path, Value::Null) }
    }

    /// The object among those of its collection, listed, watched or deleted with them.
    fn list(&self, dice: &mut Dice) -> Step {
        let queries = [
            "",
            "",
            "&limit=1",
            "&limit=-1",
            "&labelSelector=a%3Db",
            "&labelSelector=a%20in",
            "&labelSelector=!a",
            "&fieldSelector=unknown.field%3D1",
            "&resourceVersion=0",
            "&resourceVersion=0&resourceVersionMatch=NotOlderThan",
            "&resourceVersion=0&resourceVersionMatch=Exact",
            "&resourceVersionMatch=Exact",
            "&resourceVersion=1&resourceVersionMatch=Nearly",
            "&resourceVersion=1&continue=x",
            "&continue=x",
            "&includeObject=Object",
            "&includeObject=None",
            "&includeObject=Some",
            "&sendInitialEvents=true",
            "&timeoutSeconds=x",
        ];
        let query = dice.of(&queries).copied().unwrap_or_default();
        let all = [JSON, JSON, TABLE, METADATA, METADATA_LIST, PROTOBUF, "application/yaml", "text/html"];
        let accept = dice.of(&all).copied().unwrap_or(JSON);
        let path = format!("{}?fieldSelector=metadata.name%3D{}{query}", self.collection, self.name);
        match dice.below(8) {
            0 => {
                let accept = if matches!(accept, JSON | PROTOBUF) { STREAM } else { accept };
                let path = path.replace("timeoutSeconds=x", "allowWatchBookmarks=1");
                let path = format!("{path}&watch=true&timeoutSeconds=1");
                Step { accept, ..self.step("watch", Method::GET, path, Value::Null) }
            }
            1 if self.kind.verbs.contains(&"deletecollection") => {
                let dry = if dice.one_in(2) { "&dryRun=All" } else { "" };
                let path = format!("{path}{dry}");
                Step { about: "delete of a collection", path, accept, ..self.delete(dice) }
            }
            _ => Step { accept, ..self.step("list", Method::GET, path, Value::Null) },
        }
    }

    fn delete(&self, dice: &mut Dice) -> Step {
        let all = [
            Value::Null,
            json!({"propagationPolicy": "Foreground"}),
            json!({"propagationPolicy": "Orphan"}),
            json!({"propagationPolicy": "Nothing"}),
            json!({"gracePeriodSeconds": -1}),
            json!({"gracePeriodSeconds": 5, "orphanDependents": true}),
            json!({"orphanDependents": true, "propagationPolicy": "Orphan"}),
            json!({"preconditions": {"resourceVersion": "1"}}),
            json!({"dryRun": ["All"]}),
            json!({"dryRun": ["Some"]}),
            json!({"unknown": 1}),
        ];
        self.step("delete", Method::DELETE, self.item(), dice.of(&all).cloned().unwrap_or_default())
    }

    /// One top-level part of a changed object.
    fn part(&self, dice: &mut Dice) -> Value {
        let Value::Object(changed) = self.changed(dice) else { return Value::Null };
        let keys: Vec<&String> = changed.keys().filter(|k| !matches!(k.as_str(), "apiVersion" | "kind")).collect();
        let Some(key) = dice.of(&keys) else { return json!({}) };
        let mut part = Map::new();
        part.insert((*key).clone(), changed[*key].clone());
        part.into()
    }

    /// The same, some of it with directives.
    fn strategic(&self, dice: &mut Dice) -> Value {
        let mut patch = self.part(dice);
        let mut places = Vec::new();
        objects(&patch, String::new(), &mut places);
        if let Some(place) = dice.of(&places).filter(|_| dice.clone().one_in(2))
            && let Some(map) = patch.pointer_mut(place).and_then(Value::as_object_mut)
        {
            let keys: Vec<String> = map.keys().cloned().collect();
            let list = dice.of(&keys).cloned().unwrap_or_default();
            let names: Value = map.get(&list).and_then(Value::as_array).map_or_else(
                || json!(["a", "b"]),
                |items| items.iter().rev().map(|item| item.as_object().map_or(item.clone(), named)).collect(),
            );
            let (key, directive) = match dice.below(8) {
                0 => ("$retainKeys".to_owned(), json!(keys)),
                1 => (format!("$setElementOrder/{list}"), names),
                2 => (format!("$deleteFromPrimitiveList/{list}"), names),
                _ => {
                    let directive = [json!("replace"), json!("delete"), json!("merge"), json!("nothing"), json!(1)];
                    ("$patch".to_owned(), dice.of(&directive).cloned().unwrap_or_default())
                }
            };
            map.insert(key, directive);
        }
        patch
    }

    fn json_patch(&self, dice: &mut Dice) -> Value {
        let mut places = vec!["/metadata/labels".to_owned(), "/nowhere/at/all".to_owned()];
        everything(&self.sample, String::new(), &mut places);
        let count = 1 + dice.below(2);
        let mut operation = || {
            let path = dice.of(&places).cloned().unwrap_or_default();
            let op =
                dice.of(&["add", "replace", "remove", "test", "move", "copy", "jump"]).copied().unwrap_or_default();
            let value = mutate::generate(TypeRef::any(), dice, 1);
            json!({"op": op, "path": path, "value": value, "from": dice.of(&places)})
        };
        (0..count).map(|_| operation()).collect()
    }
}

/// What an item is known by in most lists.
fn named(item: &Map<String, Value>) -> Value {
    ["name", "containerPort", "port", "mountPath", "key", "ip", "type"]
        .iter()
        .find_map(|key| Some(json!({*key: item.get(*key)?})))
        .unwrap_or_else(|| json!({}))
}

fn objects(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| objects(value, format!("{path}/{}", escaped(key)), out));
            out.push(path);
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| objects(v, format!("{path}/{i}"), out)),
        _ => {}
    }
}

fn everything(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| everything(value, format!("{path}/{}", escaped(key)), out));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| everything(v, format!("{path}/{i}"), out));
            out.push(format!("{path}/-"));
        }
        _ => {}
    }
    out.push(path);
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn query(dice: &mut Dice) -> &'static str {
    let all = [
        "",
        "",
        "",
        "",
        "?fieldValidation=Strict",
        "?fieldValidation=Ignore",
        "?fieldValidation=Some",
        "?dryRun=All",
        "?dryRun=Some",
        "?fieldManager=m",
        "?fieldValidation=Strict&dryRun=All",
        "?pretty=true",
    ];
    dice.of(&all).copied().unwrap_or_default()
}
