use super::*;
use serde_json::json;

fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(mode, value)| (format!("{PREFIX}{mode}"), (*value).to_owned())).collect()
}

fn at(level: &str, version: &str) -> Standard {
    let (policy, faults) = Policy::of(&labels(&[("enforce", level), ("enforce-version", version)]));
    assert_eq!(faults, []);
    policy.enforce
}

#[test]
fn labels_say_what_is_asked_for() {
    for (given, enforce, audit, warn) in [
        (&[][..], "privileged:latest", "privileged:latest", "privileged:latest"),
        (
            &[("enforce", "baseline"), ("enforce-version", "v1.24")],
            "baseline:v1.24",
            "privileged:latest",
            "baseline:v1.24",
        ),
        (
            &[("enforce", "restricted"), ("warn", "privileged")],
            "restricted:latest",
            "privileged:latest",
            "privileged:latest",
        ),
        (&[("audit", "baseline"), ("warn", "restricted")], "privileged:latest", "baseline:latest", "restricted:latest"),
        (&[("enforce", "odd"), ("audit", "odd")], "restricted:latest", "privileged:latest", "privileged:latest"),
    ] {
        let (policy, _) = Policy::of(&labels(given));
        let found = [policy.enforce, policy.audit, policy.warn].map(|standard| standard.to_string());
        assert_eq!(found, [enforce, audit, warn], "{given:?}");
    }
    let (_, faults) = Policy::of(&labels(&[("enforce", "odd"), ("warn-version", "v1.08")]));
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"odd\": must be one of privileged, \
             baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.08\": must be \"latest\" or \
             \"v1.x\"",
        ]
    );
}

#[test]
fn only_a_stricter_policy_is_worth_a_word() {
    let policy = |level: &str, version: &str| Policy { enforce: at(level, version), ..Policy::default() };
    for (old, new, expected) in [
        (("privileged", "latest"), ("baseline", "latest"), true),
        (("restricted", "latest"), ("baseline", "latest"), false),
        (("restricted", "v1.20"), ("baseline", "latest"), true),
        (("baseline", "latest"), ("privileged", "v1.3"), false),
    ] {
        assert_eq!(tightens(&policy(new.0, new.1), &policy(old.0, old.1)), expected, "{old:?} {new:?}");
    }
}

/// A pod that is fine by every standard.
fn hardened() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container("a"), container("b")]}})
}

