//! JSON.

use serde::de::DeserializeSeed;

use super::tree::Builder;
use super::{DecodeError, Decoded, go_syntax};

/// Decodes one JSON document. Nesting deeper than 128 is refused.
///
/// # Errors
/// In the words of Go's decoder.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut builder = Builder::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let result = builder.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match result {
        Ok(value) => Ok(Decoded { value, duplicates: builder.duplicates }),
        Err(error) => Err(DecodeError::Json(go_syntax::fault(bytes).unwrap_or_else(|| error.to_string()))),
    }
}

/// Sorts complaints about members (`unknown field "a.b"`, `duplicate field "a.b"`) as the members come in the document.
pub fn sort_as_in(bytes: &[u8], complaints: &mut [String]) {
    let path = |complaint: &String| complaint.split('"').nth(1).unwrap_or_default().to_owned();
    let mut builder = Builder::on_the_watch(complaints.iter().map(path).collect());
    // What cannot be read has been refused before.
    let _ = builder.deserialize(&mut serde_json::Deserializer::from_slice(bytes));
    let Builder { wanted, met, .. } = builder;
    complaints.sort_by_cached_key(|complaint| {
        let wanted = wanted.iter().position(|w| *w == path(complaint));
        // What comes twice is noticed the second time.
        let times = usize::from(complaint.starts_with("duplicate"));
        met.iter().enumerate().filter(|(_, m)| Some(**m) == wanted).nth(times).map_or(usize::MAX, |(at, _)| at)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_told_and_the_last_wins() {
        let body = br#"{"a": 1, "b": {"c": [{"d": 1, "d": 2}]}, "a": 2}"#;
        let decoded = decode(body).unwrap();
        assert_eq!(decoded.value, json!({"a": 2, "b": {"c": [{"d": 2}]}}));
        assert_eq!(decoded.duplicates, ["duplicate field \"b.c[0].d\"", "duplicate field \"a\""]);
    }

    #[test]
    fn complaints_are_sorted_as_members_come() {
        let body = br#"{"metadata": {"nome": 1}, "data": {"a": 1, "a": 2}, "dota": {}}"#;
        let mut complaints: Vec<String> =
            ["duplicate field \"data.a\"", "unknown field \"dota\"", "unknown field \"metadata.nome\""]
                .map(str::to_owned)
                .into();
        sort_as_in(body, &mut complaints);
        let expected = ["unknown field \"metadata.nome\"", "duplicate field \"data.a\"", "unknown field \"dota\""];
        assert_eq!(complaints, expected);
    }

    #[test]
    fn values_survive() {
        let body = br#" {"i": -9223372036854775808, "u": 18446744073709551615, "f": 1.5, "s": "\u00e9\n", "n": null, "t": [true, false]} "#;
        let expected: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(decode(body).unwrap(), Decoded { value: expected, duplicates: Vec::new() });
    }

    #[test]
    fn errors_read_as_gos() {
        for (body, message) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\": 1", "unexpected end of JSON input"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("{a: 1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\": 1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("tru ", "invalid character ' ' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            ("01", "invalid character '1' after top-level value"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
        ] {
            assert_eq!(decode(body.as_bytes()), Err(DecodeError::Json(message.to_owned())), "{body}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(decode(deep.as_bytes()).is_err());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(decode(deep.as_bytes()).is_err());
    }
}
