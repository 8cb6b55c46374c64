//! YAML as kubectl writes it: sorted keys, list items not indented, long text as blocks.

use serde_json::Value;

/// A document, ending in a newline.
pub fn emit(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { indent_step: 2, compact_list_indent: true };
    let mut text = serde_saphyr::to_string_with_options(value, options).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// All documents of a stream of YAML, or of JSON, where nothing need stand between them.
///
/// # Errors
/// A line that says where the text is not YAML.
pub fn parse_all(text: &str) -> Result<Vec<Value>, String> {
    if text.trim_start().starts_with('{') {
        let documents = serde_json::Deserializer::from_str(text).into_iter();
        if let Ok(documents) = documents.collect() {
            return Ok(documents);
        }
        // YAML may begin so too, and JSON be divided as YAML is.
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| e.to_string())?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn form() {
        let value = json!({"b": [{"name": "x", "n": 1}], "a": "true", "c": {}, "t": "one\ntwo\n"});
        assert_eq!(emit(&value), "a: \"true\"\nb:\n- \"n\": 1\n  name: x\nc: {}\nt: |\n  one\n  two\n");
    }

    #[test]
    fn round_trip() {
        let value = json!({"s": ["", "null", "1.0", "0x1f", "yes", ": ", "- x", "#", "a: b", "'", "\"", " lead", "trail ", "é", "\t", "a\nb"], "n": null, "f": 1.5});
        assert_eq!(parse_all(&emit(&value)).unwrap(), [value]);
    }

    #[test]
    fn several_documents() {
        assert_eq!(parse_all("---\na: 1\n---\n---\nb: 2\n").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert!(parse_all("a: [").is_err());
        let two = [json!({"a": 1}), json!({"b": 2})];
        for text in
            ["{\"a\": 1}\n{\"b\": 2}", "{\"a\":1}{\"b\":2}\n", "{\"a\": 1}\n---\n{\"b\": 2}", "{a: 1}\n---\nb: 2"]
        {
            assert_eq!(parse_all(text).unwrap(), two, "{text}");
        }
    }
}
