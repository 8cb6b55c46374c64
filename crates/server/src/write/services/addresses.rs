//! Cluster addresses: from every ServiceCIDR that is ready, whoever made it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::{GroupResource, Object, Status};

use super::{Claims, addresses_id, families, invalid, is_headless, kind};
use crate::api::Api;
use crate::call::Call;
use crate::config::nth;
use crate::tree;

/// Random tries before all candidates are walked through.
const TRIES: usize = 64;
/// Addresses of a range that are looked at, at most.
const LOOKED_AT: u128 = u32::MAX as u128;

/// Gives the Service the addresses it is to have and does not have yet.
pub(super) fn give(call: &Call, service: &mut Value, old: Option<&Value>, before: &Claims) -> Result<(), Status> {
    let wanted = wanted(service, old);
    if wanted.is_empty() {
        return Ok(());
    }
    let ranges = ranges(&call.api);
    let name = tree::text(service, &["metadata", "name"]).to_owned();
    let mut addresses: Vec<String> = families::list(service, "clusterIPs").into_iter().map(str::to_owned).collect();
    for (at, family) in wanted {
        let mut ranges = ranges.iter().filter(|range| families::of(&range.to_string()) == family);
        let taken = |address: &str| {
            !before.addresses.contains(address) && call.api.view.get(&addresses_id(), "", address).is_some()
        };
        let Some(given) = addresses.get(at).filter(|given| !given.is_empty()) else {
            let random = || call.api.world.random();
            let free = ranges.find_map(|range| free(*range, random, taken)).ok_or_else(|| {
                Status::internal(format!("failed to allocate a serviceIP for Service {name:?}: range is full"))
            })?;
            addresses.truncate(at);
            addresses.push(free.to_string());
            continue;
        };
        if let Some(why) = unusable(ranges, given, taken) {
            let why = format!("failed to allocate IP {given}: {why}");
            let fault = FieldError::invalid(&FieldPath::new("spec.clusterIPs"), json!(addresses), &why);
            return Err(invalid(service, &[fault]));
        }
    }
    let spec = tree::child(service, "spec");
    spec.insert("clusterIP".to_owned(), json!(addresses[0]));
    spec.insert("clusterIPs".to_owned(), json!(addresses));
    Ok(())
}

/// The places in `clusterIPs` that are to be filled, with their families: all of a Service that had none, and the second
/// of one that gets another family.
fn wanted(service: &Value, old: Option<&Value>) -> Vec<(usize, &'static str)> {
    if kind(service) == "ExternalName" || is_headless(service) {
        return Vec::new();
    }
    let all = families::list(service, "ipFamilies").into_iter().map(families::named).enumerate();
    let Some(old) = old.filter(|old| kind(old) != "ExternalName") else { return all.collect() };
    let upgraded = !is_headless(old) && families::list(old, "ipFamilies").len() == 1;
    all.filter(|(at, _)| upgraded && *at == 1).collect()
}

/// Where addresses come from now: the ranges of all ServiceCIDRs that are ready and stay, that of the server's own flags
/// first; before any is written, the flags' alone.
fn ranges(api: &Api) -> Vec<IpNet> {
    let objects = api.view.list(&GroupResource::new("networking.k8s.io", "servicecidrs"), "");
    let own = &api.config.service_cidrs;
    if objects.is_empty() {
        return own.clone();
    }
    let mut ranges: Vec<IpNet> = objects.iter().flat_map(|object| ready(object)).collect();
    ranges.sort_by_key(|range| !own.contains(range));
    ranges
}

fn ready(object: &Object) -> Vec<IpNet> {
    let Some(object) = object.to_value().ok().filter(|_| object.meta().deletion_timestamp.is_none()) else {
        return Vec::new();
    };
    let conditions = tree::at(&object, &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    // Where no controller runs, nobody says so.
    let says = conditions.into_iter().find(|c| tree::text(c, &["type"]) == "Ready");
    if says.is_some_and(|condition| tree::text(condition, &["status"]) != "True") {
        return Vec::new();
    }
    tree::texts(&object, &["spec", "cidrs"]).into_iter().filter_map(|range| range.parse().ok()).collect()
}

/// Why an address somebody asked for cannot be had.
fn unusable<'a>(
    mut ranges: impl Iterator<Item = &'a IpNet>,
    given: &str,
    taken: impl Fn(&str) -> bool,
) -> Option<&'static str> {
    // What is no address at all is for validation to tell.
    let address: IpAddr = given.parse().ok()?;
    if !ranges.any(|range| contains(*range, address)) {
        return Some("the provided network does not match the current range");
    }
    taken(&address.to_string()).then_some("provided IP is already allocated")
}

