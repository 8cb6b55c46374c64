//! Who keeps house: what goes with what, what comes back, and what is given to whom.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Api as Run, Seen, accepted, expect};
use crate::{at, condition, ended, expect_that, job, of_group, owner, pods, ready, resource, template};

/// A name that nobody else has, of what is in no namespace.
fn unique(name: &str) -> String {
    format!("apps-{}-{name}", std::process::id())
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

pub(crate) fn dependents(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let sets = format!("{}/replicasets", of_group(&path, "apps"));
    for (name, policy, left) in [("orphans", "Orphan", 2), ("behind", "Background", 0), ("before", "Foreground", 0)] {
        let labels = json!({"app": name});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
            "replicas": 2, "selector": {"matchLabels": labels}, "template": template(labels, "i")}});
        accepted(&run.post(&sets, &set)?)?;
        run.pods(&path, 2, |pod| owner(pod) == name)?;
        run.delete(&format!("{sets}/{name}?propagationPolicy={policy}"))?;
        run.see("no set", resource("apps", "v1", "replicasets"), &path, |seen| !seen.contains_key(name))?;
        if policy == "Foreground" {
            let rest = run.json(Method::GET, &format!("{path}/pods?labelSelector=app%3D{name}"), &Value::Null)?;
            expect(rest.tree()["items"].as_array().is_some_and(Vec::is_empty), &rest)?;
        }
        run.pods(&path, left, |pod| pod["metadata"]["labels"]["app"] == name && owner(pod).is_empty())?;
        run.pods(&path, left, |pod| pod["metadata"]["labels"]["app"] == name)?;
    }
    Ok(())
}

/// Makes the one a dependent of the others, who cannot go before it.
fn depends(run: &Run, maps: &str, name: &str, on: &[&str]) -> Result<(), String> {
    let mut owners = Vec::new();
    for owner in on {
        let known = run.json(Method::GET, &format!("{maps}/{owner}"), &Value::Null)?;
        owners.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "blockOwnerDeletion": true,
            "uid": known.tree()["metadata"]["uid"]}));
    }
    accepted(&run.merge(&format!("{maps}/{name}"), &json!({"metadata": {"ownerReferences": owners}}))?)
}

pub(crate) fn tangled(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let maps = format!("{path}/configmaps");
    for name in ["a", "b", "c", "x", "y", "both"] {
        accepted(&run.post(&maps, &config_map(name))?)?;
    }
    for (name, on) in [("a", &["c"][..]), ("b", &["a"]), ("c", &["b"]), ("both", &["x", "y"])] {
        depends(run, &maps, name, on)?;
    }
    let gvr = || resource("", "v1", "configmaps");
    run.delete(&format!("{maps}/a?propagationPolicy=Foreground"))?;
    run.see("a circle that is gone", gvr(), &path, |seen| {
        !["a", "b", "c"].iter().any(|name| seen.contains_key(*name))
    })?;
    run.delete(&format!("{maps}/x?propagationPolicy=Foreground"))?;
    let seen = run.see("one of two owners gone", gvr(), &path, |seen| !seen.contains_key("x"))?;
    let owners = &at(&seen, "both")["metadata"]["ownerReferences"];
    expect_that(owners.as_array().is_some_and(|all| all.len() == 1) && owners[0]["name"] == "y", || owners.to_string())
}

pub(crate) fn ending_namespace(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["conformance.example.com/stays"]);
    accepted(&run.post(&format!("{path}/configmaps"), &held)?)?;
    accepted(&run.post(&format!("{path}/configmaps"), &config_map("free"))?)?;
    run.delete(&path)?;
    let gvr = || resource("", "v1", "namespaces");
    run.see("what keeps the namespace", gvr(), "", |seen| {
        let says = |ty: &str| condition(at(seen, &name), ty)["status"] == "True";
        says("NamespaceContentRemaining") && says("NamespaceFinalizersRemaining")
    })?;
    let late = run.post(&format!("{path}/configmaps"), &config_map("late"))?;
    expect(late.code == 403 && late.tree()["details"]["causes"][0]["reason"] == "NamespaceTerminating", &late)?;
    accepted(&run.merge(&format!("{path}/configmaps/held"), &json!({"metadata": {"finalizers": null}}))?)?;
    run.see("no namespace", gvr(), "", |seen| !seen.contains_key(&name)).map(drop)
}

