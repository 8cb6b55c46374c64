//! `scale`: the number of replicas of anything that has one, as a kind of its own.

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::selector::LabelSelector;
use skiff_meta::{GroupKind, GroupVersionKind, Status, apply};
use skiff_rules::{Part, metadata};

use super::scale_fields;
use crate::call::{Answer, Call, Payload};
use crate::metadata::system;
use crate::request::WriteOptions;
use crate::resource::ScalePaths;
use crate::tree;
use crate::verbs::create::options_tree;
use crate::verbs::patch::{Patch, changed};
use crate::write::replace::{Edit, Face, check_uid, replace};
use crate::write::{Done, Intent, Written, fields};

fn scale_gvk() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

fn paths(call: &Call) -> Result<ScalePaths, Status> {
    let scale = call.served.version.subresource("scale").and_then(|s| s.scale.clone());
    scale.ok_or_else(Status::no_such_path)
}

/// The Scale of an object.
fn project(object: &Value, paths: &ScalePaths) -> Value {
    let mut metadata = json!({});
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        tree::put(tree::map(&mut metadata), name, tree::at(object, &["metadata", name]).cloned());
    }
    let number = |path: &[String]| tree::at_path(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {},
        "status": {"replicas": number(&paths.status_replicas)},
    });
    let wanted = number(&paths.spec_replicas);
    if wanted != 0 {
        scale["spec"]["replicas"] = json!(wanted);
    }
    let selector = selector_text(tree::at_path(object, &paths.selector));
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// A selector as text, whether it is text already, a map of labels, or a label selector.
fn selector_text(selector: Option<&Value>) -> String {
    match selector {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(map)) if map.values().all(Value::is_string) => {
            let labels = map.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()));
            LabelSelector::from_map(&labels.collect()).to_string()
        }
        Some(selector) => LabelSelector::from_json(selector).map(|s| s.to_string()).unwrap_or_default(),
        None => String::new(),
    }
}

/// GET.
pub(crate) async fn get(call: &mut Call) -> Result<Answer, Status> {
    let paths = paths(call)?;
    let name = call.target.name.clone();
    let object = call.current(&name).await?.ok_or_else(|| call.not_found(&name))?;
    Ok(Answer::Tree(200, project(&call.show(&object).await?, &paths)))
}

/// PUT.
pub(crate) async fn update(call: &mut Call, payload: Payload, options: &WriteOptions) -> Result<Answer, Status> {
    let scale = super::body(call, &payload, &scale_gvk(), options)?;
    write(call, Change::Put(scale), "UpdateOptions", options).await
}

/// PATCH.
pub(crate) async fn patch(call: &mut Call, patch: Patch, options: &WriteOptions) -> Result<Answer, Status> {
    write(call, Change::Patch(patch), "PatchOptions", options).await
}

async fn write(call: &mut Call, change: Change, kind: &str, options: &WriteOptions) -> Result<Answer, Status> {
    let paths = paths(call)?;
    let intent = Intent { dry_run: options.dry_run, part: Part::Main, options: options_tree(kind, options) };
    let edit = ScaleEdit { change, paths: paths.clone(), options: options.clone() };
    let name = call.target.name.clone();
    let tree = match replace(call, &name, &intent, &edit).await? {
        Written::Created(done) | Written::Updated(done) => match done {
            Done::Stored(object) => call.show(&object).await?,
            Done::Dry(tree) => tree,
        },
    };
    Ok(Answer::Tree(200, project(&tree, &paths)))
}

enum Change {
    Put(Value),
    Patch(Patch),
}

struct ScaleEdit {
    change: Change,
    paths: ScalePaths,
    options: WriteOptions,
}

