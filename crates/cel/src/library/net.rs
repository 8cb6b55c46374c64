//! Addresses and networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Function;
use crate::error::Error;
use crate::value::{Evaluated, Special, Value};

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "isIP" => |args| Ok(Value::Bool(parse_ip(text(args)?).is_ok())),
        "ip.isCanonical" => |args| {
            let text = text(args)?;
            let ip = parse_ip(text).map_err(Error::new)?;
            Ok(Value::Bool(ip.to_string() == text))
        },
        "family" => |args| Ok(Value::Int(if of_ip(args)?.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |args| Ok(Value::Bool(of_ip(args)?.is_unspecified())),
        "isLoopback" => |args| Ok(Value::Bool(of_ip(args)?.is_loopback())),
        "isLinkLocalMulticast" => |args| {
            Ok(Value::Bool(match of_ip(args)? {
                IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
                IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
            }))
        },
        "isLinkLocalUnicast" => |args| Ok(Value::Bool(is_link_local(of_ip(args)?))),
        "isGlobalUnicast" => |args| {
            let ip = of_ip(args)?;
            let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
            let local = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip);
            Ok(Value::Bool(!broadcast && !local))
        },
        "cidr" => |args| Ok(Special::Cidr(parse_cidr(text(args)?).map_err(Error::new)?).into()),
        "isCIDR" => |args| Ok(Value::Bool(parse_cidr(text(args)?).is_ok())),
        "containsIP" => |args| {
            let ip = match args.get(1) {
                Some(Value::String(text)) => parse_ip(text).map_err(Error::new)?,
                _ => of_ip(args.get(1..).unwrap_or_default())?,
            };
            Ok(Value::Bool(of_net(args)?.contains(&ip)))
        },
        "containsCIDR" => |args| {
            let other = match args.get(1) {
                Some(Value::String(text)) => parse_cidr(text).map_err(Error::new)?,
                _ => of_net(args.get(1..).unwrap_or_default())?,
            };
            let net = of_net(args)?;
            Ok(Value::Bool(net.prefix_len() <= other.prefix_len() && net.contains(&other.addr())))
        },
        "prefixLength" => |args| Ok(Value::Int(i64::from(of_net(args)?.prefix_len()))),
        "masked" => |args| Ok(Special::Cidr(of_net(args)?.trunc()).into()),
        _ => return None,
    })
}

/// `ip(text)`, and `ip()` of a network.
pub(super) fn ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Special::Ip(parse_ip(text).map_err(Error::new)?).into()),
        [Value::Library(_)] => Ok(Special::Ip(of_net(args)?.addr()).into()),
        _ => Err(Error::no_overload()),
    }
}

fn text<'x>(args: &'x [Value<'_>]) -> Result<&'x str, Error> {
    match args {
        [Value::String(text)] => Ok(text),
        _ => Err(Error::no_overload()),
    }
}

fn of_ip(args: &[Value<'_>]) -> Result<IpAddr, Error> {
    match args.first() {
        Some(Value::Library(special)) => match &**special {
            Special::Ip(ip) => Ok(*ip),
            _ => Err(Error::no_overload()),
        },
        _ => Err(Error::no_overload()),
    }
}

fn of_net(args: &[Value<'_>]) -> Result<IpNet, Error> {
    match args.first() {
        Some(Value::Library(special)) => match &**special {
            Special::Cidr(net) => Ok(*net),
            _ => Err(Error::no_overload()),
        },
        _ => Err(Error::no_overload()),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_mapped(ip: &Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse() {
        Ok(IpAddr::V6(ip)) if is_mapped(&ip) => Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed")),
        Ok(ip) => Ok(ip),
        Err(_) => {
            let go = format!("ParseAddr({text:?}): unable to parse IP");
            Err(format!("IP Address {text:?} parse error during conversion from string: {go}"))
        }
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let failed = |why: &str| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}")
    };
    let Some((address, length)) = text.split_once('/') else { return Err(failed("no '/'")) };
    let ip: IpAddr = address.parse().map_err(|_| failed(&format!("ParseAddr({address:?}): unable to parse IP")))?;
    if matches!(ip, IpAddr::V6(ip) if is_mapped(&ip)) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    let canonical = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let length: u8 = length.parse().ok().filter(|_| canonical).ok_or_else(|| failed("bad bits after slash"))?;
    IpNet::new(ip, length).map_err(|_| failed("prefix length out of range"))
}
