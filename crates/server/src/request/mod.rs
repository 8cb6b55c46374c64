//! What a request says, before anything is known of the objects it speaks of: path, query, media types, body.

pub(crate) mod body;
pub(crate) mod decode;
pub(crate) mod go_words;
pub(crate) mod media;
pub(crate) mod query;
pub(crate) mod target;

pub(crate) use media::{Accept, Encoding, Shape};
pub(crate) use query::{ListOptions, Query, VersionMatch, WriteOptions};
pub(crate) use target::Target;
