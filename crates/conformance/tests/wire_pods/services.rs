//! Services: who is behind them, and that packets get there.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Credentials;
use skiff_meta::GroupVersionResource;
use skiff_meta::patch::merge_patch;

use crate::support::{Api as Run, Outcome, accepted, expect};
use crate::table::{PROBE, address, row, server};

/// Requests that find every one of a few endpoints, but for one time in millions.
const ENOUGH: usize = 60;

fn slices() -> GroupVersionResource {
    GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices")
}

/// A pod of a group that a Service selects.
fn member(name: &str, group: &str, flags: &[&str]) -> Value {
    let mut pod = server(name, flags);
    pod["metadata"]["labels"]["group"] = group.into();
    pod
}

fn service(name: &str, group: &str, spec: Value) -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let spec = merge_patch(&json!({"selector": {"group": group}, "ports": ports}), &spec);
    json!({"metadata": {"name": name}, "spec": spec})
}

/// Addresses and ports in the slices of a Service.
fn behind(seen: &crate::support::Seen, service: &str) -> BTreeSet<String> {
    let own = seen.values().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    own.flat_map(|slice| {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let ports: Vec<Value> = list(&slice["ports"]).iter().map(|port| port["port"].clone()).collect();
        let ready = list(&slice["endpoints"]).into_iter().filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses: Vec<Value> = ready.flat_map(|endpoint| list(&endpoint["addresses"])).collect();
        let pairs = move |address: Value| {
            ports.clone().into_iter().map(move |port| format!("{} {port}", address.as_str().unwrap_or_default()))
        };
        addresses.into_iter().flat_map(pairs).collect::<Vec<_>>()
    })
    .collect()
}

