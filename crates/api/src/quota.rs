//! What objects take of a namespace's quota (`pkg/quota/v1` upstream): asked alike by the one who counts afresh, and by
//! whoever lets an object in.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuotaSpec, ScopedResourceSelectorRequirement, Service,
};
use skiff_meta::quantity::Format;
use skiff_meta::{GroupResource, Quantity};

use crate::pods::is_finished;
use crate::qos::{QosClass, qos_class};
use crate::resources::{ResourceList, is_pod_level, limits, parse, requests};

const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
/// The scope that is about claims.
const BY_ATTRIBUTES: &str = "VolumeAttributesClass";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Resources of pods that quotas name; the plain names mean requests.
const OF_PODS: [&str; 11] = [
    "pods",
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Resources of the core group that quotas count by their bare name.
const COUNTED: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

fn number(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// Whether pods take of the quota resource `name`.
pub fn is_of_pods(name: &str) -> bool {
    let requested = name.strip_prefix("requests.");
    let extended = requested.is_some_and(|requested| requested.contains('/'));
    OF_PODS.contains(&name) || requested.unwrap_or(name).starts_with("hugepages-") || extended
}

/// Whether Services do.
pub fn is_of_services(name: &str) -> bool {
    matches!(name, "services" | "services.nodeports" | "services.loadbalancers" | "count/services")
}

/// Whether volume claims do.
pub fn is_of_claims(name: &str) -> bool {
    let resource = name.split_once(BY_CLASS).map_or(name, |(_, resource)| resource);
    matches!(resource, "persistentvolumeclaims" | "requests.storage") || name == "count/persistentvolumeclaims"
}

/// The resource whose objects are simply counted under `name`: `count/deployments.apps`, `secrets`.
pub fn counted(name: &str) -> Option<GroupResource> {
    if is_of_pods(name) || is_of_services(name) || is_of_claims(name) {
        return None;
    }
    match name.strip_prefix("count/") {
        Some(rest) => {
            let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
            Some(GroupResource::new(group, resource))
        }
        None => COUNTED.contains(&name).then(|| GroupResource::new("", name)),
    }
}

/// What a pod takes: nothing but its number any more once it has ended, or should have been gone already.
pub fn of_pod(pod: &Pod, now: Timestamp) -> ResourceList {
    let overdue = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds?);
        pod.metadata.deletion_timestamp.as_ref()?.0.checked_add(grace).ok()
    };
    let mut usage = ResourceList::from([("count/pods".to_owned(), number(1))]);
    let Some(spec) = pod.spec.as_ref().filter(|_| !is_finished(pod) && overdue().is_none_or(|end| end >= now)) else {
        return usage;
    };
    usage.insert("pods".to_owned(), number(1));
    for (name, amount) in requests(spec, pod.status.as_ref()) {
        let native = matches!(&*name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        usage.insert(format!("requests.{name}"), amount);
        if native {
            usage.insert(name, amount);
        }
    }
    for (name, amount) in limits(spec, pod.status.as_ref()) {
        usage.insert(format!("limits.{name}"), amount);
    }
    usage
}

/// What a Service takes.
pub fn of_service(service: &Service) -> ResourceList {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let allocated = ports.iter().filter(|port| port.node_port.is_some_and(|port| port != 0)).count();
    let (node_ports, balancers) = match spec.and_then(|spec| spec.type_.as_deref()) {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") => {
            let all = spec.and_then(|spec| spec.allocate_load_balancer_node_ports).unwrap_or(true);
            (if all { ports.len() } else { allocated }, 1)
        }
        _ => (0, 0),
    };
    let usage = [
        ("count/services", 1),
        ("services", 1),
        ("services.nodeports", node_ports),
        ("services.loadbalancers", balancers),
    ];
    usage.map(|(name, count)| (name.to_owned(), number(count))).into()
}

