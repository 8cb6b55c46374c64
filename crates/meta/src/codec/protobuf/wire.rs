//! The protobuf wire format: tags, varints, lengths.

use super::ProtobufError;

/// One value as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Walks the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Number and value of the next field, `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::Malformed("field number is too large"))?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| ProtobufError::Malformed("length is too large"))?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(ProtobufError::Malformed("wire type is not known")),
        };
        if number == 0 {
            return Err(ProtobufError::Malformed("field number is zero"));
        }
        Ok(Some((number, value)))
    }

    /// The next varint of a packed list, `None` at the end.
    pub(super) fn packed_varint(&mut self) -> Result<Option<u64>, ProtobufError> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("varint is longer than ten bytes"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(ProtobufError::Malformed("message ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ProtobufError::Malformed("message ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u64) {
    put_varint(out, u64::from(number) << 3 | wire_type);
}

/// A varint field; negative numbers take ten bytes, as two's complement of 64 bits.
pub fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_tag(out, number, 0);
    put_varint(out, value.cast_unsigned());
}

/// A double field.
pub fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_tag(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A field of bytes or text.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A message field, written in place: its length is put before it once it is known.
///
/// # Errors
/// Those of `body`.
pub fn put_message<E>(
    out: &mut Vec<u8>,
    number: u32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_tag(out, number, 2);
    let start = out.len();
    body(out)?;
    let mut length = Vec::with_capacity(5);
    put_varint(&mut length, (out.len() - start) as u64);
    out.splice(start..start, length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip() {
        let mut out = Vec::new();
        put_int(&mut out, 1, -1);
        put_int(&mut out, 2, 300);
        put_double(&mut out, 3, 1.5);
        put_message::<ProtobufError>(&mut out, 400, |out| {
            put_bytes(out, 1, &[7; 200]);
            Ok(())
        })
        .unwrap();
        let mut reader = Reader::new(&out);
        assert_eq!(reader.field().unwrap(), Some((1, Wire::Varint(u64::MAX))));
        assert_eq!(reader.field().unwrap(), Some((2, Wire::Varint(300))));
        assert_eq!(reader.field().unwrap(), Some((3, Wire::Fixed64(1.5f64.to_bits()))));
        let Some((400, Wire::Bytes(inner))) = reader.field().unwrap() else { panic!("a message") };
        assert_eq!(Reader::new(inner).field().unwrap(), Some((1, Wire::Bytes(&[7; 200]))));
        assert_eq!(reader.field().unwrap(), None);
    }

    #[test]
    fn malformed_input_is_an_error() {
        for bad in [
            &[0x08][..],                                                   // no value
            &[0x0a, 5, 1],                                                 // longer than what is there
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], // a length of 2^63
            &[0x0b],                                                       // a group
            &[0x00, 1],                                                    // number 0
            &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
            &[0x09, 1, 2, 3],
        ] {
            assert!(Reader::new(bad).field().is_err(), "{bad:?}");
        }
    }
}