impl Run {
    /// Who answers at an address, asked by `client` until everybody has or `ENOUGH` times.
    fn answers(&self, home: &str, client: &str, url: &str, all: usize) -> Result<BTreeSet<String>, String> {
        self.ask_until(home, client, &format!("/get?{url}"), Result::is_ok)?;
        let mut found = BTreeSet::new();
        for _ in 0..ENOUGH {
            found.insert(self.ask(home, client, &format!("/get?{url}"))?);
            if found.len() == all {
                break;
            }
        }
        Ok(found)
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn same(what: &str, found: &BTreeSet<String>, expected: &BTreeSet<String>) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

/// A pod on the node's own network that asks; it says who answered.
fn from_the_node(name: &str, url: &str, says: &str) -> crate::table::Row {
    row(name, "", json!({"image": PROBE, "command": ["probe", "get", url]}), json!({"hostNetwork": true}), says)
}

pub(crate) fn endpoints(run: &mut Run) -> Outcome {
    let home = run.home()?;
    // The API server is a Service as well.
    let get = |path: &str| run.json(Method::GET, path, &Value::Null);
    let own = get("/api/v1/namespaces/default/services/kubernetes")?.tree();
    let addresses = get("/api/v1/namespaces/default/endpoints/kubernetes")?.tree();
    let first = addresses["subsets"][0]["addresses"][0]["ip"].as_str().unwrap_or_default().to_owned();
    let port = &addresses["subsets"][0]["ports"][0];
    expect(
        own["spec"]["ports"][0]["port"] == 443 && port["name"] == "https",
        &get("/api/v1/namespaces/default/services/kubernetes")?,
    )?;
    let expected = format!("{first} {}", port["port"]);
    run.see("it has slices", slices(), "/api/v1/namespaces/default", |seen| {
        behind(seen, "kubernetes").contains(&expected)
    })?;

    run.add(&home, "services", &service("web", "web", json!({})))?;
    run.see("nobody yet", slices(), &home, |seen| !seen.is_empty() && behind(seen, "web").is_empty())?;
    let two = json!({"ports": [{"name": "one", "port": 81, "targetPort": 8080}, {"name": "two", "port": 82, "targetPort": 8082}]});
    run.add(&home, "services", &service("multi", "multi", two))?;
    let both = json!({"ports": [{"name": "t", "port": 83, "targetPort": 8080, "protocol": "TCP"},
        {"name": "u", "port": 83, "targetPort": 8081, "protocol": "UDP"}]});
    run.add(&home, "services", &service("both", "web", both))?;
    let mut second = member("multi-2", "multi", &["--port", "8082"]);
    second["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = 8082.into();
    let pods = [
        member("web-1", "web", &[]),
        member("web-2", "web", &[]),
        member("multi-1", "multi", &[]),
        second,
        server("client", &[]),
    ];
    let at = run.serve(&home, &pods)?;
    let expected: BTreeSet<String> = ["web-1", "web-2"].iter().map(|name| format!("{} 8080", at[*name])).collect();
    run.see("both", slices(), &home, |seen| behind(seen, "web") == expected)?;
    let old = GroupVersionResource::new("", "v1", "endpoints");
    run.see("in the older form", old.clone(), &home, |seen| {
        let subsets = &seen.get("web").map_or(Value::Null, |endpoints| endpoints["subsets"].clone());
        let found = subsets[0]["addresses"].as_array().into_iter().flatten().filter_map(|a| a["ip"].as_str());
        found.map(|ip| format!("{ip} {}", subsets[0]["ports"][0]["port"])).collect::<BTreeSet<_>>() == expected
    })?;
    let url = |name: &str, port: u16| format!("http://{name}:{port}/hostname");
    same("web", &run.answers(&home, "client", &url("web", 80), 2)?, &names(&["web-1", "web-2"]))?;
    same("by datagram", &run.answers(&home, "client", "udp://both:83", 2)?, &names(&["web-1", "web-2"]))?;
    same("by connection", &run.answers(&home, "client", &url("both", 83), 2)?, &names(&["web-1", "web-2"]))?;
    same("one port", &run.answers(&home, "web-1", &url("web", 80), 2)?, &names(&["web-1", "web-2"]))?;
    // Each port has its own pod: the other one does not listen there.
    run.ask_until(&home, "client", "/get?http://multi:81/hostname", |said| said.as_deref() == Ok("multi-1"))?;
    run.ask_until(&home, "client", "/get?http://multi:82/hostname", |said| said.as_deref() == Ok("multi-2"))?;
    // From pod to pod and from the node, both ways that packets come.
    same("pod to pod", &run.answers(&home, "client", &url(&at["web-1"], 8080), 1)?, &names(&["web-1"]))?;
    same("pod to pod", &run.answers(&home, "client", &format!("udp://{}:8081", at["web-1"]), 1)?, &names(&["web-1"]))?;
    run.says(
        &home,
        vec![
            from_the_node("node-tcp", &url(&at["web-1"], 8080), "web-1"),
            from_the_node("node-udp", &format!("udp://{}:8081", at["web-1"]), "web-1"),
        ],
    )?;
    // Endpoints that somebody keeps by hand, in two slices.
    let by_hand = json!({"metadata": {"name": "by-hand"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    run.add(&home, "services", &by_hand)?;
    let namespace = home.rsplit('/').next().unwrap_or_default();
    for name in ["web-1", "web-2"] {
        let labels =
            json!({"kubernetes.io/service-name": "by-hand", "endpointslice.kubernetes.io/managed-by": "somebody"});
        let slice = json!({"metadata": {"name": format!("hand-{name}"), "labels": labels}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": [at[name]]}]});
        let made = run.post(&format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"), &slice)?;
        accepted(&made)?;
    }
    same("by hand", &run.answers(&home, "client", &url("by-hand", 80), 2)?, &names(&["web-1", "web-2"]))?;
    // Who goes is gone here too.
    accepted(&run.json(Method::DELETE, &format!("{home}/pods/web-2"), &Value::Null)?)?;
    run.see("one left", slices(), &home, |seen| behind(seen, "web").len() == 1)?;
    accepted(&run.json(Method::DELETE, &format!("{home}/services/web"), &Value::Null)?)?;
    let gone = |seen: &crate::support::Seen| {
        !seen.values().any(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
    };
    run.see("none of a Service that is gone", slices(), &home, gone)?;
    run.see("nor in the older form", old, &home, |seen| !seen.contains_key("web")).map(drop)
}

pub(crate) fn types(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let path = format!("{home}/services/changing");
    run.serve(&home, &[member("server", "g", &[]), server("client", &[])])?;
    let outside = json!({"metadata": {"name": "changing", "labels": {"kind": "all"}},
        "spec": {"type": "ExternalName", "externalName": "foo.example.com"}});
    run.add(&home, "services", &outside)?;
    let inside = json!({"spec": {"type": "ClusterIP", "externalName": null, "selector": {"group": "g"},
        "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
    let answer = run.merge(&path, &inside)?;
    expect(answer.code == 200 && answer.tree()["spec"]["clusterIP"].is_string(), &answer)?;
    let named = "http://changing/hostname";
    same("inside", &run.answers(&home, "client", named, 1)?, &names(&["server"]))?;
    let answer = run.merge(&path, &json!({"spec": {"type": "NodePort"}}))?;
    let port = answer.tree()["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
    expect(port > 0, &answer)?;
    let node = run.node()?;
    let host = address(&node);
    run.says(&home, vec![from_the_node("at-the-node", &format!("http://{host}:{port}/hostname"), "server")])?;
    same("still inside", &run.answers(&home, "client", named, 1)?, &names(&["server"]))?;
    let again = json!({"spec": {"type": "ExternalName", "externalName": "foo.example.com", "clusterIP": null, "clusterIPs": null,
        "ports": null, "selector": null}});
    let answer = run.merge(&path, &again)?;
    expect(answer.code == 200 && answer.tree()["spec"]["clusterIP"].is_null(), &answer)?;
    run.ask_until(&home, "client", &format!("/get?{named}"), Result::is_err)?;
    // What a balancer says of it, and all of a kind at once.
    accepted(&run.merge(
        &format!("{path}/status"),
        &json!({"status": {"conditions": [{"type": "Seen", "status": "True",
        "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    )?)?;
    let read = run.json(Method::GET, &format!("{path}/status"), &Value::Null)?;
    expect(read.tree()["status"]["conditions"][0]["type"] == "Seen", &read)?;
    let all = run.json(Method::GET, "/api/v1/services?labelSelector=kind%3Dall", &Value::Null)?;
    expect(all.tree()["items"].as_array().is_some_and(|items| !items.is_empty()), &all)?;
    accepted(&run.json(Method::DELETE, &format!("{home}/services?labelSelector=kind%3Dall"), &Value::Null)?)?;
    let services = GroupVersionResource::new("", "v1", "services");
    run.see("gone", services, &home, |seen| !seen.contains_key("changing")).map(drop)
}

pub(crate) fn affinity(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let group: Vec<Value> = ["a", "b", "c"].iter().map(|name| member(name, "g", &[])).collect();
    run.serve(&home, &[&group[..], &[server("client", &[])]].concat())?;
    let sticky = json!({"sessionAffinity": "ClientIP", "type": "NodePort"});
    let made = run.add(&home, "services", &service("sticky", "g", sticky))?;
    let port = &made["spec"]["ports"][0]["nodePort"];
    let node = run.node()?;
    let host = address(&node);
    let url = "http://sticky/hostname";
    let one = |found: &BTreeSet<String>| if found.len() == 1 { Ok(()) } else { Err(format!("one of them: {found:?}")) };
    one(&run.answers(&home, "client", url, 2)?)?;
    let script = format!(
        "for i in $(seq 12); do probe get http://{host}:{port}/hostname; echo; done | busybox sort -u | grep -c ."
    );
    let ask = |name: &str, says: &str| row(name, &script, json!({"image": PROBE}), json!({"hostNetwork": true}), says);
    run.says(&home, vec![ask("at-the-node", "1")])?;
    for (affinity, all) in [("None", 3), ("ClientIP", 1)] {
        accepted(&run.merge(&format!("{home}/services/sticky"), &json!({"spec": {"sessionAffinity": affinity}}))?)?;
        let held = skiff_testkit::process::eventually(std::time::Duration::from_secs(60), || {
            run.answers(&home, "client", url, if all == 3 { 3 } else { 2 }).is_ok_and(|found| found.len() == all)
        });
        if !held {
            return Err(format!("affinity {affinity}: {:?}", run.answers(&home, "client", url, 3)));
        }
    }
    Ok(())
}

pub(crate) fn proxy(run: &mut Run) -> Outcome {
    let home = run.home()?;
    run.serve(&home, &[member("server", "g", &[])])?;
    let ports = json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "other", "port": 81, "targetPort": 8080}]});
    run.add(&home, "services", &service("front", "g", ports))?;
    run.see("it has an endpoint", slices(), &home, |seen| !behind(seen, "front").is_empty())?;
    let ways = [
        "pods/server:8080",
        "pods/http:server:8080",
        "services/front:80",
        "services/front:other",
        "services/http:front:http:",
    ];
    for way in ways {
        let base = format!("{home}/{}/proxy", way.trim_end_matches(':'));
        for method in
            [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::HEAD]
        {
            let path = format!("{base}/some/path?with=SERVER&x=%2F");
            let types = ("text/plain", "");
            let answer = run.runtime.block_on(run.wire.send(Credentials::Own, &method, &path, types, "hello"))?;
            let said = String::from_utf8_lossy(&answer.bytes).into_owned();
            let expected =
                if method == Method::HEAD { String::new() } else { format!("{method} /some/path?with=SERVER&x=%2F") };
            expect(answer.code == 200 && said == expected, &answer)
                .map_err(|error| format!("{method} {path}: {error}"))?;
        }
        let plain = run.json(Method::GET, &base, &Value::Null)?;
        // Without a slash at the end, browsers are sent to the place with one.
        expect(matches!(plain.code, 200 | 301 | 302 | 307), &plain)?;
    }
    let nobody = run.json(Method::GET, &format!("{home}/services/nobody/proxy/"), &Value::Null)?;
    expect(nobody.code == 404, &nobody)
}

pub(crate) fn host_ports(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let at = |name: &str, ip: &str, protocol: &str, inside: u16| {
        let mut pod = server(name, &[]);
        pod["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": inside, "hostPort": 54_323, "hostIP": ip, "protocol": protocol}]);
        pod
    };
    let pods = [
        at("here", "127.0.0.1", "TCP", 8080),
        at("there", "127.0.0.2", "TCP", 8080),
        at("datagrams", "127.0.0.2", "UDP", 8081),
    ];
    run.serve(&home, &pods)?;
    run.says(
        &home,
        vec![
            from_the_node("ask-here", "http://127.0.0.1:54323/hostname", "here"),
            from_the_node("ask-there", "http://127.0.0.2:54323/hostname", "there"),
            from_the_node("ask-datagrams", "udp://127.0.0.2:54323", "datagrams"),
        ],
    )
}
