//! Formats of strings (`k8s.io/kube-openapi/pkg/validation/strfmt` upstream). Formats that are not known here are not
//! checked, as upstream ignores those it does not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::civil::Date;
use regex::Regex;
use skiff_meta::names;

const NAMES: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// `date-time` and `datetime` are the same.
fn plain(format: &str) -> String {
    format.replace('-', "")
}

/// Whether strings of this format are checked.
pub(super) fn is_known(format: &str) -> bool {
    NAMES.contains(&&*plain(format))
}

/// Whether the text is of the format; true for formats not known.
pub(super) fn fits(format: &str, text: &str) -> bool {
    match &*plain(format) {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "date" => text.len() == 10 && text.parse::<Date>().is_ok(),
        "datetime" => text.parse::<Timestamp>().is_ok(),
        "uri" => is_uri(text),
        "hostname" => text.len() <= 255 && matches(text, r"^([a-zA-Z0-9-]{1,63}\.)*[a-zA-Z0-9-]{1,63}\.?$", 0),
        "email" => matches(text, r"^[^@\s<>]+@[^@\s<>]+$", 1),
        "mac" => matches(text, r"^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}(([:-][0-9a-fA-F]{2}){2})?$", 2),
        "byte" => matches(text, r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$", 3),
        "duration" => matches(
            text,
            r"(?i)^([+-]?(\d+(\.\d*)?|\.\d+)\s*(ns|us|µs|ms|s|m|h|d|w|(nano|micro|milli)?s(ec(ond)?s?)?|min(ute)?s?|hours?|days?|weeks?)\s*)+$|^0$",
            4,
        ),
        "hexcolor" => matches(text, "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", 5),
        "rgbcolor" => matches(text, r"^rgb\(\s*(\d{1,3}\s*,\s*){2}\d{1,3}\s*\)$", 6),
        "ssn" => matches(text, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", 7),
        "bsonobjectid" => matches(text, "^[0-9a-fA-F]{24}$", 8),
        "uuid" => matches(text, "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$", 9),
        "uuid3" => matches(text, "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$", 10),
        "uuid4" => matches(text, "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$", 11),
        "uuid5" => matches(text, "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$", 12),
        "k8sshortname" => names::dns1123_label(text).is_empty(),
        "k8slongname" => names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// Each expression is compiled once, in the slot it names.
fn matches(text: &str, expression: &str, slot: usize) -> bool {
    static COMPILED: [OnceLock<Option<Regex>>; 13] = [const { OnceLock::new() }; 13];
    let compiled = COMPILED.get(slot).and_then(|c| c.get_or_init(|| Regex::new(expression).ok()).as_ref());
    compiled.is_some_and(|regex| regex.is_match(text))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// A scheme and something after it, or a path from the root.
fn is_uri(text: &str) -> bool {
    let clean = !text.bytes().any(|b| b <= b' ' || b == 0x7f);
    let scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
            && !rest.is_empty()
    });
    clean && (text.starts_with('/') || scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-02-29T12:00:00Z", "2024-02-29"),
            ("uri", "https://a/b", "a b"),
            ("hostname", "a.example.com", "a_b"),
            ("email", "a@b.c", "a"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("byte", "AAEC", "A"),
            ("duration", "1m30s", "soon"),
            ("hexcolor", "#fff", "#ff"),
            ("rgbcolor", "rgb(1,2,3)", "rgb(1,2)"),
            ("ssn", "123-45-6789", "1"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e"),
            ("uuid3", "123e4567-e89b-32d3-a456-426614174000", "123e4567-e89b-42d3-a456-426614174000"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("uuid5", "123e4567-e89b-52d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("k8s-short-name", "abc", "a.b"),
            ("k8s-long-name", "a.b", "A"),
        ] {
            assert!(is_known(format), "{format}");
            assert!(fits(format, good), "{format} {good}");
            assert!(!fits(format, bad), "{format} {bad}");
        }
        assert!(!is_known("isbn") && fits("isbn", "x"));
    }
}
