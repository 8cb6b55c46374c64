//! Ranges of addresses, as flags give them: one, or one of each family.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::StartError;

/// A shorter prefix of IPv6 than this has more addresses for Services than anybody counts.
const SHORTEST_V6: u8 = 64;
/// Nodes' ranges in the pods' range of IPv6, at most: 2 to the power of this.
const MOST_NODES_V6: u8 = 16;

fn wrong(flag: &'static str, text: &str, why: impl Into<String>) -> StartError {
    StartError::Flag { flag, value: text.to_owned(), why: why.into() }
}

/// The ranges of a flag, the primary one first.
pub(crate) fn parse(flag: &'static str, text: &str) -> Result<Vec<IpNet>, StartError> {
    let one = |part: &str| part.trim().parse::<IpNet>().map(|range| range.trunc());
    let ranges: Vec<IpNet> =
        text.split(',').map(one).collect::<Result<_, _>>().map_err(|_| {
            wrong(flag, text, "is no range of addresses, such as 10.43.0.0/16 or 10.43.0.0/16,fd43::/112")
        })?;
    match ranges[..] {
        [_] => Ok(ranges),
        [one, two] if one.network().is_ipv4() != two.network().is_ipv4() => Ok(ranges),
        _ => Err(wrong(flag, text, "may be one range, or one of IPv4 and one of IPv6")),
    }
}

/// `--service-cidr`.
pub(crate) fn services(text: &str) -> Result<Vec<IpNet>, StartError> {
    let ranges = parse("service-cidr", text)?;
    if ranges.iter().any(|range| range.network().is_ipv6() && range.prefix_len() < SHORTEST_V6) {
        return Err(wrong("service-cidr", text, "the prefix of an IPv6 range has at least 64 bits"));
    }
    Ok(ranges)
}

/// `--cluster-cidr`, with the length of a node's prefix of each family.
pub(crate) fn pods(text: &str, v4: u8, v6: u8) -> Result<Vec<skiff_controllers::PodRange>, StartError> {
    let mut ranges = Vec::new();
    for range in parse("cluster-cidr", text)? {
        let (flag, node_prefix) = match range {
            IpNet::V4(_) => ("node-cidr-mask-size-ipv4", v4),
            IpNet::V6(_) => ("node-cidr-mask-size-ipv6", v6),
        };
        if node_prefix > range.max_prefix_len() {
            return Err(wrong(flag, &node_prefix.to_string(), "is longer than an address"));
        }
        if matches!(range, IpNet::V6(_)) && node_prefix.saturating_sub(range.prefix_len()) > MOST_NODES_V6 {
            let why = format!("divides {range} into too many ranges; 16 bits is the most that it may be longer");
            return Err(wrong(flag, &node_prefix.to_string(), why));
        }
        ranges.push(skiff_controllers::PodRange { range, node_prefix });
    }
    Ok(ranges)
}

/// `--node-ip`, the main one first; without it: `own`.
pub(crate) fn node_ips(given: &[IpAddr], own: impl FnOnce() -> IpAddr) -> Result<Vec<IpAddr>, StartError> {
    match *given {
        [] => Ok(vec![own()]),
        [_] => Ok(given.to_vec()),
        [one, two] if one.is_ipv4() != two.is_ipv4() => Ok(given.to_vec()),
        _ => {
            let text = given.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            Err(wrong("node-ip", &text, "may be one address, or one of IPv4 and one of IPv6"))
        }
    }
}

/// `--load-balancer-pool`.
pub(crate) fn pool(texts: &[String]) -> Result<Vec<skiff_controllers::AddressRange>, StartError> {
    let why = "is no range of addresses, such as 192.0.2.64/28 or 192.0.2.10-192.0.2.20";
    let one = |text: &String| {
        skiff_controllers::AddressRange::parse(text).ok_or_else(|| wrong("load-balancer-pool", text, why))
    };
    texts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_or_one_of_each_family() {
        for (text, count) in [
            ("10.43.0.0/16", Some(1)),
            ("10.43.0.0/16,fd43::/112", Some(2)),
            ("fd43::/64,10.43.0.0/16", Some(2)),
            ("10.43.0.0/16,10.44.0.0/16", None),
            ("10.43.0.0/16,fd43::/112,fd44::/112", None),
            ("nonsense", None),
            ("", None),
            ("10.43.0.0/16,", None),
            ("fd43::/63", None),
        ] {
            assert_eq!(services(text).ok().map(|ranges| ranges.len()), count, "{text}");
        }
    }

    #[test]
    fn one_address_or_one_of_each_family() {
        let own: IpAddr = "10.0.0.9".parse().expect("an address");
        for (given, expected) in [
            ("", Some("10.0.0.9")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("fd00::1,10.0.0.1", Some("fd00::1,10.0.0.1")),
            ("10.0.0.1,10.0.0.2", None),
            ("10.0.0.1,fd00::1,fd00::2", None),
        ] {
            let parse = |text: &str| -> Vec<IpAddr> { text.split(',').filter_map(|one| one.parse().ok()).collect() };
            assert_eq!(node_ips(&parse(given), || own).ok(), expected.map(parse), "{given}");
        }
    }

    #[test]
    fn nodes_divide_the_range_of_pods() {
        for (text, v6, fits) in [
            ("10.42.0.0/16", 64, true),
            ("10.42.0.0/16,fd42::/48", 64, true),
            ("fd42::/47", 64, false),
            ("fd42::/47", 63, true),
        ] {
            assert_eq!(pods(text, 24, v6).is_ok(), fits, "{text} {v6}");
        }
        assert!(pods("10.42.0.0/16", 33, 64).is_err());
    }
}
