//! Static pods as values: from a file to a pod, and which mirrors have to come and go. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_meta::GroupKind;
use skiff_meta::codec::yaml;

use crate::pod::facts;

/// The pod that a file describes on this node.
///
/// # Errors
/// What is wrong with the file, in words.
pub(super) fn pod(file: &str, bytes: &[u8], node: &str) -> Result<Pod, String> {
    let mut pod = yaml::decode(bytes).map_err(|error| error.to_string())?.value;
    if (pod["apiVersion"].as_str(), pod["kind"].as_str()) != (Some("v1"), Some("Pod")) {
        return Err("it is no Pod of v1".to_owned());
    }
    let name = pod["metadata"]["name"].as_str().filter(|name| !name.is_empty()).ok_or("the pod has no name")?;
    let name = format!("{name}-{node}");
    let digest = Sha256::new().chain_update(node).chain_update([0]).chain_update(file).chain_update([0]);
    let digest = digest.chain_update(pod.to_string()).finalize();
    let uid: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    if pod["metadata"]["namespace"].is_null() {
        pod["metadata"]["namespace"] = json!("default");
    }
    let metadata = &mut pod["metadata"];
    (metadata["name"], metadata["uid"], metadata["generation"]) = (json!(name), json!(uid), json!(1));
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"]["kubernetes.io/config.hash"] = json!(uid);
    metadata["annotations"]["kubernetes.io/config.source"] = json!("file");
    let rules = skiff_rules::rules_for(&GroupKind::new("", "Pod"));
    rules.default(&mut pod);
    pod["spec"]["nodeName"] = json!(node);
    // Nobody but its file's author may send it away.
    let tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let stays = json!({"operator": "Exists", "effect": "NoExecute"});
    pod["spec"]["tolerations"] = tolerations.into_iter().chain([stays]).collect();
    let faults = rules.validate_create(&pod);
    if let Some(fault) = faults.first() {
        return Err(fault.to_string());
    }
    serde_json::from_value(pod).map_err(|error| error.to_string())
}

/// What the API is shown of a static pod, until the node's own object, which owns it, has this UID.
pub(super) fn mirror(pod: &Pod, node: &str, node_uid: &str) -> Value {
    let mut mirror = json!(pod);
    let metadata = &mut mirror["metadata"];
    metadata["annotations"][facts::key::MIRROR] = json!(facts::uid(pod));
    metadata["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true}]);
    for field in ["uid", "generation"] {
        metadata.as_object_mut().map(|metadata| metadata.remove(field));
    }
    mirror
}

/// The next steps about mirrors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Steps {
    /// Static pods to be shown, by UID.
    pub(super) create: Vec<String>,
    /// Mirrors of nothing, or of what was before, by the UID the API knows.
    pub(super) delete: Vec<String>,
}

/// Compares static pods by their UIDs with mirrors by the UIDs that the API knows.
pub(super) fn steps(pods: &BTreeMap<String, Arc<Pod>>, mirrors: &BTreeMap<String, Arc<Pod>>) -> Steps {
    let place = |pod: &Pod| (facts::namespace(pod).to_owned(), facts::name(pod).to_owned());
    let good = |mirror: &Pod| {
        let shown = pods.get(facts::uid(mirror)).is_some_and(|pod| place(pod) == place(mirror));
        shown && mirror.metadata.deletion_timestamp.is_none()
    };
    let delete = mirrors.iter().filter(|(_, mirror)| !good(mirror)).map(|(uid, _)| uid.clone()).collect();
    // A name is free again once the old mirror has gone.
    let taken: BTreeSet<_> = mirrors.values().map(|mirror| place(mirror)).collect();
    let create = pods.iter().filter(|(_, pod)| !taken.contains(&place(pod))).map(|(uid, _)| uid.clone()).collect();
    Steps { create, delete }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";

    fn parsed(text: &str) -> Result<Pod, String> {
        pod("p.yaml", text.as_bytes(), "n")
    }

    #[test]
    fn a_file_becomes_a_pod_of_this_node() {
        let pod = parsed(FILE).expect("a pod");
        assert_eq!((facts::name(&pod), facts::namespace(&pod)), ("p-n", "default"));
        let spec = facts::spec(&pod);
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("n"), Some("Always")));
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(1));
        assert_eq!(pod, parsed(FILE).expect("a pod"), "the same file is the same pod");
        assert_ne!(facts::uid(&pod), facts::uid(&parsed(&FILE.replace("image: i", "image: j")).expect("a pod")));
        for (text, why) in
            [("a: b", "it is no Pod of v1"), ("[", ""), (&FILE.replace("name: p", "x: y"), "the pod has no name")]
        {
            assert!(parsed(text).expect_err("refused").contains(why), "{text}");
        }
    }

    #[test]
    fn mirrors_come_and_go() {
        let one = parsed(FILE).expect("a pod");
        let shown: Pod = serde_json::from_value(mirror(&one, "n", "node-uid")).expect("a mirror");
        assert_eq!(facts::uid(&shown), facts::uid(&one), "a mirror is taken for its pod");
        let mut ending = shown.clone();
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
        let newer = parsed(&FILE.replace("image: i", "image: j")).expect("a pod");
        let map = |pods: Vec<(&str, &Pod)>| -> BTreeMap<String, Arc<Pod>> {
            pods.into_iter().map(|(uid, pod)| (uid.to_owned(), Arc::new(pod.clone()))).collect()
        };
        for (what, pods, mirrors, create, delete) in [
            ("new", vec![("u", &one)], vec![], vec!["u"], vec![]),
            ("shown", vec![(facts::uid(&one), &one)], vec![("m", &shown)], vec![], vec![]),
            ("somebody deleted it", vec![(facts::uid(&one), &one)], vec![("m", &ending)], vec![], vec!["m"]),
            ("another file", vec![(facts::uid(&newer), &newer)], vec![("m", &shown)], vec![], vec!["m"]),
            ("the file is gone", vec![], vec![("m", &shown)], vec![], vec!["m"]),
        ] {
            let texts = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let expected = Steps { create: texts(create), delete: texts(delete) };
            assert_eq!(steps(&map(pods), &map(mirrors)), expected, "{what}");
        }
    }
}