/// What a volume claim takes, as a whole and of its class.
pub fn of_claim(claim: &PersistentVolumeClaim) -> ResourceList {
    let spec = claim.spec.as_ref();
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(OLD_CLASS));
    let class = annotated.or_else(|| spec?.storage_class_name.as_ref()).filter(|class| !class.is_empty());
    // Classes have no number of their own by this name.
    let mut usage = ResourceList::from([("count/persistentvolumeclaims".to_owned(), number(1))]);
    let mut take = |name: &str, amount: Quantity| {
        usage.insert(name.to_owned(), amount);
        if let Some(class) = class {
            usage.insert(format!("{class}{BY_CLASS}{name}"), amount);
        }
    };
    take("persistentvolumeclaims", number(1));
    let requested = spec.and_then(|spec| spec.resources.as_ref()).map(|resources| parse(&resources.requests));
    if let Some(asked) = requested.and_then(|requested| requested.get("storage").copied()) {
        // While it is being expanded, what is allocated already counts.
        let allocated = claim.status.as_ref().map(|status| parse(&status.allocated_resources));
        let allocated = allocated.and_then(|allocated| allocated.get("storage").copied());
        take("requests.storage", allocated.map_or(asked, |allocated| allocated.max(asked)));
    }
    usage
}

/// What an object that has just been made takes of quotas that simply count it, under all its names.
pub fn of_counted(resource: &GroupResource) -> ResourceList {
    let count = match resource.group.as_str() {
        "" => format!("count/{}", resource.resource),
        group => format!("count/{}.{group}", resource.resource),
    };
    let short = Some(&resource.resource).filter(|name| counted(name).as_ref() == Some(resource));
    [Some(count), short.cloned()].into_iter().flatten().map(|name| (name, number(1))).collect()
}

/// Whether a quota, by its scopes, is about this pod.
pub fn covers_pod(quota: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    named(quota).all(|scope| in_scope(spec, scope)) && selected(quota).all(|wanted| is_selected(spec, wanted))
}

/// Whether a quota, by its scopes, is about this claim: by the classes of attributes that its volume has or shall have.
pub fn covers_claim(quota: &ResourceQuotaSpec, claim: &PersistentVolumeClaim) -> bool {
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let target =
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_ref());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_ref());
    let wanted = spec.and_then(|spec| spec.volume_attributes_class_name.as_ref());
    let classes: Vec<&str> =
        [wanted, current, target].into_iter().flatten().filter(|class| !class.is_empty()).map(String::as_str).collect();
    let fits = |wanted: &ScopedResourceSelectorRequirement| {
        let listed = |class: &&str| wanted.values.iter().flatten().any(|value| value == class);
        wanted.scope_name == BY_ATTRIBUTES
            && match &*wanted.operator {
                "In" => classes.iter().any(listed),
                "NotIn" => classes.is_empty() || !classes.iter().all(listed),
                "DoesNotExist" => classes.is_empty(),
                _ => !classes.is_empty(),
            }
    };
    named(quota).all(|scope| scope == BY_ATTRIBUTES && !classes.is_empty()) && selected(quota).all(fits)
}

/// Whether a quota has scopes: those are about pods and claims, so that nothing else counts then.
pub fn has_scopes(quota: &ResourceQuotaSpec) -> bool {
    named(quota).next().is_some() || selected(quota).next().is_some()
}

fn named(quota: &ResourceQuotaSpec) -> impl Iterator<Item = &str> {
    quota.scopes.iter().flatten().map(String::as_str)
}

fn selected(quota: &ResourceQuotaSpec) -> impl Iterator<Item = &ScopedResourceSelectorRequirement> {
    quota.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten())
}

/// What containers of a pod must say and do not, for a quota that counts these resources; `None`: nothing is missing.
pub fn missing(pod: &Pod, names: &[&str]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let whole =
        spec.resources.iter().flat_map(|all| [&all.requests, &all.limits]).flat_map(|list| list.iter().flatten());
    if whole.into_iter().any(|(name, _)| is_pod_level(name)) {
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        let (limits, resource) = match name.strip_prefix("limits.") {
            Some(resource) => (true, resource),
            None => (false, name.strip_prefix("requests.").unwrap_or(name)),
        };
        if !matches!(resource, "cpu" | "memory") {
            continue;
        }
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let said = container.resources.as_ref();
            let list = said.and_then(|said| if limits { said.limits.as_ref() } else { said.requests.as_ref() });
            if list.is_none_or(|list| !list.contains_key(resource)) {
                missing.entry(name).or_default().insert(&container.name);
            }
        }
    }
    let texts = missing
        .into_iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")));
    let text = texts.collect::<Vec<_>>().join("; ");
    Some(text).filter(|text| !text.is_empty())
}

