//! DaemonSets: a pod for each node that is chosen, and no more restarts than needed.

use serde_json::{Value, json};

use crate::support::{Api as Run, Seen};
use crate::{DAEMON_SETS, PODS, REVISIONS, expect_that, image, ready, says, template, to_image, unique};

/// The node that a daemon's pod is for.
fn place(pod: &Value) -> &str {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    pod.pointer(&format!("{terms}/0/matchFields/0/values/0")).and_then(Value::as_str).unwrap_or_default()
}

/// A DaemonSet with a pod on each of two nodes: its path, and its pods with their nodes.
fn on_two_nodes(run: &mut Run, path: &str, label: &str) -> Result<(String, [(String, String); 2]), String> {
    let nodes = [unique(&format!("{label}-a")), unique(&format!("{label}-b"))];
    for name in &nodes {
        run.make_node(name, json!({"apps": unique(label)}))?;
    }
    let mut template = template(json!({"app": "daemon"}), "one");
    template["spec"]["nodeSelector"] = json!({"apps": unique(label)});
    let spec = json!({"selector": {"matchLabels": {"app": "daemon"}}, "template": template});
    let set = run.create(path, DAEMON_SETS, "daemon", spec)?;
    // Of a node's changes, upstream takes note for pods that have reached it.
    let mut pods = Vec::new();
    for node in &nodes {
        let pod = run.pods(path, 1, |pod| place(pod) == node)?.remove(0);
        run.bind(path, &pod, node)?;
        pods.push(pod);
    }
    let [a, b] = nodes;
    let second = pods.remove(1);
    Ok((set, [(pods.remove(0), a), (second, b)]))
}

pub(crate) fn follow_nodes(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let (_, [(first, a), (_, b)]) = on_two_nodes(run, &path, "followed")?;
    let wanted = |count: i32| move |set: &Value| set["status"]["desiredNumberScheduled"] == count;
    run.comes("two are wanted", DAEMON_SETS, &path, "daemon", wanted(2))?;
    run.fares(&path, &first, json!({"phase": "Failed"}))?;
    run.see("another one for it", PODS.gvr(), &path, |seen| {
        !seen.contains_key(&first) && seen.values().any(|pod| place(pod) == a)
    })?;
    run.change(&format!("/api/v1/nodes/{b}"), json!({"metadata": {"labels": {"apps": null}}}))?;
    run.see("one pod", PODS.gvr(), &path, |seen| seen.len() == 1 && seen.values().all(|pod| place(pod) == a))?;
    run.comes("one is wanted", DAEMON_SETS, &path, "daemon", wanted(1)).map(drop)
}

pub(crate) fn roll_back(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let (set, pods) = on_two_nodes(run, &path, "rolled")?;
    for (pod, _) in &pods {
        run.fares(&path, pod, ready())?;
    }
    let available = |updated: i32| json!({"numberAvailable": 2, "updatedNumberScheduled": updated});
    run.comes("two available pods", DAEMON_SETS, &path, "daemon", |set| says(set, &available(2)))?;
    // One at a time is updated; it does not come up, so the other stays.
    run.change(&set, to_image("two"))?;
    let new = run.pods(&path, 1, |pod| image(pod) == "two")?.remove(0);
    let stays = run.pods(&path, 1, |pod| image(pod) == "one")?.remove(0);
    run.comes("one of two", DAEMON_SETS, &path, "daemon", |set| {
        says(set, &json!({"numberAvailable": 1, "updatedNumberScheduled": 1}))
    })?;
    run.change(&set, to_image("one"))?;
    run.pods(&path, 2, |pod| image(pod) == "one")?;
    let names = run.pods(&path, 2, |_| true)?;
    expect_that(names.contains(&stays) && !names.contains(&new), || format!("{names:?} without {stays}"))?;
    for (pod, node) in
        names.iter().filter(|name| **name != stays).flat_map(|name| pods.iter().map(move |p| (name, &p.1)))
    {
        // The new one is for the node that has none.
        let other = pods.iter().any(|(old, on)| *old == stays && on == node);
        if !other {
            run.bind(&path, pod, node)?;
            run.fares(&path, pod, ready())?;
        }
    }
    run.comes("two available pods", DAEMON_SETS, &path, "daemon", |set| says(set, &available(2)))?;
    let revisions = |seen: &Seen| {
        let mut numbers: Vec<_> = seen.values().filter_map(|revision| revision["revision"].as_i64()).collect();
        numbers.sort_unstable();
        numbers == [2, 3]
    };
    run.see("the first revision as the third", REVISIONS.gvr(), &path, revisions)?;
    // Left to its owner, a pod changes when it is deleted.
    run.change(&set, json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}))?;
    run.change(&set, to_image("three"))?;
    run.comes("none is updated", DAEMON_SETS, &path, "daemon", |set| {
        says(set, &json!({"numberAvailable": 2, "updatedNumberScheduled": null}))
    })?;
    run.delete(&format!("{path}/pods/{stays}"))?;
    run.pods(&path, 1, |pod| image(pod) == "three")?;
    run.pods(&path, 1, |pod| image(pod) == "one").map(drop)
}
