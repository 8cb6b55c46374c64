//! Who may do what: default roles against upstream's, what they decide, and ways around them that must not lead anywhere.
//! Against the API of `CONFORMANCE_KUBECONFIG`, or against a server that is started for it.

#[path = "wire_access/matrix.rs"]
mod matrix;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::{Answer, Credentials};
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, Outcome, accepted, expect};

const CASES: &[Case<Run>] = &[
    ("default_roles_are_those_of_upstream", default_roles),
    ("aggregated_roles_are_the_sum_of_their_parts", aggregated_roles),
    ("roles_decide_what_they_say", roles_decide),
    ("every_cell_of_roles_verbs_and_resources", matrix::every_cell),
    ("nobody_grants_what_he_does_not_hold", escalation),
    ("nobody_is_somebody_else_by_a_header", headers),
    ("no_path_leads_around_authorization", paths),
    ("tokens_end_with_what_they_are_bound_to", tokens),
];

fn main() {
    std::process::exit(cases::run_with(Run::start(75), CASES));
}

const FACTS: &str = include_str!("../facts/access.txt");
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const API: &str = "rbac.authorization.k8s.io/v1";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// `get configmaps`, `get pods.metrics.k8s.io`, `get configmaps NAME`, `get /path`.
type Rights = BTreeSet<String>;

#[derive(Default)]
struct Facts {
    /// By name, with the namespace in front where there is one.
    roles: BTreeMap<String, Rights>,
    /// Label keys of their parts.
    aggregates: BTreeMap<String, Vec<String>>,
    /// Name, role and subject.
    bindings: BTreeSet<[String; 3]>,
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    let mut role = String::new();
    for line in FACTS.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split('\t');
        let (first, second, third) = (fields.next(), fields.next().unwrap_or_default(), fields.next());
        match first.and_then(|first| first.split_once(' ')) {
            Some(("role", name)) => role = name.to_owned(),
            Some(("aggregate", name)) => {
                facts.aggregates.insert(name.to_owned(), second.split(' ').map(str::to_owned).collect());
            }
            Some(("binding", name)) => {
                let fields = [name, second, third.unwrap_or_default()].map(str::to_owned);
                facts.bindings.insert(fields);
            }
            _ => {
                let rights = facts.roles.entry(role.clone()).or_default();
                for place in third.unwrap_or_default().split(", ") {
                    rights.extend(second.split(',').map(|verb| format!("{verb} {place}")));
                }
            }
        }
    }
    facts
}

fn texts<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a str> + Clone {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(Value::as_str)
}

/// All that rules allow, one by one.
fn rights<'a>(rules: impl IntoIterator<Item = &'a Value>) -> Rights {
    let mut all = Rights::new();
    for rule in rules {
        let mut places: Vec<String> = texts(rule, "nonResourceURLs").map(str::to_owned).collect();
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let place = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
                let named: Vec<String> = texts(rule, "resourceNames").map(|name| format!("{place} {name}")).collect();
                places.extend(if named.is_empty() { vec![place] } else { named });
            }
        }
        for verb in texts(rule, "verbs") {
            all.extend(places.iter().map(|place| format!("{verb} {place}")));
        }
    }
    all
}

fn same(name: &str, expected: &Rights, found: &Rights) -> Outcome {
    let missing: Vec<&String> = expected.difference(found).collect();
    let more: Vec<&String> = found.difference(expected).collect();
    if missing.is_empty() && more.is_empty() {
        return Ok(());
    }
    Err(format!("{name}: lacks {missing:?}, and has {more:?} too"))
}

fn items(list: &Answer) -> Vec<Value> {
    list.tree()["items"].as_array().cloned().unwrap_or_default()
}

/// With the namespace in front.
fn name_of(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    if text("namespace").is_empty() {
        text("name").to_owned()
    } else {
        format!("{}/{}", text("namespace"), text("name"))
    }
}

fn binding(name: &str, role: &str, subject: Value) -> Value {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
    json!({"apiVersion": API, "kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": role,
        "subjects": [subject]})
}

fn subject(kind: &str, name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name})
}

impl Run {
    fn get(&self, path: &str) -> Result<Answer, String> {
        self.json(Method::GET, path, &Value::Null)
    }

    /// A request by the administrator, with some headers.
    fn with(&self, headers: &[(&str, &str)], method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        self.by(Credentials::Own, headers, method, path, body)
    }

