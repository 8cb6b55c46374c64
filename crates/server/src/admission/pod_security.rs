//! PodSecurity: pods that break the standard of their namespace are refused, workloads whose pods would are warned about.
//! The standards themselves are `skiff_rules::pod_security`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_meta::{GroupKind, GroupResource, GroupVersionResource, Object, Status};
use skiff_rules::pod_security::{Policy, Standard, tightens, violations};

use super::config::PodSecurityConfig;
use super::{find, items, refuse, text};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

const ANNOTATIONS: &str = "pod-security.kubernetes.io/";
/// Of a namespace whose standard changes, at most this many pods are looked at.
const MAX_PODS: usize = 3_000;

/// The plug-in.
#[derive(Default)]
pub(super) struct PodSecurity(PodSecurityConfig);

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Namespace,
    Pod,
    /// Something with pods to come, whose template is at this pointer.
    Template(&'static str),
}

fn subject(resource: &GroupVersionResource) -> Option<Subject> {
    Some(match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "namespaces") => Subject::Namespace,
        ("", "pods") => Subject::Pod,
        ("", "podtemplates") => Subject::Template("/template"),
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Subject::Template("/spec/template"),
        ("batch", "cronjobs") => Subject::Template("/spec/jobTemplate/spec/template"),
        _ => return None,
    })
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        let writes = matches!(operation, Operation::Create | Operation::Update);
        writes
            && match subject(resource) {
                Some(Subject::Pod) => matches!(subresource, "" | "ephemeralcontainers" | "resize"),
                Some(_) => subresource.is_empty(),
                None => false,
            }
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let (Some(object), Some(subject)) = (object, subject(request.resource)) else { return Ok(()) };
        if subject == Subject::Namespace {
            return self.judge_namespace(request, object).await;
        }
        let exempt = |what: &str| {
            request.notes.annotate(format!("{ANNOTATIONS}exempt"), what.to_owned());
            Ok(())
        };
        if self.0.exempt.namespaces.contains(request.namespace) {
            return exempt("namespace");
        }
        if self.0.exempt.usernames.contains(&request.user.name) {
            return exempt("user");
        }
        let id = GroupResource::new("", "namespaces");
        let Some(namespace) = find(request.view, &id, "", request.namespace).await? else { return Ok(()) };
        let (policy, faults) = Policy::over(self.0.defaults, &namespace.meta().labels);
        let note = |key: &str, value: String| request.notes.annotate(format!("{ANNOTATIONS}{key}"), value);
        if faults.is_empty() && policy.is_privileged() {
            if subject == Subject::Pod {
                note("enforce-policy", Standard::default().to_string());
            }
            return Ok(());
        }
        let template = match subject {
            Subject::Template(place) => object.pointer(place).unwrap_or(&Value::Null),
            _ if request.old.is_some_and(|old| !is_significant(object, old)) => return Ok(()),
            _ => object,
        };
        if template.is_null() {
            return Ok(());
        }
        if self.0.exempt.runtime_classes.contains(text(&template["spec"], "runtimeClassName")) {
            return exempt("runtimeClass");
        }
        if !faults.is_empty() {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            note("error", format!("Failed to parse policy: {}", aggregate(&faults)));
        }
        let broken = |standard: Standard| Some(violations(standard, template)).filter(|found| !found.is_empty());
        let refused = (subject == Subject::Pod).then(|| broken(policy.enforce)).flatten();
        if subject == Subject::Pod {
            note("enforce-policy", policy.enforce.to_string());
        }
        if let Some(found) = broken(policy.audit) {
            note("audit-violations", format!("would violate PodSecurity \"{}\": {found}", policy.audit));
        }
        if let Some(found) = refused {
            let why = format!("violates PodSecurity \"{}\": {found}", policy.enforce);
            return Err(refuse(request, Some(object), &why));
        }
        if let Some(found) = broken(policy.warn) {
            request.notes.warn(format!("would violate PodSecurity \"{}\": {found}", policy.warn));
        }
        Ok(())
    }
}

