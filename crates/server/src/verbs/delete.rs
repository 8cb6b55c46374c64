//! DELETE of one object.

use serde_json::{Value, json};
use skiff_meta::status::Details;
use skiff_meta::{GroupVersionKind, Status};

use crate::call::{Answer, Call, Payload};
use crate::request::Query;
use crate::request::decode::{self, Expected};
use crate::request::query::FieldValidation;
use crate::write::remove::{DeleteOptions, Gone, remove};

/// Deletes an object.
pub(crate) async fn delete(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = options(call, &payload)?;
    warn(call, &options);
    let name = call.target.name.clone();
    let removed = remove(call, &name, &options).await?;
    let whole = !removed.gone || call.served.resource.habits.returns_deleted;
    // Upstream tells clients of the old option that the object is not gone yet.
    let code = if !removed.gone && options.orphan == Some(false) { 202 } else { 200 };
    match removed.object {
        Gone::Stored(object) if whole => Ok(Answer::Object(code, object)),
        Gone::Dry(tree) if whole => Ok(Answer::Tree(code, tree)),
        gone => {
            let uid = match &gone {
                Gone::Stored(object) => object.meta().uid.clone(),
                Gone::Dry(tree) => crate::tree::text(tree, &["metadata", "uid"]).to_owned(),
            };
            let id = call.served.id();
            let details =
                Details { name, group: id.group.clone(), kind: id.resource.clone(), uid, ..Details::default() };
            let tree = serde_json::to_value(Status::success(details)).map_err(Status::internal)?;
            Ok(Answer::Tree(200, tree))
        }
    }
}

/// Whoever deletes jobs and does not say what shall become of their pods is told that they stay.
pub(crate) fn warn(call: &mut Call, options: &DeleteOptions) {
    let id = call.served.id();
    if (&*id.group, &*id.resource) == ("batch", "jobs") && options.propagation.is_none() && options.orphan.is_none() {
        let why = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                   remove them or set propagationPolicy=Orphan to suppress this warning";
        call.warnings.push(why.to_owned());
    }
}

/// `DeleteOptions` of the body, or of the query where there is no body.
pub(crate) fn options(call: &mut Call, payload: &Payload) -> Result<DeleteOptions, Status> {
    if payload.bytes.is_empty() {
        return DeleteOptions::from_tree(from_query(&call.query)?);
    }
    let gvk = GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions");
    let schema = skiff_api::facts::schema(&gvk);
    let root = schema.as_ref().map_or(skiff_meta::schema::TypeRef::any(), |s| s.root());
    let expected = Expected { gvk: &gvk, root, protobuf: true };
    // Options may say any group they like to belong to; what counts is what they say.
    let lookup = |said: &GroupVersionKind| match said.kind.as_str() {
        "DeleteOptions" => skiff_api::facts::schema(&gvk),
        _ => skiff_api::facts::schema(said),
    };
    let mut decoded = decode::any(payload, expected, lookup, Status::bad_request)?;
    if let Some(map) = decoded.value.as_object_mut() {
        if let Some(kind) = map.get("kind").and_then(Value::as_str).filter(|k| *k != "DeleteOptions") {
            return Err(Status::bad_request(format!("no kind {kind:?} is registered that is a DeleteOptions")));
        }
        map.remove("apiVersion");
        map.remove("kind");
    }
    let tree = decode::fit(decoded, expected, FieldValidation::Ignore, &mut call.warnings, b"")?;
    DeleteOptions::from_tree(tree)
}

fn from_query(query: &Query) -> Result<Value, Status> {
    let mut tree = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(seconds) = query.number("gracePeriodSeconds")? {
        tree["gracePeriodSeconds"] = json!(seconds);
    }
    if query.get("orphanDependents").is_some() {
        tree["orphanDependents"] = json!(query.flag("orphanDependents"));
    }
    if let Some(policy) = query.get("propagationPolicy") {
        tree["propagationPolicy"] = json!(policy);
    }
    for name in ["uid", "resourceVersion"] {
        if let Some(wanted) = query.get(name).filter(|wanted| !wanted.is_empty()) {
            tree["preconditions"][name] = json!(wanted);
        }
    }
    let dry: Vec<&str> = query.all("dryRun").collect();
    if !dry.is_empty() {
        tree["dryRun"] = json!(dry);
    }
    Ok(tree)
}
