//! What is done with one object: the requests of a case.

use http::Method;
use serde_json::{Map, Value, json};
use skiff_api::{Kind, facts};
use skiff_meta::schema::{KindSchema, TypeRef};

use super::mutate::{self, Dice};

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

/// One request.
#[derive(Debug)]
pub(super) struct Step {
    /// What it is for, the same for all of its sort.
    pub(super) about: &'static str,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) media: String,
    pub(super) accept: String,
    pub(super) body: Value,
    /// Changes what the server has instead of sending `body`.
    pub(super) changes: Option<Dice>,
}

/// One object and its place.
pub(super) struct Plan {
    kind: &'static Kind,
    schema: KindSchema,
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
        let schema = facts::schema(&gvk).ok_or_else(|| format!("{} has no schema", kind.kind))?;
        Ok(Self { kind, schema, collection: format!("{base}/{version}{place}/{}", kind.plural), name, sample })
    }

    /// Path of the object.
    pub(super) fn item(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    /// Changes an object as `dice` say; equal dice change equal objects alike.
    pub(super) fn change(&self, object: &mut Value, mut dice: Dice) {
        for _ in 0..=dice.below(2) {
            mutate::mutate(object, self.root(), &mut dice);
        }
    }

    fn root(&self) -> TypeRef<'_> {
        self.schema.root()
    }

    fn step(&self, about: &'static str, method: Method, path: String, body: Value) -> Step {
        let (media, accept) = (JSON.to_owned(), JSON.to_owned());
        Step { about, method, path, media, accept, body, changes: None }
    }

    fn changed(&self, dice: &mut Dice) -> Value {
        let mut object = self.sample.clone();
        self.change(&mut object, dice.clone());
        dice.below(2);
        object
    }

    /// The requests of one case.
    pub(super) fn steps(&self, dice: &mut Dice) -> Vec<Step> {
        let body = self.changed(dice);
        let first = self.step("create", Method::POST, format!("{}{}", self.collection, query(dice)), body);
        let mut steps = vec![first];
        if !self.kind.is_stored() {
            return steps;
        }
        // Refused or only tried so far, it is there after this.
        steps.push(self.step("create", Method::POST, self.collection.clone(), self.sample.clone()));
        for _ in 0..4 {
            steps.push(self.some(dice));
        }
        steps.push(self.step("get", Method::GET, self.item(), Value::Null));
        steps.push(self.delete(dice));
        steps
    }

    fn some(&self, dice: &mut Dice) -> Step {
        let sub = self.kind.subresources.iter().find(|s| s.name == "status").filter(|_| dice.one_in(4));
        let path = if sub.is_some() { format!("{}/status", self.item()) } else { self.item() };
        let path = format!("{path}{}", query(dice));
        let and = if path.contains('?') { '&' } else { '?' };
        match dice.below(7) {
            0 => self.read(dice),
            1 => {
                let changes = Some(dice.clone());
                dice.below(2);
                Step { changes, ..self.step("update", Method::PUT, path, Value::Null) }
            }
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

    fn patch(&self, about: &'static str, path: String, media: &str, body: Value) -> Step {
        Step { media: media.to_owned(), ..self.step(about, Method::PATCH, path, body) }
    }

    fn read(&self, dice: &mut Dice) -> Step {
        let accept = dice.of(&[TABLE, METADATA, "application/yaml", "text/html", "*/*"]).copied().unwrap_or(JSON);
        Step { accept: accept.to_owned(), ..self.step("read in other forms", Method::GET, self.item(), Value::Null) }
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

    /// The same, some of it with a directive.
    fn strategic(&self, dice: &mut Dice) -> Value {
        let mut patch = self.part(dice);
        let mut places = Vec::new();
        objects(&patch, String::new(), &mut places);
        if let Some(place) = dice.of(&places).filter(|_| dice.clone().one_in(2))
            && let Some(map) = patch.pointer_mut(place).and_then(Value::as_object_mut)
        {
            let directive = [json!("replace"), json!("delete"), json!("merge"), json!("nothing")];
            map.insert("$patch".to_owned(), dice.of(&directive).cloned().unwrap_or_default());
        }
        patch
    }

    fn json_patch(&self, dice: &mut Dice) -> Value {
        let mut places = vec!["/metadata/labels".to_owned(), "/nowhere/at/all".to_owned()];
        everything(&self.sample, String::new(), &mut places);
        let count = 1 + dice.below(2);
        let mut operation = || {
            let path = dice.of(&places).cloned().unwrap_or_default();
            let op = dice.of(&["add", "replace", "remove", "test", "move", "jump"]).copied().unwrap_or_default();
            let value = mutate::generate(TypeRef::any(), dice, 1);
            json!({"op": op, "path": path, "value": value, "from": dice.of(&places)})
        };
        (0..count).map(|_| operation()).collect()
    }
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
