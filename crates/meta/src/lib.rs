//! What every Kubernetes object has in common, whatever its kind.
//!
//! The ground floor of the house: names of kinds and resources, the shared immutable [`object::Object`], `Status`
//! errors, field errors, quantities, selectors, type schemas, the algebra of patches and field ownership, codecs, and
//! the [`world::World`] through which all other crates reach clock, tasks and randomness.

pub mod apply;
pub mod check;
pub mod codec;
pub mod duration;
pub mod field;
pub mod gvk;
pub mod names;
pub mod object;
pub mod partial;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod scratch;
pub mod selector;
pub mod status;
pub mod trace;
pub mod world;

pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use object::{Meta, Object, ObjectError, OwnerRef};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use status::Status;
pub use trace::TraceContext;
pub use world::{World, WorldRef};
