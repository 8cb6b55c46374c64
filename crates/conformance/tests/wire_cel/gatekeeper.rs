//! The rules that clusters are commonly kept by, as policies with bindings and parameters of a kind of their own.

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Answer;

use super::{DEFINITIONS, POLICIES, Run};
use crate::support::{Outcome, accepted, expect};

const CONTAINERS: &str = "object.spec.containers + (has(object.spec.initContainers) ? object.spec.initContainers : [])";

/// A namespace under policies, with an account for pods and constraints of its own kind.
struct Kept {
    path: String,
    namespace: String,
    api_version: String,
    constraints: String,
}

impl Run {
    fn kept(&mut self) -> Result<Kept, String> {
        let path = self.namespace(json!({}))?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let made = self.post(&format!("{path}/serviceaccounts"), &account)?;
        expect(made.code == 201 || made.code == 409, &made)?;
        let texts = json!({"type": "array", "items": {"type": "string"}});
        let spec = json!({"type": "object", "properties": {"labels": texts, "registries": texts, "hosts": texts,
            "maxCpu": {"type": "string"}}});
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
        let group = format!("gate{}x{}.example.com", std::process::id(), self.number());
        let names = json!({"plural": "constraints", "singular": "constraint", "kind": "Constraint",
            "listKind": "ConstraintList"});
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("constraints.{group}")},
            "spec": {"group": group, "scope": "Cluster", "names": names, "versions": [version]}});
        self.make(DEFINITIONS, &definition)?;
        let (api_version, constraints) = (format!("{group}/v1"), format!("/apis/{group}/v1/constraints"));
        self.until(|| self.json(Method::GET, &constraints, &Value::Null), |answer| answer.code == 200)?;
        let namespace = path.rsplit('/').next().unwrap_or_default().to_owned();
        let kept = Kept { path, namespace, api_version, constraints };
        for (name, hosts) in [("main", json!(["a.example.com", "b.example.com"])), ("more", json!(["b.example.com"]))] {
            let spec = json!({"labels": ["team", "stage"], "registries": ["registry.example.com/", "mirror.example.com/"],
                "hosts": hosts, "maxCpu": "2"});
            let constraint = json!({"apiVersion": kept.api_version, "kind": "Constraint",
                "metadata": {"name": name, "labels": {"part": "hosts"}}, "spec": spec});
            self.make(&kept.constraints, &constraint)?;
        }
        Ok(kept)
    }

    /// A policy about a resource of the namespace, and its binding. With parameters, if `params` says which.
    fn keep(
        &mut self,
        kept: &Kept,
        name: &str,
        (group, resource, operations): (&str, &str, Value),
        (mut spec, params, actions): (Value, Value, Value),
    ) -> Result<String, String> {
        let name = format!("{name}.{}", kept.namespace);
        let rule =
            json!({"operations": operations, "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]});
        spec["matchConstraints"] = json!({"resourceRules": [rule]});
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": kept.namespace}});
        let mut binding = json!({"policyName": name, "validationActions": actions,
            "matchResources": {"namespaceSelector": selector}});
        if !params.is_null() {
            spec["paramKind"] = json!({"apiVersion": kept.api_version, "kind": "Constraint"});
            binding["paramRef"] = params;
            binding["paramRef"]["parameterNotFoundAction"] = json!("Deny");
        }
        let api = "admissionregistration.k8s.io/v1";
        for (kind, plural, spec) in [
            ("ValidatingAdmissionPolicy", "validatingadmissionpolicies", spec),
            ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", binding),
        ] {
            let tree = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
            self.make(&format!("{POLICIES}/{plural}"), &tree)?;
        }
        Ok(name)
    }
}

/// A pod that breaks no rule.
fn good() -> Value {
    let limits = json!({"cpu": "500m", "memory": "64Mi"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"team": "a", "stage": "b"}}, "spec": {
        "containers": [{"name": "c", "image": "registry.example.com/app:1", "resources": {"limits": limits}}]}})
}

fn changed(pointer: &str, value: Value) -> Value {
    let mut pod = good();
    let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
    if let Some(parent) = pod.pointer_mut(parent) {
        parent[field] = value;
    }
    pod
}

