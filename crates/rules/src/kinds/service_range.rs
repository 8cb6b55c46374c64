//! Ranges of addresses for Services, and the addresses handed out from them.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names::{self, NameForm};

use crate::age;
use crate::at::At;
use crate::cells::NONE;
use crate::row::{EMPTY, METADATA, Row, name_cell};
use crate::view::View;

pub(crate) const SERVICE_CIDR: Row = Row {
    status: EMPTY,
    status_keeps: METADATA,
    validate_create: |range, out| ranges(&At::member(range, "spec"), out),
    validate_update: |new, old, out| {
        let (spec, before) = (At::member(new, "spec"), old.at("spec").items("cidrs"));
        let count = spec.value.count("cidrs");
        let grown = before.len() == 1 && count == 2;
        if count != before.len() && !grown {
            return spec.invalid("cidrs", "field is immutable", out);
        }
        for (range, _) in spec.items("cidrs").zip(before).filter(|(range, before)| range.value != *before) {
            range.wrong("field is immutable", out);
        }
        if grown {
            ranges(&spec, out);
        }
    },
    columns: "Name,CIDRs,Age",
    cells: |range, now| {
        let ranges: Vec<&str> = range.at("spec").texts("cidrs").collect();
        vec![name_cell(range), ranges.join(",").into(), age::cell(range, now)]
    },
    ..Row::new("networking.k8s.io", "ServiceCIDR")
};

pub(crate) const IP_ADDRESS: Row = Row {
    name: NameForm::Address,
    validate: |address, out| {
        let spec = At::member(address, "spec");
        if !spec.has("parentRef") {
            return spec.missing("parentRef", "", out);
        }
        let parent = spec.get("parentRef");
        parent.form("group", names::dns1123_subdomain, out);
        parent.require_segment("resource", out);
        parent.require_segment("name", out);
        parent.form("namespace", |text| names::path_segment(text, false), out);
    },
    validate_update: |new, old, out| At::member(new, "spec").immutable("parentRef", old.get_or_null("spec"), out),
    columns: "Name,ParentRef",
    cells: |address, _| vec![name_cell(address), parent(address).into()],
    ..Row::new("networking.k8s.io", "IPAddress")
};

fn ranges(spec: &At<'_>, out: &mut FieldErrors) {
    match spec.value.count("cidrs") {
        0 => return spec.missing("cidrs", "at least one CIDR required", out),
        1 | 2 => {}
        _ => {
            return out.push(FieldError::invalid(
                &spec.path("cidrs"),
                spec.value.clone(),
                "may only hold up to 2 values",
            ));
        }
    }
    let mut families = Vec::new();
    for range in spec.items("cidrs") {
        let text = range.value.as_str().unwrap_or_default();
        match text.parse::<ipnet::IpNet>() {
            Ok(parsed) => {
                if parsed.addr() != parsed.network() {
                    range.wrong(
                        &format!("must not have bits set beyond the prefix length (should be \"{}\")", parsed.trunc()),
                        out,
                    );
                } else if text != parsed.to_string() {
                    range.wrong(&format!("must be in canonical form (\"{parsed}\")"), out);
                }
                families.push(parsed.network().is_ipv4());
            }
            Err(_) => range.wrong("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)", out),
        }
    }
    if matches!(families[..], [one, other] if one == other) {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        spec.invalid("cidrs", why, out);
    }
}

fn parent(address: &Value) -> String {
    let parent = address.at("spec.parentRef");
    if parent.is_null() {
        return NONE.to_owned();
    }
    let kind = [parent.text("resource"), parent.text("group")].map(str::to_lowercase);
    let kind = kind.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(".");
    let parts = [&kind, parent.text("namespace"), parent.text("name")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};
    use serde_json::json;

    #[test]
    fn ranges_grow_by_the_other_family() {
        let range = |cidrs: Value| json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}});
        let one = range(json!(["10.43.0.0/16"]));
        let two = range(json!(["10.43.0.0/16", "fd00::/112"]));
        assert_eq!(SERVICE_CIDR.validate_create(&one), []);
        assert_eq!(SERVICE_CIDR.validate_update(&two, &one, Part::Main), []);
        assert_eq!(SERVICE_CIDR.validate_update(&one, &two, Part::Main).len(), 1);
        for (cidrs, count) in [
            (json!([]), 1),
            (json!(["10.43.0.1/16"]), 1),
            (json!(["x"]), 1),
            (json!(["FD00::/112"]), 1),
            (json!(["10.43.0.0/16", "10.44.0.0/16"]), 1),
        ] {
            assert_eq!(SERVICE_CIDR.validate_create(&range(cidrs.clone())).len(), count, "{cidrs}");
        }
        assert_eq!(SERVICE_CIDR.cells(&two, jiff::Timestamp::UNIX_EPOCH)[1], "10.43.0.0/16,fd00::/112");
    }

    #[test]
    fn addresses() {
        let address = json!({"metadata": {"name": "10.43.0.7"},
            "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "web"}}});
        assert_eq!(IP_ADDRESS.validate_create(&address), []);
        assert_eq!(IP_ADDRESS.cells(&address, jiff::Timestamp::UNIX_EPOCH)[1], "services/n/web");
        let bad = json!({"metadata": {"name": "10.43.0.7"}, "spec": {}});
        assert_eq!(IP_ADDRESS.validate_create(&bad).len(), 1);
        for name in ["10.43.0.07", "FD00::1", ""] {
            assert_eq!(IP_ADDRESS.name_faults(name, false).len(), 1, "{name}");
        }
    }
}
