//! Who keeps house: what goes with what, what comes back, and what is given to whom.

use serde_json::{Value, json};

use crate::support::{Api as Run, Seen, accepted, expect};
use crate::{
    CONTROLLERS, DEPLOYMENTS, Kind, NODES, PODS, REPLICA_SETS, SERVICES, at, condition, expect_that, owner, selector,
    template, unique, workload,
};

const MAPS: Kind = Kind("", "v1", "configmaps", "ConfigMap");
const ACCOUNTS: Kind = Kind("", "v1", "serviceaccounts", "ServiceAccount");
const NAMESPACES: Kind = Kind("", "v1", "namespaces", "Namespace");
const ROLES: Kind = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole");

pub(crate) fn node_ttl(run: &mut Run) -> Result<(), String> {
    let name = unique("kept");
    run.make_node(&name, json!({}))?;
    let told = |node: &Value| node["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0";
    run.comes("a time to live", NODES, "", &name, told).map(drop)
}

fn config_map(name: &str) -> Value {
    MAPS.object(name, json!({}))
}

/// Who owns whom: what an owner is, what it owns, and how many of those.
const OWNERS: [(Kind, Kind, usize); 3] =
    [(CONTROLLERS, PODS, 2), (REPLICA_SETS, PODS, 2), (DEPLOYMENTS, REPLICA_SETS, 1)];

pub(crate) fn dependents(run: &mut Run) -> Result<(), String> {
    for (kind, owned, count) in OWNERS {
        let path = run.home()?;
        for (name, policy, left) in
            [("orphans", "Orphan", count), ("behind", "Background", 0), ("before", "Foreground", 0)]
        {
            let mut spec = workload(name, 2, json!({}));
            spec["selector"] = selector(kind, &json!({"app": name}));
            let made = run.create(&path, kind, name, spec)?;
            let of = |owner_is: &'static str, count: usize| {
                run.see("dependents", owned.gvr(), &path, |seen| {
                    let labelled = seen.values().filter(|object| object["metadata"]["labels"]["app"] == name);
                    let all: Vec<&Value> = labelled.collect();
                    all.len() == count && all.iter().all(|object| owner(object) == owner_is)
                })
            };
            let owned_by_it = of(name, count)?;
            run.pods(&path, 2, |pod| pod["metadata"]["labels"]["app"] == name)?;
            run.delete(&format!("{made}?propagationPolicy={policy}"))?;
            run.comes("no owner", kind, &path, name, Value::is_null)?;
            if policy == "Foreground" {
                // Its controller may learn of its end last and make another one, which follows later.
                let rest = run.get(&format!("{}?labelSelector=app%3D{name}", owned.within(&path)))?;
                let is_new = |object: &Value| {
                    object["metadata"]["name"].as_str().is_some_and(|name| !owned_by_it.contains_key(name))
                };
                expect(rest.tree()["items"].as_array().is_some_and(|all| all.iter().all(is_new)), &rest)?;
            }
            of("", left)?;
            run.pods(&path, if left > 0 { 2 } else { 0 }, |pod| pod["metadata"]["labels"]["app"] == name)?;
        }
    }
    Ok(())
}

/// Makes the one a dependent of the others, who cannot go before it.
fn depends(run: &Run, maps: &str, name: &str, on: &[&str]) -> Result<(), String> {
    let mut owners = Vec::new();
    for owner in on {
        let known = run.get(&format!("{maps}/{owner}"))?;
        owners.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "blockOwnerDeletion": true,
            "uid": known.tree()["metadata"]["uid"]}));
    }
    run.change(&format!("{maps}/{name}"), json!({"metadata": {"ownerReferences": owners}}))
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
    run.delete(&format!("{maps}/a?propagationPolicy=Foreground"))?;
    run.see("a circle that is gone", MAPS.gvr(), &path, |seen| {
        !["a", "b", "c"].iter().any(|name| seen.contains_key(*name))
    })?;
    run.delete(&format!("{maps}/x?propagationPolicy=Foreground"))?;
    let seen = run.see("one of two owners gone", MAPS.gvr(), &path, |seen| !seen.contains_key("x"))?;
    let owners = &at(&seen, "both")["metadata"]["ownerReferences"];
    expect_that(owners.as_array().is_some_and(|all| all.len() == 1) && owners[0]["name"] == "y", || owners.to_string())
}