pub(crate) fn what_a_namespace_has(run: &mut Run) -> Result<(), String> {
    let path = run.namespace(json!({}))?;
    for (collection, name) in [("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")] {
        let gvr = || resource("", "v1", collection);
        let seen = run.see("what each namespace has", gvr(), &path, |seen| seen.contains_key(name))?;
        let first = at(&seen, name)["metadata"]["uid"].clone();
        run.delete(&format!("{path}/{collection}/{name}"))?;
        run.see("another one", gvr(), &path, |seen| {
            seen.contains_key(name) && at(seen, name)["metadata"]["uid"] != first
        })?;
    }
    let changed = json!({"data": {"ca.crt": "none", "more": "x"}});
    accepted(&run.merge(&format!("{path}/configmaps/kube-root-ca.crt"), &changed)?)?;
    run.see("the authority as it was", resource("", "v1", "configmaps"), &path, |seen| {
        let data = &at(seen, "kube-root-ca.crt")["data"];
        data["ca.crt"].as_str().is_some_and(|text| text.contains("BEGIN CERTIFICATE")) && data["more"].is_null()
    })
    .map(drop)
}

pub(crate) fn finished_job(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let one = json!({"completions": 1, "parallelism": 1, "ttlSecondsAfterFinished": 1});
    accepted(&run.post(&format!("{}/jobs", of_group(&path, "batch")), &job(one))?)?;
    let names = run.pods(&path, 1, |_| true)?;
    run.fares(&path, &names[0], ended(0))?;
    run.see("no pods", pods(), &path, Seen::is_empty)?;
    run.see("no Job", resource("batch", "v1", "jobs"), &path, Seen::is_empty).map(drop)
}

/// The node that a daemon's pod is for.
fn place(pod: &Value) -> &str {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    pod.pointer(&format!("{terms}/0/matchFields/0/values/0")).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn daemons(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let (a, b) = (unique("a"), unique("b"));
    for name in [&a, &b] {
        let labels = json!({"apps": unique("daemons")});
        run.make(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}),
        )?;
    }
    let mut template = template(json!({"app": "daemon"}), "i");
    template["spec"]["nodeSelector"] = json!({"apps": unique("daemons")});
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "daemon"},
        "spec": {"selector": {"matchLabels": {"app": "daemon"}}, "template": template}});
    accepted(&run.post(&format!("{}/daemonsets", of_group(&path, "apps")), &set)?)?;
    let first = run.pods(&path, 1, |pod| place(pod) == a)?;
    let second = run.pods(&path, 1, |pod| place(pod) == b)?;
    // Of a node's changes, upstream takes note for pods that have reached it.
    for (pod, node) in [(&first[0], &a), (&second[0], &b)] {
        let target = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        accepted(&run.post(&format!("{path}/pods/{pod}/binding"), &target)?)?;
    }
    let gvr = || resource("apps", "v1", "daemonsets");
    run.see("two are wanted", gvr(), &path, |seen| at(seen, "daemon")["status"]["desiredNumberScheduled"] == 2)?;
    run.fares(&path, &first[0], json!({"phase": "Failed"}))?;
    run.see("another one for it", pods(), &path, |seen| {
        !seen.contains_key(&first[0]) && seen.values().any(|pod| place(pod) == a)
    })?;
    accepted(&run.merge(&format!("/api/v1/nodes/{b}"), &json!({"metadata": {"labels": {"apps": null}}}))?)?;
    run.see("one pod", pods(), &path, |seen| seen.len() == 1 && seen.values().all(|pod| place(pod) == a))?;
    run.see("one is wanted", gvr(), &path, |seen| at(seen, "daemon")["status"]["desiredNumberScheduled"] == 1).map(drop)
}

