//! What the objects say: schemas in order, levels with their limits, and the conditions the objects should have.

use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use serde_json::{Value, json};

use super::allocate::{Limits, limits};
use super::defaults;
use super::matching::{By, Digest, Rules};
use super::queues::Shape;
use crate::tree;

/// Most of a level that one request may take.
const WIDEST: f64 = 0.15;

/// A flow schema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    pub(super) level: String,
    pub(super) by: By,
    precedence: i32,
    rules: Rules,
}

/// A priority level.
#[derive(Debug)]
pub(super) struct LevelPlan {
    pub(super) name: String,
    pub(super) uid: HeaderValue,
    pub(super) shape: Shape,
    shares: u32,
    lendable: u32,
    borrowing: Option<u32>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Config {
    /// By precedence; the last one takes everything.
    pub(super) schemas: Vec<Schema>,
    pub(super) levels: Vec<LevelPlan>,
}

impl Config {
    /// From the objects; what no cluster can do without is there even when its object is not. Objects that cannot be
    /// read, and schemas whose level is not there, are left out.
    pub(super) fn read(levels: &[Value], schemas: &[Value]) -> Self {
        let mut all: Vec<LevelPlan> = levels.iter().filter_map(level).collect();
        for value in defaults::levels() {
            let name = tree::text(&value, &["metadata", "name"]);
            if defaults::is_mandatory(name) && all.iter().all(|l| l.name != name) {
                all.extend(level(&value));
            }
        }
        let mut wanted: Vec<Schema> = schemas.iter().filter_map(schema).collect();
        wanted.retain(|s| all.iter().any(|l| l.name == s.level));
        for value in defaults::schemas() {
            let name = tree::text(&value, &["metadata", "name"]);
            if defaults::is_mandatory(name) && wanted.iter().all(|s| s.name != name) {
                wanted.extend(schema(&value));
            }
        }
        wanted.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { schemas: wanted, levels: all }
    }

    /// The schema of a request; the last one where none fits.
    #[cfg(test)]
    pub(super) fn schema_of(&self, digest: &Digest<'_>) -> &Schema {
        self.schemas.iter().find(|s| s.fits(digest)).unwrap_or(&self.schemas[self.schemas.len() - 1])
    }

