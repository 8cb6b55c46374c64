//! The downward API: what containers may learn of their own pod.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use skiff_api::resources::{self, ResourceList};
use skiff_meta::Quantity;

use super::ConfigError;
use crate::pod::facts;

/// What only the running pod knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) pod: Vec<String>,
    pub(crate) host: Vec<String>,
}

/// The value at `path`, such as `metadata.labels['app']` or `status.podIP`.
pub(crate) fn field(pod: &Pod, path: &str, addresses: &Addresses) -> Result<String, ConfigError> {
    let metadata = &pod.metadata;
    if let Some((map, key)) = path.split_once("['").and_then(|(map, key)| Some((map, key.strip_suffix("']")?))) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(ConfigError::NoField(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = facts::spec(pod);
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => facts::name(pod).to_owned(),
        "metadata.namespace" => facts::namespace(pod).to_owned(),
        "metadata.uid" => facts::uid(pod).to_owned(),
        "metadata.labels" => map_lines(metadata.labels.as_ref()),
        "metadata.annotations" => map_lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&addresses.host),
        "status.hostIPs" => addresses.host.join(","),
        "status.podIP" => first(&addresses.pod),
        "status.podIPs" => addresses.pod.join(","),
        _ => return Err(ConfigError::NoField(path.to_owned())),
    })
}

/// A map as a file: `key="value"` lines, sorted.
fn map_lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A container's request or limit in units of the divisor, rounded up; where no limit is set, the node's allocatable.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    allocatable: &ResourceList,
) -> Result<String, ConfigError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let found = named.and_then(|name| facts::container(pod, name)).map(|(_, container)| container.into_owned());
    let container = match named {
        Some(name) => found.ok_or_else(|| ConfigError::NoContainer(name.to_owned()))?,
        None => own.cloned().unwrap_or_default(),
    };
    let unknown = || ConfigError::NoResource(selector.resource.clone());
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let own = container.resources.unwrap_or_default();
    let amount = match kind {
        "limits" => resources::parse(&own.limits)
            .get(name)
            .copied()
            .filter(|limit| !limit.is_zero())
            .or_else(|| allocatable.get(name).copied()),
        "requests" => resources::parse(&own.requests).get(name).copied(),
        _ => return Err(unknown()),
    };
    divided(name, amount.unwrap_or_default(), selector.divisor.as_ref().map(|divisor| divisor.0.as_str()))
}

fn divided(name: &str, amount: Quantity, divisor: Option<&str>) -> Result<String, ConfigError> {
    let text = divisor.filter(|text| !text.is_empty() && *text != "0").unwrap_or("1");
    let divisor: Quantity = text.parse().map_err(|_| ConfigError::BadDivisor(text.to_owned()))?;
    // Processors are counted in thousandths, everything else in whole units.
    let (amount, divisor) =
        if name == "cpu" { (amount.milli(), divisor.milli()) } else { (amount.value(), divisor.value()) };
    if divisor <= 0 {
        return Err(ConfigError::BadDivisor(text.to_owned()));
    }
    Ok(amount.div_euclid(divisor).saturating_add(i64::from(amount.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "x\"y"}},
            "spec": {"nodeName": "node-1", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "250m"}}}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn fields() {
        let addresses = Addresses { pod: vec!["10.0.0.2".into(), "fd::2".into()], host: vec!["1.2.3.4".into()] };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a=\"x\\\"y\"\nb=\"2\""),
            ("spec.nodeName", "node-1"),
            ("status.podIP", "10.0.0.2"),
            ("status.podIPs", "10.0.0.2,fd::2"),
            ("status.hostIP", "1.2.3.4"),
        ] {
            assert_eq!(field(&pod(), path, &addresses).as_deref(), Ok(expected), "{path}");
        }
        assert!(field(&pod(), "spec.restartPolicy", &addresses).is_err());
    }

    #[test]
    fn resources() {
        let allocatable: ResourceList = [("ephemeral-storage".to_owned(), "10Gi".parse().expect("an amount"))].into();
        let value = |resource: &str, divisor: &str| {
            let selector = ResourceFieldSelector {
                resource: resource.into(),
                divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into())),
                container_name: Some("c".into()),
            };
            super::resource(&pod(), None, &selector, &allocatable).expect("a value")
        };
        assert_eq!(value("limits.cpu", "0"), "2");
        assert_eq!(value("limits.cpu", "1m"), "1500");
        assert_eq!(value("limits.memory", "1Mi"), "1024");
        assert_eq!(value("requests.cpu", "1"), "1");
        assert_eq!(value("requests.memory", "1"), "0");
        assert_eq!(value("limits.ephemeral-storage", "1Gi"), "10");
    }
}
