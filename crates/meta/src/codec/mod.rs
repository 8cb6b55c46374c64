//! Bytes to trees and back: JSON and YAML (and protobuf, which needs the kind's schema).
//!
//! Decoders keep what strict field validation wants to know (members that come twice) and are bounded in depth and, for
//! YAML, in what aliases may expand to.

pub mod json;
pub mod protobuf;
pub mod yaml;

mod go_syntax;
mod tree;

use serde_json::Value;

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The tree; of members that came twice, the last.
    pub value: Value,
    /// One message for every member that came twice, as strict field validation words it.
    pub duplicates: Vec<String>,
}

/// A body that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, in the words of Go's decoder, which clients know.
    #[error("{0}")]
    Json(String),
    /// Not YAML, or more of it than is let through.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(String),
    /// Not UTF-8.
    #[error("invalid UTF-8 at byte {0}")]
    Utf8(usize),
}
