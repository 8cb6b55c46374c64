//! What a pod's spec says where its author said nothing.

use serde_json::Value;
use skiff_meta::Quantity;

use super::containers::LISTS;
use crate::view::{Change, View};

/// Fills in the spec of a pod or of a template.
pub(crate) fn default_spec(spec: &mut Value) {
    spec.default_text("dnsPolicy", "ClusterFirst");
    spec.default_text("restartPolicy", "Always");
    spec.default_to("securityContext", Value::Object(serde_json::Map::new()));
    spec.default_to("terminationGracePeriodSeconds", 30);
    spec.default_text("schedulerName", "default-scheduler");
    // The old name of the field lives on beside the new one, with the same value.
    let account = [spec.text("serviceAccountName"), spec.text("serviceAccount")].into_iter().find(|a| !a.is_empty());
    if let Some(account) = account.map(str::to_owned) {
        spec.put("serviceAccountName", account.as_str().into());
        spec.put("serviceAccount", account.into());
    }
    for volume in spec.items_mut("volumes") {
        default_volume(volume);
    }
    for list in LISTS {
        for container in spec.items_mut(list) {
            default_container(container);
        }
    }
    round(spec.existing("overhead"));
    if let Some(resources) = spec.existing("resources") {
        default_resources(resources);
    }
}

/// Rounds amounts to thousandths, as upstream keeps doing for old clients' sake.
pub(crate) fn default_resources(resources: &mut Value) {
    for list in ["limits", "requests"] {
        round(resources.existing(list));
    }
}

/// Rounds a list of amounts to thousandths.
pub(crate) fn round(list: Option<&mut Value>) {
    for (_, amount) in list.and_then(Value::as_object_mut).into_iter().flatten() {
        if let Ok(quantity) = Quantity::from_json(amount)
            && quantity != Quantity::from_milli(quantity.milli(), quantity.format())
            && quantity.milli() != i64::MAX
        {
            *amount = Quantity::from_milli(quantity.milli(), quantity.format()).to_string().into();
        }
    }
}

