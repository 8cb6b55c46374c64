//! What admission lets in: quotas, pod security standards and webhooks, against the API of `CONFORMANCE_KUBECONFIG`, or
//! against a server that is started for it. Webhooks listen on loopback, where that API must be too.

#[path = "../../server/tests/support/hook.rs"]
mod hook;
#[path = "wire_admission/hooks.rs"]
mod hooks;
mod support;

use futures::future::join_all;
use hook::{Hook, allow, at_once, patch};
use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Answer;
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, accepted, expect};

fn main() {
    std::process::exit(cases::run_with(Run::start(71), CASES));
}

const CASES: &[Case<Run>] = &[
    ("a_quota_holds_against_many_at_once", quota_of_counts),
    ("a_quota_of_compute_asks_pods_for_their_share", quota_of_compute),
    ("a_quota_counts_ports_of_services", quota_of_services),
    ("scopes_of_a_quota_choose_pods", quota_scopes),
    ("a_namespace_keeps_its_pod_security_standard", pod_security),
    ("webhooks_change_what_is_written", webhooks_change),
    ("webhooks_refuse_what_is_written", webhooks_refuse),
    ("webhooks_that_cannot_be_asked_fail_as_told", webhooks_fail),
    ("webhooks_choose_by_labels_and_conditions", webhooks_choose),
    ("webhooks_guard_custom_kinds", hooks::of_custom_kinds),
    ("webhooks_guard_definitions_and_connections", hooks::of_definitions_and_connections),
    ("webhooks_leave_their_configurations_alone", hooks::leave_configurations_alone),
    ("webhooks_have_their_time", hooks::have_their_time),
    ("webhooks_are_changed_and_go_together", hooks::change_and_go_together),
    ("webhooks_come_before_defaults", hooks::come_before_defaults),
    ("doubtful_use_is_told_in_headers", doubtful_use),
];

fn refused(answer: &Answer, code: u16, message: &str) -> Result<(), String> {
    expect(answer.code == code && answer.text("message") == message, answer)
        .map_err(|got| format!("wanted {code} {message}\ngot {got}"))
}

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/";

impl Run {
    /// A quota that counts from now on. There may be no controller to count what there is, which is nothing.
    fn quota(&self, path: &str, name: &str, hard: &Value, other: Value) -> Result<(), String> {
        let mut tree = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": other});
        tree["spec"]["hard"] = hard.clone();
        accepted(&self.post(&format!("{path}/resourcequotas"), &tree)?)?;
        let used: Value = hard.as_object().into_iter().flatten().map(|(name, _)| (name.clone(), json!("0"))).collect();
        let status = json!({"status": {"hard": hard, "used": used}});
        accepted(&self.merge(&format!("{path}/resourcequotas/{name}/status"), &status)?)
    }

    fn used(&self, path: &str, name: &str) -> Result<Value, String> {
        let quota = self.json(Method::GET, &format!("{path}/resourcequotas/{name}"), &Value::Null)?;
        Ok(quota.tree()["status"]["used"].clone())
    }

    fn hook(&self, judge: hook::Judge) -> Hook {
        self.runtime.block_on(Hook::start(judge))
    }

    /// Webhooks that are asked about a namespace's config maps, and are asked by now.
    fn configure(&mut self, kind: &str, path: &str, hooks: Value) -> Result<String, String> {
        let namespace = path.rsplit('/').next().unwrap_or_default();
        let mut hooks = hooks;
        for hook in hooks.as_array_mut().into_iter().flatten() {
            hook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
        }
        let collection = format!("{HOOKS}{}s", kind.to_ascii_lowercase());
        let metadata = json!({"generateName": "conformance-"});
        let api = "admissionregistration.k8s.io/v1";
        let tree = json!({"apiVersion": api, "kind": kind, "metadata": metadata, "webhooks": hooks});
        self.make(&collection, &tree)
    }
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": value}},
        "data": {"k": value}})
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    if pod["spec"]["containers"].is_null() {
        pod["spec"]["containers"] = json!([{"name": "c", "image": "example.com/none"}]);
    }
    pod
}

