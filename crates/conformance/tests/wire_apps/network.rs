//! What the network's objects come to: slices, mirrors, ranges and addresses.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Api as Run, Seen, accepted};
use crate::{Kind, PODS, SERVICES, ready, template, unique};

const SLICES: Kind = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");
const ENDPOINTS: Kind = Kind("", "v1", "endpoints", "Endpoints");
const RANGES: Kind = Kind("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR");
const ADDRESSES: Kind = Kind("networking.k8s.io", "v1", "ipaddresses", "IPAddress");
const EVENTS: Kind = Kind("events.k8s.io", "v1", "events", "Event");
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

pub(crate) fn mirrored(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    run.create(&path, SERVICES, "s", json!({"ports": [{"port": 80}]}))?;
    let endpoints = |ip: &str| {
        let subset = json!({"addresses": [{"ip": ip}], "ports": [{"port": 8080, "protocol": "TCP"}]});
        ENDPOINTS.object("s", json!({"subsets": [subset]}))
    };
    accepted(&run.post(&format!("{path}/endpoints"), &endpoints("10.1.2.3"))?)?;
    let leads = |slice: &Value, ip: &str| {
        let manager = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
        manager == "endpointslicemirroring-controller.k8s.io"
            && (&slice["endpoints"][0]["addresses"], &slice["ports"][0]["port"]) == (&json!([ip]), &json!(8080))
    };
    run.see("a mirror", SLICES.gvr(), &path, |seen| seen.len() == 1 && seen.values().all(|s| leads(s, "10.1.2.3")))?;
    accepted(&run.json(Method::PUT, &format!("{path}/endpoints/s"), &endpoints("10.1.2.4"))?)?;
    run.see("a changed mirror", SLICES.gvr(), &path, |seen| seen.values().any(|s| leads(s, "10.1.2.4")))?;
    run.delete(&format!("{path}/endpoints/s"))?;
    run.see("no mirror", SLICES.gvr(), &path, Seen::is_empty).map(drop)
}

pub(crate) fn range_stays(run: &mut Run) -> Result<(), String> {
    let (path, name) = (run.home()?, unique("range"));
    let range = run.create("/api/v1", RANGES, &name, json!({"cidrs": ["198.51.100.16/29"]}))?;
    let says = |status: &'static str, reason: &'static str| {
        move |range: &Value| {
            let ready = &range["status"]["conditions"][0];
            range["metadata"]["finalizers"] == json!([FINALIZER])
                && (&ready["type"], &ready["status"], &ready["reason"])
                    == (&json!("Ready"), &json!(status), &json!(reason))
        }
    };
    run.comes("a range that is ready", RANGES, "", &name, says("True", ""))?;
    let service = SERVICES.object("s", json!({"spec": {"clusterIP": "198.51.100.18", "ports": [{"port": 80}]}}));
    run.until(|| run.post(&format!("{path}/services"), &service), |answer| answer.code == 201)?;
    run.delete(&range)?;
    run.comes("a range that is needed", RANGES, "", &name, says("False", "Terminating"))?;
    run.delete(&format!("{path}/services/s"))?;
    run.comes("no such range", RANGES, "", &name, Value::is_null).map(drop)
}

pub(crate) fn address_comes_back(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let service = run.create(&path, SERVICES, "s", json!({"ports": [{"port": 80}]}))?;
    let address = run.get(&service)?.tree()["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let object = format!("{}/{address}", ADDRESSES.within("/api/v1"));
    let uid = run.get(&object)?.tree()["metadata"]["uid"].clone();
    run.delete(&object)?;
    // Upstream looks at Services that change, and at all of them every three minutes.
    run.change(&service, json!({"metadata": {"labels": {"a": "b"}}}))?;
    run.comes("the address again", ADDRESSES, "", &address, |object| {
        !object.is_null() && object["metadata"]["uid"] != uid && object["spec"]["parentRef"]["name"] == "s"
    })?;
    let told = |seen: &Seen| seen.values().any(|event| event["reason"] == "ClusterIPNotAllocated");
    run.see("an event", EVENTS.gvr(), &path, told)?;
    run.delete(&service)?;
    run.comes("no such address", ADDRESSES, "", &address, Value::is_null).map(drop)
}

/// Slices and Endpoints of a Service, from its creation without pods to its end.
pub(crate) fn endpoints(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let ports = json!([{"name": "web", "port": 80, "targetPort": 8080}, {"name": "metrics", "port": 90}]);
    let service = run.create(&path, SERVICES, "s", json!({"selector": {"app": "a"}, "ports": ports}))?;
    let of_service = |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "s";
    let nobody = |what: &Value| what.as_array().is_none_or(Vec::is_empty);
    run.see("a slice of nobody", SLICES.gvr(), &path, |seen| {
        seen.values().filter(of_service).any(|slice| nobody(&slice["endpoints"]))
    })?;
    run.comes("endpoints of nobody", ENDPOINTS, &path, "s", |all| !all.is_null() && nobody(&all["subsets"]))?;

    let node = unique("served");
    run.make_node(&node, json!({}))?;
    let mut pod = PODS.object("p", template(json!({"app": "a"}), "i"));
    pod["spec"]["nodeName"] = json!(node);
    accepted(&run.post(&format!("{path}/pods"), &pod)?)?;
    let mut status = ready();
    (status["podIP"], status["podIPs"]) = (json!("10.9.8.7"), json!([{"ip": "10.9.8.7"}]));
    for is_ready in [true, false] {
        status["conditions"][0]["status"] = json!(if is_ready { "True" } else { "False" });
        run.fares(&path, "p", status.clone())?;
        run.see("the pod's address", SLICES.gvr(), &path, |seen| {
            seen.values().filter(of_service).any(|slice| {
                let known = &slice["endpoints"][0];
                let mut ports: Vec<_> =
                    slice["ports"].as_array().into_iter().flatten().filter_map(|port| port["port"].as_i64()).collect();
                ports.sort_unstable();
                known["addresses"][0] == "10.9.8.7"
                    && known["conditions"]["ready"] == is_ready
                    && known["targetRef"]["name"] == "p"
                    && known["nodeName"] == node.as_str()
                    && ports == [90, 8080]
            })
        })?;
        let field = if is_ready { "addresses" } else { "notReadyAddresses" };
        run.comes("the pod in the endpoints", ENDPOINTS, &path, "s", |all| {
            all["subsets"][0][field][0]["ip"] == "10.9.8.7" && all["subsets"][0][field][0]["targetRef"]["name"] == "p"
        })?;
    }
    run.delete(&service)?;
    run.see("no slices", SLICES.gvr(), &path, Seen::is_empty)?;
    run.see("no endpoints", ENDPOINTS.gvr(), &path, Seen::is_empty).map(drop)
}