impl PodSecurity {
    pub(super) fn new(config: PodSecurityConfig) -> Self {
        Self(config)
    }

    async fn judge_namespace(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let (policy, faults) = Policy::over(self.0.defaults, &labels(object));
        let (before, known) = request.old.map(|old| Policy::over(self.0.defaults, &labels(old))).unwrap_or_default();
        if !faults.is_empty() && faults != known {
            return Err(Status::invalid(&GroupKind::new("", "Namespace"), text(&object["metadata"], "name"), &faults));
        }
        let exempt = self.0.exempt.namespaces.contains(request.name);
        if !exempt && request.operation == Operation::Update && tightens(&policy, &before) {
            let id = GroupResource::new("", "pods");
            request.view.refresh(&id).await?;
            let pods = request.view.list(&id, request.name);
            pods_warnings(request.name, policy.enforce, &pods).into_iter().for_each(|text| request.notes.warn(text));
        }
        Ok(())
    }
}

/// Several faults as one text.
fn aggregate(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Whether an update changes anything that standards are about: images, and which containers there are. All else of a
/// pod cannot change.
fn is_significant(new: &Value, old: &Value) -> bool {
    let lists = ["containers", "initContainers"];
    let changed = |new: &[Value], old: &[Value]| {
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| new["image"] != old["image"])
    };
    let known = items(&old["spec"]["ephemeralContainers"]);
    let is_known = |new: &Value| known.iter().any(|old| old["name"] == new["name"] && old["image"] == new["image"]);
    lists.iter().any(|list| changed(items(&new["spec"][list]), items(&old["spec"][list])))
        || !items(&new["spec"]["ephemeralContainers"]).iter().all(is_known)
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// What is to be said about pods that are there already.
fn pods_warnings(namespace: &str, standard: Standard, pods: &[Arc<Object>]) -> Vec<String> {
    // Pods of one owner are alike: one of each comes first.
    let mut owners = BTreeSet::new();
    let is_first = |pod: &&Arc<Object>| {
        let owner = pod.meta().owner_references.iter().find(|owner| owner.controller == Some(true));
        owner.is_none_or(|owner| owners.insert(owner.uid.clone()))
    };
    let (first, rest): (Vec<_>, Vec<_>) = pods.iter().partition(is_first);
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in first.into_iter().chain(rest).take(MAX_PODS) {
        let reasons = pod.to_value().map(|tree| violations(standard, &tree).reasons()).unwrap_or_default();
        if !reasons.is_empty() {
            let name = pod.meta().name.as_str();
            let (least, count) = found.entry(reasons).or_insert((name, 0));
            *least = (*least).min(name);
            *count += 1;
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MAX_PODS {
        let all = pods.len();
        let text = "new PodSecurity enforce level only checked against the first";
        warnings.push(format!("{text} {MAX_PODS} of {all} existing pods"));
    }
    if !found.is_empty() {
        let text = format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level");
        warnings.push(format!("{text} \"{standard}\""));
    }
    let told = |(reasons, (name, count)): (String, (&str, usize))| match count {
        1 => format!("{name}: {reasons}"),
        2 => format!("{name} (and 1 other pod): {reasons}"),
        more => format!("{name} (and {} other pods): {reasons}", more - 1),
    };
    let mut told: Vec<String> = found.into_iter().map(told).collect();
    told.sort();
    warnings.append(&mut told);
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::config::Exemptions;
    use crate::admission::testing::Trial;
    use crate::chain::User;
    use serde_json::json;

    fn namespace(labels: Value) -> Value {
        let labels: serde_json::Map<_, _> = labels.as_object().unwrap().clone();
        let labels: serde_json::Map<_, _> = labels.into_iter().map(|(k, v)| (format!("{ANNOTATIONS}{k}"), v)).collect();
        json!({"metadata": {"name": "ns", "labels": labels}})
    }

    fn trial(labels: Value) -> Trial<PodSecurity> {
        let trial = Trial::new(PodSecurity::default());
        trial.view.put("namespaces", namespace(labels));
        trial
    }

    fn pod(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"hostNetwork": true, "containers": [
            {"name": "c", "image": "i"}]}})
    }

    #[test]
    fn pods_are_refused_and_workloads_warned_about() {
        let trial = trial(json!({"enforce": "baseline", "audit": "baseline"}));
        let create = trial.create("pods").namespace("ns").name("p");
        let refusal = create.validate(&pod("p")).unwrap_err();
        let why = "violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
        assert_eq!((refusal.code, refusal.message), (403, format!("pods \"p\" is forbidden: {why}")));
        let said = create.said();
        assert_eq!(said.warnings, [""; 0]);
        let noted: Vec<(&str, &str)> = said.annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let would = format!("would {}", why.replace("violates", "violate"));
        let expected = [
            ("pod-security.kubernetes.io/audit-violations", would.as_str()),
            ("pod-security.kubernetes.io/enforce-policy", "baseline:latest"),
        ];
        assert_eq!(noted, expected);

        let create = trial.create("cronjobs.batch").namespace("ns");
        let job = json!({"metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": pod("t")}}}});
        create.validate(&job).unwrap();
        assert_eq!(create.said().warnings, [would]);
    }

    #[test]
    fn only_new_images_are_looked_at_again() {
        let trial = trial(json!({"enforce": "baseline"}));
        let (old, mut labelled, mut other) = (pod("p"), pod("p"), pod("p"));
        labelled["metadata"]["labels"] = json!({"a": "b"});
        other["spec"]["containers"][0]["image"] = json!("j");
        let update = |subresource| trial.update("pods", old.clone()).namespace("ns").subresource(subresource);
        update("").validate(&labelled).unwrap();
        update("").validate(&other).unwrap_err();
        let mut debugged = pod("p");
        debugged["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "i"}]);
        update("ephemeralcontainers").validate(&debugged).unwrap_err();
    }

    #[test]
    fn namespaces_hear_which_pods_do_not_fit() {
        let trial = trial(json!({}));
        for name in ["b", "a", "c"] {
            trial.view.put("pods", pod(name));
        }
        let update = trial.update("namespaces", namespace(json!({}))).name("ns");
        update.validate(&namespace(json!({"enforce": "baseline"}))).unwrap();
        let expected = [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 2 other pods): host namespaces",
        ];
        assert_eq!(update.said().warnings, expected);
        let refusal = trial.create("namespaces").validate(&namespace(json!({"enforce": "odd"}))).unwrap_err();
        assert_eq!(refusal.code, 422);
        let odd = namespace(json!({"enforce": "odd"}));
        trial.update("namespaces", odd.clone()).validate(&odd).unwrap();
    }

    #[test]
    fn a_configuration_sets_defaults_and_exempts() {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let exempt = Exemptions {
            usernames: texts(&["operator"]),
            runtime_classes: texts(&["kata"]),
            namespaces: texts(&["free"]),
        };
        let defaults = Policy::by_default(&BTreeMap::from([("enforce".to_owned(), "baseline".to_owned())])).unwrap();
        let trial = |labels| {
            let trial = Trial::new(PodSecurity::new(PodSecurityConfig { defaults, exempt: exempt.clone() }));
            trial.view.put("namespaces", namespace(labels));
            trial
        };
        let (by_default, own) = (trial(json!({})), trial(json!({"enforce": "privileged"})));
        assert!(by_default.create("pods").namespace("ns").validate(&pod("p")).is_err());
        assert!(own.create("pods").namespace("ns").validate(&pod("p")).is_ok());
        let mut kata = pod("p");
        kata["spec"]["runtimeClassName"] = json!("kata");
        let create = || by_default.create("pods").namespace("ns");
        for (what, attempt, pod) in [
            ("runtimeClass", create(), kata),
            ("user", create().by(User::new("operator", &[])), pod("p")),
            ("namespace", by_default.create("pods").namespace("free"), pod("p")),
        ] {
            attempt.validate(&pod).unwrap();
            assert_eq!(attempt.said().annotations[&format!("{ANNOTATIONS}exempt")], what);
        }
    }
}