fn quota_of_counts(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    run.quota(&path, "q", &json!({"count/secrets": "5", "secrets": "9"}), json!({}))?;
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let secrets = format!("{path}/secrets");
    // The first that is charged shows that the server knows of the quota.
    let first = || run.post(&secrets, &secret("first"));
    run.until(first, |answer| answer.code == 201)?;
    run.until(
        || {
            let known = run.used(&path, "q")? == json!({"count/secrets": "1", "secrets": "1"});
            if !known {
                run.json(Method::DELETE, &format!("{secrets}/first"), &Value::Null)?;
                run.post(&secrets, &secret("first"))?;
            }
            let answer = run.json(Method::GET, &format!("{path}/resourcequotas/q"), &Value::Null)?;
            Ok(Answer { code: if known { 200 } else { 404 }, ..answer })
        },
        |answer| answer.code == 200,
    )?;
    let many = (0..20).map(|i| {
        let (wire, path, body) = (&run.wire, secrets.clone(), secret(&format!("s{i}")));
        async move { wire.json(Method::POST, &path, &body).await }
    });
    let answers: Vec<Answer> = run.runtime.block_on(join_all(many)).into_iter().collect::<Result<_, _>>()?;
    let (made, late): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.code == 201);
    if made.len() != 4 {
        return Err(format!("{} of 20 came into a quota that had room for 4", made.len()));
    }
    let why = "exceeded quota: q, requested: count/secrets=1, used: count/secrets=5, limited: count/secrets=5";
    late.into_iter().try_for_each(|answer| {
        let named = answer.tree()["details"]["name"].as_str().unwrap_or_default().to_owned();
        refused(answer, 403, &format!("secrets {named:?} is forbidden: {why}"))
    })?;
    let after = run.used(&path, "q")?;
    if after == json!({"count/secrets": "5", "secrets": "5"}) { Ok(()) } else { Err(after.to_string()) }
}

/// Creates what the quota refuses, until it does.
fn refused_at_last(run: &Run, path: &str, body: &Value, message: &str) -> Result<(), String> {
    let dry = format!("{path}?dryRun=All");
    let answer = run.until(|| run.post(&dry, body), |answer| answer.code >= 300)?;
    refused(&answer, 403, message)
}

fn quota_of_compute(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    run.quota(&path, "q", &json!({"requests.cpu": "1", "limits.memory": "1Gi", "pods": "5"}), json!({}))?;
    let pods = format!("{path}/pods");
    let silent = "pods \"p\" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c";
    refused_at_last(run, &pods, &pod("p", json!({})), silent)?;
    let asks = |cpu: &str, memory: &str| {
        let resources = json!({"requests": {"cpu": cpu}, "limits": {"memory": memory}});
        pod("p", json!({"containers": [{"name": "c", "image": "example.com/none", "resources": resources}]}))
    };
    let much = "pods \"p\" is forbidden: exceeded quota: q, requested: limits.memory=2Gi,requests.cpu=1500m, used: \
                limits.memory=0,requests.cpu=0, limited: limits.memory=1Gi,requests.cpu=1";
    refused(&run.post(&pods, &asks("1500m", "2Gi"))?, 403, much)?;
    accepted(&run.post(&pods, &asks("700m", "512Mi"))?)?;
    let after = run.used(&path, "q")?;
    let expected = json!({"requests.cpu": "700m", "limits.memory": "512Mi", "pods": "1"});
    if after == expected { Ok(()) } else { Err(after.to_string()) }
}

fn quota_of_services(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    run.quota(&path, "q", &json!({"services.nodeports": "1", "services": "2"}), json!({}))?;
    let service = |name: &str, ty: &str, ports: usize| {
        let ports: Vec<Value> = (0..ports).map(|i| json!({"name": format!("p{i}"), "port": 80 + i})).collect();
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": ty, "ports": ports}})
    };
    let services = format!("{path}/services");
    let two = "services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: \
               services.nodeports=0, limited: services.nodeports=1";
    refused_at_last(run, &services, &service("s", "NodePort", 2), two)?;
    accepted(&run.post(&services, &service("s", "ClusterIP", 2))?)?;
    let grown = run.merge(&format!("{services}/s"), &json!({"spec": {"type": "NodePort"}}))?;
    refused(&grown, 403, two)
}

