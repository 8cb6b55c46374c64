//! What is doubtful, as a table: kind, the object, and what is said.

use serde_json::{Value, json};
use skiff_meta::GroupKind;

use crate::{Part, rules_for};

fn told(kind: &str, new: &Value, old: Option<&Value>, part: Part) -> Vec<String> {
    let (group, kind) = kind.split_once('/').unwrap_or(("", kind));
    rules_for(&GroupKind::new(group, kind)).warnings(new, old, part)
}

/// A pod with one container called `c` that has `parts`.
fn of_container(parts: Value) -> Value {
    let mut container = json!({"name": "c"});
    container.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    of_pod(json!({"containers": [container]}))
}

fn of_pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn pods() {
    let term = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["a b"]}]});
    let port = |number: i64, more: Value| {
        let mut port = json!({"containerPort": number, "protocol": "TCP"});
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        port
    };
    for (pod, expected) in [
        (of_container(json!({})), &[][..]),
        (
            of_pod(json!({
                "nodeSelector": {"beta.kubernetes.io/os": "linux"},
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term("kubernetes.io/os")]},
                        "preferredDuringSchedulingIgnoredDuringExecution":
                            [{"weight": 1, "preference": term("beta.kubernetes.io/arch")}],
                    },
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "h"}]},
                    "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                        {"podAffinityTerm": {"labelSelector": {}}}, {"podAffinityTerm": {}}]},
                },
                "topologySpreadConstraints": [{"topologyKey": "node-role.kubernetes.io/master"}],
            })),
            &[
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference\
                 .matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \
                 \"kubernetes.io/arch\" instead",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference\
                 .matchExpressions[0].values[0]: a b is invalid, a valid label must be an empty string or consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
                 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
                 '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                "spec.topologySpreadConstraints[0].topologyKey: node-role.kubernetes.io/master is use \
                 \"node-role.kubernetes.io/control-plane\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null \
                 labelSelector results in matching no pod",
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[1].podAffinityTerm\
                 .labelSelector: a null labelSelector results in matching no pod",
            ],
        ),
        (
            json!({
                "metadata": {"name": "p.q", "annotations": {
                    "security.alpha.kubernetes.io/sysctls": "",
                    "seccomp.security.alpha.kubernetes.io/pod": "",
                    "container.seccomp.security.alpha.kubernetes.io/c": "",
                    "container.apparmor.security.beta.kubernetes.io/c": "unconfined",
                }},
                "spec": {"containers": [{"name": "c"}]},
            }),
            &[
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label \
                 is recommended: [must not contain dots]",
                "metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the \
                 \"sysctls\" field instead",
                "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \
                 \"seccompProfile\" field instead",
                "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use \
                 the \"seccompProfile\" field instead",
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use \
                 the \"appArmorProfile\" field instead",
            ],
        ),
        (
            of_pod(json!({
                "volumes": [
                    {"name": "v", "gitRepo": {}},
                    {"name": "w", "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "1m"}}}}}},
                    {"name": "x", "configMap": {"name": "m", "items": [{"path": "a"}, {"path": "a/b"}, {"path": "ab"}]}},
                    {"name": "y", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "t"}}, {}, {"secret": {"name": "s", "items": [{"path": "t/"}]}}]}},
                ],
                "hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}, {"ip": "FE80::1"}],
                "imagePullSecrets": [{}, {"name": "s"}, {"name": "s"}],
                "overhead": {"memory": "100m"},
                "terminationGracePeriodSeconds": -1,
                "dnsConfig": {"nameservers": ["2001:db8:0::1"]},
            })),
            &[
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                "spec.volumes[1].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \
                 \"1m\" is invalid, must be an integer",
                "volume \"x\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\"",
                "volume \"y\" (Projected) has no sources provided",
                "volume \"y\" (Projected): overlapping paths: \"t\" (Secret \"s\") with \"t\" (ServiceAccountToken)",
                "spec.hostAliases[1].ip: duplicate ip \"1.2.3.4\"",
                "spec.imagePullSecrets[2].name: duplicate name \"s\"",
                "spec.imagePullSecrets[0].name: invalid empty name \"\"",
                "spec.overhead[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.dnsConfig.nameservers[0]: IPv6 address \"2001:db8:0::1\" should be in RFC 5952 canonical format \
                 (\"2001:db8::1\")",
                "spec.hostAliases[2].ip: IPv6 address \"FE80::1\" should be in RFC 5952 canonical format (\"fe80::1\")",
            ],
        ),
        (
            of_container(json!({
                "resources": {"limits": {"memory": "1.5", "cpu": "1.5"}},
                "env": [
                    {"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "$(A)"},
                    {"name": "A", "valueFrom": {}},
                ],
            })),
            &[
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an \
                 integer",
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].env[3]: hides previous definition of \"A\", which may be dropped when using apply",
            ],
        ),
        (
            of_container(json!({"ports": [
                port(80, json!({"hostIP": "1.2.3.4", "name": "http"})),
                port(80, json!({"hostPort": 8080, "name": "http"})),
                port(80, json!({"hostPort": 8080, "hostIP": "1.2.3.4"})),
                port(80, json!({"hostPort": 8080})),
                port(80, json!({"hostPort": 8081})),
                port(81, json!({"hostPort": 8080})),
            ]})),
            &[
                "spec.containers[0].ports[0]: hostIP set without hostPort: {Name:http HostPort:0 ContainerPort:80 \
                 Protocol:TCP HostIP:1.2.3.4}",
                "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: dangerously ambiguous port definition with spec.containers[0].ports[1]",
                "spec.containers[0].ports[3]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[3]: duplicate port definition with spec.containers[0].ports[1]",
                "spec.containers[0].ports[3]: dangerously ambiguous port definition with spec.containers[0].ports[2]",
                "spec.containers[0].ports[4]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[1]: duplicate port name \"http\" with spec.containers[0].ports[0], services \
                 and probes that select ports by name will use spec.containers[0].ports[0]",
            ],
        ),
    ] {
        assert_eq!(told("Pod", &pod, None, Part::Main), expected, "{pod}");
        assert_eq!(told("Pod", &pod, Some(&pod), Part::Main), [""; 0]);
    }
}