    /// Limits of all levels, in their order.
    pub(super) fn limits(&self, total: u32) -> Vec<Limits> {
        let shares: Vec<_> = self.levels.iter().map(|l| (l.shares, l.lendable, l.borrowing)).collect();
        limits(total, &shares)
    }
}

impl Schema {
    /// Whether the request is one of its.
    pub(super) fn fits(&self, digest: &Digest<'_>) -> bool {
        self.rules.match_request(digest)
    }
}

impl LevelPlan {
    /// Seats that one request takes at most.
    pub(super) fn widest(&self, limits: Limits) -> u32 {
        let hand = u32::try_from(self.shape.hand).unwrap_or(1).max(1);
        let part = (f64::from(limits.nominal) * WIDEST).ceil() as u32;
        if self.shape.queues == 0 { u32::MAX } else { part.min(limits.nominal / hand).max(1) }
    }
}

fn uid(uid: Option<String>) -> HeaderValue {
    uid.and_then(|uid| HeaderValue::from_str(&uid).ok()).unwrap_or(HeaderValue::from_static(""))
}

fn level(value: &Value) -> Option<LevelPlan> {
    let object: PriorityLevelConfiguration = serde_json::from_value(value.clone()).ok()?;
    let spec = object.spec?;
    let count = |n: Option<i32>, unset: u32| n.map_or(unset, |n| u32::try_from(n).unwrap_or(0));
    let size = |n: Option<i32>| usize::try_from(n.unwrap_or(0)).unwrap_or(0);
    let (mut shape, mut borrowing) = (Shape::default(), None);
    let (shares, lendable) = match (spec.exempt, spec.limited) {
        (exempt, None) => {
            shape.exempt = true;
            let exempt = exempt.unwrap_or_default();
            (count(exempt.nominal_concurrency_shares, 0), count(exempt.lendable_percent, 0))
        }
        (_, Some(limited)) => {
            if let Some(queuing) = limited.limit_response.and_then(|response| response.queuing) {
                shape.queues = size(queuing.queues);
                shape.hand = size(queuing.hand_size).max(1);
                shape.length = size(queuing.queue_length_limit);
            }
            borrowing = limited.borrowing_limit_percent.and_then(|p| u32::try_from(p).ok());
            (count(limited.nominal_concurrency_shares, 30), count(limited.lendable_percent, 0))
        }
    };
    let (name, uid) = (object.metadata.name?, uid(object.metadata.uid));
    Some(LevelPlan { name, uid, shape, shares, lendable, borrowing })
}

fn schema(value: &Value) -> Option<Schema> {
    let object: FlowSchema = serde_json::from_value(value.clone()).ok()?;
    let spec = object.spec?;
    let by = match spec.distinguisher_method.as_ref().map(|method| &*method.type_) {
        Some("ByUser") => By::User,
        Some("ByNamespace") => By::Namespace,
        _ => By::Nothing,
    };
    Some(Schema {
        name: object.metadata.name?,
        uid: uid(object.metadata.uid),
        level: spec.priority_level_configuration.name,
        by,
        precedence: spec.matching_precedence.unwrap_or(1000),
        rules: Rules::new(spec.rules.unwrap_or_default()),
    })
}

/// One write that brings the objects into line.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A default that is not there.
    Create(Value),
    /// One that is not as it should be.
    Update(Value),
    /// One that an older version left behind: kind and name.
    Delete(&'static str, String),
    /// A condition, by server-side apply: the schema's name and the object to apply.
    Condition(String, Value),
}

/// What to write, given all objects.
pub(super) fn steps(levels: &[Value], schemas: &[Value], now: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    keep("PriorityLevelConfiguration", levels, defaults::levels(), &mut steps);
    keep("FlowSchema", schemas, defaults::schemas(), &mut steps);
    // A level that is about to be made is not missing.
    if steps.is_empty() {
        steps.extend(schemas.iter().filter_map(|schema| dangling(schema, levels, now)));
    }
    steps
}

fn keep(kind: &'static str, found: &[Value], wanted: Vec<Value>, steps: &mut Vec<Step>) {
    let name = |value: &Value| tree::text(value, &["metadata", "name"]).to_owned();
    for object in found {
        if annotation(object) == Some(true) && wanted.iter().all(|w| name(w) != name(object)) {
            steps.push(Step::Delete(kind, name(object)));
        }
    }
    for object in wanted {
        match found.iter().find(|f| name(f) == name(&object)) {
            None => steps.push(Step::Create(object)),
            Some(current) => steps.extend(revised(current, &object).map(Step::Update)),
        }
    }
}

fn annotation(object: &Value) -> Option<bool> {
    match tree::text(object, &["metadata", "annotations", defaults::AUTO_UPDATE]) {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Some(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Some(false),
        _ => None,
    }
}

/// The object as it should be, when it is not. Users who change a suggested one keep their change: the annotation
/// says so from then on.
fn revised(current: &Value, wanted: &Value) -> Option<Value> {
    let untouched = tree::number(current, &["metadata", "generation"]) == Some(1);
    let ours =
        defaults::is_mandatory(tree::text(current, &["metadata", "name"])) || annotation(current).unwrap_or(untouched);
    let same_spec = !ours || says(&current["spec"], &wanted["spec"]);
    if same_spec && annotation(current) == Some(ours) {
        return None;
    }
    let mut revised = current.clone();
    if !same_spec {
        revised["spec"] = wanted["spec"].clone();
    }
    let annotations = tree::map(tree::metadata(&mut revised).entry("annotations").or_insert(Value::Null));
    annotations.insert(defaults::AUTO_UPDATE.to_owned(), json!(ours.to_string()));
    Some(revised)
}

/// Whether an object's part says what is wanted; defaults that were filled in say no more.
fn says(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| found.get(name).is_some_and(|f| says(f, value)))
                && found.iter().all(|(name, value)| wanted.contains_key(name) || is_filled_in(name, value))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| says(f, w))
        }
        (found, wanted) => found == wanted,
    }
}