fn quota_scopes(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    run.quota(&path, "ends", &json!({"pods": "0"}), json!({"scopes": ["Terminating"]}))?;
    let elsewhere = json!({"matchExpressions": [{"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"}]});
    run.quota(&path, "elsewhere", &json!({"pods": "0"}), json!({"scopeSelector": elsewhere}))?;
    let pods = format!("{path}/pods");
    let why = |quota: &str| {
        format!("pods \"p\" is forbidden: exceeded quota: {quota}, requested: pods=1, used: pods=0, limited: pods=0")
    };
    refused_at_last(run, &pods, &pod("p", json!({"activeDeadlineSeconds": 9})), &why("ends"))?;
    let term = json!({"topologyKey": "kubernetes.io/hostname", "namespaces": ["other"], "labelSelector": {}});
    let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    refused_at_last(run, &pods, &pod("p", json!({"affinity": affinity})), &why("elsewhere"))?;
    accepted(&run.post(&format!("{pods}?dryRun=All"), &pod("p", json!({})))?)
}

fn pod_security(run: &mut Run) -> Result<(), String> {
    let label = "pod-security.kubernetes.io/enforce";
    let path = run.home_with(json!({label: "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30"}))?;
    let pods = format!("{path}/pods");
    let loud = pod(
        "p",
        json!({"hostNetwork": true, "containers": [
        {"name": "c", "image": "example.com/none", "securityContext": {"privileged": true}}]}),
    );
    let faults = "host namespaces (hostNetwork=true), privileged (container \"c\" must not set \
                  securityContext.privileged=true)";
    refused(
        &run.post(&pods, &loud)?,
        403,
        &format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:v1.30\": {faults}"),
    )?;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": loud["spec"]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made = run.post(&format!("{}/deployments", path.replace("/api/v1/", "/apis/apps/v1/")), &deployment)?;
    accepted(&made)?;
    let warned = [format!("would violate PodSecurity \"baseline:v1.30\": {faults}")];
    expect(made.warnings() == warned, &made).map_err(|got| format!("{:?}\n{got}", made.warnings()))?;
    accepted(&run.post(&pods, &pod("quiet", json!({})))?)?;
    let namespace = path.rsplit('/').next().unwrap_or_default();
    let stricter = run.merge(&path, &json!({"metadata": {"labels": {label: "restricted"}}}))?;
    let told = [
        format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"restricted:v1.30\""
        ),
        "quiet: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
            .to_owned(),
    ];
    expect(stricter.warnings() == told, &stricter).map_err(|got| format!("{:?}\n{got}", stricter.warnings()))?;
    let odd = run.merge(&path, &json!({"metadata": {"labels": {label: "odd"}}}))?;
    refused(
        &odd,
        422,
        &format!(
            "Namespace \"{namespace}\" is invalid: metadata.labels[{label}]: Invalid value: \"odd\": must be one of \
         privileged, baseline, restricted"
        ),
    )
}

fn webhooks_change(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    let first = run.hook(at_once(|request| {
        let seen = request["object"]["data"]["second"].as_str().unwrap_or("nothing").to_owned();
        patch(&json!([{"op": "add", "path": "/data/first", "value": seen}]))
    }));
    let second = run.hook(at_once(|_| patch(&json!([{"op": "add", "path": "/data/second", "value": "x"}]))));
    let hooks = json!([
        first.entry("first.example.com", json!({"reinvocationPolicy": "IfNeeded"})),
        second.entry("second.example.com", json!({})),
    ]);
    run.configure("MutatingWebhookConfiguration", &path, hooks)?;
    let maps = format!("{path}/configmaps");
    let dry = format!("{maps}?dryRun=All");
    let changed = |answer: &Answer| answer.tree()["data"].get("second").is_some();
    let made = run.until(|| run.post(&dry, &config_map("a", "v")), changed)?;
    expect(made.tree()["data"] == json!({"k": "v", "first": "x", "second": "x"}), &made)?;
    let asked = first.seen.lock()[0].clone();
    let shape: Vec<&String> = asked.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    let expected = [
        "dryRun",
        "kind",
        "name",
        "namespace",
        "object",
        "oldObject",
        "operation",
        "options",
        "requestKind",
        "requestResource",
        "resource",
        "uid",
        "userInfo",
    ];
    if shape != expected {
        return Err(format!("{asked}"));
    }
    expect(asked["options"]["dryRun"] == json!(["All"]) && asked["dryRun"] == json!(true), &made)
}

