//! Typed objects that stay: they take no more room than they need.

use std::any::Any;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use serde::de::DeserializeOwned;

/// Reads an object so that its lists fit: those that grew while they were read have room for more than they hold, of a
/// plain pod 1.6 KiB. A copy fits as well, but costs as much as reading does, and pods are read by the thousand.
///
/// # Errors
/// When the JSON does not fit `K`.
pub fn fitting<K: DeserializeOwned + Clone + 'static>(json: &[u8]) -> serde_json::Result<K> {
    let mut typed: K = serde_json::from_slice(json)?;
    match (&mut typed as &mut dyn Any).downcast_mut::<Pod>() {
        Some(pod) => fit(pod),
        None => return Ok(typed.clone()),
    }
    Ok(typed)
}

/// The lists that most pods have.
fn fit(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        shrink(&mut spec.tolerations);
        shrink(&mut spec.volumes);
        spec.volumes.iter_mut().flatten().for_each(fit_volume);
        shrink(&mut spec.init_containers);
        spec.containers.shrink_to_fit();
        spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(fit_container);
        shrink(&mut spec.topology_spread_constraints);
        shrink(&mut spec.scheduling_gates);
    }
    if let Some(status) = &mut pod.status {
        shrink(&mut status.conditions);
        shrink(&mut status.container_statuses);
        shrink(&mut status.init_container_statuses);
        shrink(&mut status.pod_ips);
        shrink(&mut status.host_ips);
    }
    shrink(&mut pod.metadata.owner_references);
    shrink(&mut pod.metadata.finalizers);
}

fn fit_container(container: &mut Container) {
    shrink(&mut container.volume_mounts);
    shrink(&mut container.env);
    shrink(&mut container.ports);
    shrink(&mut container.args);
    shrink(&mut container.command);
}

fn fit_volume(volume: &mut Volume) {
    let Some(projected) = &mut volume.projected else { return };
    shrink(&mut projected.sources);
    for source in projected.sources.iter_mut().flatten() {
        source.config_map.iter_mut().for_each(|map| shrink(&mut map.items));
        source.downward_api.iter_mut().for_each(|fields| shrink(&mut fields.items));
    }
}

fn shrink<T>(list: &mut Option<Vec<T>>) {
    if let Some(list) = list {
        list.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_have_no_room_left() {
        let json = json!({
            "metadata": {"name": "p", "finalizers": ["a"]},
            "spec": {
                "containers": [{"name": "c", "args": ["x"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "tolerations": [{"key": "a"}, {"key": "b"}],
                "volumes": [{"name": "v", "projected": {"sources": [
                    {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}},
                    {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ]}}],
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let json = json.to_string();
        let pod: Pod = fitting(json.as_bytes()).expect("a pod");
        assert_eq!(pod, serde_json::from_str(&json).expect("a pod"));
        fn spare<T>(list: &Option<Vec<T>>) -> usize {
            list.as_ref().map_or(0, |list| list.capacity() - list.len())
        }
        let (spec, status) = (pod.spec.expect("a spec"), pod.status.expect("a status"));
        let container = &spec.containers[0];
        let volumes = spec.volumes.as_ref().expect("volumes");
        let sources = &volumes[0].projected.as_ref().expect("a projection").sources;
        let all =
            [spare(&container.args), spare(&container.volume_mounts), spare(&spec.tolerations), spare(&spec.volumes)];
        assert_eq!(all, [0; 4]);
        let given = sources.as_ref().expect("sources");
        let (map, fields) = (given[0].config_map.as_ref(), given[1].downward_api.as_ref());
        let items = (map.map(|map| spare(&map.items)), fields.map(|fields| spare(&fields.items)));
        assert_eq!(items, (Some(0), Some(0)));
        assert_eq!((spare(sources), spare(&status.conditions), spare(&pod.metadata.finalizers)), (0, 0, 0));
    }

    #[test]
    fn what_does_not_fit_the_type_is_an_error() {
        assert!(fitting::<Node>(b"{\"metadata\": {\"name\": \"n\"}}").is_ok());
        assert!(fitting::<Pod>(b"{\"spec\": 7}").is_err());
    }
}