    fn by(
        &self,
        who: Credentials,
        headers: &[(&str, &str)],
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, String> {
        let mut all = vec![("accept", "application/json"), ("content-type", "application/json")];
        all.extend(headers);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.runtime.block_on(self.wire.send_with(who, &method, path, &all, body))
    }

    fn roles(&self) -> Result<Vec<Value>, String> {
        let (cluster, local) = (self.get(&format!("{RBAC}/clusterroles"))?, self.get(&format!("{RBAC}/roles"))?);
        Ok(items(&cluster).into_iter().chain(items(&local)).collect())
    }

    /// What somebody of this group may do.
    fn rules_of(&self, group: &str) -> Result<Rights, String> {
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let question = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": "default"}});
        let who = [("impersonate-user", "somebody"), ("impersonate-group", group)];
        let answer = self.with(&who, Method::POST, path, &question)?;
        accepted(&answer)?;
        let status = answer.tree()["status"].clone();
        let rules = |name: &str| status[name].as_array().cloned().unwrap_or_default();
        Ok(rights(rules("resourceRules").iter().chain(&rules("nonResourceRules"))))
    }
}

fn default_roles(run: &mut Run) -> Outcome {
    let facts = facts();
    let found: BTreeMap<String, Value> = run.roles()?.into_iter().map(|role| (name_of(&role), role)).collect();
    for (name, expected) in &facts.roles {
        let role = found.get(name).ok_or_else(|| format!("there is no role {name}"))?;
        same(name, expected, &rights(role["rules"].as_array().into_iter().flatten()))?;
    }
    for (name, labels) in &facts.aggregates {
        let selectors = found.get(name).map(|role| role["aggregationRule"]["clusterRoleSelectors"].clone());
        let expected: Vec<Value> = labels.iter().map(|label| json!({"matchLabels": {label: "true"}})).collect();
        if selectors != Some(expected.into()) {
            return Err(format!("{name} is made of {selectors:?}"));
        }
    }
    let (cluster, local) =
        (run.get(&format!("{RBAC}/clusterrolebindings"))?, run.get(&format!("{RBAC}/rolebindings"))?);
    let mut bindings = BTreeSet::new();
    for binding in items(&cluster).iter().chain(&items(&local)) {
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let role = format!("{} {}", text(&binding["roleRef"], "kind"), text(&binding["roleRef"], "name"));
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let namespace = text(subject, "namespace");
            let slash = if namespace.is_empty() { "" } else { "/" };
            let subject = format!("{} {namespace}{slash}{}", text(subject, "kind"), text(subject, "name"));
            bindings.insert([name_of(binding), role.clone(), subject]);
        }
    }
    match facts.bindings.iter().find(|expected| !bindings.contains(*expected)) {
        Some(missing) => Err(format!("{missing:?} is missing")),
        None => Ok(()),
    }
}

/// A controller sums them up; where there is none, they stay empty.
fn aggregated_roles(run: &mut Run) -> Outcome {
    let roles = run.roles()?;
    for (name, labels) in &facts().aggregates {
        let whole = roles.iter().find(|role| name_of(role) == *name).cloned().unwrap_or_default();
        let found = rights(whole["rules"].as_array().into_iter().flatten());
        let is_part = |role: &&Value| labels.iter().any(|label| role["metadata"]["labels"][label] == "true");
        let parts = roles.iter().filter(is_part).flat_map(|role| role["rules"].as_array().into_iter().flatten());
        if !found.is_empty() {
            same(name, &rights(parts), &found)?;
        }
    }
    Ok(())
}

fn roles_decide(run: &mut Run) -> Outcome {
    let everybody = run.rules_of("conformance:nobody")?;
    for (name, expected) in facts().roles.iter().filter(|(name, _)| !name.contains('/')) {
        let group = format!("conformance:{}:{name}", std::process::id());
        run.make(&format!("{RBAC}/clusterrolebindings"), &binding(&group, name, subject("Group", &group)))?;
        let mut found = Rights::new();
        for _ in 0..1_000 {
            found = run.rules_of(&group)?;
            if found.is_superset(expected) {
                break;
            }
        }
        let expected: Rights = expected.union(&everybody).cloned().collect();
        same(name, &expected, &found)?;
    }
    Ok(())
}