#[test]
fn what_makes_pods_warns_of_them_when_it_changes() {
    let template = json!({"spec": {"terminationGracePeriodSeconds": -1}});
    let why = "terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1";
    for (kind, path) in [
        ("PodTemplate", "template"),
        ("ReplicationController", "spec.template"),
        ("apps/Deployment", "spec.template"),
        ("apps/ReplicaSet", "spec.template"),
        ("apps/DaemonSet", "spec.template"),
        ("apps/StatefulSet", "spec.template"),
        ("batch/Job", "spec.template"),
        ("batch/CronJob", "spec.jobTemplate.spec.template"),
    ] {
        let wrapped = path.rsplit('.').fold(template.clone(), |inner, name| json!({name: inner}));
        let with = |name: &str, generation: i64| {
            let mut object = wrapped.clone();
            object["metadata"] = json!({"name": name, "generation": generation});
            object
        };
        let expected = [format!("{path}.spec.{why}")];
        assert_eq!(told(kind, &with("a", 1), None, Part::Main), expected, "{kind}");
        let same = told(kind, &with("a.b", 1), Some(&with("a.b", 1)), Part::Main);
        assert_eq!(same, [""; 0], "{kind}");
        let mut before = with("a.b", 1);
        if kind == "apps/DaemonSet" {
            before["spec"]["template"] = json!({});
        }
        assert_eq!(told(kind, &with("a.b", 2), Some(&before), Part::Main), expected, "{kind}");
        let named = !matches!(kind, "PodTemplate" | "apps/DaemonSet" | "apps/StatefulSet");
        let count = told(kind, &with("a.b", 1), None, Part::Main).len();
        assert_eq!(count, 1 + usize::from(named), "{kind}");
    }
}

