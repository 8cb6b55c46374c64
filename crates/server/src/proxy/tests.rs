//! Where requests go, and what the other side gets to see.

use serde_json::{Value, json};

use super::location::{Transport, kubelet, log_path, pod, stream_path};
use super::*;
use crate::auth::testing::TestView;

fn read<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn with_containers(names: &[&str]) -> Pod {
    let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    read(json!({
        "metadata": {"name": "web", "namespace": "a"},
        "spec": {"nodeName": "n1", "containers": containers, "initContainers": [{"name": "setup"}]},
    }))
}

#[test]
fn logs_are_asked_for_in_the_kubelets_words() {
    let (one, two) = (with_containers(&["c"]), with_containers(&["c", "d"]));
    let choose = "a container name must be specified for pod web, choose one of: [setup c d]";
    let twice = "PodLogOptions \"web\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, \
                 limitBytes: Invalid value: 0: must be greater than 0]";
    let cases = [
        (&one, "", Ok("/containerLogs/a/web/c")),
        (
            &one,
            "follow=true&timestamps=1&tailLines=5",
            Ok("/containerLogs/a/web/c?follow=true&timestamps=true&tailLines=5"),
        ),
        (&one, "sinceTime=2026-01-01T00:00:00Z", Ok("/containerLogs/a/web/c?sinceTime=2026-01-01T00%3A00%3A00Z")),
        (&two, "container=d&previous=true&follow=false", Ok("/containerLogs/a/web/d?previous=true")),
        (&two, "container=setup", Ok("/containerLogs/a/web/setup")),
        (&two, "", Err(choose)),
        (&two, "container=x", Err("container x is not valid for pod web")),
        (&one, "tailLines=-1&limitBytes=0", Err(twice)),
        (
            &one,
            "sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z",
            Err(
                "PodLogOptions \"web\" is invalid: <nil>: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
        ),
    ];
    for (pod, query, expected) in cases {
        let found = log_path(pod, &Query::parse(query)).map_err(|status| status.message);
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{query}");
    }
}

#[test]
fn streams_are_asked_for_in_the_kubelets_words() {
    let pod = with_containers(&["c"]);
    let cases = [
        (
            Stream::Exec,
            "command=sh&command=-c&command=echo+a%26b&stdin=true&stdout=true&tty=true&stderr=false",
            Ok("/exec/a/web/c?input=1&output=1&tty=1&command=sh&command=-c&command=echo%20a%26b"),
        ),
        (Stream::Attach, "container=c&stdout=1&stderr=1", Ok("/attach/a/web/c?output=1&error=1")),
        (Stream::PortForward, "", Ok("/portForward/a/web")),
        (Stream::PortForward, "ports=80&ports=443", Ok("/portForward/a/web?port=80%2C443")),
        (Stream::PortForward, "ports=99999", Err("invalid port \"99999\"")),
        (Stream::Exec, "container=x&command=sh", Err("container x is not valid for pod web")),
    ];
    for (stream, query, expected) in cases {
        let found = stream_path(&pod, stream, &Query::parse(query)).map_err(|status| status.message);
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{query}");
    }
}

#[test]
fn kubelets_are_found_by_their_status() {
    let node = |addresses: Value, port: Value| -> Node {
        let endpoints = json!({"kubeletEndpoint": {"Port": port}});
        read(json!({"metadata": {"name": "n1"}, "status": {"addresses": addresses, "daemonEndpoints": endpoints}}))
    };
    let address = |ty: &str, address: &str| json!({"type": ty, "address": address});
    let both = json!([address("Hostname", "n1"), address("InternalIP", "10.0.0.7")]);
    let found = kubelet(&node(both, json!(10_251)), "/x".to_owned()).unwrap();
    assert_eq!((found.host.as_str(), found.port, found.transport), ("10.0.0.7", 10_251, Transport::Kubelet));
    let found = kubelet(&node(json!([address("Hostname", "n1")]), json!(0)), "/x".to_owned()).unwrap();
    assert_eq!((found.host.as_str(), found.port), ("n1", 10_250));
    assert!(kubelet(&node(json!([]), json!(0)), "/x".to_owned()).is_err());
}

#[test]
fn proxies_reach_pods_but_not_the_server_itself() {
    let with_ip = |ip: &str| -> Pod {
        read(json!({
            "metadata": {"name": "web"}, "status": {"podIP": ip},
            "spec": {"containers": [{"name": "c"}, {"name": "d", "ports": [{"containerPort": 8080}]}]},
        }))
    };
    let at = |ip: &str, id: &str| {
        let wanted = Wanted::parse("pod", id)?;
        pod(&with_ip(ip), &wanted, "/".to_owned()).map(|l| (l.host, l.port, l.transport))
    };
    assert_eq!(at("10.1.0.2", "web"), Ok(("10.1.0.2".to_owned(), 8080, Transport::Plain)));
    assert_eq!(at("10.1.0.2", "web:81"), Ok(("10.1.0.2".to_owned(), 81, Transport::Plain)));
    assert_eq!(at("10.1.0.2", "https:web:"), Ok(("10.1.0.2".to_owned(), 8080, Transport::Unchecked)));
    for ip in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", ""] {
        assert_eq!(at(ip, "web").unwrap_err().message, "address not allowed", "{ip}");
    }
    for id in ["", ":80", "ftp:web:80", "a:b:c:d"] {
        assert_eq!(at("10.1.0.2", id).unwrap_err().message, format!("invalid pod request {id:?}"));
    }
}

