//! The three patches that clients compute themselves: JSON Patch, JSON Merge Patch and strategic merge patch. The
//! fourth, server-side apply, is in [`crate::apply`].
//!
//! All of them are functions from a tree and a patch to a new tree; whether the result is an object of its kind is
//! checked by whoever called.

mod json;
mod merge;
mod strategic;

pub use json::apply_json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge;

use crate::status::Status;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is no JSON, or no list of operations.
    #[error("{0}")]
    Decode(#[from] serde_json::Error),
    /// More operations than are let through.
    #[error("The allowed maximum operations in a JSON patch is {max}, got {actual}")]
    TooManyOperations {
        /// How many are allowed.
        max: usize,
        /// How many came.
        actual: usize,
    },
    /// An operation of a JSON Patch that does not apply; the API does not tell clients which.
    #[error("{0}")]
    Operation(String),
    /// A strategic merge patch that misuses a directive.
    #[error("{0}")]
    Format(&'static str),
    /// A strategic merge patch of lists within lists.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// An item of a merging list without the key to tell it apart by.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item.
        item: String,
        /// The key it should have.
        key: String,
    },
    /// A directive that does not exist.
    #[error("unknown patch type: {directive} in map: {map}")]
    Directive {
        /// The directive.
        directive: String,
        /// Where it stood.
        map: String,
    },
    /// Anything else that upstream answers with a server error.
    #[error("{0}")]
    Malformed(String),
}

impl PatchError {
    /// The answer upstream gives (`k8s.io/apiserver/pkg/endpoints/handlers/patch.go`).
    pub fn to_status(&self) -> Status {
        match self {
            Self::Decode(_) | Self::Format(_) => Status::bad_request(self.to_string()),
            Self::TooManyOperations { .. } => Status::too_large(format!("Request entity too large: {self}")),
            Self::Operation(_) | Self::ListOfLists => {
                let message = "the server rejected our request due to an error in our request";
                let mut status = Status::failure(422, "Invalid", message);
                status.details = Some(Box::default());
                status
            }
            Self::NoMergeKey { .. } | Self::Directive { .. } | Self::Malformed(_) => {
                Status::failure(500, "", self.to_string())
            }
        }
    }
}
