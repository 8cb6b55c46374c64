//! What the server does beside keeping objects: it answers questions, vouches for accounts, approves, finalizes, pages.

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::{Credentials, SAMPLES};

use super::Run;
use crate::support::{accepted, expect};

/// Who asks whether somebody may is told, in every way to ask.
pub(crate) fn reviews(run: &mut Run) -> Result<(), String> {
    let api = "authorization.k8s.io/v1";
    let root = format!("/apis/{api}");
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": run.namespace});
    let of = |kind: &str, spec: Value| json!({"apiVersion": api, "kind": kind, "spec": spec});
    let nobody = json!({"user": "nobody-there", "resourceAttributes": attributes});
    let me = json!({"resourceAttributes": attributes});
    let local = format!("{root}/namespaces/{}/localsubjectaccessreviews", run.namespace);
    for (path, review, allowed) in [
        (format!("{root}/subjectaccessreviews"), of("SubjectAccessReview", nobody.clone()), false),
        (local, of("LocalSubjectAccessReview", nobody), false),
        (format!("{root}/selfsubjectaccessreviews"), of("SelfSubjectAccessReview", me), true),
    ] {
        let answer = run.api.json(Method::POST, &path, &review)?;
        expect(answer.code == 201 && answer.tree()["status"]["allowed"] == allowed, &answer)?;
    }
    let rules = of("SelfSubjectRulesReview", json!({"namespace": run.namespace}));
    let answer = run.api.json(Method::POST, &format!("{root}/selfsubjectrulesreviews"), &rules)?;
    expect(answer.tree()["status"]["resourceRules"].as_array().is_some_and(|rules| !rules.is_empty()), &answer)
}

/// Accounts have tokens that the server knows again, and keys to check them with are published.
pub(crate) fn accounts(run: &mut Run) -> Result<(), String> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "vouched"}});
    let made = run.json(Method::POST, "serviceaccounts", &account)?;
    accepted(&made)?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 600}});
    let token = run.json(Method::POST, "serviceaccounts/vouched/token", &request)?;
    accepted(&token)?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token.tree()["status"]["token"]}});
    let answer = run.api.json(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", &review)?;
    let (status, name) = (answer.tree()["status"].clone(), format!("system:serviceaccount:{}:vouched", run.namespace));
    let known = status["authenticated"] == true
        && status["user"]["username"] == name
        && status["user"]["uid"] == made.tree()["metadata"]["uid"];
    expect(known, &answer)?;
    let told = run.get(Credentials::Own, "/.well-known/openid-configuration")?;
    let tree = told.tree();
    let fine = tree["issuer"].as_str().is_some_and(|issuer| issuer.starts_with("https://"))
        && tree["jwks_uri"].as_str().is_some_and(|uri| uri.ends_with("/openid/v1/jwks"))
        && tree["response_types_supported"] == json!(["id_token"])
        && tree["subject_types_supported"] == json!(["public"]);
    expect(told.code == 200 && fine, &told)?;
    let keys = run.get(Credentials::Own, "/openid/v1/jwks")?;
    let all = keys.tree()["keys"].as_array().cloned().unwrap_or_default();
    expect(!all.is_empty() && all.iter().all(|key| key["kid"].is_string() && key["use"] == "sig"), &keys)?;
    let patched = run.api.merge(
        &format!("/api/v1/namespaces/{}/serviceaccounts/vouched", run.namespace),
        &json!({"automountServiceAccountToken": false, "metadata": {"labels": {"a": "b"}}}),
    )?;
    expect(patched.tree()["automountServiceAccountToken"] == false, &patched)
}

/// A pod gets the token of its account, unless it or the account does without; the pod decides.
pub(crate) fn tokens_of_pods(run: &mut Run) -> Result<(), String> {
    for (name, mounts) in [("says-nothing", Value::Null), ("mounts", json!(true)), ("does-without", json!(false))] {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name},
            "automountServiceAccountToken": mounts});
        accepted(&run.json(Method::POST, "serviceaccounts", &account)?)?;
        for own in [Value::Null, json!(true), json!(false)] {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
                "serviceAccountName": name, "automountServiceAccountToken": own,
                "containers": [{"name": "c", "image": "example.com/none"}]}});
            let answer = run.json(Method::POST, "pods?dryRun=All", &pod)?;
            expect(answer.code == 201, &answer)?;
            let wanted = own.as_bool().or(mounts.as_bool()).unwrap_or(true);
            let spec = answer.tree()["spec"].clone();
            let place = "/var/run/secrets/kubernetes.io/serviceaccount";
            let mounted = spec["containers"][0]["volumeMounts"][0]["mountPath"] == place;
            let sources = spec["volumes"][0]["projected"]["sources"].clone();
            let whole = sources[0]["serviceAccountToken"].is_object()
                && sources[1]["configMap"]["name"] == "kube-root-ca.crt"
                && sources[2]["downwardAPI"].is_object();
            expect(mounted == wanted && whole == wanted, &answer).map_err(|got| format!("{name} {own}: {got}"))?;
        }
    }
    Ok(())
}