pub(crate) fn storage(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let (volume, class) = (unique("volume"), unique("class"));
    run.make(
        "/api/v1/persistentvolumes",
        &json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": {
            "storageClassName": class, "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/nowhere"}}}),
    )?;
    let claims = format!("{path}/persistentvolumeclaims");
    accepted(&run.post(
        &claims,
        &json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )?)?;
    let (of_claims, of_volumes) =
        (|| resource("", "v1", "persistentvolumeclaims"), || resource("", "v1", "persistentvolumes"));
    run.see("a bound claim", of_claims(), &path, |seen| {
        let claim = at(seen, "c");
        claim["status"]["phase"] == "Bound"
            && claim["spec"]["volumeName"] == volume
            && claim["status"]["capacity"]["storage"] == "2Gi"
    })?;
    let phase = |phase: &'static str| {
        let volume = volume.clone();
        move |seen: &Seen| at(seen, &volume)["status"]["phase"] == phase
    };
    run.see("a bound volume", of_volumes(), "", phase("Bound"))?;
    let mut user = template(json!({}), "i");
    (user["apiVersion"], user["kind"], user["metadata"]["name"]) = (json!("v1"), json!("Pod"), json!("user"));
    user["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    user["spec"]["nodeName"] = json!(unique("node"));
    accepted(&run.post(&format!("{path}/pods"), &user)?)?;
    run.pods(&path, 1, |_| true)?;
    run.delete(&format!("{claims}/c"))?;
    let stays = |seen: &Seen| !at(seen, "c")["metadata"]["deletionTimestamp"].is_null();
    run.see("a claim that is used", of_claims(), &path, stays)?;
    run.delete(&format!("{path}/pods/user?gracePeriodSeconds=0"))?;
    run.see("no claim", of_claims(), &path, Seen::is_empty)?;
    run.see("a released volume", of_volumes(), "", phase("Released")).map(drop)
}

pub(crate) fn endpoints(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    accepted(&run.post(&format!("{path}/services"), &service)?)?;
    let mut pod = template(json!({"app": "a"}), "i");
    (pod["apiVersion"], pod["kind"], pod["metadata"]["name"]) = (json!("v1"), json!("Pod"), json!("p"));
    let node = unique("served");
    run.make("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}))?;
    pod["spec"]["nodeName"] = json!(node);
    accepted(&run.post(&format!("{path}/pods"), &pod)?)?;
    let mut status = ready();
    (status["podIP"], status["podIPs"]) = (json!("10.9.8.7"), json!([{"ip": "10.9.8.7"}]));
    for is_ready in [true, false] {
        status["conditions"][0]["status"] = json!(if is_ready { "True" } else { "False" });
        run.fares(&path, "p", status.clone())?;
        run.see("the pod's address", resource("discovery.k8s.io", "v1", "endpointslices"), &path, |seen| {
            let mut slices = seen.values().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "s");
            slices.any(|slice| {
                let known = &slice["endpoints"][0];
                known["addresses"][0] == "10.9.8.7"
                    && known["conditions"]["ready"] == is_ready
                    && known["targetRef"]["name"] == "p"
                    && slice["ports"][0]["port"] == 8080
            })
        })?;
    }
    Ok(())
}

pub(crate) fn aggregated_roles(run: &mut Run) -> Result<(), String> {
    let (whole, part) = (unique("whole"), unique("part"));
    let labels = json!({ unique("roles"): "yes" });
    let role = |name: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
    let collection = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let mut object = role(&whole);
    object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    run.make(collection, &object)?;
    let mut object = role(&part);
    object["metadata"]["labels"] = labels;
    object["rules"] = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
    let made = run.make(collection, &object)?;
    let gvr = || resource("rbac.authorization.k8s.io", "v1", "clusterroles");
    run.see("its part's rules", gvr(), "", |seen| at(seen, &whole)["rules"] == object["rules"])?;
    run.delete(&made)?;
    run.see("no rules", gvr(), "", |seen| at(seen, &whole)["rules"].as_array().is_none_or(Vec::is_empty)).map(drop)
}
