//! Subresources that are no part of their object.

pub(crate) mod binding;
pub(crate) mod connect;
pub(crate) mod eviction;
pub(crate) mod scale;
mod scale_fields;
pub(crate) mod token;

use skiff_meta::{GroupResource, GroupVersionKind, Status};

use crate::call::{Call, Payload};
use crate::metadata::system;
use crate::request::WriteOptions;
use crate::request::decode::{self, Expected};

/// Reads a body of another kind than the resource's.
fn body(
    call: &mut Call,
    payload: &Payload,
    gvk: &GroupVersionKind,
    options: &WriteOptions,
) -> Result<serde_json::Value, Status> {
    let schema = skiff_api::facts::schema(gvk);
    let root = schema.as_ref().map_or(skiff_meta::schema::TypeRef::any(), |s| s.root());
    let expected = Expected { gvk, root, protobuf: true };
    let mut object = decode::object(payload, expected, options.validation, &mut call.warnings)?;
    system::match_namespace(&mut object, call.namespace(), call.served.resource.namespaced)?;
    Ok(object)
}

impl Call {
    /// The same request about another resource of the same namespace, as a part of this one.
    pub(crate) fn about(&self, id: &GroupResource) -> Result<Self, Status> {
        let served = self.api.catalog.registry().preferred(id).ok_or_else(Status::no_such_path)?;
        let mut other = self.copy();
        other.target.resource = served.gvr();
        other.target.subresource = String::new();
        other.served = served;
        Ok(other)
    }
}
