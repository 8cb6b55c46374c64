//! PUT: the whole object, or one part of it.

use serde_json::Value;
use skiff_meta::Status;
use skiff_rules::Part;

use super::create::options_tree;
use super::sub::scale;
use crate::call::{Answer, Call, Payload};
use crate::request::WriteOptions;
use crate::request::decode::{self, Expected};
use crate::write::replace::{Edit, replace};
use crate::write::{Intent, fields};

/// Replaces an object.
pub(crate) async fn update(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    if call.target.subresource == "scale" {
        return scale::update(call, payload, &options).await;
    }
    let part = super::part(&call.target.subresource).ok_or_else(Status::no_such_path)?;
    let version = call.served.version.clone();
    let expected = Expected { gvk: &version.gvk, root: version.root(), protobuf: version.protobuf };
    let mut object = decode::object(&payload, expected, options.validation, &mut call.warnings)?;
    version.rules().default(&mut object);
    let intent = Intent { dry_run: options.dry_run, part, options: options_tree("UpdateOptions", &options) };
    let put = Put { object, manager: options.manager, part };
    let name = call.target.name.clone();
    Ok(replace(call, &name, &intent, &put).await?.into_answer())
}

/// Puts an object in the place of another.
struct Put {
    object: Value,
    manager: String,
    part: Part,
}

impl Edit for Put {
    fn edit(&self, call: &mut Call, old: Option<&Value>) -> Result<Value, Status> {
        let mut object = self.object.clone();
        fields::note(call, old, &mut object, &self.manager, self.part);
        Ok(object)
    }
    fn creates(&self, call: &Call) -> bool {
        self.part == Part::Main && call.served.resource.habits.create_on_update
    }
    fn is_put(&self) -> bool {
        true
    }
}