/// Somebody who may read config maps of `default` and write roles and bindings there.
fn keeper(run: &mut Run, name: &str, more: Value) -> Outcome {
    let mut rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
        "verbs": ["create", "update", "patch", "get"]}]);
    rules.as_array_mut().into_iter().for_each(|rules| rules.extend(more.as_array().cloned().unwrap_or_default()));
    let role = json!({"apiVersion": API, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    run.make(&format!("{RBAC}/clusterroles"), &role)?;
    let mut bound = binding(name, name, subject("User", name));
    bound["kind"] = json!("RoleBinding");
    run.make(&format!("{RBAC}/namespaces/default/rolebindings"), &bound)?;
    let probe = "/api/v1/namespaces/default/configmaps/none";
    run.until(
        || run.with(&[("impersonate-user", name)], Method::GET, probe, &Value::Null),
        |answer| answer.code == 404,
    )?;
    Ok(())
}

fn escalation(run: &mut Run) -> Outcome {
    let me = format!("conformance-keeper-{}", std::process::id());
    keeper(run, &me, json!([]))?;
    let who = [("impersonate-user", me.as_str())];
    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    let role = |verbs: Value| {
        json!({"apiVersion": API, "kind": "Role", "metadata": {"name": me},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]})
    };
    let refused = |answer: &Answer, what: &str| {
        let grants = format!(
            "user {me:?} (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
            currently held:\n{what}"
        );
        let fits = answer.code == 403 && answer.text("message").ends_with(&grants);
        expect(fits, answer).map_err(|got| format!("wanted ...{grants}\ngot {got}"))
    };
    let lists = "{APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"list\"]}";
    refused(&run.with(&who, Method::POST, &roles, &role(json!(["get", "list"])))?, lists)?;
    accepted(&run.with(&who, Method::POST, &roles, &role(json!(["get"])))?)?;
    let own = format!("{roles}/{me}");
    let widened = run.with(&who, Method::PUT, &own, &role(json!(["get", "list"])))?;
    refused(&widened, lists)?;
    let patch = [("impersonate-user", me.as_str()), ("content-type", "application/merge-patch+json")];
    let body = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}).to_string();
    let patched = run.wire.send_with(Credentials::Own, &Method::PATCH, &own, &patch, body);
    refused(&run.runtime.block_on(patched)?, "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}")?;
    let bind = |name: &str, role: &str, kind: &str| {
        let mut bound = binding(name, role, subject("User", &me));
        (bound["kind"], bound["roleRef"]["kind"]) = (json!("RoleBinding"), json!(kind));
        run.with(&who, Method::POST, &bindings, &bound)
    };
    let everything = "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}";
    refused(&bind(&format!("{me}-more"), "cluster-admin", "ClusterRole")?, everything)?;
    accepted(&bind(&format!("{me}-own"), &me, "Role")?)?;
    // Whoever may escalate or bind may do just that.
    let bold = format!("{me}-bold");
    keeper(
        run,
        &bold,
        json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]}]),
    )?;
    let who = [("impersonate-user", bold.as_str())];
    accepted(&run.with(&who, Method::PUT, &own, &role(json!(["get", "list"])))?)?;
    let mut bound = binding(&format!("{me}-bound"), "cluster-admin", subject("User", &bold));
    bound["kind"] = json!("RoleBinding");
    let answer = run.with(&who, Method::POST, &bindings, &bound)?;
    expect(answer.code == 403, &answer)?;
    for name in [format!("{me}-own"), me.clone()] {
        run.json(Method::DELETE, &format!("{bindings}/{name}"), &Value::Null)?;
    }
    accepted(&run.json(Method::DELETE, &own, &Value::Null)?)
}

fn headers(run: &mut Run) -> Outcome {
    let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let seen = |headers: &[(&str, &str)]| -> Result<(String, Vec<String>), String> {
        let answer = run.with(headers, Method::POST, REVIEWS, &question)?;
        accepted(&answer)?;
        let user = answer.tree()["status"]["userInfo"].clone();
        let groups = texts(&user, "groups").map(str::to_owned).collect();
        Ok((user["username"].as_str().unwrap_or_default().to_owned(), groups))
    };
    let plain = ("x".to_owned(), vec!["system:authenticated".to_owned()]);
    let account = "system:serviceaccount:n:a";
    let of_account = ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"].map(str::to_owned);
    for (headers, expected) in [
        (&[("impersonate-user", "x")][..], plain.clone()),
        // A front proxy shows itself by its certificate.
        (&[("impersonate-user", "x"), ("x-remote-user", "root"), ("x-remote-group", "system:masters")], plain),
        (&[("impersonate-user", account)], (account.to_owned(), of_account.to_vec())),
    ] {
        let found = seen(headers)?;
        if found != expected {
            return Err(format!("{headers:?}: {found:?}"));
        }
    }
    for alone in [("impersonate-group", "system:masters"), ("impersonate-uid", "1"), ("impersonate-extra-a", "b")] {
        let answer = run.with(&[alone], Method::GET, "/api/v1/namespaces/default", &Value::Null)?;
        expect(answer.code == 400, &answer)?;
    }
    for who in [Credentials::None, Credentials::Wrong] {
        for header in [("impersonate-user", "admin"), ("x-remote-user", "root")] {
            let headers = [header, ("x-remote-group", "system:masters")];
            let answer = run.by(who, &headers, Method::GET, "/api/v1/secrets", &Value::Null)?;
            expect(matches!(answer.code, 401 | 403), &answer)?;
        }
    }
    // Nobody acts for others without the right to.
    let me = format!("conformance-nobody-{}", std::process::id());
    keeper(run, &me, json!([]))?;
    let review = |user: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user,
            "resourceAttributes": {"verb": "impersonate", "resource": "groups", "name": "system:masters"}}})
    };
    let answer = run.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review(&me))?;
    expect(answer.tree()["status"]["allowed"] == false, &answer)
}

