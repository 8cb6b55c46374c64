//! Addresses of Services, on clusters with one family of addresses and on those with both. Against the API of
//! `CONFORMANCE_KUBECONFIG`, or against a server that is started for it and has both.

mod support;

use std::net::IpAddr;

use http::Method;
use serde_json::{Value, json};
use skiff_testkit::cases::{self, Case};
use support::{Api, Outcome, accepted, expect};

const CASES: &[Case<Run>] = &[
    ("the_servers_ranges_are_an_object", own_ranges),
    ("families_follow_policy_and_addresses", families),
    ("the_second_address_comes_and_goes_with_the_policy", second_address),
    ("what_a_name_needs_no_more_is_free_again", names),
    ("addresses_come_from_every_range", further_ranges),
    ("objects_of_ranges_and_addresses_are_checked", checked),
];

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn main() {
    let flags = ["--service-cidr", "10.87.0.0/16,fd87::/112"].map(str::to_owned);
    std::process::exit(cases::run_with(Api::start_with(86, &flags).and_then(Run::new), CASES));
}

/// The API, a namespace, and the first addresses of the cluster's ranges.
struct Run {
    api: Api,
    home: String,
    networks: Vec<IpAddr>,
}

impl Run {
    fn new(mut api: Api) -> Result<Self, String> {
        let home = api.namespace(json!({}))?;
        let own = api.json(Method::GET, &format!("{RANGES}/kubernetes"), &Value::Null)?;
        accepted(&own)?;
        let cidrs = own.tree()["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
        let network = |cidr: &Value| cidr.as_str()?.split_once('/')?.0.parse().ok();
        let networks: Vec<IpAddr> = cidrs.iter().filter_map(network).collect();
        if networks.is_empty() { Err(format!("{own:?}")) } else { Ok(Self { api, home, networks }) }
    }

    fn is_dual(&self) -> bool {
        self.networks.len() == 2
    }

    /// The nth address of a family's range; of one that is nobody's where the cluster lacks the family.
    fn address(&self, family: &str, n: u16) -> String {
        let network = self.networks.iter().find(|network| network.is_ipv6() == (family == "IPv6")).copied();
        match network.unwrap_or_else(|| "fd99::".parse().unwrap_or(self.networks[0])) {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) + u32::from(n)).to_be_bytes()).to_string(),
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) + u128::from(n)).to_be_bytes()).to_string(),
        }
    }

    fn services(&self) -> String {
        format!("{}/services", self.home)
    }

    fn service(&self, name: &str) -> String {
        format!("{}/services/{name}", self.home)
    }

    fn has_address(&self, address: &str) -> Result<bool, String> {
        Ok(self.api.json(Method::GET, &format!("{ADDRESSES}/{address}"), &Value::Null)?.code == 200)
    }
}

