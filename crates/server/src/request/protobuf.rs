//! Bodies in protobuf.

use skiff_meta::codec::{Decoded, protobuf};
use skiff_meta::{Status, check};

use super::decode::Expected;

/// Decodes an enveloped body. What it says it is must be known; whether it is what is wanted is judged after.
pub(crate) fn decode(bytes: &[u8], expected: Expected<'_>) -> Result<Decoded, Status> {
    match protobuf::decode(bytes, Some(expected.gvk), skiff_api::facts::schema) {
        Ok((_, value)) => Ok(Decoded { value, duplicates: Vec::new() }),
        Err(error) => Err(check::unrecognized(&expected.gvk.kind, &error.to_string(), bytes)),
    }
}
