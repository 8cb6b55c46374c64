//! Go's words for values that cannot become something else, where clients get to read them.

use skiff_meta::check::Misfit;

/// Why a tree does not go into Go's structs without a detour by JSON (upstream: `runtime/converter.go`).
pub(crate) fn unconvertible(misfit: &Misfit) -> String {
    let Misfit::Type { found, expected, .. } = misfit else { return misfit.to_string() };
    let from = match found.split(' ').next().unwrap_or_default() {
        "number" => "int64",
        "array" => "[]interface {}",
        "object" => "map[string]interface {}",
        word => word,
    };
    match expected.as_str() {
        "string" if from == "int64" => "cannot convert int64 to string".to_owned(),
        "string" | "int32" | "int64" | "float64" | "bool" => format!("unrecognized type: {expected}"),
        list if list.starts_with("[]") => format!("cannot restore slice from {}", kind_of(from)),
        map if map.starts_with("map[") => format!("cannot restore map from {}", kind_of(from)),
        custom if from == "int64" || custom.contains("Quantity") => misfit.to_string(),
        _ => format!("cannot restore struct from: {}", kind_of(from)),
    }
}

fn kind_of(go_type: &str) -> &str {
    match go_type {
        "[]interface {}" => "slice",
        "map[string]interface {}" => "map",
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_fail_in_go_s_words() {
        let misfit = |found: &str, expected: &str| Misfit::Type {
            found: found.to_owned(),
            place: String::new(),
            expected: expected.to_owned(),
        };
        for (found, expected, words) in [
            ("string", "int32", "unrecognized type: int32"),
            ("number", "string", "cannot convert int64 to string"),
            ("string", "[]v1.Container", "cannot restore slice from string"),
            ("array", "map[string]string", "cannot restore map from slice"),
            ("string", "v1.PodSpec", "cannot restore struct from: string"),
        ] {
            assert_eq!(unconvertible(&misfit(found, expected)), words);
        }
    }
}
