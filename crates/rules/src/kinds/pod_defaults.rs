//! What a pod spec leaves out and Kubernetes fills in; shared by pods and everything with a pod template.

use serde_json::{Value, json};

use crate::tree::{fill, is_empty, items_mut, object, text};

/// Fills in a pod spec.
pub(crate) fn spec(spec: &mut Value) {
    fill(spec, "restartPolicy", "Always");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "schedulerName", "default-scheduler");
    fill(spec, "securityContext", json!({}));
    mirrored_account(spec);
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(&mut spec[list]) {
            self::container(container, host_network);
        }
    }
    drop_null_lists(spec);
    for volume in spec.get_mut("volumes").into_iter().flat_map(items_mut) {
        self::volume(volume);
    }
    for constraint in spec.get_mut("topologySpreadConstraints").into_iter().flat_map(items_mut) {
        fill(constraint, "whenUnsatisfiable", "DoNotSchedule");
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept alike.
fn mirrored_account(spec: &mut Value) {
    let name = [text(&spec["serviceAccountName"]), text(&spec["serviceAccount"])]
        .into_iter()
        .find(|n| !n.is_empty())
        .map(str::to_owned);
    if let Some(name) = name {
        spec["serviceAccountName"] = json!(name);
        spec["serviceAccount"] = json!(name);
    }
}

/// Indexing for change leaves nulls behind; they are not part of any object.
fn drop_null_lists(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, member| !member.is_null());
    }
}

fn container(container: &mut Value, host_network: bool) {
    if is_empty(&container["imagePullPolicy"]) {
        container["imagePullPolicy"] = json!(pull_policy(text(&container["image"])));
    }
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    requests_from_limits(container);
    for port in container.get_mut("ports").into_iter().flat_map(items_mut) {
        fill(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            fill(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(probe).is_some_and(Value::is_object) {
            self::probe(&mut container[probe]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            http_get(get);
        }
    }
    for variable in container.get_mut("env").into_iter().flat_map(items_mut) {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            fill(field, "apiVersion", "v1");
        }
    }
    drop_null_lists(container);
}

/// `latest`, said or meant, is looked for at every start.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let tag = last.split_once('@').map_or_else(|| last.split_once(':').map_or("latest", |(_, tag)| tag), |_| "");
    if tag == "latest" { "Always" } else { "IfNotPresent" }
}

/// What is limited and not asked for is asked for to the limit.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    let requests = object(&mut container["resources"], "requests");
    for (name, amount) in limits {
        fill(requests, &name, amount);
    }
}

fn probe(probe: &mut Value) {
    fill(probe, "timeoutSeconds", 1);
    fill(probe, "periodSeconds", 10);
    fill(probe, "successThreshold", 1);
    fill(probe, "failureThreshold", 3);
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        fill(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    fill(get, "path", "/");
    fill(get, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |map| map.iter().filter(|(k, v)| *k != "name" && !v.is_null()).count());
    if sources == 0 {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|s| s.is_object()) {
            fill(source, "defaultMode", 420);
        }
    }
    if let Some(host_path) = volume.get_mut("hostPath") {
        fill(host_path, "type", "");
    }
    let fields = |items: &mut Value| {
        for item in items_mut(items) {
            if let Some(field) = item.get_mut("fieldRef") {
                fill(field, "apiVersion", "v1");
            }
        }
    };
    if let Some(items) = volume.pointer_mut("/downwardAPI/items") {
        fields(items);
    }
    for source in volume.pointer_mut("/projected/sources").into_iter().flat_map(items_mut) {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            fill(token, "expirationSeconds", 3600);
        }
        if let Some(items) = source.pointer_mut("/downwardAPI/items") {
            fields(items);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.22", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:ab", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }

    #[test]
    fn a_small_spec_becomes_a_whole_one_and_stays() {
        let mut given = json!({"containers": [{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}], "volumes": [{"name": "v"}]});
        spec(&mut given);
        assert_eq!(given["restartPolicy"], "Always");
        assert_eq!(given["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(given["containers"][0]["livenessProbe"]["httpGet"]["path"], "/");
        assert_eq!(given["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert_eq!(given["volumes"][0]["emptyDir"], json!({}));
        let once = given.clone();
        spec(&mut given);
        assert_eq!(given, once);
    }
}