/// Whether a pod may run for a limited time only, which is what the scope `Terminating` means.
pub fn has_end(spec: &PodSpec) -> bool {
    spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0)
}

fn in_scope(spec: &PodSpec, scope: &str) -> bool {
    let ends = has_end(spec);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => qos_class(spec) == QosClass::BestEffort,
        "NotBestEffort" => qos_class(spec) != QosClass::BestEffort,
        "PriorityClass" => spec.priority_class_name.as_ref().is_some_and(|name| !name.is_empty()),
        "CrossNamespacePodAffinity" => looks_elsewhere(spec),
        _ => false,
    }
}

fn is_selected(spec: &PodSpec, wanted: &ScopedResourceSelectorRequirement) -> bool {
    let class = spec.priority_class_name.as_deref().unwrap_or_default();
    let listed = || wanted.values.iter().flatten().any(|value| value == class);
    match &*wanted.operator {
        _ if wanted.scope_name == BY_ATTRIBUTES => false,
        "In" => in_scope(spec, &wanted.scope_name) && listed(),
        "NotIn" => !listed(),
        "DoesNotExist" => !in_scope(spec, &wanted.scope_name),
        _ => in_scope(spec, &wanted.scope_name),
    }
}

/// Whether a pod's place depends on pods of other namespaces.
fn looks_elsewhere(spec: &PodSpec) -> bool {
    let elsewhere =
        |term: &PodAffinityTerm| term.namespaces.iter().flatten().next().is_some() || term.namespace_selector.is_some();
    let affinity = spec.affinity.as_ref();
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let required = near.iter().flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten());
    let refused = apart.iter().flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten());
    let liked = near.iter().flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let disliked = apart.iter().flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let weighted = liked.chain(disliked).map(|weighted| &weighted.pod_affinity_term);
    required.chain(refused).chain(weighted).any(elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(list: &ResourceList) -> Value {
        list.iter()
            .map(|(name, amount)| (name.clone(), json!(amount.to_string())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    #[test]
    fn pods_take_until_they_end() {
        let pod = |status: Value| -> Pod {
            let resources =
                json!({"requests": {"cpu": "500m", "example.com/dongle": "2"}, "limits": {"memory": "1Gi"}});
            serde_json::from_value(json!({"metadata": {}, "status": status,
                "spec": {"containers": [{"name": "c", "resources": resources}]}}))
            .unwrap()
        };
        let now = Timestamp::UNIX_EPOCH;
        let expected = json!({"count/pods": "1", "pods": "1", "cpu": "500m", "requests.cpu": "500m", "requests.example.com/dongle": "2",
            "limits.memory": "1Gi"});
        assert_eq!(texts(&of_pod(&pod(json!({"phase": "Running"})), now)), expected);
        assert_eq!(texts(&of_pod(&pod(json!({"phase": "Succeeded"})), now)), json!({"count/pods": "1"}));
    }

    #[test]
    fn services_and_claims() {
        let service =
            |value: Value| -> Service { serde_json::from_value(json!({"metadata": {}, "spec": value})).unwrap() };
        let ports = json!([{"port": 80, "nodePort": 30000}, {"port": 81}]);
        for (spec, node_ports, balancers) in [
            (json!({"ports": ports}), "0", "0"),
            (json!({"type": "NodePort", "ports": ports}), "2", "0"),
            (json!({"type": "LoadBalancer", "ports": ports}), "2", "1"),
            (json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}), "1", "1"),
        ] {
            let usage = texts(&of_service(&service(spec)));
            let expected = json!({"count/services": "1", "services": "1", "services.nodeports": node_ports,
                "services.loadbalancers": balancers});
            assert_eq!(usage, expected);
        }
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {}, "spec":
            {"storageClassName": "gold", "resources": {"requests": {"storage": "5Gi"}}}}))
        .unwrap();
        let expected = json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "5Gi",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "gold.storageclass.storage.k8s.io/requests.storage": "5Gi"});
        assert_eq!(texts(&of_claim(&claim)), expected);
    }

    #[test]
    fn names_tell_what_is_counted() {
        assert_eq!(counted("count/deployments.apps"), Some(GroupResource::new("apps", "deployments")));
        assert_eq!(counted("count/secrets"), counted("secrets"));
        assert_eq!([counted("pods"), counted("count/pods"), counted("count/services")], [None, None, None]);
        let boats = GroupResource::new("example.com", "boats");
        assert_eq!(texts(&of_counted(&boats)), json!({"count/boats.example.com": "1"}));
        assert_eq!(
            texts(&of_counted(&GroupResource::new("", "secrets"))),
            json!({"count/secrets": "1", "secrets": "1"})
        );
        for (name, pods, claims) in [
            ("pods", true, false),
            ("limits.cpu", true, false),
            ("hugepages-2Mi", true, false),
            ("requests.example.com/dongle", true, false),
            ("requests.storage", false, true),
            ("gold.storageclass.storage.k8s.io/requests.storage", false, true),
            ("services", false, false),
        ] {
            assert_eq!((is_of_pods(name), is_of_claims(name)), (pods, claims), "{name}");
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let pod = |spec: Value| -> Pod {
            let mut spec = spec;
            spec["containers"] = json!([{"name": "c"}]);
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
        };
        let scopes = |names: &[&str]| ResourceQuotaSpec {
            scopes: Some(names.iter().map(|&name| name.to_owned()).collect()),
            ..ResourceQuotaSpec::default()
        };
        let plain = pod(json!({}));
        let ends = pod(json!({"activeDeadlineSeconds": 60}));
        assert!(covers_pod(&scopes(&["NotTerminating", "BestEffort"]), &plain) && covers_pod(&scopes(&[]), &plain));
        assert!(!covers_pod(&scopes(&["Terminating"]), &plain) && covers_pod(&scopes(&["Terminating"]), &ends));
        let selecting = |operator: &str| -> ResourceQuotaSpec {
            serde_json::from_value(json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}))
            .unwrap()
        };
        let high = pod(json!({"priorityClassName": "high"}));
        for (operator, of_high, of_plain) in
            [("In", true, false), ("NotIn", false, true), ("Exists", true, false), ("DoesNotExist", false, true)]
        {
            let quota = selecting(operator);
            assert_eq!((covers_pod(&quota, &high), covers_pod(&quota, &plain)), (of_high, of_plain), "{operator}");
        }
        assert!(has_scopes(&selecting("In")) && !has_scopes(&scopes(&[])));
    }

    #[test]
    fn claims_have_a_scope_of_their_own() {
        let claim = |class: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {}, "spec": {"volumeAttributesClassName": class}})).unwrap()
        };
        let quota = |operator: &str, values: Value| -> ResourceQuotaSpec {
            serde_json::from_value(json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": BY_ATTRIBUTES, "operator": operator, "values": values}]}}))
            .unwrap()
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": []}})).unwrap();
        for (operator, values, gold, none) in [
            ("In", json!(["gold"]), true, false),
            ("NotIn", json!(["gold"]), false, true),
            ("Exists", json!([]), true, false),
            ("DoesNotExist", json!([]), false, true),
        ] {
            let quota = quota(operator, values);
            let found = (covers_claim(&quota, &claim(json!("gold"))), covers_claim(&quota, &claim(Value::Null)));
            assert_eq!((found, covers_pod(&quota, &pod)), ((gold, none), false), "{operator}");
        }
        assert!(covers_claim(&ResourceQuotaSpec::default(), &claim(Value::Null)));
        let of_pods = ResourceQuotaSpec { scopes: Some(vec!["BestEffort".to_owned()]), ..ResourceQuotaSpec::default() };
        assert!(!covers_claim(&of_pods, &claim(json!("gold"))));
    }

    #[test]
    fn what_is_counted_must_be_said() {
        let pod = |spec: Value| -> Pod { serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap() };
        let silent = json!({"containers": [
            {"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}], "initContainers": [{"name": "i"}]});
        let required = ["pods", "cpu", "limits.memory", "requests.ephemeral-storage"];
        let expected = "cpu for: b,i; limits.memory for: a,b,i";
        assert_eq!(missing(&pod(silent.clone()), &required).as_deref(), Some(expected));
        let mut whole = silent;
        whole["resources"] = json!({"limits": {"memory": "1Gi"}});
        assert_eq!(missing(&pod(whole), &required), None);
    }
}
