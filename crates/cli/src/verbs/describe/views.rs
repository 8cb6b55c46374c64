//! Views of the kinds that people describe most.

use serde_json::Value;

use super::Page;
use super::generic::{head, member, scalar};

fn text(value: &Value) -> String {
    scalar(value).unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn pairs(value: &Value) -> String {
    let entries: Vec<String> =
        value.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
    if entries.is_empty() { "<none>".to_owned() } else { entries.join(",") }
}

fn controller(object: &Value) -> Option<String> {
    let owner = list(&object["metadata"]["ownerReferences"]).find(|o| o["controller"] == true)?;
    Some(format!("{}/{}", text(&owner["kind"]), text(&owner["name"])))
}

fn conditions(page: &mut Page, object: &Value) {
    let mut rows = vec![["Type", "Status", "Reason", "Message"].map(str::to_owned).to_vec()];
    rows.extend(
        list(&object["status"]["conditions"])
            .map(|c| vec![text(&c["type"]), text(&c["status"]), text(&c["reason"]), text(&c["message"])]),
    );
    if rows.len() > 1 {
        page.table(0, "Conditions", &rows);
    }
}

pub(super) fn pod(page: &mut Page, pod: &Value) {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    page.known(0, "Name", &pod["metadata"]["name"]);
    page.known(0, "Namespace", &pod["metadata"]["namespace"]);
    page.known(0, "Priority", &spec["priority"]);
    page.known(0, "Service Account", &spec["serviceAccountName"]);
    let node = match scalar(&spec["nodeName"]) {
        Some(node) => format!("{node}/{}", text(&status["hostIP"])),
        None => "<none>".to_owned(),
    };
    page.pair(0, "Node", node);
    page.known(0, "Start Time", &status["startTime"]);
    page.map(0, "Labels", &pod["metadata"]["labels"]);
    page.map(0, "Annotations", &pod["metadata"]["annotations"]);
    let leaving = scalar(&pod["metadata"]["deletionTimestamp"]);
    page.pair(
        0,
        "Status",
        leaving.map_or_else(|| text(&status["phase"]), |since| format!("Terminating (since {since})")),
    );
    page.known(0, "Reason", &status["reason"]);
    page.known(0, "Message", &status["message"]);
    page.known(0, "IP", &status["podIP"]);
    if let Some(owner) = controller(pod) {
        page.pair(0, "Controlled By", owner);
    }
    for (heading, specs, states) in [
        ("Init Containers", &spec["initContainers"], &status["initContainerStatuses"]),
        ("Containers", &spec["containers"], &status["containerStatuses"]),
        ("Ephemeral Containers", &spec["ephemeralContainers"], &status["ephemeralContainerStatuses"]),
    ] {
        if list(specs).next().is_some() {
            page.heading(0, heading);
            for one in list(specs) {
                let state = list(states).find(|s| s["name"] == one["name"]).unwrap_or(&Value::Null);
                container(page, one, state);
            }
        }
    }
    conditions(page, pod);
    if list(&spec["volumes"]).next().is_some() {
        page.heading(0, "Volumes");
        for volume in list(&spec["volumes"]) {
            page.heading(1, &text(&volume["name"]));
            volume
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(k, _)| *k != "name")
                .for_each(|(k, v)| member(page, 2, k, v));
        }
    }
    page.known(0, "QoS Class", &status["qosClass"]);
    page.pair(0, "Node-Selectors", pairs(&spec["nodeSelector"]));
    let tolerations: Vec<String> = list(&spec["tolerations"]).map(toleration).collect();
    page.several(0, "Tolerations", &tolerations);
}

fn toleration(t: &Value) -> String {
    let mut out = text(&t["key"]);
    if let Some(value) = scalar(&t["value"]) {
        out = format!("{out}={value}");
    }
    if let Some(effect) = scalar(&t["effect"]) {
        out = format!("{out}:{effect}");
    }
    if t["operator"] == "Exists" {
        out = format!("{out} op=Exists");
    }
    match scalar(&t["tolerationSeconds"]) {
        Some(seconds) => format!("{out} for {seconds}s"),
        None => out,
    }
}