/// Neither the address of the network itself nor, with IPv4, the one for broadcasts is given out.
fn contains(range: IpNet, address: IpAddr) -> bool {
    range.contains(&address) && address != range.network() && (address.is_ipv6() || address != range.broadcast())
}

/// A free address: by chance from the upper part of the range, since people pick from the lower one by hand.
fn free(range: IpNet, random: impl Fn() -> u64, taken: impl Fn(&str) -> bool) -> Option<IpAddr> {
    let all = 1u128.checked_shl(u32::from(range.max_prefix_len() - range.prefix_len())).unwrap_or(u128::MAX);
    let reserved = if all <= 16 { 0 } else { (all / 16).clamp(16, 256) };
    let size = all.saturating_sub(if range.network().is_ipv4() { 2 } else { 1 });
    let dynamic = size.saturating_sub(reserved);
    if dynamic == 0 {
        return None;
    }
    let free = |offset: u128| Some(nth(range, 1 + offset)).filter(|a| !taken(&a.to_string()));
    let by_chance = (0..TRIES).find_map(|_| free(reserved + u128::from(random()) % dynamic));
    by_chance.or_else(|| (reserved..size.min(LOOKED_AT)).chain(0..reserved).find_map(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_come_from_the_upper_part_first() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let chosen = |range: &str, taken: &[&str]| {
            free(net(range), || 0, |a| taken.contains(&a)).map(|address| address.to_string())
        };
        let upper: Vec<String> = (17..31).map(|i| format!("10.0.0.{i}")).collect();
        let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
        for (range, taken, expected) in [
            ("10.0.0.0/27", &[][..], Some("10.0.0.17")),
            ("10.0.0.0/27", &["10.0.0.17"], Some("10.0.0.18")),
            ("10.0.0.0/27", &upper, Some("10.0.0.1")),
            ("10.0.0.0/30", &["10.0.0.1"], Some("10.0.0.2")),
            ("10.0.0.0/30", &["10.0.0.1", "10.0.0.2"], None),
            ("10.0.0.0/32", &[], None),
            ("fd00::/126", &["fd00::1", "fd00::2"], Some("fd00::3")),
            ("fd00::/64", &[], Some("fd00::101")),
        ] {
            assert_eq!(chosen(range, taken).as_deref(), expected, "{range}");
        }
    }

    #[test]
    fn addresses_asked_for() {
        let ranges = ["10.0.0.0/24", "10.0.2.0/24", "fd00::/120"].map(|range| range.parse().unwrap());
        let elsewhere = Some("the provided network does not match the current range");
        for (given, expected) in [
            ("10.0.0.5", None),
            ("10.0.2.5", None),
            ("10.0.1.5", elsewhere),
            ("10.0.0.0", elsewhere),
            ("10.0.0.255", elsewhere),
            ("fd00::", elsewhere),
            ("fd00::ff", None),
            ("FD00::0:7", Some("provided IP is already allocated")),
        ] {
            assert_eq!(unusable(ranges.iter(), given, |a| a == "fd00::7"), expected, "{given}");
        }
    }

    #[test]
    fn which_places_are_filled() {
        let service = |spec: Value| json!({"spec": spec});
        let (four, both) = (json!({"ipFamilies": ["IPv4"]}), json!({"ipFamilies": ["IPv6", "IPv4"]}));
        let name = json!({"type": "ExternalName"});
        let headless = json!({"clusterIP": "None", "ipFamilies": ["IPv4"]});
        for (new, old, expected) in [
            (&both, None, vec![(0, "IPv6"), (1, "IPv4")]),
            (&four, Some(&name), vec![(0, "IPv4")]),
            (&both, Some(&four), vec![(1, "IPv4")]),
            (&four, Some(&both), vec![]),
            (&both, Some(&headless), vec![]),
            (&headless, None, vec![]),
            (&name, Some(&both), vec![]),
        ] {
            let old = old.map(|old| service(old.clone()));
            assert_eq!(wanted(&service(new.clone()), old.as_ref()), expected);
        }
    }
}
