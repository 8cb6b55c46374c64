//! Webhooks of admission that run in pods, behind Services: one of Python, one of the `kube` crate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Api as Run, Outcome, accepted, expect};
use crate::table::{PROBE, pod};

const PYTHON: &str = "python:3.11";
const SCRIPT: &str = include_str!("../clients/webhook.py");

/// Name, image, command, and the paths that change and judge.
const HOOKS: [(&str, &str, &[&str], [&str; 2]); 2] = [
    ("python", PYTHON, &["python3", "/script/webhook.py"], ["/mutate", "/validate"]),
    ("kube", PROBE, &["probe", "hook", "/tls"], ["/judge", "/judge"]),
];

pub(crate) fn within(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let own = home.rsplit('/').next().unwrap_or_default().to_owned();
    let judged = run.home()?;
    let there = judged.rsplit('/').next().unwrap_or_default().to_owned();
    let names: Vec<String> = HOOKS.iter().map(|(name, ..)| format!("{name}.{own}.svc")).collect();
    let made = rcgen::generate_simple_self_signed(names).map_err(|e| e.to_string())?;
    let tls = json!({"metadata": {"name": "tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}});
    run.add(&home, "secrets", &tls)?;
    run.add(&home, "configmaps", &json!({"metadata": {"name": "script"}, "data": {"webhook.py": SCRIPT}}))?;
    let pods: Vec<Value> = HOOKS.iter().map(|(name, image, command, _)| server(name, image, command)).collect();
    for (name, ..) in HOOKS {
        let ports = json!([{"port": 443, "targetPort": 8443}]);
        let service = json!({"metadata": {"name": name}, "spec": {"selector": {"name": name}, "ports": ports}});
        run.add(&home, "services", &service)?;
    }
    run.serve(&home, &pods)?;
    let bundle = STANDARD.encode(made.cert.pem());
    let entry = |name: &str, path: &str| {
        json!({"name": format!("{name}.conformance.skiff.io"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "timeoutSeconds": 5, "clientConfig": {"service": {"namespace": own, "name": name, "path": path}, "caBundle": bundle},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": there}},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
    };
    let mut configurations = Vec::new();
    for (index, kind) in ["Mutating", "Validating"].into_iter().enumerate() {
        let hooks: Vec<Value> = HOOKS.iter().map(|(name, _, _, paths)| entry(name, paths[index])).collect();
        let collection =
            format!("/apis/admissionregistration.k8s.io/v1/{}webhookconfigurations", kind.to_ascii_lowercase());
        let name = format!("within-{own}");
        accepted(&run.post(&collection, &json!({"metadata": {"name": name}, "webhooks": hooks}))?)?;
        configurations.push(format!("{collection}/{name}"));
    }
    let outcome = judge(run, &home, &judged);
    for path in &configurations {
        accepted(&run.json(Method::DELETE, path, &Value::Null)?)?;
    }
    outcome
}

/// A pod that serves a webhook.
fn server(name: &str, image: &str, command: &[&str]) -> Value {
    let mounts = json!([{"name": "tls", "mountPath": "/tls"}, {"name": "script", "mountPath": "/script"}]);
    let ready = json!({"tcpSocket": {"port": 8443}, "periodSeconds": 1});
    let volumes =
        json!([{"name": "tls", "secret": {"secretName": "tls"}}, {"name": "script", "configMap": {"name": "script"}}]);
    let container =
        json!({"name": "c", "image": image, "command": command, "volumeMounts": mounts, "readinessProbe": ready});
    pod(name, container, json!({"volumes": volumes}))
}

fn judge(run: &Run, home: &str, judged: &str) -> Outcome {
    let collection = format!("{judged}/configmaps");
    let create = |name: &str, word: &str, query: &str| {
        let map = json!({"metadata": {"name": name}, "data": {"k": word}});
        run.post(&format!("{collection}{query}"), &map)
    };
    // Servers hear of webhooks a moment after they are written: of each kind, from each server.
    for (word, hook, words) in [("rude", "python", "mind your words"), ("bad", "kube", "that word is not spoken here")]
    {
        let wanted = format!("admission webhook \"{hook}.conformance.skiff.io\" denied the request: {words}");
        run.until(|| create("said", word, "?dryRun=All"), |answer| answer.text("message") == wanted)?;
        let refused = create("said", word, "")?;
        expect(refused.code == if hook == "python" { 418 } else { 400 }, &refused)?;
    }
    let made = create("said", "good", "")?;
    expect(made.code == 201 && made.tree()["metadata"]["labels"] == json!({"greeted": "yes", "judged": "yes"}), &made)?;
    let changed = run.merge(&format!("{collection}/said"), &json!({"data": {"k": "rude"}}))?;
    expect(changed.code == 418, &changed)?;
    // A webhook that is gone refuses what it was to judge, and lets everything pass when it is back.
    let path = format!("{home}/services/kube");
    let service = run.json(Method::GET, &path, &Value::Null)?.tree();
    accepted(&run.json(Method::DELETE, &path, &Value::Null)?)?;
    let try_it = || create("lost", "good", "?dryRun=All");
    let said = run.until(try_it, |answer| answer.code == 500)?;
    let why = "Internal error occurred: failed calling webhook \"kube.conformance.skiff.io\"";
    expect(said.text("message").starts_with(why), &said)?;
    let spec = json!({"selector": service["spec"]["selector"], "ports": [{"port": 443, "targetPort": 8443}]});
    run.add(home, "services", &json!({"metadata": {"name": "kube"}, "spec": spec}))?;
    run.until(try_it, |answer| answer.code == 201).map(drop)
}