fn paths(run: &mut Run) -> Outcome {
    let me = format!("conformance-walker-{}", std::process::id());
    keeper(run, &me, json!([]))?;
    let who = [("impersonate-user", me.as_str())];
    let in_default = "/api/v1/namespaces/default";
    for (path, code) in [
        ("/api/v1/namespaces/default/secrets".to_owned(), 403),
        (format!("{in_default}/configmaps/../secrets"), 403),
        (format!("{in_default}/configmaps/..%2fsecrets"), 403),
        (format!("{in_default}/configmaps/%2e%2e/secrets"), 403),
        (format!("{in_default}/configmaps/a%2f..%2f..%2fsecrets"), 403),
        (format!("{in_default}/configmaps/."), 400),
        (format!("{in_default}/secrets/"), 403),
        (format!("/{in_default}/secrets"), 403),
        ("/api//v1/namespaces/default/secrets".to_owned(), 403),
        ("/api/v1/./namespaces/default/secrets".to_owned(), 403),
        ("/api/v1/namespaces//secrets".to_owned(), 403),
        ("/api/v1/namespaces/de%66ault/secrets".to_owned(), 403),
        ("/api/v1/watch/namespaces/default/secrets".to_owned(), 403),
        (format!("{in_default}/configmaps;x=/secrets"), 403),
        ("/healthz/../api/v1/secrets".to_owned(), 403),
        ("/version/..%2fapi/v1/secrets".to_owned(), 403),
        ("/API/v1/secrets".to_owned(), 403),
    ] {
        let answer = run.with(&who, Method::GET, &path, &Value::Null)?;
        expect(answer.code == code, &answer).map_err(|got| format!("{path}: wanted {code}, got {got}"))?;
    }
    Ok(())
}

fn tokens(run: &mut Run) -> Outcome {
    let namespace = run.namespace(json!({}))?;
    let place = |resource: &str| format!("{namespace}/{resource}");
    let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let account = run.make(&place("serviceaccounts"), &object("ServiceAccount", "robot"))?;
    let secret = run.make(&place("secrets"), &object("Secret", "bound"))?;
    let token = |spec: Value| -> Result<String, String> {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = run.post(&format!("{account}/token"), &request)?;
        accepted(&answer)?;
        Ok(answer.tree()["status"]["token"].as_str().unwrap_or_default().to_owned())
    };
    let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let shown = |token: &str| {
        let header = format!("Bearer {token}");
        run.by(Credentials::None, &[("authorization", &header)], Method::POST, REVIEWS, &question)
    };
    let refused = |token: &str| -> Outcome {
        let answer = shown(token)?;
        expect(answer.code == 401, &answer)
    };
    let bound_to = json!({"apiVersion": "v1", "kind": "Secret", "name": "bound"});
    let (free, bound) = (token(json!({}))?, token(json!({"boundObjectRef": bound_to}))?);
    for good in [&free, &bound] {
        accepted(&shown(good)?)?;
    }
    // What is not as it was made, or for somebody else, is nobody's.
    let parts: Vec<&str> = free.split('.').collect();
    let [head, claims, signature] = parts[..] else { return Err(format!("{free} is no token")) };
    let other = bound.split('.').nth(1).unwrap_or_default();
    refused(&format!("{head}.{other}.{signature}"))?;
    // {"alg":"none"}
    refused(&format!("eyJhbGciOiJub25lIn0.{claims}."))?;
    refused(&token(json!({"audiences": ["https://elsewhere.example.com"]}))?)?;
    // Servers may remember a token for some seconds.
    let ends = |token: &str| run.until(|| shown(token), |answer| answer.code == 401);
    accepted(&run.json(Method::DELETE, &secret, &Value::Null)?)?;
    ends(&bound)?;
    accepted(&shown(&free)?)?;
    accepted(&run.json(Method::DELETE, &account, &Value::Null)?)?;
    ends(&free)?;
    // Another one of the same name is not the same.
    accepted(&run.post(&place("serviceaccounts"), &object("ServiceAccount", "robot"))?)?;
    refused(&free)
}
