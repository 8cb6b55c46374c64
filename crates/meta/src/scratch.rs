//! JSON in buffers of its own size.

use std::cell::Cell;

use bytes::Bytes;
use serde::Serialize;

/// A larger buffer is not kept for the next text.
const KEPT: usize = 64 << 10;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The compact JSON of `value`. It is written where the thread's last one was, and copied once its size is known: a buffer
/// that grows with its text is moved half a dozen times, and has room left over in the end.
///
/// # Errors
/// As `serde_json::to_vec`.
pub fn json<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Bytes> {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let written = serde_json::to_writer(&mut scratch, value).map(|()| Bytes::copy_from_slice(&scratch));
    if scratch.capacity() <= KEPT {
        SCRATCH.set(scratch);
    }
    written
}

#[cfg(test)]
mod tests {
    use serde::Serializer;
    use serde::ser::Error;

    use super::*;

    /// Writes JSON while it is written itself.
    struct Nested;

    impl Serialize for Nested {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            let inner = json("inner").map_err(S::Error::custom)?;
            to.serialize_bytes(&inner)
        }
    }

    #[test]
    fn texts_do_not_mix() {
        assert_eq!(json(&[1, 2]).expect("JSON"), "[1,2]");
        assert_eq!(json("x").expect("JSON"), "\"x\"");
        assert_eq!(json(&("a", Nested, "b")).expect("JSON"), "[\"a\",[34,105,110,110,101,114,34],\"b\"]");
        let long = "y".repeat(2 * KEPT);
        assert_eq!(json(&long).expect("JSON").len(), long.len() + 2);
        assert_eq!(json(&true).expect("JSON"), "true");
    }
}