fn webhooks_refuse(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    let hook = run.hook(at_once(|request| {
        let mut answer = allow();
        if request["operation"] == "CONNECT"
            || request["object"]["data"]["k"] == "bad"
            || request["oldObject"]["data"]["k"] == "kept"
        {
            answer = json!({"allowed": false, "status": {"message": "not this one", "code": 418}});
        }
        answer["warnings"] = json!(["think twice"]);
        answer
    }));
    let rules = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps", "pods/exec"]}]);
    let hooks = json!([hook.entry("v.example.com", json!({"rules": rules}))]);
    run.configure("ValidatingWebhookConfiguration", &path, hooks)?;
    let maps = format!("{path}/configmaps");
    let dry = format!("{maps}?dryRun=All");
    let why = "admission webhook \"v.example.com\" denied the request: not this one";
    let answer = run.until(|| run.post(&dry, &config_map("a", "bad")), |answer| answer.code >= 300)?;
    refused(&answer, 418, why)?;
    expect(answer.warnings() == ["think twice"], &answer)?;
    accepted(&run.post(&maps, &config_map("kept", "kept"))?)?;
    refused(&run.json(Method::DELETE, &format!("{maps}/kept"), &Value::Null)?, 418, why)?;
    refused(&run.merge(&format!("{maps}/kept"), &json!({"data": {"k": "bad"}}))?, 418, why)?;
    accepted(&run.post(&format!("{path}/pods"), &pod("p", json!({})))?)?;
    let exec = run.post(&format!("{path}/pods/p/exec?command=sh&stdin=true&stdout=true"), &Value::Null)?;
    refused(&exec, 418, why)?;
    let asked = hook.seen.lock().last().cloned().unwrap_or_default();
    let object =
        json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "stdout": true, "command": ["sh"]});
    let (found, options) = (&asked["object"], &asked["options"]);
    if *found == object && options.is_null() { Ok(()) } else { Err(asked.to_string()) }
}

fn webhooks_fail(run: &mut Run) -> Result<(), String> {
    let hook = run.hook(std::sync::Arc::new(|_| Box::pin(async { None })));
    let wrong = run.hook(at_once(|_| allow()));
    let start = "Internal error occurred: failed calling webhook \"h.example.com\": failed to call webhook: ";
    let nowhere = json!({"clientConfig": {"service": {"namespace": "default", "name": "nowhere", "path": "/x"}}});
    let stranger = json!({"clientConfig": {"url": wrong.url, "caBundle": hook.bundle}});
    for (other, why) in [
        (json!({}), "an error on the server (\"out of order\") has prevented the request from succeeding"),
        (nowhere, "Post \"https://nowhere.default.svc:443/x?timeout=5s\": service \"nowhere\" not found"),
        (stranger, "tls: failed to verify certificate: x509: certificate signed by unknown authority"),
    ] {
        let path = run.home_with(json!({}))?;
        let made =
            run.configure("ValidatingWebhookConfiguration", &path, json!([hook.entry("h.example.com", other)]))?;
        let dry = format!("{path}/configmaps?dryRun=All");
        let answer = run.until(|| run.post(&dry, &config_map("a", "v")), |answer| answer.code >= 300)?;
        let message = answer.text("message");
        expect(answer.code == 500 && message.starts_with(start) && message.contains(why), &answer)?;
        let failing = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
        let types = ("application/json-patch+json", "application/json");
        let own = skiff_conformance::Credentials::Own;
        let changed = run.runtime.block_on(run.wire.send(own, &Method::PATCH, &made, types, failing.to_string()))?;
        accepted(&changed)?;
        run.until(|| run.post(&dry, &config_map("a", "v")), |answer| answer.code == 201)?;
    }
    Ok(())
}

