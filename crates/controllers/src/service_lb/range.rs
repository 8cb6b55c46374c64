//! A range of addresses, from one to another.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4AddrRange, Ipv6AddrRange};

/// Addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// `192.0.2.0/28`, `192.0.2.10-192.0.2.20` or a single address; `None` for what is none of it.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = match text.trim().split_once('-') {
            Some((first, last)) => (first.trim().parse().ok()?, last.trim().parse().ok()?),
            None => match text.trim().parse::<IpNet>() {
                Ok(net) => (net.network(), net.broadcast()),
                Err(_) => text.trim().parse().ok().map(|one: IpAddr| (one, one))?,
            },
        };
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether they are of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// All of them.
    pub fn addresses(&self) -> Box<dyn Iterator<Item = IpAddr>> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Box::new(Ipv4AddrRange::new(first, last).map(IpAddr::V4)),
            (IpAddr::V6(first), IpAddr::V6(last)) => Box::new(Ipv6AddrRange::new(first, last).map(IpAddr::V6)),
            _ => Box::new(std::iter::empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_three_forms() {
        let all = |text: &str| {
            AddressRange::parse(text).map(|range| range.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>())
        };
        let strings = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(all("192.0.2.8/31"), strings(&["192.0.2.8", "192.0.2.9"]));
        assert_eq!(all("192.0.2.8 - 192.0.2.10"), strings(&["192.0.2.8", "192.0.2.9", "192.0.2.10"]));
        assert_eq!(all("2001:db8::7"), strings(&["2001:db8::7"]));
        for text in ["", "192.0.2.9-192.0.2.8", "192.0.2.1-2001:db8::1", "192.0.2.0/33", "x"] {
            assert_eq!(all(text), None, "{text}");
        }
        let range = AddressRange::parse("192.0.2.8/30").unwrap();
        assert!(range.contains("192.0.2.11".parse().unwrap()) && !range.contains("192.0.2.12".parse().unwrap()));
        assert!(!range.contains("2001:db8::1".parse().unwrap()));
    }
}