/// What is no wish of anybody's: empty, or the default of a level's part.
fn is_filled_in(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => n.as_i64() == Some(0) && name != "borrowingLimitPercent",
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// The `Dangling` condition as it should be, when it is not.
fn dangling(schema: &Value, levels: &[Value], now: &str) -> Option<Step> {
    let name = tree::text(schema, &["metadata", "name"]);
    let level = tree::text(schema, &["spec", "priorityLevelConfiguration", "name"]);
    let there = levels.iter().any(|l| tree::text(l, &["metadata", "name"]) == level);
    let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = match there {
        true => ("False", "Found", format!("{about} and it exists")),
        false => ("True", "NotFound", format!("{about} but there is no such object")),
    };
    let conditions = tree::at(schema, &["status", "conditions"]).and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|c| tree::text(c, &["type"]) == "Dangling");
    let fits = |c: &Value| {
        tree::text(c, &["status"]) == status
            && tree::text(c, &["reason"]) == reason
            && tree::text(c, &["message"]) == message
    };
    if found.is_some_and(fits) {
        return None;
    }
    let condition = json!({
        "type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    let apply = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "status": {"conditions": [condition]},
    });
    Some(Step::Condition(name.to_owned(), apply))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn found(mut objects: Vec<Value>) -> Vec<Value> {
        objects.iter_mut().for_each(|o| o["metadata"]["generation"] = json!(1));
        objects
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_there_is_left() {
        let steps = |levels: &[Value], schemas: &[Value]| super::steps(levels, schemas, NOW);
        let all = steps(&[], &[]);
        assert_eq!(all.iter().filter(|s| matches!(s, Step::Create(_))).count(), 19);
        let (levels, mut schemas) = (found(defaults::levels()), found(defaults::schemas()));
        let conditions = steps(&levels, &schemas);
        assert_eq!(conditions.len(), schemas.len());
        for (schema, step) in schemas.iter_mut().zip(conditions) {
            let Step::Condition(name, apply) = step else { panic!("only conditions are missing") };
            assert_eq!(schema["metadata"]["name"], json!(name));
            assert_eq!(apply["status"]["conditions"][0]["reason"], "Found");
            schema["status"] = apply["status"].clone();
        }
        assert_eq!(steps(&levels, &schemas), []);
    }

    #[test]
    fn users_may_change_what_is_suggested_and_nothing_else() {
        let change = |name: &str, annotation: &str| {
            let mut levels = found(defaults::levels());
            let level = levels.iter_mut().find(|l| l["metadata"]["name"] == name).unwrap();
            level["spec"]["limited"]["nominalConcurrencyShares"] = json!(77);
            level["metadata"]["annotations"][defaults::AUTO_UPDATE] = json!(annotation);
            level["metadata"]["generation"] = json!(2);
            match &steps(&levels, &found(defaults::schemas()), NOW)[0] {
                Step::Update(level) => Some((
                    level["spec"]["limited"]["nominalConcurrencyShares"].as_i64().unwrap(),
                    level["metadata"]["annotations"][defaults::AUTO_UPDATE].as_str().unwrap().to_owned(),
                )),
                _ => None,
            }
        };
        let told = |shares, says: &str| Some((shares, says.to_owned()));
        assert_eq!(change("system", "false"), None);
        assert_eq!(change("system", "true"), told(30, "true"));
        assert_eq!(change("system", "nonsense"), told(77, "false"));
        assert_eq!(change("catch-all", "false"), told(5, "true"));
        let mut old = found(defaults::levels());
        old.push(json!({"metadata": {"name": "old", "annotations": {defaults::AUTO_UPDATE: "true"}}}));
        old.push(json!({"metadata": {"name": "mine"}}));
        let steps = steps(&old, &found(defaults::schemas()), NOW);
        assert_eq!(steps, [Step::Delete("PriorityLevelConfiguration", "old".to_owned())]);
    }

    #[test]
    fn a_schema_without_its_level_is_dangling_and_not_used() {
        let mut mine = defaults::schemas().remove(9);
        mine["metadata"] = json!({"name": "mine"});
        mine["spec"]["priorityLevelConfiguration"]["name"] = json!("nowhere");
        let mut schemas = found(defaults::schemas());
        schemas.push(mine);
        let levels = found(defaults::levels());
        assert!(Config::read(&levels, &schemas).schemas.iter().all(|s| s.name != "mine"));
        let steps = steps(&levels, &schemas, NOW);
        let Some(Step::Condition(name, apply)) = steps.last() else { panic!("{steps:?}") };
        assert_eq!((name.as_str(), &apply["status"]["conditions"][0]["status"]), ("mine", &json!("True")));
    }
}
