use super::*;
use crate::Rules;

fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod =
        json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    change(&mut pod);
    POD.default(&mut pod);
    pod
}

fn faults(change: impl FnOnce(&mut Value)) -> Vec<String> {
    POD.validate_create(&pod(change)).iter().map(ToString::to_string).collect()
}

fn container(change: Value) -> impl FnOnce(&mut Value) {
    move |pod| {
        for (key, value) in change.as_object().unwrap() {
            pod["spec"]["containers"][0][key] = value.clone();
        }
    }
}

#[test]
fn a_plain_pod_is_fine() {
    assert_eq!(faults(|_| {}), [""; 0]);
}

#[test]
fn what_is_wrong_with_containers() {
    for (change, expected) in [
        (json!({"name": "C"}), "spec.containers[0].name: Invalid value: \"C\": a lowercase RFC 1123 label"),
        (json!({"image": ""}), "spec.containers[0].image: Required value"),
        (json!({"image": " x"}), "spec.containers[0].image: Invalid value: \" x\": must not have leading"),
        (
            json!({"imagePullPolicy": "Never!"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Never!\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"ports": [{"containerPort": 70_000}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"containerPort": 1, "protocol": "X"}]}),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\"",
        ),
        (json!({"env": [{"name": ""}]}), "spec.containers[0].env[0].name: Required value"),
        (
            json!({"env": [{"name": "A", "valueFrom": {}}]}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
        ),
        (
            json!({"envFrom": [{}]}),
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"limits": {"foo": "1"}}}),
            "spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
        ),
        (
            json!({"resources": {"limits": {"a.b/c": "500m"}}}),
            "spec.containers[0].resources.limits[a.b/c]: Invalid value: \"500m\": must be an integer",
        ),
        (
            json!({"resources": {"limits": {"cpu": "-1"}}}),
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (json!({"livenessProbe": {}}), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (
            json!({"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"readinessProbe": {"httpGet": {"port": "-"}}}),
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"-\": must contain at least one letter (a-z)",
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than",
        ),
        (
            json!({"securityContext": {"runAsUser": -1}}),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
    ] {
        let found = faults(container(change.clone()));
        assert!(found.iter().any(|f| f.starts_with(expected)), "{change}: {found:?}");
    }
}

#[test]
fn what_is_wrong_with_specs() {
    for (change, expected) in [
        (json!({"containers": []}), "spec.containers: Required value"),
        (
            json!({"restartPolicy": "Sometimes"}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            json!({"dnsPolicy": "None"}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (json!({"nodeSelector": {"a b": "c"}}), "spec.nodeSelector: Invalid value: \"a b\""),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (json!({"volumes": [{"name": "v"}, {"name": "v"}]}), "spec.volumes[1].name: Duplicate value: \"v\""),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "x", "items": [{"key": "k", "path": "../x"}]}}]}),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "x", "defaultMode": 4096}}]}),
            "spec.volumes[0].secret.defaultMode: Invalid value: 4096: must be a number between 0 and 0777",
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "x"}]}),
            "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            json!({"initContainers": [{"name": "c", "image": "x"}]}),
            "spec.initContainers[0].name: Duplicate value: \"c\"",
        ),
        (
            json!({"initContainers": [{"name": "d", "image": "x", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            json!({"ephemeralContainers": [{"name": "e", "image": "x"}]}),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 81}]}]}),
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort`",
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess",
        ),
        (
            json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}}),
            "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        ),
        (
            json!({"os": {"name": "windows"}, "securityContext": {"runAsUser": 1}}),
            "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ),
        (json!({"os": {"name": "windows"}, "hostPID": true}), "spec.hostPID: Forbidden: cannot be set for a windows"),
        (json!({"os": {"name": "beos"}}), "spec.os: Unsupported value: \"beos\""),
        (json!({"serviceAccountName": "A"}), "spec.serviceAccountName: Invalid value: \"A\""),
    ] {
        let found = faults(|pod| {
            for (key, value) in change.as_object().unwrap() {
                pod["spec"][key] = value.clone();
            }
        });
        assert!(found.iter().any(|f| f.starts_with(expected)), "{change}: {found:?}");
    }
}

#[test]
fn keys_of_labels_need_a_selector_that_does_not_name_them() {
    let named = json!({"matchLabels": {"a": "x"}});
    let twice = json!({"matchLabels": {"a": "x"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]});
    for (selector, list, expected) in [
        (Value::Null, json!(["a"]), "matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"),
        (named.clone(), json!(["b", "-"]), "matchLabelKeys[1]: Invalid value: \"-\": name part must consist of"),
        (named, json!(["a"]), ""),
        (twice, json!(["b", "a"]), "[1]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector"),
    ] {
        let found = faults(|pod| {
            let mut constraint = json!({"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
                "matchLabelKeys": list});
            constraint["labelSelector"] = selector.clone();
            pod["spec"]["topologySpreadConstraints"] = json!([constraint]);
        });
        let told: Vec<_> = found.iter().filter_map(|f| f.strip_prefix("spec.topologySpreadConstraints[0]")).collect();
        let told = told.iter().map(|fault| fault.trim_start_matches('.')).collect::<Vec<_>>().join("\n");
        assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{selector} {list}: {found:?}");
    }
}

#[test]
fn several_faults_at_once() {
    let found = faults(|pod| {
        pod["spec"] = json!({"containers": [{"name": "", "image": ""}, {"name": "x", "image": "y", "ports": [{}]}]})
    });
    assert_eq!(
        found,
        [
            "spec.containers[0].name: Required value",
            "spec.containers[0].image: Required value",
            "spec.containers[1].ports[0].containerPort: Required value",
        ]
    );
}

#[test]
fn creation_sets_the_status() {
    let mut pod = pod(|pod| pod["spec"]["schedulingGates"] = json!([{"name": "g"}]));
    POD.prepare_create(&mut pod);
    assert_eq!(pod["metadata"]["generation"], 1);
    assert_eq!((&pod["status"]["phase"], &pod["status"]["qosClass"]), (&json!("Pending"), &json!("BestEffort")));
    assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
}

#[test]
fn creation_merges_label_keys_into_selectors() {
    let keys = |selector: Value| json!({"labelSelector": selector, "topologyKey": "zone", "matchLabelKeys": ["rev", "none"], "mismatchLabelKeys": ["app"]});
    let mut pod = pod(|pod| {
        pod["metadata"]["labels"] = json!({"rev": "1", "app": "a"});
        let given = json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]});
        let preferred = json!([{"weight": 1, "podAffinityTerm": keys(Value::Null)}]);
        pod["spec"]["affinity"] = json!({
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [keys(given)]},
            "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
        pod["spec"]["topologySpreadConstraints"] = json!([{"labelSelector": {}, "matchLabelKeys": ["rev"]}]);
    });
    POD.prepare_create(&mut pod);
    let revision = json!({"key": "rev", "operator": "In", "values": ["1"]});
    let other = json!({"key": "app", "operator": "NotIn", "values": ["a"]});
    let at = |path: &str| pod.pointer(path).cloned().unwrap_or_default();
    let required = at("/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector");
    let expected = json!([{"key": "x", "operator": "Exists"}, revision, other]);
    assert_eq!(required["matchExpressions"], expected);
    let preferred = "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm";
    assert_eq!(at(&format!("{preferred}/labelSelector")), Value::Null, "nothing stays nothing");
    let spread = at("/spec/topologySpreadConstraints/0/labelSelector");
    assert_eq!(spread, json!({"matchExpressions": [revision]}));
}

#[test]
fn updates() {
    let old = pod(|_| {});
    for (field, value, fault) in [
        ("/spec/containers/0/image", json!("i:2"), None),
        ("/spec/activeDeadlineSeconds", json!(5), None),
        ("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]), None),
        (
            "/spec/containers/0/command",
            json!(["x"]),
            Some("spec: Forbidden: pod updates may not change fields other than"),
        ),
        ("/spec/nodeName", json!("n"), Some("spec: Forbidden: pod updates may not change")),
        (
            "/spec/schedulingGates",
            json!([{"name": "g"}]),
            Some("spec.schedulingGates[0].name: Forbidden: only deletion is allowed"),
        ),
    ] {
        let mut new = old.clone();
        let (parent, name) = field.rsplit_once('/').unwrap();
        new.pointer_mut(parent).unwrap()[name] = value;
        let found: Vec<_> = POD.validate_update(&new, &old, Part::Main).iter().map(ToString::to_string).collect();
        match fault {
            None => assert_eq!(found, [""; 0], "{field}"),
            Some(fault) => assert!(found.iter().any(|f| f.starts_with(fault)), "{field}: {found:?}"),
        }
    }
}

#[test]
fn the_dead_stay_dead() {
    let ended = json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}}}]});
    let running = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
    for (policy, count) in [("Never", 1), ("OnFailure", 0), ("Always", 0)] {
        let mut old = pod(|pod| pod["spec"]["restartPolicy"] = json!(policy));
        let mut new = old.clone();
        old["status"] = ended.clone();
        new["status"] = running.clone();
        assert_eq!(POD.validate_update(&new, &old, Part::Status).len(), count, "{policy}");
    }
}

#[test]
fn subresources_change_only_their_own() {
    let old = pod(|_| {});
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
    new["spec"]["nodeName"] = json!("n");
    POD.prepare_update(&mut new, &old, Part::Other("ephemeralcontainers"));
    assert_eq!(new["spec"]["nodeName"], Value::Null);
    assert_eq!(new["spec"]["ephemeralContainers"][0]["name"], "e");
    let mut new = old.clone();
    new["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    new["spec"]["containers"][0]["image"] = json!("other");
    POD.prepare_update(&mut new, &old, Part::Other("resize"));
    assert_eq!(new["spec"]["containers"][0]["image"], "i:1");
    assert_eq!(new["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
}

#[test]
fn rows_of_the_table() {
    let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
    let base = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c"}, {"name": "d"}], "initContainers": [{"name": "i"}], "nodeName": "n"}});
    let running = json!({"state": {"running": {}}, "ready": true, "name": "c"});
    for (status, deleted, expected) in [
        (json!({"phase": "Pending"}), false, ["0/2", "Pending", "0"]),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "ErrImagePull"}}}]}),
            false,
            ["0/2", "Init:ErrImagePull", "0"],
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
            false,
            ["0/2", "Init:0/1", "0"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, {"name": "d", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "restartCount": 3, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:50:00Z"}}}]}),
            false,
            ["1/2", "CrashLoopBackOff", "3 (10m ago)"],
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
            false,
            ["0/2", "Completed", "0"],
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
            false,
            ["0/2", "ExitCode:3", "0"],
        ),
        (json!({"phase": "Running", "containerStatuses": [running]}), true, ["1/2", "Terminating", "0"]),
    ] {
        let mut pod = base.clone();
        pod["status"] = status.clone();
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
        }
        let cells = POD.cells(&pod, now);
        assert_eq!(cells.len(), POD.columns().len());
        assert_eq!(cells[1..4], expected.map(Value::from), "{status}");
        assert_eq!((&cells[4], &cells[6]), (&json!("60m"), &json!("n")));
    }
}

#[test]
fn all_that_selectors_ask_for_is_read() {
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "restartPolicy": "Never", "schedulerName": "s", "serviceAccountName": "a",
            "hostNetwork": true, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "nominatedNodeName": "m"},
    });
    let fields = selectable(&pod);
    assert!(fields.iter().all(|(name, value)| *name == "status.podIPs" || !value.is_empty()), "{fields:?}");
    let picked = skiff_meta::partial::pick(pod.to_string().as_bytes(), POD.selects_from).expect("JSON");
    assert_eq!(selectable(&picked), fields);
    assert_eq!(picked.get("metadata"), None);
}