impl Edit for ScaleEdit {
    fn edit(&self, call: &mut Call, old: Option<&Value>) -> Result<Value, Status> {
        let old = old.ok_or_else(|| call.not_found(&call.target.name))?;
        let gvk = scale_gvk();
        let schema = skiff_api::facts::schema(&gvk);
        let root = schema.as_ref().map_or(skiff_meta::schema::TypeRef::any(), |s| s.root());
        let owned =
            tree::at(old, &["metadata", "managedFields"]).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut live = project(old, &self.paths);
        let shown = scale_fields::to_scale(&owned, &self.paths.spec_replicas);
        tree::metadata(&mut live).insert("managedFields".to_owned(), shown.clone().into());
        let manager = call.manager(&self.options.manager);
        let reset = apply::FieldSet::default();
        let writer = apply::Writer { api_version: scale_fields::SCALE, ..fields::writer(call, &manager, &reset) };
        let mut scale = match &self.change {
            Change::Patch(Patch::Apply(applied)) => {
                apply::apply(Some(&live), applied, root, &writer, self.options.force).map_err(|e| e.to_status())?
            }
            Change::Put(scale) => {
                check_uid(call, scale, tree::text(old, &["metadata", "uid"]), &call.target.name)?;
                let mut scale = scale.clone();
                apply::update(Some(&live), &mut scale, root, &writer);
                scale
            }
            Change::Patch(patch) => {
                let mut scale = changed(call, patch, &live, &gvk, root, &self.options)?;
                let writer =
                    apply::Writer { api_version: scale_fields::SCALE, ..fields::writer(call, &manager, &reset) };
                apply::update(Some(&live), &mut scale, root, &writer);
                scale
            }
        };
        check(call, &mut scale)?;
        let mut new = old.clone();
        self.paths.take(&mut new, &scale);
        for name in ["resourceVersion", "uid"] {
            if let given @ Some(_) = tree::at(&scale, &["metadata", name]).cloned() {
                tree::put(tree::metadata(&mut new), name, given);
            }
        }
        let noted =
            tree::at(&scale, &["metadata", "managedFields"]).and_then(Value::as_array).cloned().unwrap_or_default();
        if noted != shown {
            let version = &call.served.version.api_version;
            let entries = scale_fields::to_object(&owned, &noted, &self.paths.spec_replicas, version);
            tree::put(tree::metadata(&mut new), "managedFields", Some(entries.into()));
        }
        Ok(new)
    }
    fn creates(&self, _call: &Call) -> bool {
        false
    }
    fn is_put(&self) -> bool {
        matches!(self.change, Change::Put(_))
    }
    fn face(&self) -> Option<&dyn Face> {
        Some(&self.paths)
    }
}

impl Face for ScalePaths {
    fn kind(&self) -> GroupVersionKind {
        scale_gvk()
    }
    fn of(&self, object: &Value) -> Value {
        project(object, self)
    }
    fn take(&self, object: &mut Value, scale: &Value) {
        let replicas = tree::number(scale, &["spec", "replicas"]).unwrap_or(0);
        tree::set(object, &self.spec_replicas, json!(replicas));
    }
}

fn check(call: &Call, scale: &mut Value) -> Result<(), Status> {
    let namespaced = call.served.resource.namespaced;
    system::match_namespace(scale, call.namespace(), namespaced)?;
    let name = tree::text(scale, &["metadata", "name"]);
    if name.is_empty() {
        return Err(call.nameless());
    }
    if name != call.target.name {
        let why = format!("the name of the object ({name}) does not match the name on the URL ({})", call.target.name);
        return Err(Status::bad_request(why));
    }
    let kind = GroupKind::new("autoscaling", "Scale");
    // Of custom objects only the replicas are looked at.
    let mut faults = match call.served.resource.custom {
        true => Vec::new(),
        false => metadata::validate_create(scale, namespaced, skiff_rules::rules_for(&kind)),
    };
    let replicas = tree::number(scale, &["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let why = "must be greater than or equal to 0";
        faults.push(FieldError::invalid(&FieldPath::new("spec.replicas"), replicas, why));
    }
    if faults.is_empty() { Ok(()) } else { Err(Status::invalid(&kind, name, &faults)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_become_text() {
        assert_eq!(selector_text(Some(&json!("a=b"))), "a=b");
        assert_eq!(selector_text(Some(&json!({"b": "2", "a": "1"}))), "a=1,b=2");
        assert_eq!(selector_text(Some(&json!({"matchLabels": {"a": "1"}}))), "a=1");
        assert_eq!(selector_text(None), "");
    }
}