fn container(name: &str) -> Value {
    json!({"name": name, "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
}

#[test]
fn hardened_pods_fit_everywhere() {
    for version in (0..=40).map(|minor| format!("v1.{minor}")).chain(["latest".to_owned()]) {
        for level in ["privileged", "baseline", "restricted"] {
            let mut pod = hardened();
            pod["spec"]["initContainers"] = json!([container("i")]);
            assert_eq!(violations(at(level, &version), &pod).to_string(), "", "{level} {version}");
        }
    }
}

/// Each change of a hardened pod, and what baseline and restricted say to it at a version.
#[test]
fn what_each_standard_forbids() {
    let host = json!({"httpGet": {"host": "10.0.0.1", "port": 80}});
    let cases: Vec<(&str, &str, Value, &str, &str)> = vec![
        ("latest", "/spec/hostNetwork", json!(true), "host namespaces (hostNetwork=true)", "="),
        (
            "latest",
            "/spec/containers/0/securityContext/privileged",
            json!(true),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
            "=",
        ),
        (
            "latest",
            "/spec/containers/0/securityContext/capabilities/add",
            json!(["SYS_ADMIN", "CHOWN"]),
            "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
            "unrestricted capabilities (container \"a\" must not include \"CHOWN\", \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
        ),
        (
            "latest",
            "/spec/containers/1/securityContext/capabilities/drop",
            json!(["CHOWN"]),
            "",
            "unrestricted capabilities (container \"b\" must set securityContext.capabilities.drop=[\"ALL\"])",
        ),
        ("v1.21", "/spec/containers/1/securityContext/capabilities/drop", json!([]), "", ""),
        (
            "latest",
            "/spec/volumes",
            json!([{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}, {"name": "s", "secret": {}}]),
            "hostPath volumes (volume \"h\")",
            "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            "latest",
            "/spec/containers/0/ports",
            json!([{"hostPort": 80}, {"hostPort": 443}, {"containerPort": 5}]),
            "hostPort (container \"a\" uses hostPorts 443, 80)",
            "=",
        ),
        (
            "v1.34",
            "/spec/containers/0/livenessProbe",
            host.clone(),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
            "=",
        ),
        ("v1.33", "/spec/containers/0/livenessProbe", host, "", ""),
        (
            "latest",
            "/spec/containers/0/securityContext/procMount",
            json!("Unmasked"),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            "=",
        ),
        (
            "v1.30",
            "/spec/securityContext/seLinuxOptions",
            json!({"type": "container_engine_t", "user": "u"}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"container_engine_t\"; user may not \
             be set)",
            "=",
        ),
        ("v1.31", "/spec/securityContext/seLinuxOptions", json!({"type": "container_engine_t"}), "", ""),
        (
            "latest",
            "/spec/containers/0/securityContext/seccompProfile",
            json!({"type": "Unconfined"}),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            "=",
        ),
        (
            "latest",
            "/spec/securityContext/seccompProfile",
            Value::Null,
            "",
            "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \
             \"RuntimeDefault\" or \"Localhost\")",
        ),
        (
            "v1.18",
            "/metadata/annotations",
            json!({"container.seccomp.security.alpha.kubernetes.io/a": "unconfined"}),
            "seccompProfile (forbidden annotation container.seccomp.security.alpha.kubernetes.io/a=\"unconfined\")",
            "=",
        ),
        (
            "latest",
            "/metadata/annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")",
            "=",
        ),
        (
            "v1.28",
            "/spec/securityContext/sysctls",
            json!([{"name": "net.ipv4.tcp_keepalive_time"}, {"name": "net.ipv4.ip_local_reserved_ports"}]),
            "forbidden sysctls (net.ipv4.tcp_keepalive_time)",
            "=",
        ),
        (
            "latest",
            "/spec/securityContext/windowsOptions",
            json!({"hostProcess": true}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            "=",
        ),
        (
            "latest",
            "/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(true),
            "",
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)",
        ),
        (
            "latest",
            "/spec/containers/0/securityContext/runAsNonRoot",
            json!(false),
            "",
            "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            "latest",
            "/spec/securityContext/runAsNonRoot",
            Value::Null,
            "",
            "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
        ),
        ("v1.23", "/spec/securityContext/runAsUser", json!(0), "", "runAsUser=0 (pod must not set runAsUser=0)"),
        ("v1.22", "/spec/securityContext/runAsUser", json!(0), "", ""),
    ];
    for (version, path, value, baseline, restricted) in cases {
        let mut pod = hardened();
        let (parent, member) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[member] = value;
        let found = |level: &str| violations(at(level, version), &pod).to_string();
        assert_eq!(found("baseline"), baseline, "{version} {path}");
        assert_eq!(found("restricted"), if restricted == "=" { baseline } else { restricted }, "{version} {path}");
        assert!(violations(at("privileged", version), &pod).is_empty());
    }
}

#[test]
fn some_pods_need_less() {
    let mut windows = json!({"spec": {"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true},
        "containers": [{"name": "a"}]}});
    assert!(violations(at("restricted", "v1.25"), &windows).is_empty());
    assert_eq!(
        violations(at("restricted", "v1.24"), &windows).reasons(),
        "allowPrivilegeEscalation != false, unrestricted capabilities, seccompProfile"
    );
    windows["spec"]["hostUsers"] = json!(false);
    windows["spec"]["securityContext"] = json!({"runAsUser": 0});
    assert!(violations(at("restricted", "latest"), &windows).is_empty());
    assert_eq!(violations(at("restricted", "v1.34"), &windows).reasons(), "runAsNonRoot != true, runAsUser=0");
}
