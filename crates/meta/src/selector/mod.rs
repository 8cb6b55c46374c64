//! Which objects: selectors over labels and over fields.
//!
//! Label selectors come as text in query strings (`app=web,tier in (a,b),!old`) and as JSON in specs; both become one
//! [`LabelSelector`]. Field selectors (`spec.nodeName=n1,status.phase!=Failed`) know equality only. Grammar and error
//! words are upstream's (`k8s.io/apimachinery/pkg/labels`, `.../fields`).

mod fields;
mod labels;
mod parse;

pub use fields::{FieldSelector, FieldTerm, escape as escape_field_value};
pub use labels::{LabelSelector, Operator, Requirement};

use crate::field::FieldError;

/// A selector that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A token where another was expected.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// The token.
        found: String,
        /// What could have stood there.
        expected: &'static str,
    },
    /// `in` without its list; upstream leaves out a comma here.
    #[error("found '{0}' expected: '('")]
    NoList(String),
    /// A requirement that is wrong in itself.
    #[error("unable to parse requirement: {0}")]
    Requirement(Box<SelectorError>),
    /// A key, operator or value against the rules; several are listed.
    #[error("{}", several(.0))]
    Invalid(Vec<FieldError>),
    /// An operator of a JSON selector that does not exist.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// A JSON selector that is no object.
    #[error("not a label selector: {0}")]
    NotASelector(String),
    /// A term of a field selector without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole selector.
        selector: String,
        /// The term.
        term: String,
    },
    /// A backslash before something that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A comma or equals sign in a value, as its code point (which is how upstream shows it).
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(u32),
}

fn several(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}
