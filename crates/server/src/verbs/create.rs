//! POST of a new object.

use serde_json::{Value, json};
use skiff_meta::Status;
use skiff_rules::Part;

use crate::call::{Answer, Call, Payload};
use crate::metadata::system;
use crate::request::WriteOptions;
use crate::request::decode::{self, Expected};
use crate::write::{fields, insert};

/// Creates an object, or answers a question.
pub(crate) async fn create(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let version = call.served.version.clone();
    let expected = Expected { gvk: &version.gvk, root: version.root(), protobuf: version.protobuf };
    let mut object = decode::object(&payload, expected, options.validation, &mut call.warnings)?;
    if call.served.resource.cache.is_none() {
        return ask(call, object, &options).await;
    }
    version.rules().default(&mut object);
    system::wipe(&mut object);
    fields::note(call, None, &mut object, &options.manager, Part::Main);
    let intent = insert::intent(options.dry_run, options_tree("CreateOptions", &options));
    Ok(insert::insert(call, object, &intent).await?.into_answer())
}

/// Resources that are not stored: questions and commands.
async fn ask(call: &mut Call, mut object: Value, options: &WriteOptions) -> Result<Answer, Status> {
    let gvr = call.served.gvr();
    if gvr.group.is_empty() && gvr.resource == "bindings" {
        return super::sub::binding::bind_legacy(call, object).await;
    }
    system::wipe(&mut object);
    system::match_namespace(&mut object, call.namespace(), call.served.resource.namespaced)?;
    call.warnings.extend(system::drop_repeated_owners(&mut object));
    fields::note(call, None, &mut object, &options.manager, Part::Main);
    let answer = call.api.chain.questions.answer(&call.user, &gvr, object).await;
    answer.unwrap_or_else(|| Err(Status::no_such_path())).map(|tree| Answer::Tree(201, tree))
}

/// Options as admission sees them.
pub(crate) fn options_tree(kind: &str, options: &WriteOptions) -> Value {
    let mut tree = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if options.dry_run {
        tree["dryRun"] = json!(["All"]);
    }
    if !options.manager.is_empty() {
        tree["fieldManager"] = json!(options.manager);
    }
    if options.force_given && kind == "PatchOptions" {
        tree["force"] = json!(options.force);
    }
    tree
}
