//! What claims have been given, who uses it, and what drivers say of it.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use super::{MOST, binding, known_request, opaque, parameters, pool_name, request_names};
use crate::at::At;
use crate::metadata;
use crate::podspec::node_selector;
use crate::view::{Change, View};

/// Most users of one claim.
const MOST_USERS: usize = 256;
const MOST_CONDITIONS: usize = 8;
const MOST_ADDRESSES: usize = 16;

/// Which device, or share of one, something is about.
fn identity(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|name| device.text(name))
}

fn allocated(status: &Value) -> &[Value] {
    status.at("allocation.devices").items("results")
}

/// What drivers say of devices goes with these.
pub(super) fn drop_given_back(new: &mut Value, old: &Value) {
    let has = |claim: &Value| {
        let results = allocated(claim.get_or_null("status"));
        results.iter().map(|result| identity(result).map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let (before, now) = (has(old), has(new));
    let gone = |device: &Value| {
        let device = identity(device).map(str::to_owned);
        before.contains(&device) && !now.contains(&device)
    };
    let Some(status) = new.existing("status") else { return };
    if let Some(devices) = status.existing("devices").and_then(Value::as_array_mut) {
        devices.retain(|device| !gone(device));
        if devices.is_empty() {
            status.drop_member("devices");
        }
    }
}

/// Faults of a claim's new status.
pub(super) fn validate(new: &Value, old: &Value, out: &mut FieldErrors) {
    let (status, before) = (At::member(new, "status"), old.get_or_null("status"));
    let user = |user: &At<'_>, out: &mut FieldErrors| {
        for field in ["resource", "name", "uid"] {
            user.require(field, out);
        }
    };
    status.each_unique("reservedFor", (MOST_USERS, "uid"), user, out);
    let mut seen = BTreeSet::new();
    for device in status.items("devices") {
        of_device(&device, allocated(status.value), out);
        if !seen.insert(identity(device.value)) {
            out.push(FieldError::duplicate(&device.path, identity(device.value).join("/").trim_end_matches('/')));
        }
    }
    let (allocation, users) = (status.get("allocation"), status.value.items("reservedFor"));
    if !users.is_empty() && !allocation.is_set() {
        status.forbidden("reservedFor", "may not be specified when `allocated` is not set", out);
    } else if new.at("metadata").has("deletionTimestamp")
        && users.iter().any(|user| !before.items("reservedFor").contains(user))
    {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        status.forbidden("reservedFor", why, out);
    }
    if allocation.is_set() && before.has("allocation") {
        status.immutable("allocation", before, out);
    } else if allocation.is_set() {
        of_allocation(&allocation, &request_names(new.at("spec.devices")), out);
    }
}

fn of_allocation(allocation: &At<'_>, known: &BTreeSet<String>, out: &mut FieldErrors) {
    let devices = allocation.get("devices");
    let result = |result: &At<'_>, out: &mut FieldErrors| {
        known_request(&result.get("request"), known, out);
        device_names(result, out);
        binding(result, out);
        share(result, out);
    };
    devices.each("results", MOST, result, out);
    let config = |config: &At<'_>, out: &mut FieldErrors| {
        config.one_of("source", &["FromClaim", "FromClass"], out);
        super::known_requests(config, known, out);
        opaque(config, out);
    };
    devices.each("config", 2 * MOST, config, out);
    if allocation.has("nodeSelector") {
        node_selector(&allocation.get("nodeSelector"), out);
    }
}

/// What tells a device apart.
fn device_names(at: &At<'_>, out: &mut FieldErrors) {
    at.driver_name("driver", out);
    pool_name(at, "pool", out);
    at.faults("device", &names::dns1123_label(at.text("device")), out);
}

/// What a driver says of a device, which must be one of those that are `given`.
fn of_device(device: &At<'_>, given: &[Value], out: &mut FieldErrors) {
    device_names(device, out);
    share(device, out);
    if !given.iter().any(|result| identity(result) == identity(device.value)) {
        device.wrong("must be an allocated device in the claim", out);
    }
    device.at_most("conditions", MOST_CONDITIONS, out);
    metadata::conditions(device, "conditions", out);
    if device.has("data") {
        parameters(&device.get("data"), out);
    }
    let network = device.get("networkData");
    for (field, longest) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.text(field).len() > longest {
            out.push(FieldError::too_long(&network.path(field), longest));
        }
    }
    network.each_unique("ips", (MOST_ADDRESSES, ""), |ip, out| ip.own_faults(interface_address, out), out);
}

fn interface_address(text: &str) -> Vec<String> {
    match text.parse::<ipnet::IpNet>() {
        Err(_) => vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()],
        Ok(net) if net.to_string() != text => vec![format!("must be in canonical form ({:?})", net.to_string())],
        Ok(_) => Vec::new(),
    }
}

/// The identity of a share, where there is one.
fn share(at: &At<'_>, out: &mut FieldErrors) {
    if let Some(text) = at.value.get_or_null("shareID").as_str() {
        at.faults("shareID", &uid(text), out);
    }
}

fn uid(text: &str) -> Vec<String> {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let hex = text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    let why = match text.len() {
        36 if groups == [8, 4, 4, 4, 12] && hex && text.to_lowercase() == text => return Vec::new(),
        36 if groups == [8, 4, 4, 4, 12] && hex => "",
        32 if hex && groups.len() == 1 => "",
        32 | 36 => "invalid UUID format",
        length => return vec![format!("error validating uid: invalid UUID length: {length}")],
    };
    if !why.is_empty() {
        return vec![format!("error validating uid: {why}")];
    }
    let form = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                hexadecimal characters";
    vec![form.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_and_addresses() {
        for (text, fine) in [
            ("00000000-0000-4000-8000-00000000000a", true),
            ("00000000-0000-4000-8000-00000000000A", false),
            ("00000000000040008000000000000000", false),
            ("x", false),
        ] {
            assert_eq!(uid(text).is_empty(), fine, "{text}");
        }
        for (text, fine) in
            [("10.9.8.7/24", true), ("2001:db8::1/64", true), ("10.9.8.7", false), ("FD00::1/64", false)]
        {
            assert_eq!(interface_address(text).is_empty(), fine, "{text}");
        }
    }
}