#[test]
fn services_lead_to_ready_endpoints() {
    let view = TestView::shared();
    let service = json!({"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]});
    view.put("services", json!({"metadata": {"name": "web", "namespace": "a"}, "spec": service}));
    let slice = |name: &str, of: &str, endpoints: Value| {
        let labels = json!({"kubernetes.io/service-name": of});
        view.put(
            "endpointslices.discovery.k8s.io",
            json!({
                "metadata": {"name": name, "namespace": "a", "labels": labels}, "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
            }),
        );
    };
    let endpoint = |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}});
    slice("web-1", "web", json!([endpoint("10.1.0.2", false), endpoint("10.1.0.3", true)]));
    slice("web-2", "web", json!([endpoint("10.1.0.4", true)]));
    slice("other", "other", json!([endpoint("10.1.0.9", true)]));
    let at = |id: &str, random: u64| {
        let wanted = Wanted::parse("service", id).unwrap();
        let location = service::location(&*view, "a", &wanted, "/".to_owned(), random);
        location.map(|l| (l.host, l.port)).map_err(|status| status.message)
    };
    assert_eq!(at("web:http", 0), Ok(("10.1.0.3".to_owned(), 8080)));
    assert_eq!(at("web:80", 1), Ok(("10.1.0.4".to_owned(), 8080)));
    assert_eq!(at("web:admin", 0), Err("no endpoints available for service \"web\"".to_owned()));
    assert_eq!(at("web:82", 0), Err("no service port 82 found for service \"web\"".to_owned()));
    assert_eq!(at("nowhere:http", 0), Err("services \"nowhere\" not found".to_owned()));
}

#[test]
fn credentials_stay_here_and_upgrades_go_on() {
    let location = Location {
        transport: Transport::Kubelet,
        host: "::2".to_owned(),
        port: 10_250,
        path: "/exec/x?a=1".to_owned(),
    };
    let request = Request::get("/api/v1/namespaces/a/pods/web/exec")
        .header("authorization", "Bearer t")
        .header("impersonate-user", "root")
        .header("connection", "keep-alive, Upgrade, x-private")
        .header("x-private", "1")
        .header("upgrade", "websocket")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(relay::empty())
        .unwrap();
    let sent = relay::outbound(&location, request).unwrap();
    let header = |name: &str| sent.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(sent.uri(), "/exec/x?a=1");
    assert_eq!((header("authorization"), header("impersonate-user"), header("x-private")), (None, None, None));
    assert_eq!((header("connection"), header("upgrade")), (Some("Upgrade"), Some("websocket")));
    assert_eq!((header("sec-websocket-protocol"), header("host")), (Some("v5.channel.k8s.io"), Some("[::2]:10250")));
}

#[test]
fn proxied_sites_stay_behind_their_prefix() {
    let pod = "/api/v1/namespaces/a/pods/web:80/proxy";
    assert_eq!(relay::split_path(pod, true), (pod, ""));
    assert_eq!(relay::split_path(&format!("{pod}/x//y/"), true), (pod, "/x//y/"));
    assert_eq!(relay::split_path("/api/v1/nodes/n1/proxy/metrics", false), ("/api/v1/nodes/n1/proxy", "/metrics"));

    let redirect = relay::slash_redirect(&Method::GET, &"/a/proxy?x=1".parse().unwrap(), "").unwrap();
    assert_eq!(redirect.headers()["location"], "/a/proxy/?x=1");
    assert!(relay::slash_redirect(&Method::POST, &"/a/proxy".parse().unwrap(), "").is_none());
}
