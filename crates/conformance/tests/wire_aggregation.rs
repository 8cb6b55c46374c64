//! An extension server becomes a part of the API and leaves it again. Against the API of `CONFORMANCE_KUBECONFIG` (with
//! the certificate of a front proxy), or against a server that is started for it. The extension server listens on loopback.

mod support;

use base64::Engine as _;
use http::Method;
use http::request::Parts;
use serde_json::{Value, json};
use skiff_conformance::{Answer, Credentials};
use skiff_meta::GroupVersionResource;
use skiff_testkit::cases::{self, Case};
use support::served::{Authority, Served};
use support::{Api as Run, Outcome, accepted, expect};

const CASES: &[Case<Run>] = &[
    ("a_service_that_is_not_there_is_told_and_not_available", absent),
    ("an_extension_is_found_asked_and_gone", whole_life),
    ("an_extension_shows_a_good_certificate", strangers),
];

fn main() {
    std::process::exit(cases::run_with(Run::start(81), CASES));
}

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// An extension server that serves the group; it ends with this value.
struct Extension {
    port: u16,
    /// PEM of its certificate's authority.
    authority: String,
    _serving: Served,
}

/// What it says, and to whom.
fn answer(group: &str, request: &Parts) -> (u16, Value) {
    let gv = format!("{group}/v1alpha1");
    let place = format!("apis/{gv}");
    match request.uri.path() {
        path if path == format!("/{place}") => {
            let verbs = json!(["get", "list"]);
            let resources = json!([
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": verbs},
                {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            ]);
            (200, json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources}))
        }
        "/openapi/v3" => {
            (200, json!({"paths": {&place: {"serverRelativeURL": format!("/openapi/v3/{place}?hash=1")}}}))
        }
        path if path == format!("/openapi/v3/{place}") => (200, json!({"openapi": "3.0.0", "info": {"title": group}})),
        path if path.contains("/flunders/") => {
            let all = |name: &str| -> Vec<String> {
                request.headers.get_all(name).iter().filter_map(|v| Some(v.to_str().ok()?.to_owned())).collect()
            };
            let seen = json!({"user": all("x-remote-user"), "groups": all("x-remote-group"),
                "extra": all("x-remote-extra-scope"), "forged": all("x-remote-extra-forged"),
                "token": all("authorization"), "impersonated": all("impersonate-user"),
                "method": request.method.as_str(), "query": request.uri.query()});
            (if path.ends_with("/teapot") { 418 } else { 200 }, seen)
        }
        _ => (404, json!({"kind": "Status", "apiVersion": "v1", "code": 404})),
    }
}

impl Run {
    /// Starts an extension server that trusts only whom the cluster's ConfigMap names.
    fn extend(&self, group: &str, service: &str) -> Result<Extension, String> {
        let known = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        let known = self.json(Method::GET, known, &Value::Null)?;
        accepted(&known)?;
        let pem = known.tree()["data"]["requestheader-client-ca-file"].as_str().unwrap_or_default().to_owned();
        let made = self.runtime.block_on(Extension::start(group.to_owned(), service, &pem));
        made.map_err(|error| error.to_string())
    }