/// A request for a certificate is approved by one subresource and answered by another.
pub(crate) fn certificates(run: &mut Run) -> Result<(), String> {
    let sample = SAMPLES.iter().find(|(_, kind, _)| *kind == "CertificateSigningRequest");
    let (.., sample) = sample.ok_or("no sample")?;
    let mut request: Value =
        serde_json::from_str(&sample.replace("NAME", &run.namespace)).map_err(|e| e.to_string())?;
    request["apiVersion"] = "certificates.k8s.io/v1".into();
    request["kind"] = "CertificateSigningRequest".into();
    request["metadata"]["name"] = format!("csr-{}", run.namespace).into();
    request["spec"]["signerName"] = "example.com/nobody".into();
    let collection = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let path = run.api.make(collection, &request)?;
    let read = run.api.json(Method::GET, &format!("{path}/approval"), &Value::Null)?;
    let mut object = read.tree();
    expect(read.code == 200 && object["spec"]["username"].is_string(), &read)?;
    object["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Told", "message": "m"}]});
    let approved = run.api.json(Method::PUT, &format!("{path}/approval"), &object)?;
    expect(approved.code == 200 && approved.tree()["status"]["conditions"][0]["type"] == "Approved", &approved)?;
    // Not by the object itself, nor by its status.
    let mut again = approved.tree();
    again["status"] = json!({});
    let put = run.api.json(Method::PUT, &path, &again)?;
    expect(put.code == 200 && put.tree()["status"]["conditions"][0]["type"] == "Approved", &put)?;
    let failed = json!({"type": "Failed", "status": "True", "reason": "Why", "message": "m"});
    let mut status = put.tree();
    status["status"]["conditions"].as_array_mut().into_iter().for_each(|all| all.push(failed.clone()));
    let put = run.api.json(Method::PUT, &format!("{path}/status"), &status)?;
    expect(put.code == 200 && put.tree()["status"]["conditions"][1]["type"] == "Failed", &put)
}

/// A namespace has finalizers of its own, which one subresource writes, and conditions, which another does.
pub(crate) fn namespaces(run: &mut Run) -> Result<(), String> {
    let path = run.api.namespace(json!({}))?;
    let read = run.api.json(Method::GET, &path, &Value::Null)?;
    let mut object = read.tree();
    expect(object["spec"]["finalizers"] == json!(["kubernetes"]) && object["status"]["phase"] == "Active", &read)?;
    object["spec"]["finalizers"] = json!(["kubernetes", "example.com/mine"]);
    let plain = run.api.json(Method::PUT, &path, &object)?;
    expect(plain.tree()["spec"]["finalizers"] == json!(["kubernetes"]), &plain)?;
    let mut object = plain.tree();
    object["spec"]["finalizers"] = json!(["kubernetes", "example.com/mine"]);
    let put = run.api.json(Method::PUT, &format!("{path}/finalize"), &object)?;
    expect(put.tree()["spec"]["finalizers"] == json!(["kubernetes", "example.com/mine"]), &put)?;
    let condition = json!({"type": "Told", "status": "True", "reason": "Why", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let patched = run.api.merge(&format!("{path}/status"), &json!({"status": {"conditions": [condition]}}))?;
    expect(patched.code == 200 && patched.tree()["status"]["conditions"][0]["type"] == "Told", &patched)?;
    let mut object = patched.tree();
    object["spec"]["finalizers"] = json!(["kubernetes"]);
    accepted(&run.api.json(Method::PUT, &format!("{path}/finalize"), &object)?)
}

/// A list comes in pages of one state, whatever is written meanwhile, and says how much is left.
pub(crate) fn pages(run: &mut Run) -> Result<(), String> {
    let labels = json!({"paged": run.namespace});
    let template = |i: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("page-{i:02}"), "labels": labels}});
    for i in 0..12 {
        accepted(&run.json(Method::POST, "configmaps", &template(i))?)?;
    }
    let (mut token, mut names, mut versions) = (String::new(), Vec::new(), Vec::new());
    loop {
        let selected = format!("configmaps?limit=5&labelSelector=paged%3D{}&continue={token}", run.namespace);
        let page = run.json(Method::GET, &selected, &Value::Null)?;
        expect(page.code == 200, &page)?;
        let tree = page.tree();
        let items = tree["items"].as_array().cloned().unwrap_or_default();
        expect(items.len() <= 5, &page)?;
        names.extend(items.iter().map(|item| item["metadata"]["name"].clone()));
        versions.push(tree["metadata"]["resourceVersion"].clone());
        token = tree["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
        // What comes and goes in between is no part of it.
        run.json(Method::POST, "configmaps", &template(90 + names.len()))?;
        run.json(Method::DELETE, "configmaps/page-11", &Value::Null)?;
    }
    versions.dedup();
    let expected: Vec<Value> = (0..12).map(|i| json!(format!("page-{i:02}"))).collect();
    if names != expected || versions.len() != 1 {
        return Err(format!("{names:?} at {versions:?}"));
    }
    for name in names.iter().filter_map(Value::as_str) {
        run.json(Method::DELETE, &format!("configmaps/{name}"), &Value::Null)?;
    }
    Ok(())
}
