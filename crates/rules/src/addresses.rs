//! Addresses and ranges as people write them (`k8s.io/apimachinery/pkg/util/validation/ip.go`).
//!
//! Go once read octets with leading zeros, and IPv4 addresses in IPv6 clothes; others read such text as another address.
//! New objects may no longer hold it, and what is merely written in an unusual way is warned of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};

use crate::at::At;

/// Reads an address as Go's lenient parser does; an IPv4 address in IPv6 clothes is one of IPv4.
fn lenient(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return lenient_v4(text).map(IpAddr::V4);
    }
    // An embedded IPv4 address may have leading zeros as well.
    let (before, last) = text.rsplit_once(':')?;
    let embedded = if last.contains('.') { lenient_v4(last) } else { None };
    let plain = embedded.map_or_else(|| text.to_owned(), |v4| format!("{before}:{v4}"));
    let v6: Ipv6Addr = plain.parse().ok()?;
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

fn lenient_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let plain = part.trim_start_matches('0');
        *octet = if digits && plain.is_empty() { 0 } else { plain.parse().ok().filter(|_| digits)? };
    }
    parts.next().is_none().then_some(Ipv4Addr::from(octets))
}

/// The address before the slash, and the range.
fn lenient_range(text: &str) -> Option<(IpAddr, IpNet)> {
    let (address, bits) = text.split_once('/')?;
    let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let bits: u8 = bits.parse().ok().filter(|_| digits)?;
    let address_read = lenient(address)?;
    // In IPv6 clothes the bits count from the start of the clothes.
    let bits = if address.contains(':') && address_read.is_ipv4() { bits.checked_sub(96)? } else { bits };
    Some((address_read, IpNet::new(address_read, bits).ok()?.trunc()))
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// The address here must be one.
pub(crate) fn ip(at: &At<'_>, out: &mut FieldErrors) {
    let text = at.value.as_str().unwrap_or_default();
    match (lenient(text), text.parse()) {
        (None, _) => at.wrong("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", out),
        (_, Err(_)) => at.wrong("must not have leading 0s", out),
        (_, Ok(address)) if is_mapped(address) => at.wrong("must not be an IPv4-mapped IPv6 address", out),
        _ => {}
    }
}

/// The range of addresses here must be one.
pub(crate) fn cidr(at: &At<'_>, out: &mut FieldErrors) {
    range(&at.path, at.value.as_str().unwrap_or_default(), out);
}

/// `text` at `path` must be a range of addresses.
pub(crate) fn range(path: &FieldPath, text: &str, out: &mut FieldErrors) {
    let why = match (lenient_range(text), strict_range(text)) {
        (None, _) => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        (_, None) => "must not have leading 0s in IP or prefix length",
        (_, Some(range)) if is_mapped(range.addr()) => "must not have an IPv4-mapped IPv6 address",
        (_, Some(range)) if range.addr() != range.network() => "must not have bits set beyond the prefix length",
        _ => return,
    };
    out.push(FieldError::invalid(path, text, why));
}

fn strict_range(text: &str) -> Option<IpNet> {
    let bits = text.rsplit_once('/')?.1;
    if bits.len() > 1 && bits.starts_with('0') { None } else { text.parse().ok() }
}

/// Warns of an address that is written in an unusual way.
pub(crate) fn warn_ip(path: &FieldPath, text: &str, out: &mut Vec<String>) {
    let Some(meant) = lenient(text) else { return };
    match text.parse::<IpAddr>() {
        Ok(address) if !is_mapped(address) => {
            if address.is_ipv6() && address.to_string() != text {
                out.push(format!(
                    "{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({:?})",
                    address.to_string()
                ));
            }
        }
        _ => out.push(format!("{path}: non-standard IP address {text:?} is invalid: use {:?}", meant.to_string())),
    }
}

/// Warns of a range that is written in an unusual way.
pub(crate) fn warn_cidr(path: &FieldPath, text: &str, out: &mut Vec<String>) {
    let Some((address, range)) = lenient_range(text) else { return };
    let (before, shown) = (out.len(), range.to_string());
    if address != range.network() {
        let single = format!("{address}/{}", range.max_prefix_len());
        out.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {shown:?} or {single:?}?)"
        ));
    }
    let strict = strict_range(text).filter(|range| !is_mapped(range.addr()));
    match strict {
        None => out.push(format!("{path}: non-standard CIDR value {text:?} is invalid: use {shown:?}")),
        Some(IpNet::V6(_)) if out.len() == before && shown != text => {
            out.push(format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({shown:?})"));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses() {
        for (text, fault, warning) in [
            ("10.0.0.1", "", ""),
            ("2001:db8::1", "", ""),
            (
                "2001:DB8:0::1",
                "",
                "a: IPv6 address \"2001:DB8:0::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
            ),
            (
                "010.0.0.1",
                "must not have leading 0s",
                "a: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\"",
            ),
            (
                "::ffff:1.2.3.4",
                "must not be an IPv4-mapped IPv6 address",
                "a: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"",
            ),
            ("1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", ""),
            ("1.2.3.+4", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", ""),
            ("fe80::1%eth0", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", ""),
        ] {
            check(text, fault, warning, ip, warn_ip);
        }
    }

    #[test]
    fn ranges() {
        for (text, fault, warning) in [
            ("10.0.0.0/8", "", ""),
            (
                "2001:db8:0::/48",
                "",
                "a: IPv6 CIDR value \"2001:db8:0::/48\" should be in RFC 5952 canonical format (\"2001:db8::/48\")",
            ),
            (
                "10.0.0.1/8",
                "must not have bits set beyond the prefix length",
                "a: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
            ),
            (
                "10.0.0.0/08",
                "must not have leading 0s in IP or prefix length",
                "a: non-standard CIDR value \"10.0.0.0/08\" is invalid: use \"10.0.0.0/8\"",
            ),
            (
                "::ffff:10.0.0.0/104",
                "must not have an IPv4-mapped IPv6 address",
                "a: non-standard CIDR value \"::ffff:10.0.0.0/104\" is invalid: use \"10.0.0.0/8\"",
            ),
            ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)", ""),
            (" 10.0.0.0/8", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)", ""),
        ] {
            check(text, fault, warning, cidr, warn_cidr);
        }
    }

    fn check(
        text: &str,
        fault: &str,
        warning: &str,
        judge: fn(&At<'_>, &mut FieldErrors),
        warn: fn(&FieldPath, &str, &mut Vec<String>),
    ) {
        let object = json!({"a": text});
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        judge(&At::member(&object, "a"), &mut faults);
        warn(&FieldPath::new("a"), text, &mut warnings);
        let faults: Vec<_> = faults.iter().map(|f| f.message.rsplit_once("\": ").map_or("", |(_, why)| why)).collect();
        assert_eq!((faults.join("|"), warnings.join("|")), (fault.to_owned(), warning.to_owned()), "{text}");
    }
}