fn webhooks_choose(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    let hook = run.hook(at_once(|_| json!({"allowed": false})));
    let named =
        json!([{"name": "named", "expression": "object.metadata.name == 'named' && request.operation == 'CREATE'"}]);
    let hooks = json!([
        hook.entry("labels.example.com", json!({"objectSelector": {"matchLabels": {"app": "chosen"}}})),
        hook.entry("cel.example.com", json!({"matchConditions": named})),
    ]);
    run.configure("ValidatingWebhookConfiguration", &path, hooks)?;
    let dry = format!("{path}/configmaps?dryRun=All");
    let why = |name: &str| format!("admission webhook {name:?} denied the request without explanation");
    let answer = run.until(|| run.post(&dry, &config_map("a", "chosen")), |answer| answer.code >= 300)?;
    refused(&answer, 400, &why("labels.example.com"))?;
    refused(&run.post(&dry, &config_map("named", "v"))?, 400, &why("cel.example.com"))?;
    accepted(&run.post(&dry, &config_map("a", "v"))?)
}

/// Objects that are taken, and what is said of them.
fn doubtful_use(run: &mut Run) -> Result<(), String> {
    let path = run.home_with(json!({}))?;
    let apps = path.replace("/api/v1/", "/apis/apps/v1/");
    let networking = path.replace("/api/v1/", "/apis/networking.k8s.io/v1/");
    let object = |version: &str, kind: &str, name: &str, rest: Value| {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
        object.as_object_mut().into_iter().zip(rest.as_object()).for_each(|(to, from)| to.extend(from.clone()));
        object
    };
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"memory": "1500m"}},
        "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        "ports": [{"containerPort": 80, "hostIP": "192.0.2.1"}]});
    let labels = json!({"a": "b"});
    let spec = json!({"containers": [container], "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "h", "whenUnsatisfiable": "ScheduleAnyway"}]});
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    let odd = |before: &str| {
        [
            "nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            "containers[0].resources.requests[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            "containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP \
             HostIP:192.0.2.1}",
        ]
        .map(|why| format!("{before}.{why}"))
        .to_vec()
    };
    let deployment = json!({"spec": {"selector": {"matchLabels": labels}, "template": template}});
    let headless = json!({"spec": {"clusterIP": "None", "ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]}});
    let ingress = json!({"metadata": {"name": "a", "annotations": {"kubernetes.io/ingress.class": "c"}},
        "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1500m"}}}});
    let secret = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}});
    for (path, object, expected) in [
        (format!("{path}/pods"), object("v1", "Pod", "p", json!({"spec": spec})), odd("spec")),
        (format!("{apps}/deployments"), object("apps/v1", "Deployment", "d", deployment), odd("spec.template.spec")),
        (
            format!("{path}/services"),
            object("v1", "Service", "s", headless),
            vec!["spec.externalIPs is ignored for headless services".to_owned()],
        ),
        (
            format!("{networking}/ingresses"),
            object("networking.k8s.io/v1", "Ingress", "a", ingress),
            vec![
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
                    .to_owned(),
            ],
        ),
        (
            format!("{path}/persistentvolumeclaims"),
            object("v1", "PersistentVolumeClaim", "v", claim),
            vec![
                "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer"
                    .to_owned(),
            ],
        ),
        (
            format!("{path}/secrets"),
            object("v1", "Secret", "t", secret),
            vec!["tls: failed to find any PEM data in certificate input".to_owned()],
        ),
    ] {
        let answer = run.post(&path, &object)?;
        accepted(&answer)?;
        let told = answer.warnings();
        expect(told == expected, &answer).map_err(|got| format!("{path} told {told:#?}\n{got}"))?;
    }
    // A change that changes nothing is not told again.
    let again = run.merge(&format!("{apps}/deployments/d"), &json!({"metadata": {"labels": {"c": "d"}}}))?;
    expect(again.warnings().is_empty(), &again)
}