/// A namespace's last hour; the name of the namespace.
fn ending(run: &Run, path: &str) -> Result<String, String> {
    run.delete(path)?;
    Ok(path.rsplit('/').next().unwrap_or_default().to_owned())
}

const STAYS: &str = "conformance.example.com/stays";

pub(crate) fn ending_namespace(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!([STAYS]);
    accepted(&run.post(&format!("{path}/configmaps"), &held)?)?;
    accepted(&run.post(&format!("{path}/configmaps"), &config_map("free"))?)?;
    run.create(&path, SERVICES, "s", json!({"ports": [{"port": 80}]}))?;
    let name = ending(run, &path)?;
    run.comes("what keeps the namespace", NAMESPACES, "", &name, |namespace| {
        let says = |ty: &str| condition(namespace, ty)["status"] == "True";
        says("NamespaceContentRemaining") && says("NamespaceFinalizersRemaining")
    })?;
    let late = run.post(&format!("{path}/configmaps"), &config_map("late"))?;
    expect(late.code == 403 && late.tree()["details"]["causes"][0]["reason"] == "NamespaceTerminating", &late)?;
    run.see("no Services", SERVICES.gvr(), &path, Seen::is_empty)?;
    run.change(&format!("{path}/configmaps/held"), json!({"metadata": {"finalizers": null}}))?;
    run.comes("no namespace", NAMESPACES, "", &name, Value::is_null).map(drop)
}

/// As long as pods are about to go, nothing else is asked to.
pub(crate) fn pods_go_first(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let mut pod = PODS.object("held", template(json!({}), "i"));
    pod["metadata"]["finalizers"] = json!([STAYS]);
    accepted(&run.post(&format!("{path}/pods"), &pod)?)?;
    accepted(&run.post(&format!("{path}/configmaps"), &config_map("last"))?)?;
    let name = ending(run, &path)?;
    run.comes("a namespace that was looked at", NAMESPACES, "", &name, |namespace| {
        condition(namespace, "NamespaceDeletionContentFailure")["status"] == "False"
    })?;
    run.comes("a pod that is to go", PODS, &path, "held", |pod| !pod["metadata"]["deletionTimestamp"].is_null())?;
    let last = run.get(&format!("{path}/configmaps/last"))?;
    expect(last.code == 200 && last.tree()["metadata"]["deletionTimestamp"].is_null(), &last)?;
    run.change(&format!("{path}/pods/held"), json!({"metadata": {"finalizers": null}}))?;
    run.comes("no namespace", NAMESPACES, "", &name, Value::is_null).map(drop)
}

pub(crate) fn what_a_namespace_has(run: &mut Run) -> Result<(), String> {
    let path = run.namespace(json!({}))?;
    for (kind, name) in [(ACCOUNTS, "default"), (MAPS, "kube-root-ca.crt")] {
        let first = run.comes("what each namespace has", kind, &path, name, |object| !object.is_null())?;
        run.delete(&format!("{}/{name}", kind.within(&path)))?;
        run.comes("another one", kind, &path, name, |object| {
            !object.is_null() && object["metadata"]["uid"] != first["metadata"]["uid"]
        })?;
    }
    let changed = json!({"data": {"ca.crt": "none", "more": "x"}});
    run.change(&format!("{path}/configmaps/kube-root-ca.crt"), changed)?;
    run.comes("the authority as it was", MAPS, &path, "kube-root-ca.crt", |map| {
        let data = &map["data"];
        data["ca.crt"].as_str().is_some_and(|text| text.contains("BEGIN CERTIFICATE")) && data["more"].is_null()
    })
    .map(drop)
}

pub(crate) fn aggregated_roles(run: &mut Run) -> Result<(), String> {
    let (whole, part) = (unique("whole"), unique("part"));
    let labels = json!({ unique("roles"): "yes" });
    let collection = ROLES.within("/api/v1");
    let rule = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    run.make(&collection, &ROLES.object(&whole, json!({"aggregationRule": rule})))?;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
    let object = ROLES.object(&part, json!({"metadata": {"labels": labels}, "rules": rules}));
    let made = run.make(&collection, &object)?;
    run.comes("its part's rules", ROLES, "", &whole, |role| role["rules"] == rules)?;
    run.delete(&made)?;
    run.comes("no rules", ROLES, "", &whole, |role| role["rules"].as_array().is_none_or(Vec::is_empty)).map(drop)
}
