//! Go's words for values that cannot become something else, where clients get to read them.

use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

use skiff_meta::GroupVersionKind;
use skiff_meta::check::{Misfit, Shape};

/// `apps/v1`, and `/v1` of the group without a name.
pub(crate) fn group_version(gvk: &GroupVersionKind) -> String {
    format!("{}/{}", gvk.group, gvk.version)
}

/// What Go calls the book of kinds that a group is in.
pub(crate) fn scheme(group: &str) -> &'static str {
    match group {
        "apiextensions.k8s.io" => "k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go:55",
        "apiregistration.k8s.io" => "k8s.io/kube-aggregator/pkg/apiserver/scheme/scheme.go:28",
        _ => "pkg/api/legacyscheme/scheme.go:30",
    }
}

/// A kind that nobody knows.
pub(crate) fn no_kind(kind: &str, version: &str, group: &str) -> String {
    let version = version.strip_prefix('/').unwrap_or(version);
    format!("no kind {kind:?} is registered for version {version:?} in scheme {:?}", scheme(group))
}

/// Why a tree does not go into Go's structs without a detour by JSON (upstream: `runtime/converter.go`).
pub(crate) fn unconvertible(misfit: &Misfit) -> String {
    let Misfit::Type { found, expected, shape, fraction, .. } = misfit else {
        let why = misfit.to_string();
        return if why.starts_with("illegal base64") { format!("error decoding from json: {why}") } else { why };
    };
    let from = match found.split(' ').next().unwrap_or_default() {
        "number" if *fraction => "float64",
        "number" => "int64",
        "array" => "slice",
        "object" => "map",
        word => word,
    };
    match shape {
        Shape::Plain("string") if from == "int64" => format!("cannot convert int64 to {expected}"),
        Shape::Plain("int32" | "int64") if from == "float64" => format!("cannot convert float64 to {expected}"),
        // Go takes the lower bits.
        Shape::Plain("int32" | "int64") if from == "int64" => format!("{found} does not fit into {expected}"),
        Shape::Plain(plain) => format!("unrecognized type: {plain}"),
        Shape::Slice => format!("cannot restore slice from {from}"),
        Shape::Map => format!("cannot restore map from {from}"),
        Shape::Struct => format!("cannot restore struct from: {from}"),
        Shape::Own => format!("json: cannot unmarshal {found} into Go value of type {expected}"),
    }
}

/// Why a text is no number, by the name of Go's function.
pub(crate) fn no_number(function: &str, text: &str, why: &ParseIntError) -> String {
    let why = match why.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {text:?}: {why}")
}

/// A length of time as Go reads it (`1m30s`, `500ms`); `None` for an empty text.
///
/// # Errors
/// Go's words for what is none. Negative ones count as nothing.
pub(crate) fn duration(text: &str) -> Result<Option<Duration>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let invalid = || format!("time: invalid duration {text:?}");
    match rest {
        "" => return Err(invalid()),
        "0" => return Ok(Some(Duration::ZERO)),
        _ => {}
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        seconds += number
            * match unit {
                "ns" => 1e-9,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
            };
        rest = after;
    }
    if negative {
        return Ok(Some(Duration::ZERO));
    }
    Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_fail_in_go_s_words() {
        let misfit = |found: &str, expected: &str, shape| Misfit::Type {
            found: found.to_owned(),
            place: String::new(),
            expected: expected.to_owned(),
            shape,
            fraction: found == "number 1.5",
        };
        for (found, expected, shape, words) in [
            ("string", "int32", Shape::Plain("int32"), "unrecognized type: int32"),
            ("number 1.5", "int32", Shape::Plain("int32"), "cannot convert float64 to int32"),
            ("number 2147483648", "int32", Shape::Plain("int32"), "number 2147483648 does not fit into int32"),
            ("number", "v1.PodPhase", Shape::Plain("string"), "cannot convert int64 to v1.PodPhase"),
            ("number 1.5", "v1.PodSpec", Shape::Struct, "cannot restore struct from: float64"),
            ("number 1.5", "v1.PodPhase", Shape::Plain("string"), "unrecognized type: string"),
            ("string", "[]v1.Container", Shape::Slice, "cannot restore slice from string"),
            ("array", "map[string]string", Shape::Map, "cannot restore map from slice"),
            ("bool", "v1.ResourceList", Shape::Map, "cannot restore map from bool"),
            ("string", "v1.PodSpec", Shape::Struct, "cannot restore struct from: string"),
            ("array", "int32", Shape::Own, "json: cannot unmarshal array into Go value of type int32"),
        ] {
            assert_eq!(unconvertible(&misfit(found, expected, shape)), words);
        }
    }

    #[test]
    fn lengths_of_time() {
        for (text, millis) in [("1m30s", 90_000), ("500ms", 500), ("1.5h", 5_400_000), ("0", 0), ("-3s", 0)] {
            assert_eq!(duration(text), Ok(Some(Duration::from_millis(millis))), "{text}");
        }
        let cases = [
            ("10", "time: missing unit in duration \"10\""),
            ("abc", "time: invalid duration \"abc\""),
            ("+", "time: invalid duration \"+\""),
            ("3x", "time: unknown unit \"x\" in duration \"3x\""),
        ];
        for (text, why) in cases {
            assert_eq!(duration(text), Err(why.to_owned()));
        }
    }
}
