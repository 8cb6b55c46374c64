//! Bad input, on the wire: against the API of `CONFORMANCE_KUBECONFIG`, or against a server that is started for it.

#[path = "wire/machinery.rs"]
mod machinery;
#[path = "wire/operations.rs"]
mod operations;
mod support;

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::{Answer, Credentials, REFUSALS, Refusal, Words};
use skiff_testkit::cases::{self, Case};
use support::{Api, expect};

struct Run {
    api: Api,
    namespace: String,
}

fn main() {
    std::process::exit(cases::run_with(start(), CASES));
}

const CASES: &[Case<Run>] = &[
    ("bad_requests_are_refused_in_upstream_s_words", refusals),
    ("what_is_refused_leaves_nothing_behind", nothing_is_left),
    ("a_body_over_3_mib_is_too_large", too_large),
    ("unknown_fields_are_warned_of_by_default", warnings),
    ("unknown_fields_are_dropped_silently_when_asked", ignored),
    ("anybody_may_ask_for_health_and_version", anybody),
    ("a_precondition_guards_a_deletion", precondition),
    ("a_dry_run_changes_nothing", dry_run),
    ("every_kind_has_all_its_operations", operations::all),
    ("questions_of_access_are_answered", machinery::reviews),
    ("accounts_are_vouched_for", machinery::accounts),
    ("pods_get_tokens_unless_they_do_without", machinery::tokens_of_pods),
    ("certificates_are_approved_and_answered_apart", machinery::certificates),
    ("namespaces_have_finalizers_and_conditions", machinery::namespaces),
    ("pages_are_of_one_state", machinery::pages),
];

fn start() -> Result<Run, String> {
    let mut api = Api::start(70)?;
    let path = api.namespace(json!({}))?;
    let run = Run { api, namespace: path.rsplit('/').next().unwrap_or_default().to_owned() };
    expect_code(201, &run.json(Method::POST, "configmaps", &config_map("kept", json!({"a": "b"})))?)?;
    // Pods ask for it, and there may be nobody to make it.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let made = run.json(Method::POST, "serviceaccounts", &account)?;
    expect(matches!(made.code, 201 | 409), &made)?;
    Ok(run)
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn expect_code(code: u16, answer: &Answer) -> Result<(), String> {
    expect(answer.code == code, answer).map_err(|got| format!("wanted {code}, got {got}"))
}

impl Run {
    fn json(&self, method: Method, rest: &str, body: &Value) -> Result<Answer, String> {
        let path = format!("/api/v1/namespaces/{}/{rest}", self.namespace);
        self.api.json(method, &path, body)
    }

    fn get(&self, who: Credentials, path: &str) -> Result<Answer, String> {
        self.api.runtime.block_on(self.api.wire.send(who, &Method::GET, path, ("", ""), ""))
    }

    fn refused(&self, refusal: &Refusal) -> Result<(), String> {
        let method: Method = refusal.method.parse().map_err(|e| format!("{e}"))?;
        let path = refusal.path.replace("NS", &self.namespace);
        let types = (refusal.media, refusal.accept);
        let answer = self.api.runtime.block_on(self.api.wire.send(refusal.who, &method, &path, types, refusal.body))?;
        let causes: Vec<(String, String)> =
            refusal.causes.iter().map(|(reason, field)| ((*reason).to_owned(), (*field).to_owned())).collect();
        let message = answer.text("message");
        let said = match refusal.message {
            Words::Are(words) => message == words,
            Words::Begin(words) => message.starts_with(words),
        };
        let status = answer.code == refusal.code
            && answer.tree()["code"] == refusal.code
            && answer.text("kind") == "Status"
            && answer.text("status") == "Failure"
            && answer.text("reason") == refusal.reason;
        expect(status && said && answer.causes() == causes, &answer)
    }
}

fn refusals(run: &mut Run) -> Result<(), String> {
    let faults: Vec<String> =
        REFUSALS.iter().filter_map(|r| run.refused(r).err().map(|got| format!("{}:\n  {got}", r.name))).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn nothing_is_left(run: &mut Run) -> Result<(), String> {
    let kept = run.json(Method::GET, "configmaps/kept", &Value::Null)?;
    expect(kept.tree()["data"] == json!({"a": "b"}), &kept)?;
    for resource in ["configmaps", "secrets", "pods"] {
        let all = run.json(Method::GET, resource, &Value::Null)?;
        let items = all.tree()["items"].as_array().cloned().unwrap_or_default();
        let ours = |item: &Value| {
            let name = item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            !matches!(name, "kept" | "kube-root-ca.crt")
        };
        expect(all.code == 200 && !items.iter().any(ours), &all)?;
    }
    Ok(())
}

fn too_large(run: &mut Run) -> Result<(), String> {
    let body = config_map("large", json!({"a": "x".repeat(3 << 20)}));
    let answer = run.json(Method::POST, "configmaps", &body)?;
    expect_code(413, &answer)?;
    expect(answer.text("reason") == "RequestEntityTooLarge", &answer)?;
    expect(answer.text("message") == "Request entity too large: limit is 3145728", &answer)
}

fn warnings(run: &mut Run) -> Result<(), String> {
    let mut body = config_map("warned", json!({}));
    body["dota"] = json!(1);
    let answer = run.json(Method::POST, "configmaps?dryRun=All", &body)?;
    expect_code(201, &answer)?;
    expect(answer.warnings() == ["unknown field \"dota\""], &answer).map_err(|e| format!("{:?}\n{e}", answer.headers))
}

fn ignored(run: &mut Run) -> Result<(), String> {
    let mut body = config_map("ignored", json!({}));
    body["dota"] = json!(1);
    let answer = run.json(Method::POST, "configmaps?dryRun=All&fieldValidation=Ignore", &body)?;
    expect_code(201, &answer)?;
    expect(answer.warnings().is_empty() && answer.tree().get("dota").is_none(), &answer)
}

fn anybody(run: &mut Run) -> Result<(), String> {
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        expect_code(200, &run.get(Credentials::None, path)?).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}

fn precondition(run: &mut Run) -> Result<(), String> {
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "another"}});
    let answer = run.json(Method::DELETE, "configmaps/kept", &options)?;
    expect_code(409, &answer)?;
    let words = "Operation cannot be fulfilled on ConfigMap \"kept\": the UID in the precondition (another) does not match the UID in record (";
    expect(answer.text("reason") == "Conflict" && answer.text("message").starts_with(words), &answer)?;
    expect_code(200, &run.json(Method::GET, "configmaps/kept", &Value::Null)?)
}

fn dry_run(run: &mut Run) -> Result<(), String> {
    expect_code(201, &run.json(Method::POST, "configmaps?dryRun=All", &config_map("dry", json!({})))?)?;
    expect_code(404, &run.json(Method::GET, "configmaps/dry", &Value::Null)?)?;
    expect_code(200, &run.json(Method::DELETE, "configmaps/kept?dryRun=All", &Value::Null)?)?;
    expect_code(200, &run.json(Method::GET, "configmaps/kept", &Value::Null)?)
}