    /// Registers version v1alpha1 of a group at a service of the namespace `default`.
    fn register(&mut self, group: &str, service: &str, port: u16, bundle: &str) -> Result<String, String> {
        let name = format!("v1alpha1.{group}");
        let bundle = base64::engine::general_purpose::STANDARD.encode(bundle);
        let spec = json!({"group": group, "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "service": {"name": service, "namespace": "default", "port": port}, "caBundle": bundle});
        let api = "apiregistration.k8s.io/v1";
        let tree = json!({"apiVersion": api, "kind": "APIService", "metadata": {"name": name}, "spec": spec});
        self.make(SERVICES, &tree)?;
        Ok(name)
    }

    /// A service whose requests go to this machine.
    fn local(&mut self, name: &str) -> Result<String, String> {
        let spec = json!({"type": "ExternalName", "externalName": "localhost"});
        let tree = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
        self.make("/api/v1/namespaces/default/services", &tree)
    }

    /// Waits until the condition `Available` of an APIService says this.
    fn becomes(&self, name: &str, status: &str, reason: &str) -> Outcome {
        let services = GroupVersionResource::new("apiregistration.k8s.io", "v1", "apiservices");
        let mut last = Value::Null;
        let seen = self.see(name, services, "", |seen| {
            last = seen.get(name).map(|service| service["status"]["conditions"].clone()).unwrap_or_default();
            let mut conditions = last.as_array().into_iter().flatten();
            conditions.any(|c| c["type"] == "Available" && c["status"] == status && c["reason"] == reason)
        });
        seen.map(drop).map_err(|_| format!("{name} is not {status} for {reason} in time, but {last}"))
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        let asked = self.wire.send_with(Credentials::Own, &Method::GET, path, headers, "");
        self.runtime.block_on(asked)
    }

    /// Reads until what is found there is `there`, or no longer.
    fn found(&self, path: &str, accept: &str, there: bool, find: impl Fn(&Value) -> bool) -> Result<Answer, String> {
        self.until(|| self.get(path, &[("accept", accept)]), |answer| find(&answer.tree()) == there)
    }
}

impl Extension {
    /// Lets the front proxy in, and nobody else.
    async fn start(
        group: String,
        service: &str,
        clients: &str,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let authority = Authority::new()?;
        let tls = authority.server(&format!("{service}.default.svc"), clients)?;
        let serving = Served::start(Some(tls), move |request, _| answer(&group, request)).await?;
        Ok(Self { port: serving.port, authority: authority.pem, _serving: serving })
    }
}

fn unavailable(answer: &Answer, end: &str) -> Outcome {
    let told = String::from_utf8_lossy(&answer.bytes).into_owned();
    expect(answer.code == 503 && told.contains(end), answer)
}

fn group(what: &str) -> String {
    format!("{what}{}.example.com", std::process::id())
}

fn absent(run: &mut Run) -> Outcome {
    let group = group("absent");
    let name = run.register(&group, "nowhere", 443, "")?;
    run.becomes(&name, "False", "ServiceNotFound")?;
    unavailable(&run.get(&format!("/apis/{group}/v1alpha1"), &[])?, "service unavailable")
}

fn whole_life(run: &mut Run) -> Outcome {
    let (group, service) = (group("wardle"), format!("wardle-{}", std::process::id()));
    let extension = run.extend(&group, &service)?;
    run.local(&service)?;
    let name = run.register(&group, &service, extension.port, &extension.authority)?;
    run.becomes(&name, "True", "Passed")?;
    let root = format!("/apis/{group}/v1alpha1");
    let json = "application/json";
    run.found(&root, json, true, |list| list["resources"][0]["name"] == "flunders")?;

    // It is found wherever clients look.
    let own = |group: &Value, name: &str| group["name"] == name;
    run.found(&format!("/apis/{group}"), json, true, |found| found["preferredVersion"]["version"] == "v1alpha1")?;
    let listed = |all: &Value| all["groups"].as_array().is_some_and(|all| all.iter().any(|g| own(g, &group)));
    run.found("/apis", json, true, listed)?;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let item = |all: &Value| {
        let mut items = all["items"].as_array().cloned().unwrap_or_default();
        items.retain(|item| own(&item["metadata"], &group));
        items.pop().unwrap_or_default()
    };
    let fresh = |all: &Value| item(all)["versions"][0]["freshness"] == "Current";
    let found = item(&run.found("/apis", aggregated, true, fresh)?.tree());
    let resource = &found["versions"][0]["resources"][0];
    if resource["resource"] != "flunders" || resource["subresources"][0]["subresource"] != "status" {
        return Err(format!("aggregated discovery has {found}"));
    }
    let place = format!("apis/{group}/v1alpha1");
    let index = run.found("/openapi/v3", json, true, |index| index["paths"][&place].is_object())?;
    let url = index.tree()["paths"][&place]["serverRelativeURL"].as_str().unwrap_or_default().to_owned();
    let document = run.get(&url, &[("accept", json)])?;
    expect(document.tree()["info"]["title"] == group.as_str(), &document)?;

    // Requests arrive with the user's name, and with nothing that a client made up.
    let uri = format!("{root}/namespaces/default/flunders/a");
    let who = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:masters"),
        ("impersonate-extra-scope", "all"),
        ("x-remote-user", "evil"),
        ("x-remote-extra-forged", "x"),
    ];
    let told = run.get(&format!("{uri}?x=1"), &who)?;
    accepted(&told)?;
    let groups = json!(["system:masters", "system:authenticated"]);
    let wanted = json!({"user": ["jane"], "groups": groups, "extra": ["all"], "forged": [], "token": [],
        "impersonated": [], "method": "GET", "query": "x=1"});
    expect(told.tree() == wanted, &told)?;
    let teapot = run.get(&format!("{root}/namespaces/default/flunders/teapot"), &[])?;
    expect(teapot.code == 418, &teapot)?;
    let posted = run.json(Method::POST, &uri, &json!({"a": 1}))?;
    expect(posted.tree()["method"] == "POST", &posted)?;
    let refused = run.get(&uri, &[("impersonate-user", "jane")])?;
    expect(refused.code == 403 && refused.text("reason") == "Forbidden", &refused)?;

    // One that ends is unavailable; one that is taken out is gone.
    drop(extension);
    run.until(|| run.get(&uri, &[]), |answer| answer.code == 503)?;
    run.becomes(&name, "False", "FailedDiscoveryCheck")?;
    unavailable(&run.get(&uri, &[])?, "")?;
    accepted(&run.json(Method::DELETE, &format!("{SERVICES}/{name}"), &Value::Null)?)?;
    run.found("/apis", json, false, listed)?;
    run.found("/apis", aggregated, false, |all| item(all).is_object())?;
    run.until(|| run.get(&root, &[("accept", json)]), |answer| answer.code == 404)?;
    Ok(())
}

fn strangers(run: &mut Run) -> Outcome {
    let (group, service) = (group("stranger"), format!("stranger-{}", std::process::id()));
    let extension = run.extend(&group, &service)?;
    run.local(&service)?;
    let stranger = run.extend(&group, &service)?.authority.clone();
    let name = run.register(&group, &service, extension.port, &stranger)?;
    run.becomes(&name, "False", "FailedDiscoveryCheck")?;
    unavailable(&run.get(&format!("/apis/{group}/v1alpha1"), &[])?, "service unavailable")?;
    // Its owner may put up with that.
    let trusting = json!({"spec": {"insecureSkipTLSVerify": true, "caBundle": null}});
    accepted(&run.merge(&format!("{SERVICES}/{name}"), &trusting)?)?;
    run.becomes(&name, "True", "Passed")
}
