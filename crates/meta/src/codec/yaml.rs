//! YAML as Kubernetes reads it (`sigs.k8s.io/yaml`): YAML 1.1 booleans (`yes`, `off`) and octal numbers (`0644`),
//! keys that are text in the end, one document.
//!
//! Aliases are followed within bounds: neither depth nor the number of nodes may explode.

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::tree::Builder;
use super::{DecodeError, Decoded};

/// Deepest nesting. Twice what the deepest definitions of custom kinds have, and little enough that the parser, which
/// calls itself for every level, stays far from the end of a task's stack.
const MAX_DEPTH: usize = 64;
/// Most nodes of one document; a body of 3 MiB has fewer unless aliases multiply them.
const MAX_NODES: usize = 1_500_000;

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        strict_booleans: false,
        ignore_binary_tag_for_string: true,
    }
}

/// Decodes one YAML document; an empty one is null.
///
/// # Errors
/// When the text is no YAML, has several documents, or grows beyond bounds.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|e| DecodeError::Utf8(e.valid_up_to()))?;
    let decoded = read(text, Builder::default())?;
    // Lines are looked for only where there is something to tell.
    if decoded.duplicates.is_empty() { Ok(decoded) } else { read(text, Builder::by_line()) }
}

fn read(text: &str, mut builder: Builder) -> Result<Decoded, DecodeError> {
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        builder.deserialize(deserializer)
    });
    match result {
        Ok(value) => Ok(Decoded { value, duplicates: builder.duplicates }),
        Err(error) => Err(DecodeError::Yaml(first_line(&error.to_string()))),
    }
}

/// The library's messages go on with a picture of the place.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// Encodes a tree, keys sorted, lists not indented below their key.
///
/// # Errors
/// Never for trees parsed from JSON or YAML.
pub fn encode(value: &Value) -> Result<String, DecodeError> {
    serde_saphyr::to_string(value).map_err(|e| DecodeError::Yaml(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        decode(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}")).value
    }

    #[test]
    fn scalars_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("a: yes", json!({"a": true})),
            ("a: Off", json!({"a": false})),
            ("a: 'yes'", json!({"a": "yes"})),
            ("a: 0644", json!({"a": 420})),
            ("a: 0x1F", json!({"a": 31})),
            ("a: 1.5", json!({"a": 1.5})),
            ("a: 100m", json!({"a": "100m"})),
            ("a: ~", json!({"a": null})),
            ("a:", json!({"a": null})),
            ("a: 2001-01-01", json!({"a": "2001-01-01"})),
            ("a: 1.2.3", json!({"a": "1.2.3"})),
            ("80: x", json!({"80": "x"})),
            ("a: |\n  one\n  two\n", json!({"a": "one\ntwo\n"})),
            ("{a: [1, 'b']}", json!({"a": [1, "b"]})),
            ("", Value::Null),
            ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
            ("a: &x {b: 1}\nc: {<<: *x, d: 2}", json!({"a": {"b": 1}, "c": {"b": 1, "d": 2}})),
            ("---\na: 1\n", json!({"a": 1})),
            ("{\"json\": true}", json!({"json": true})),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn duplicates_are_told() {
        let decoded = decode(b"a: 1\nb:\n- c: 1\n  c: 2\na: 2\n").unwrap();
        assert_eq!(decoded.value, json!({"a": 2, "b": [{"c": 2}]}));
        let lines = ["line 4: key \"c\" already set in map", "line 5: key \"a\" already set in map"];
        assert_eq!(decoded.duplicates, lines);
    }

    #[test]
    fn refusals() {
        for text in ["a: [1", "a: b: c", "a: *nope", "a: 1\n---\nb: 2\n"] {
            assert!(matches!(decode(text.as_bytes()), Err(DecodeError::Yaml(_))), "{text}");
        }
        assert_eq!(decode(b"a: \xff"), Err(DecodeError::Utf8(3)));
        assert!(decode("[".repeat(10_000).as_bytes()).is_err());
        let deep: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert!(decode(deep.as_bytes()).is_err());
    }

    #[test]
    fn alias_bombs_do_not_go_off() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..10 {
            let items = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        assert!(matches!(decode(bomb.as_bytes()), Err(DecodeError::Yaml(_))));
    }

    #[test]
    fn encoding_reads_well_and_comes_back() {
        let tree = json!({"b": ["x", {"k": "v", "m": 1}], "a": {"yes": "no", "t": "true", "num": "1", "nil": null},
            "text": "one\ntwo\n", "empty": {}, "none": [], "q": "a: b", "octal": "0644"});
        let text = encode(&tree).unwrap();
        assert_eq!(value(&text), tree);
        assert!(text.contains("b:\n- x\n- k: v\n  m: 1\n"), "{text}");
    }
}