fn container(page: &mut Page, spec: &Value, status: &Value) {
    page.heading(1, &text(&spec["name"]));
    page.known(2, "Container ID", &status["containerID"]);
    page.known(2, "Image", &spec["image"]);
    page.known(2, "Image ID", &status["imageID"]);
    for port in list(&spec["ports"]) {
        page.pair(
            2,
            "Port",
            format!(
                "{}/{}",
                text(&port["containerPort"]),
                scalar(&port["protocol"]).unwrap_or_else(|| "TCP".to_owned())
            ),
        );
    }
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        if spec[field].is_array() {
            page.heading(2, title);
            list(&spec[field]).for_each(|word| page.text(3, text(word)));
        }
    }
    for (title, field) in [("State", "state"), ("Last State", "lastState")] {
        if let Some((name, detail)) = status[field].as_object().and_then(|s| s.iter().next()) {
            let mut name = name.clone();
            if let Some(first) = name.get_mut(0..1) {
                first.make_ascii_uppercase();
            }
            page.pair(2, title, name);
            for (title, field) in [
                ("Reason", "reason"),
                ("Message", "message"),
                ("Exit Code", "exitCode"),
                ("Started", "startedAt"),
                ("Finished", "finishedAt"),
            ] {
                page.known(3, title, &detail[field]);
            }
        }
    }
    page.pair(2, "Ready", if status["ready"] == true { "True" } else { "False" });
    page.pair(2, "Restart Count", scalar(&status["restartCount"]).unwrap_or_else(|| "0".to_owned()));
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(map) = spec["resources"][field].as_object() {
            page.heading(2, title);
            map.iter().for_each(|(name, amount)| page.known(3, name, amount));
        }
    }
    for (title, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if spec[field].is_object() {
            page.pair(2, title, probe(&spec[field]));
        }
    }
    let environment: Vec<(String, String)> = list(&spec["env"])
        .map(|e| (text(&e["name"]), scalar(&e["value"]).unwrap_or_else(|| "<set from a source>".to_owned())))
        .collect();
    if environment.is_empty() {
        page.pair(2, "Environment", "<none>");
    } else {
        page.heading(2, "Environment");
        environment.into_iter().for_each(|(name, value)| page.pair(3, &name, value));
    }
    page.heading(2, "Mounts");
    for mount in list(&spec["volumeMounts"]) {
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        page.text(3, format!("{} from {} ({mode})", text(&mount["mountPath"]), text(&mount["name"])));
    }
}

fn probe(probe: &Value) -> String {
    let number = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    let what = if let Some(http) = probe.get("httpGet") {
        format!(
            "http-get {}://{}:{}{}",
            scalar(&http["scheme"]).unwrap_or_else(|| "HTTP".into()).to_lowercase(),
            text(&http["host"]),
            text(&http["port"]),
            text(&http["path"])
        )
    } else if let Some(tcp) = probe.get("tcpSocket") {
        format!("tcp-socket :{}", text(&tcp["port"]))
    } else if let Some(exec) = probe.get("exec") {
        let words: Vec<String> = list(&exec["command"]).map(text).collect();
        format!("exec [{}]", words.join(" "))
    } else {
        "grpc".to_owned()
    };
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    )
}

pub(super) fn node(page: &mut Page, node: &Value) {
    let (spec, status) = (&node["spec"], &node["status"]);
    head(page, node);
    page.known(0, "CreationTimestamp", &node["metadata"]["creationTimestamp"]);
    let taints: Vec<String> = list(&spec["taints"])
        .map(|t| match scalar(&t["value"]) {
            Some(value) => format!("{}={value}:{}", text(&t["key"]), text(&t["effect"])),
            None => format!("{}:{}", text(&t["key"]), text(&t["effect"])),
        })
        .collect();
    page.several(0, "Taints", &taints);
    page.pair(0, "Unschedulable", (spec["unschedulable"] == true).to_string());
    conditions(page, node);
    page.heading(0, "Addresses");
    list(&status["addresses"]).for_each(|a| page.known(1, &text(&a["type"]), &a["address"]));
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        page.heading(0, title);
        status[field].as_object().into_iter().flatten().for_each(|(name, amount)| page.known(1, name, amount));
    }
    page.heading(0, "System Info");
    status["nodeInfo"].as_object().into_iter().flatten().for_each(|(name, value)| member(page, 1, name, value));
    page.known(0, "PodCIDR", &spec["podCIDR"]);
}

