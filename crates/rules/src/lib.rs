//! Per kind, pure and synchronous: what Kubernetes fills in, corrects, refuses and shows.
//!
//! Only the server calls in here (and the node agent, to default static pods). There is one [`Rules`] implementation
//! per built-in kind and one, driven by schema, for all custom kinds; the pipeline does not know which it holds.

mod addresses;
mod age;
mod at;
mod cells;
mod cron;
pub mod custom;
mod disabled;
mod faults;
mod kind;
mod kinds;
pub mod metadata;
mod pem;
pub mod pod_security;
mod podspec;
pub mod policy;
mod row;
mod show;
mod tree;
mod view;
mod warnings;
mod workload;

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::field::FieldErrors;
use skiff_meta::partial::Wanted;

pub use custom::CustomRules;
pub use kinds::{rules_for, service_addresses};

/// Which part of an object a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The object itself; its status is not touched.
    Main,
    /// Its status; everything else is not touched.
    Status,
    /// Another subresource that writes the whole object, by name (`ephemeralcontainers`, `resize`, `approval`,
    /// `finalize`).
    Other(&'static str),
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading as upstream sends it, such as `Ready`.
    pub name: String,
    /// `string`, `integer`, `date`, ...
    pub ty: String,
    /// `name` for the name column, else mostly empty.
    pub format: String,
    /// Help text.
    pub description: String,
    /// 0: always shown; above: only in wide output.
    pub priority: i32,
}

/// The rules of one kind. Objects are JSON trees that already fit the kind's schema (types are right).
pub trait Rules: Send + Sync {
    /// Fills in what was left out. Idempotent.
    fn default(&self, object: &mut Value);
    /// Resets what clients may not set at creation (status, ...), before validation.
    fn prepare_create(&self, object: &mut Value);
    /// Carries over from `old` what this part may not change, and bumps `metadata.generation` where the desired state
    /// changed.
    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part);
    /// All faults of an object about to be created. Metadata common to all kinds is checked by the pipeline.
    fn validate_create(&self, object: &Value) -> FieldErrors;
    /// All faults of an update, forbidden changes included.
    fn validate_update(&self, new: &Value, old: &Value, part: Part) -> FieldErrors;
    /// Paths that writes to `part` reset, each a list of names: writing them owns nothing.
    fn reset_fields(&self, _part: Part) -> &'static [&'static [&'static str]] {
        &[]
    }
    /// Warnings for deprecated or doubtful use in a write to `part`, given the object as it shall be, and as it is if it is
    /// there. At a creation it is asked before [`Rules::prepare_create`], which puts some of it right.
    fn warnings(&self, _new: &Value, _old: Option<&Value>, _part: Part) -> Vec<String> {
        Vec::new()
    }
    /// What of an object [`Rules::selectable_fields`] looks at; empty: all of it.
    fn selects_from(&self) -> &'static Wanted {
        &[]
    }
    /// What field selectors can select, beside `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// The table's columns.
    fn columns(&self) -> Vec<Column>;
    /// One row, a cell per column.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;
    /// How a name is checked, an upstream `NameIs...` function: returns the faults' details, empty when fine.
    fn name_faults(&self, name: &str, prefix: bool) -> Vec<String>;
}
