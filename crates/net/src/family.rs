//! Address families: what differs between IPv4 and IPv6.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a range.
    pub fn of_range(range: IpNet) -> Self {
        Self::of(range.addr())
    }

    /// What nftables calls the family, and its header: `ip` or `ip6`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// What nftables calls an address of it.
    pub(crate) fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }

    /// How nftables finds the protocol above it.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::V4 => "ip protocol",
            Self::V6 => "ip6 nexthdr",
        }
    }

    /// Addresses of the machine itself, which never leave it.
    pub(crate) fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1",
        }
    }

    /// Addresses of many at once, and of one wire only: never to be masqueraded.
    pub(crate) fn unrouted(self) -> &'static str {
        match self {
            Self::V4 => "224.0.0.0/4",
            Self::V6 => "ff00::/8, fe80::/10",
        }
    }

    /// No address, which is all of them where one listens.
    pub(crate) fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// All addresses.
    pub(crate) fn everything(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }
}

/// As EndpointSlices and Services name it.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The families of ranges, each once, in their order.
pub(crate) fn families<'a>(ranges: impl IntoIterator<Item = &'a IpNet>) -> Vec<Family> {
    let mut found = Vec::new();
    for family in ranges.into_iter().map(|range| Family::of_range(*range)) {
        if !found.contains(&family) {
            found.push(family);
        }
    }
    found
}

/// The range of `ranges` that is of `family`.
pub(crate) fn of_family(ranges: &[IpNet], family: Family) -> Option<IpNet> {
    ranges.iter().copied().find(|range| Family::of_range(*range) == family)
}

/// The address `steps` after `address`; stays at the last one.
pub(crate) fn after(address: IpAddr, steps: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).saturating_add(steps).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).saturating_add(steps.into()).into()),
    }
}