pub(super) fn workload(page: &mut Page, kind: &str, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    head(page, object);
    page.known(0, "CreationTimestamp", &object["metadata"]["creationTimestamp"]);
    page.pair(0, "Selector", pairs(&spec["selector"]["matchLabels"]));
    if let Some(owner) = controller(object) {
        page.pair(0, "Controlled By", owner);
    }
    let count = |value: &Value| value.as_i64().unwrap_or(0);
    if kind == "Deployment" {
        page.pair(
            0,
            "Replicas",
            format!(
                "{} desired | {} updated | {} total | {} available | {} unavailable",
                count(&spec["replicas"]),
                count(&status["updatedReplicas"]),
                count(&status["replicas"]),
                count(&status["availableReplicas"]),
                count(&status["unavailableReplicas"]),
            ),
        );
        page.known(0, "StrategyType", &spec["strategy"]["type"]);
        page.pair(0, "MinReadySeconds", count(&spec["minReadySeconds"]).to_string());
        let rolling = &spec["strategy"]["rollingUpdate"];
        if rolling.is_object() {
            page.pair(
                0,
                "RollingUpdateStrategy",
                format!(
                    "{} max unavailable, {} max surge",
                    text(&rolling["maxUnavailable"]),
                    text(&rolling["maxSurge"])
                ),
            );
        }
    } else {
        for (title, value) in [
            ("Replicas", &spec["replicas"]),
            ("Completions", &spec["completions"]),
            ("Parallelism", &spec["parallelism"]),
            ("Current", &status["replicas"]),
            ("Ready", &status["readyReplicas"]),
            ("Active", &status["active"]),
            ("Succeeded", &status["succeeded"]),
            ("Failed", &status["failed"]),
        ] {
            page.known(0, title, value);
        }
    }
    page.heading(0, "Pod Template");
    page.pair(1, "Labels", pairs(&spec["template"]["metadata"]["labels"]));
    page.heading(1, "Containers");
    for one in list(&spec["template"]["spec"]["containers"]) {
        page.heading(2, &text(&one["name"]));
        one.as_object().into_iter().flatten().filter(|(k, _)| *k != "name").for_each(|(k, v)| member(page, 3, k, v));
    }
    conditions(page, object);
}

pub(super) fn service(page: &mut Page, service: &Value) {
    let spec = &service["spec"];
    head(page, service);
    page.pair(0, "Selector", pairs(&spec["selector"]));
    page.known(0, "Type", &spec["type"]);
    page.known(0, "IP Family Policy", &spec["ipFamilyPolicy"]);
    page.known(0, "IP", &spec["clusterIP"]);
    page.known(0, "External Name", &spec["externalName"]);
    for port in list(&spec["ports"]) {
        let name = scalar(&port["name"]).unwrap_or_else(|| "<unset>".to_owned());
        let protocol = text(&port["protocol"]);
        page.pair(0, "Port", format!("{name}  {}/{protocol}", text(&port["port"])));
        page.pair(0, "TargetPort", format!("{}/{protocol}", text(&port["targetPort"])));
        if let Some(node_port) = scalar(&port["nodePort"]) {
            page.pair(0, "NodePort", format!("{name}  {node_port}/{protocol}"));
        }
    }
    page.known(0, "Session Affinity", &spec["sessionAffinity"]);
    page.known(0, "External Traffic Policy", &spec["externalTrafficPolicy"]);
    page.known(0, "Internal Traffic Policy", &spec["internalTrafficPolicy"]);
}

/// Sizes, never contents.
pub(super) fn secret(page: &mut Page, secret: &Value) {
    head(page, secret);
    page.known(0, "Type", &secret["type"]);
    page.heading(0, "Data");
    for (name, value) in secret["data"].as_object().into_iter().flatten() {
        let encoded = value.as_str().unwrap_or_default();
        let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
        page.pair(1, name, format!("{bytes} bytes"));
    }
}