pub(super) fn pods_are_kept(run: &mut Run) -> Outcome {
    let kept = run.kept()?;
    let containers = || json!([{"name": "containers", "expression": CONTAINERS}]);
    let main = || json!({"name": "main"});
    let deny = || json!(["Deny"]);
    let pods = || ("", "pods", json!(["CREATE", "UPDATE"]));
    let missing = "params.spec.labels.filter(l, !has(object.metadata.labels) || !(l in object.metadata.labels))";
    let labels = json!({"variables": [{"name": "missing", "expression": missing}], "validations": [{
        "expression": "variables.missing.size() == 0", "messageExpression": "'labels needed: ' + variables.missing.join(', ')"}]});
    let labels = run.keep(&kept, "labels", pods(), (labels, main(), deny()))?;
    let registries = json!({"variables": containers(), "validations": [{
        "expression": "variables.containers.all(c, params.spec.registries.exists(r, c.image.startsWith(r)))",
        "messageExpression": "'images come from ' + params.spec.registries.join(' or ')"}]});
    let registries = run.keep(&kept, "registries", pods(), (registries, main(), deny()))?;
    let privileged = "c.?securityContext.?privileged.orValue(false)";
    let privileged = json!({"variables": containers(), "validations": [{"reason": "Forbidden", "message": "nobody is privileged",
        "expression": format!("!variables.containers.exists(c, {privileged})")}],
        "matchConditions": [{"name": "trusted", "expression": "request.userInfo.username != 'trusted'"}]});
    let privileged = run.keep(&kept, "privileged", pods(), (privileged, Value::Null, deny()))?;
    let cpu = "has(c.resources.limits) && 'cpu' in c.resources.limits && \
        quantity(c.resources.limits.cpu).compareTo(quantity(params.spec.maxCpu)) <= 0";
    let limits = json!({"variables": containers(), "validations": [{"message": "limits are needed",
        "expression": format!("variables.containers.all(c, {cpu})")}]});
    let limits = run.keep(&kept, "limits", pods(), (limits, main(), json!(["Warn", "Audit"])))?;
    let dry = format!("{}/pods?dryRun=All", kept.path);
    let denied = |name: &str, why: &str| {
        format!(
            "pods \"p\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: {why}"
        )
    };
    // The last that was made is in force; so are the others.
    let bad = changed("/spec/containers/0/resources", json!({}));
    let told = run.until(|| run.post(&dry, &bad), |answer| answer.code == 201 && !answer.warnings().is_empty())?;
    let warning = format!(
        "Validation failed for ValidatingAdmissionPolicy '{limits}' with binding '{limits}': limits are needed"
    );
    expect(told.warnings() == [warning.clone()], &told).map_err(|got| format!("{:?} {got}", told.warnings()))?;
    let large = changed("/spec/containers/0/resources/limits/cpu", json!("2001m"));
    let told = run.post(&dry, &large)?;
    expect(told.code == 201 && told.warnings() == [warning], &told)?;
    let fine = run.post(&dry, &good())?;
    expect(fine.code == 201 && fine.warnings().is_empty(), &fine)?;
    let no_labels = denied(&labels, "labels needed: team, stage");
    let stranger = denied(&registries, "images come from registry.example.com/ or mirror.example.com/");
    let init = json!([{"name": "i", "image": "elsewhere.example.com/x"}]);
    for (pod, code, reason, message) in [
        (changed("/metadata/labels", json!({})), 422, "Invalid", no_labels.clone()),
        (changed("/metadata/labels", json!({"team": "a"})), 422, "Invalid", denied(&labels, "labels needed: stage")),
        (changed("/spec/containers/0/image", json!("example.com/x")), 422, "Invalid", stranger.clone()),
        (changed("/spec/initContainers", init), 422, "Invalid", stranger),
        (
            changed("/spec/containers/0/securityContext", json!({"privileged": true})),
            403,
            "Forbidden",
            denied(&privileged, "nobody is privileged"),
        ),
    ] {
        let answer = run.post(&dry, &pod)?;
        let fits = answer.code == code && answer.text("reason") == reason && answer.text("message") == message;
        expect(fits, &answer).map_err(|got| format!("wanted {code} {message}\ngot {got}"))?;
    }
    // Without its parameters a policy lets nothing pass.
    accepted(&run.json(Method::DELETE, &format!("{}/main", kept.constraints), &Value::Null)?)?;
    let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    let lost = run.until(|| run.post(&dry, &good()), |answer| answer.code != 201)?;
    expect(lost.code == 422 && lost.text("message").ends_with(why), &lost)
}

pub(super) fn others_are_kept(run: &mut Run) -> Outcome {
    let kept = run.kept()?;
    let hosts = json!({"validations": [{"expression": "object.spec.rules.all(r, r.host in params.spec.hosts)",
        "messageExpression": "'hosts are ' + params.spec.hosts.join(', ')"}]});
    let all = json!({"selector": {"matchLabels": {"part": "hosts"}}});
    let ingresses = ("networking.k8s.io", "ingresses", json!(["CREATE"]));
    let hosts = run.keep(&kept, "hosts", ingresses, (hosts, all, json!(["Deny"])))?;
    let guarded = json!({"validations": [{"message": "it is protected",
        "expression": "oldObject.metadata.?labels['protected'].orValue('') != 'true'"}]});
    let guarded =
        run.keep(&kept, "protected", ("", "configmaps", json!(["DELETE"])), (guarded, Value::Null, json!(["Deny"])))?;
    let ingress = |host: &str| {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let http = json!({"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]});
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
            "spec": {"rules": [{"host": host, "http": http}]}})
    };
    let of_group = kept.path.replacen("/api/v1", "/apis/networking.k8s.io/v1", 1);
    let dry = format!("{of_group}/ingresses?dryRun=All");
    let denied = format!("ValidatingAdmissionPolicy '{hosts}' with binding '{hosts}' denied request: hosts are ");
    // A policy may be known before the kind of its parameters is.
    let is_denied = |answer: &Answer| answer.code == 422 && answer.text("message").contains(&denied);
    run.until(|| run.post(&dry, &ingress("x.example.com")), is_denied)?;
    // Every parameter that is selected has its say.
    let half = run.post(&dry, &ingress("a.example.com"))?;
    expect(half.code == 422 && half.text("message").ends_with(&format!("{denied}b.example.com")), &half)?;
    accepted(&run.post(&dry, &ingress("b.example.com"))?)?;
    let map = |name: &str, protected: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"protected": protected}}});
    let maps = format!("{}/configmaps", kept.path);
    for (name, protected) in [("kept", "true"), ("free", "false")] {
        accepted(&run.post(&maps, &map(name, protected))?)?;
    }
    let delete = |name: &str, query: &str| run.json(Method::DELETE, &format!("{maps}/{name}{query}"), &Value::Null);
    let refused = run.until(|| delete("kept", "?dryRun=All"), |answer| answer.code == 422)?;
    let denied =
        format!("ValidatingAdmissionPolicy '{guarded}' with binding '{guarded}' denied request: it is protected");
    expect(refused.text("message").ends_with(&denied), &refused)?;
    accepted(&delete("free", "")?)?;
    accepted(&run.merge(&format!("{maps}/kept"), &json!({"metadata": {"labels": {"protected": "false"}}}))?)?;
    accepted(&delete("kept", "")?)
}