#[test]
fn other_kinds() {
    let annotated = |key: &str| json!({"metadata": {"name": "a", "annotations": {key: ""}}});
    let spec = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
    let static_name = json!({"metadata": {"name": "a.static.k8s.io"}});
    let reserved = "metadata.name: names ending with \".static.k8s.io\" are reserved for static manifest-based \
                    configurations and cannot be managed via the API";
    let odd = json!({"ip": "FE80::1"});
    let address =
        |path: &str| format!("{path}: IPv6 address \"FE80::1\" should be in RFC 5952 canonical format (\"fe80::1\")");
    let range = |path: &str| {
        format!(
            "{path}: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"
        )
    };
    let class = "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \
                 \"storageClassName\" attribute instead";
    let zone = json!([{"matchLabelExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone"}]}]);
    for (kind, object, part, expected) in [
        (
            "Service",
            spec(json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "externalIPs": ["FE80::1"],
                "sessionAffinity": "ClientIP", "externalName": "a", "loadBalancerIP": "1.2.3.4",
                "trafficDistribution": "PreferClose"})),
            Part::Main,
            vec![
                "spec.loadBalancerIP is ignored for headless services".to_owned(),
                "spec.externalIPs is ignored for headless services".to_owned(),
                "spec.SessionAffinity is ignored for headless services".to_owned(),
                "spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned(),
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
                address("spec.externalIPs[0]"),
            ],
        ),
        (
            "Service",
            spec(json!({"type": "ExternalName", "sessionAffinity": "None", "externalIPs": ["1.2.3.4"],
                "loadBalancerSourceRanges": ["10.0.0.1/8"]})),
            Part::Main,
            vec![
                "spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned(),
                range("spec.loadBalancerSourceRanges[0]"),
            ],
        ),
        (
            "Service",
            json!({"status": {"loadBalancer": {"ingress": [odd]}}}),
            Part::Status,
            vec![address("status.loadBalancer.ingress[0]")],
        ),
        ("Pod", json!({"status": {"podIPs": [odd]}}), Part::Status, vec![address("status.podIPs[0].ip")]),
        (
            "networking.k8s.io/Ingress",
            annotated("kubernetes.io/ingress.class"),
            Part::Main,
            vec!["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead".to_owned()],
        ),
        (
            "networking.k8s.io/NetworkPolicy",
            spec(json!({"egress": [{"to": [{}, {"ipBlock": {"cidr": "10.0.0.1/8"}}]}]})),
            Part::Main,
            vec![range("spec.egress[0].to[1].ipBlock.cidr")],
        ),
        ("PersistentVolume", annotated("volume.beta.kubernetes.io/storage-class"), Part::Main, vec![class.to_owned()]),
        (
            "PersistentVolume",
            spec(json!({"rbd": {}, "persistentVolumeReclaimPolicy": "Recycle"})),
            Part::Main,
            vec![
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
                 approach is to use dynamic provisioning."
                    .to_owned(),
                "spec.rbd: deprecated in v1.28, non-functional in v1.31+".to_owned(),
            ],
        ),
        (
            "PersistentVolumeClaim",
            annotated("volume.beta.kubernetes.io/storage-class"),
            Part::Main,
            vec![class.to_owned()],
        ),
        (
            "apps/StatefulSet",
            spec(json!({"revisionHistoryLimit": -1,
                "volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": "100m"}}}}]})),
            Part::Main,
            vec![
                "spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value \"100m\" is invalid, \
                 must be an integer"
                    .to_owned(),
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is \
                 recommended"
                    .to_owned(),
            ],
        ),
        (
            "batch/Job",
            spec(json!({"completionMode": "Indexed", "completions": 100_001, "parallelism": 10_001})),
            Part::Main,
            vec![
                "spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
                 Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
                    .to_owned(),
            ],
        ),
        (
            "Node",
            spec(json!({"externalID": "x", "podCIDRs": ["10.0.0.1/8"]})),
            Part::Main,
            vec![
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
                range("spec.podCIDRs[0]"),
            ],
        ),
        (
            "ResourceQuota",
            spec(json!({"hard": {"cpu": "2", "limits.cpu": "1500m", "requests.storage": "1Gi", "limits.storage": "1Gi"}})),
            Part::Main,
            vec!["ResourceQuota cpu (2) should be less than limits.cpu (1500m)".to_owned()],
        ),
        (
            "ServiceAccount",
            annotated("kubernetes.io/enforce-mountable-secrets"),
            Part::Main,
            vec![
                "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate \
                 namespaces to isolate access to mounted secrets"
                    .to_owned(),
            ],
        ),
        (
            "Secret",
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}),
            Part::Main,
            vec!["tls: failed to find any PEM data in certificate input".to_owned()],
        ),
        ("Endpoints", json!({"subsets": [{"notReadyAddresses": [odd]}]}), Part::Main,
            vec![address("subsets[0].notReadyAddresses[0].ip")]),
        (
            "discovery.k8s.io/EndpointSlice",
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["FE80::1"]}]}),
            Part::Main,
            vec!["spec.addressType: FQDN endpoints are deprecated".to_owned(), address("endpoints[0].addresses[0]")],
        ),
        (
            "storage.k8s.io/StorageClass",
            json!({"allowedTopologies": zone}),
            Part::Main,
            vec![
                "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \
                 \"topology.kubernetes.io/zone\" instead"
                    .to_owned(),
            ],
        ),
        (
            "storage.k8s.io/CSIStorageCapacity",
            json!({"nodeTopology": {"matchLabels": {"app.kubernetes.io/created-by": "x"}}}),
            Part::Main,
            vec!["nodeTopology.matchLabels.app.kubernetes.io/created-by: deprecated since v1.9".to_owned()],
        ),
        (
            "storage.k8s.io/CSIDriver",
            spec(json!({"tokenRequests": [{}]})),
            Part::Main,
            vec![
                "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                 possible logging of tokens in volume attributes"
                    .to_owned(),
            ],
        ),
        (
            "node.k8s.io/RuntimeClass",
            json!({"scheduling": {"nodeSelector": {"app.kubernetes.io/created-by": "x"}}}),
            Part::Main,
            vec!["scheduling.nodeSelector: deprecated since v1.9".to_owned()],
        ),
        (
            "resource.k8s.io/ResourceSlice",
            spec(json!({"driver": "A.b"})),
            Part::Main,
            vec!["spec.driver: driver names should be lowercase; \"A.b\" contains uppercase characters".to_owned()],
        ),
        ("admissionregistration.k8s.io/ValidatingAdmissionPolicyBinding", static_name.clone(), Part::Main, vec![reserved.to_owned()]),
        ("admissionregistration.k8s.io/MutatingWebhookConfiguration", static_name, Part::Main, vec![reserved.to_owned()]),
    ] {
        assert_eq!(told(kind, &object, None, part), expected, "{kind} {object}");
    }
}

#[test]
fn annotations_give_new_pods_their_profiles() {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let own = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
    let mut pod = json!({
        "metadata": {"annotations": {
            format!("{PREFIX}a"): "localhost/f", format!("{PREFIX}b"): "unconfined", format!("{PREFIX}c"): "strange",
        }},
        "spec": {"containers": [{"name": "a"}, {"name": "b", "securityContext": own}, {"name": "c"}]},
    });
    rules_for(&GroupKind::new("", "Pod")).prepare_create(&mut pod);
    let profile = |number: usize| pod["spec"]["containers"][number]["securityContext"]["appArmorProfile"].clone();
    assert_eq!(profile(0), json!({"type": "Localhost", "localhostProfile": "f"}));
    assert_eq!((profile(1), profile(2)), (json!({"type": "RuntimeDefault"}), Value::Null));
}
