//! The Common Expression Language as Kubernetes 1.36 has it: parsed, type-checked, priced and evaluated.
//!
//! Everything that judges objects by expressions uses this one room: rules of custom resources, admission policies, match
//! conditions. It is pure and synchronous, knows cel-go's standard library and Kubernetes' own, speaks their words, and
//! bounds what a hostile expression can take: the depth and the size of its tree, the size of its patterns and its values,
//! and, by a budget in upstream's units, its work.
//!
//! ```
//! use skiff_cel::{Budget, Env, Type, Value};
//!
//! let env = Env::new().with("self", Type::map(Type::String, Type::Int));
//! let program = env.compile("self.all(k, self[k] > 0)").unwrap();
//! let data = serde_json::json!({"a": 1, "b": 0});
//! let mut budget = Budget::new(1_000);
//! let value = program.evaluate(&[Some(Value::json(&data))], &mut budget).unwrap();
//! assert!(matches!(value, Value::Bool(false)));
//! ```

mod ast;
mod budget;
mod check;
mod convert;
mod cost;
pub mod device;
mod env;
mod error;
mod escape;
mod eval;
mod functions;
mod lexer;
mod library;
mod literals;
mod macros;
mod operators;
mod parser;
mod pattern;
mod program;
mod schema;
mod time;
mod types;
mod unify;
mod value;

pub use budget::{Budget, PER_CALL_LIMIT};
pub use env::Env;
pub use error::{Error, Issue, Issues};
pub use escape::escape;
pub use library::authorizer::{Attributes, Authorizer, Check, Decision};
pub use library::formats::Format;
pub use library::semver::Semver;
pub use library::url::Url;
pub use pattern::compile as pattern;
pub use program::Program;
pub use schema::{Decl, ListKind, MAX_REQUEST, Schema};
pub use time::Moment;
pub use types::{Library, Struct, Type};
pub use value::{Key, List, Map, Members, Special, Text, Value};

#[cfg(test)]
mod tests;