fn with(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["ports"] = json!([{"port": 80, "protocol": "TCP"}]);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn texts(spec: &Value, field: &str) -> Vec<String> {
    spec[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn own_ranges(run: &mut Run) -> Outcome {
    let own = run.api.json(Method::GET, &format!("{RANGES}/kubernetes"), &Value::Null)?;
    let condition = &own.tree()["status"]["conditions"][0];
    expect((&condition["type"], &condition["status"]) == (&json!("Ready"), &json!("True")), &own)?;
    let service = run.api.json(Method::GET, "/api/v1/namespaces/default/services/kubernetes", &Value::Null)?;
    let first = if run.networks[0].is_ipv4() { "IPv4" } else { "IPv6" };
    let spec = &service.tree()["spec"];
    expect(texts(spec, "clusterIPs") == [run.address(first, 1)] && texts(spec, "ipFamilies") == [first], &service)
}

/// What a Service got, or why it got nothing.
fn families(run: &mut Run) -> Outcome {
    let (four, six) = (run.address("IPv4", 9), run.address("IPv6", 9));
    let two = r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple"#;
    let no_six = r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#;
    let foreign =
        format!(r#"spec.clusterIPs[1]: Invalid value: ["{four}","{six}"]: IPv6 is not configured on this cluster"#);
    let table = [
        (json!({}), "SingleStack IPv4", "SingleStack IPv4"),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4", "PreferDualStack IPv4+IPv6"),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
            "RequireDualStack IPv4+IPv6",
        ),
        (json!({"ipFamilies": ["IPv6"]}), no_six, "SingleStack IPv6"),
        (
            json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}),
            no_six,
            "PreferDualStack IPv6+IPv4",
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            &format!("{two} IP families are specified"),
            &format!("{two} IP families are specified"),
        ),
        (
            json!({"clusterIP": four, "clusterIPs": [four, six], "ipFamilyPolicy": "PreferDualStack"}),
            &foreign,
            "PreferDualStack IPv4+IPv6",
        ),
        (
            json!({"clusterIPs": [four]}),
            &format!(r#"spec.clusterIPs: Invalid value: ["{four}"]: must be empty when `clusterIP` is not specified"#),
            &format!(r#"spec.clusterIPs: Invalid value: ["{four}"]: must be empty when `clusterIP` is not specified"#),
        ),
        (
            json!({"ipFamilies": ["IPv6"], "clusterIP": four}),
            &format!(
                r#"spec.clusterIPs[0]: Invalid value: "{four}": expected an IPv6 value as indicated by `ipFamilies[0]`"#
            ),
            &format!(
                r#"spec.clusterIPs[0]: Invalid value: "{four}": expected an IPv6 value as indicated by `ipFamilies[0]`"#
            ),
        ),
        (
            json!({"clusterIP": "192.0.2.1"}),
            r#"spec.clusterIPs: Invalid value: ["192.0.2.1"]: failed to allocate IP 192.0.2.1: the provided network does not match the current range"#,
            r#"spec.clusterIPs: Invalid value: ["192.0.2.1"]: failed to allocate IP 192.0.2.1: the provided network does not match the current range"#,
        ),
        (json!({"clusterIP": "None"}), "RequireDualStack IPv4+IPv6", "RequireDualStack IPv4+IPv6"),
        (json!({"clusterIP": "None", "selector": {"a": "b"}}), "SingleStack IPv4", "SingleStack IPv4"),
        (
            json!({"clusterIP": "None", "ipFamilies": ["IPv6"]}),
            "RequireDualStack IPv6+IPv4",
            "RequireDualStack IPv6+IPv4",
        ),
        (
            json!({"clusterIP": "None", "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}),
            "SingleStack IPv6",
            "SingleStack IPv6",
        ),
    ];
    for (spec, single, dual) in table {
        let made = run.api.post(&run.services(), &with("families", &spec))?;
        let got = &made.tree()["spec"];
        let said = match made.code {
            201 => {
                format!("{} {}", got["ipFamilyPolicy"].as_str().unwrap_or_default(), texts(got, "ipFamilies").join("+"))
            }
            _ => made.tree()["message"]
                .as_str()
                .and_then(|text| Some(text.split_once(" is invalid: ")?.1.to_owned()))
                .unwrap_or_default(),
        };
        let expected = if run.is_dual() { dual } else { single };
        if said != expected {
            return Err(format!("{spec}: {said}, not {expected}"));
        }
        if made.code == 201 {
            if spec["clusterIP"] != "None" {
                let of = |address: &String| if address.contains(':') { "IPv6" } else { "IPv4" };
                let addresses = texts(got, "clusterIPs");
                expect(addresses.iter().map(of).eq(texts(got, "ipFamilies")), &made)?;
                for address in &addresses {
                    expect(run.has_address(address)?, &made)?;
                }
            }
            accepted(&run.api.json(Method::DELETE, &run.service("families"), &Value::Null)?)?;
        }
    }
    Ok(())
}

fn second_address(run: &mut Run) -> Outcome {
    let path = run.service("second");
    let made = run.api.post(&run.services(), &with("second", &json!({})))?;
    accepted(&made)?;
    let first = texts(&made.tree()["spec"], "clusterIPs");
    let wanted = run.api.merge(&path, &json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}}))?;
    if !run.is_dual() {
        return expect(wanted.code == 422 && wanted.causes()[0].1 == "spec.ipFamilyPolicy", &wanted);
    }
    let both = texts(&wanted.tree()["spec"], "clusterIPs");
    expect(both.len() == 2 && both[0] == first[0] && run.has_address(&both[1])?, &wanted)?;
    for (field, left, why) in [
        ("clusterIPs", json!([both[0]]), "must be 'SingleStack' to release the secondary cluster IP"),
        ("ipFamilies", json!(["IPv4"]), "must be 'SingleStack' to release the secondary IP family"),
    ] {
        let refused = run.api.merge(&path, &json!({"spec": {field: left}}))?;
        let message = refused.tree()["message"].as_str().unwrap_or_default().to_owned();
        expect(refused.code == 422 && message.contains(why), &refused)?;
    }
    let other = run.address("IPv6", 77);
    let moved = run.api.merge(&path, &json!({"spec": {"clusterIPs": [both[0], other]}}))?;
    let message = moved.tree()["message"].as_str().unwrap_or_default().to_owned();
    expect(
        moved.code == 422 && message.contains("spec.clusterIPs[1]") && message.contains("may not change once set"),
        &moved,
    )?;
    let single = run.api.merge(&path, &json!({"spec": {"ipFamilyPolicy": "SingleStack"}}))?;
    let spec = &single.tree()["spec"];
    expect(texts(spec, "clusterIPs") == first && texts(spec, "ipFamilies") == ["IPv4"], &single)?;
    expect(!run.has_address(&both[1])? && run.has_address(&first[0])?, &single)?;
    let named = json!({"spec": {"ipFamilyPolicy": "PreferDualStack", "clusterIPs": [first[0], other]}});
    let named = run.api.merge(&path, &named)?;
    expect(texts(&named.tree()["spec"], "clusterIPs") == [first[0].clone(), other.clone()], &named)?;
    accepted(&run.api.json(Method::DELETE, &path, &Value::Null)?)?;
    expect(!run.has_address(&first[0])? && !run.has_address(&other)?, &named)
}

fn names(run: &mut Run) -> Outcome {
    let (path, address) = (run.service("named"), run.address("IPv4", 11));
    let spec = json!({"clusterIP": address, "type": "NodePort", "ipFamilyPolicy": "PreferDualStack"});
    let made = run.api.post(&run.services(), &with("named", &spec))?;
    accepted(&made)?;
    let before = texts(&made.tree()["spec"], "clusterIPs");
    let named = run.api.merge(&path, &json!({"spec": {"type": "ExternalName", "externalName": "a.example"}}))?;
    let spec = named.tree()["spec"].clone();
    let left =
        ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"].iter().filter(|field| spec.get(**field).is_some());
    expect(named.code == 200 && left.count() == 0 && spec["ports"][0].get("nodePort").is_none(), &named)?;
    for address in &before {
        expect(!run.has_address(address)?, &named)?;
    }
    let again = run.api.merge(&path, &json!({"spec": {"type": "ClusterIP", "externalName": null}}))?;
    let spec = &again.tree()["spec"];
    expect(texts(spec, "ipFamilies") == ["IPv4"] && texts(spec, "clusterIPs").len() == 1, &again)
}

fn further_ranges(run: &mut Run) -> Outcome {
    let name = format!("further-{}", std::process::id());
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": ["198.51.100.0/29"]}});
    let made = run.api.make(RANGES, &range)?;
    let spec = json!({"clusterIP": "198.51.100.2"});
    let service = with("further", &spec);
    run.api.until(|| run.api.post(&run.services(), &service), |answer| answer.code == 201)?;
    let again = run.api.post(&run.services(), &with("again", &spec))?;
    let message = again.tree()["message"].as_str().unwrap_or_default().to_owned();
    expect(again.code == 422 && message.contains("provided IP is already allocated"), &again)?;
    for edge in ["198.51.100.0", "198.51.100.7"] {
        let refused = run.api.post(&run.services(), &with("edge", &json!({"clusterIP": edge})))?;
        expect(refused.code == 422, &refused)?;
    }
    // What goes gives nothing any more, even while it is still there.
    accepted(&run.api.json(Method::DELETE, &made, &Value::Null)?)?;
    let third = with("third", &json!({"clusterIP": "198.51.100.3"}));
    let refused = run.api.until(
        || {
            let answer = run.api.post(&run.services(), &third)?;
            if answer.code == 201 {
                accepted(&run.api.json(Method::DELETE, &run.service("third"), &Value::Null)?)?;
            }
            Ok(answer)
        },
        |answer| answer.code == 422,
    )?;
    let message = refused.tree()["message"].as_str().unwrap_or_default().to_owned();
    expect(message.contains("the provided network does not match the current range"), &refused)?;
    let kept = run.api.json(Method::GET, &run.service("further"), &Value::Null)?;
    expect(texts(&kept.tree()["spec"], "clusterIPs") == ["198.51.100.2"], &kept)?;
    accepted(&run.api.json(Method::DELETE, &run.service("further"), &Value::Null)?)
}

fn checked(run: &mut Run) -> Outcome {
    let range = |cidrs: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": format!("checked-{}", std::process::id())}, "spec": {"cidrs": cidrs}})
    };
    for (cidrs, field) in [
        (json!([]), "spec.cidrs"),
        (json!(["203.0.113.0/24", "198.51.100.0/24"]), "spec.cidrs"),
        (json!(["203.0.113.0/24", "fd01::/112", "fd02::/112"]), "spec.cidrs"),
        (json!(["203.0.113.1/24"]), "spec.cidrs[0]"),
        (json!(["FD01::/112"]), "spec.cidrs[0]"),
        (json!(["203.0.113.0"]), "spec.cidrs[0]"),
    ] {
        let refused = run.api.post(RANGES, &range(cidrs))?;
        expect(refused.code == 422 && refused.causes().iter().all(|(_, at)| at == field), &refused)?;
    }
    let made = run.api.make(RANGES, &range(json!(["203.0.113.0/24"])))?;
    let moved = run.api.merge(&made, &json!({"spec": {"cidrs": ["203.0.114.0/24"]}}))?;
    expect(moved.code == 422, &moved)?;
    accepted(&run.api.merge(&made, &json!({"spec": {"cidrs": ["203.0.113.0/24", "fd01::/112"]}}))?)?;
    let fewer = run.api.merge(&made, &json!({"spec": {"cidrs": ["203.0.113.0/24"]}}))?;
    expect(fewer.code == 422, &fewer)?;

    let address = |name: &str, parent: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": name},
            "spec": {"parentRef": parent}})
    };
    let gateway = json!({"group": "example.com", "resource": "gateways", "namespace": "n", "name": "g"});
    for (name, parent) in [
        ("203.0.113.010", gateway.clone()),
        ("FD01::1", gateway.clone()),
        ("203.0.113.10", Value::Null),
        ("203.0.113.10", json!({"resource": "gateways"})),
        ("203.0.113.10", json!({"group": "Wrong_", "resource": "gateways", "name": "g"})),
    ] {
        let refused = run.api.post(ADDRESSES, &address(name, parent))?;
        expect(refused.code == 422, &refused)?;
    }
    let made = run.api.make(ADDRESSES, &address("203.0.113.10", gateway))?;
    let moved = run.api.merge(&made, &json!({"spec": {"parentRef": {"name": "other"}}}))?;
    expect(moved.code == 422, &moved)
}