/// Fills in what holds for pods but not for templates.
pub(crate) fn default_pod(pod: &mut Value) {
    let Some(spec) = pod.existing("spec") else { return };
    let host_network = spec.flag("hostNetwork");
    for list in ["containers", "initContainers"] {
        for container in spec.items_mut(list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    default_pod_requests(spec);
    spec.default_to("enableServiceLinks", true);
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.existing("resources") else { return };
    let Some(limits) = resources.get_or_null("limits").as_object().cloned() else { return };
    let requests = resources.child("requests");
    for (name, limit) in limits {
        requests.default_to(&name, limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in container.items_mut("ports") {
        if port.int("hostPort").unwrap_or_default() == 0 {
            port.put("hostPort", port.get_or_null("containerPort").clone());
        }
    }
}

/// Where limits stand at the level of the pod, requests there follow from the containers' and then from those limits.
fn default_pod_requests(spec: &mut Value) {
    let Some(limits) = spec.at("resources.limits").as_object().filter(|l| !l.is_empty()).cloned() else { return };
    let sums = ["cpu", "memory"].map(|name| (name, super::qos::total_requests(spec, name)));
    let requests = spec.child("resources").child("requests");
    for (name, sum) in sums {
        if let Some(sum) = sum {
            requests.default_to(name, sum.to_string());
        }
    }
    for (name, limit) in limits {
        if matches!(&*name, "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.default_to(&name, limit);
        }
    }
}

/// What sources of pods' volumes and of persistent volumes leave out.
pub(crate) fn default_source(volume: &mut Value) {
    if let Some(host) = volume.existing("hostPath") {
        host.default_to("type", "");
    }
    if let Some(iscsi) = volume.existing("iscsi") {
        iscsi.default_text("iscsiInterface", "default");
    }
    if let Some(rbd) = volume.existing("rbd") {
        rbd.default_text("pool", "rbd");
        rbd.default_text("user", "admin");
        rbd.default_text("keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = volume.existing("azureDisk") {
        disk.default_to("cachingMode", "ReadWrite");
        disk.default_to("kind", "Shared");
        disk.default_to("fsType", "ext4");
        disk.default_to("readOnly", false);
    }
    if let Some(scale) = volume.existing("scaleIO") {
        scale.default_text("storageMode", "ThinProvisioned");
        scale.default_text("fsType", "xfs");
    }
}

fn default_volume(volume: &mut Value) {
    let bare = volume.as_object().is_none_or(|v| v.iter().all(|(name, source)| name == "name" || source.is_null()));
    if bare {
        volume.child("emptyDir");
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.existing(source) {
            source.default_to("defaultMode", 0o644);
        }
    }
    default_source(volume);
    if let Some(image) = volume.existing("image") {
        let policy = pull_policy(image.text("reference"));
        image.default_text("pullPolicy", policy);
    }
    if let Some(downward) = volume.existing("downwardAPI") {
        default_field_refs(downward);
    }
    if let Some(claim) = volume.existing("ephemeral").and_then(|e| e.existing("volumeClaimTemplate")) {
        claim.child("spec").default_to("volumeMode", "Filesystem");
    }
    let projected = volume.existing("projected");
    for source in projected.map(|p| p.items_mut("sources")).into_iter().flatten() {
        if let Some(token) = source.existing("serviceAccountToken") {
            token.default_to("expirationSeconds", 3600);
        }
        if let Some(downward) = source.existing("downwardAPI") {
            default_field_refs(downward);
        }
    }
}

fn default_field_refs(downward: &mut Value) {
    for item in downward.items_mut("items") {
        if let Some(reference) = item.existing("fieldRef") {
            reference.default_text("apiVersion", "v1");
        }
    }
}

/// `Always` for images whose tag moves: `latest`, or none at all.
fn pull_policy(image: &str) -> &'static str {
    // Go reads no tag from what is no reference.
    let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let path = image.split('@').next().unwrap_or_default();
    let (domain, rest) = path.split_once('/').unwrap_or(("", path));
    let is_domain =
        domain.contains(['.', ':']) || domain == "localhost" || domain.chars().any(|c| c.is_ascii_uppercase());
    let repository = if is_domain { rest } else { path };
    let repository = repository.rsplit_once(':').map_or(repository, |(name, _)| name);
    let good = |part: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(part.chars().next()) && ends(part.chars().next_back()) && part.chars().all(of_name)
    };
    let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
    let label = |label: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(label.chars().next())
            && ends(label.chars().next_back())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let good_domain = domain.starts_with('[') || host.split('.').all(label) && port.bytes().all(|b| b.is_ascii_digit());
    if repository.len() > 255 || !repository.split('/').all(good) || is_domain && !good_domain {
        return "IfNotPresent";
    }
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn default_container(container: &mut Value) {
    let policy = pull_policy(container.text("image"));
    container.default_text("imagePullPolicy", policy);
    container.default_text("terminationMessagePath", "/dev/termination-log");
    container.default_text("terminationMessagePolicy", "File");
    for port in container.items_mut("ports") {
        port.default_text("protocol", "TCP");
    }
    if let Some(resources) = container.existing("resources") {
        default_resources(resources);
    }
    for variable in container.items_mut("env") {
        if let Some(reference) = variable.existing("valueFrom").and_then(|v| v.existing("fieldRef")) {
            reference.default_text("apiVersion", "v1");
        }
        if let Some(reference) = variable.existing("valueFrom").and_then(|v| v.existing("fileKeyRef")) {
            reference.default_to("optional", false);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.existing(probe) {
            default_probe(probe);
        }
    }
    for handler in ["postStart", "preStop"] {
        if let Some(handler) = container.existing("lifecycle").and_then(|l| l.existing(handler)) {
            default_http(handler);
        }
    }
}

fn default_probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.int(field).unwrap_or_default() == 0 {
            probe.put(field, value.into());
        }
    }
    default_http(probe);
    if let Some(grpc) = probe.existing("grpc") {
        grpc.default_to("service", "");
    }
}

fn default_http(handler: &mut Value) {
    if let Some(http) = handler.existing("httpGet") {
        http.default_text("path", "/");
        http.default_text("scheme", "HTTP");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bare_pod() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "nginx",
            "resources": {"limits": {"cpu": "100500u"}}, "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]}});
        default_spec(&mut pod["spec"]);
        default_pod(&mut pod);
        let expected = json!({"spec": {
            "containers": [{
                "name": "a", "image": "nginx", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "101m"}, "requests": {"cpu": "101m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true,
        }});
        assert_eq!(pod, expected);
        let again = pod.clone();
        default_spec(&mut pod["spec"]);
        default_pod(&mut pod);
        assert_eq!(pod, again);
    }

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:v1", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("../up", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn host_network_and_accounts() {
        let mut pod = json!({"spec": {"hostNetwork": true, "serviceAccount": "x", "containers": [{"name": "a", "image": "b:1",
            "ports": [{"containerPort": 80}]}]}});
        default_spec(&mut pod["spec"]);
        default_pod(&mut pod);
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(pod["spec"]["serviceAccountName"], "x");
    }
}
