//! Whether a pod that is bound to this node can run here (`pkg/kubelet/lifecycle` upstream).
//!
//! The scheduler has looked before, but a pod may be bound by name, past it, and two schedulers may each have given away
//! the last processor. A pod that does not fit fails at once and says why; one that has begun is never turned away.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, Taint};
use parking_lot::Mutex;
use skiff_api::affinity::{self, NodeView};
use skiff_api::qos::{QosClass, qos_class};
use skiff_api::resources::{self, ResourceList, is_sidecar};
use skiff_api::taints;
use skiff_meta::Quantity;

use super::facts;
use super::granted::Granted;
use super::status::Ending;
use crate::pressure::{self, Scarce};

/// What of the node decides.
pub(crate) struct Place<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) taints: &'a [Taint],
    pub(crate) allocatable: &'a ResourceList,
    /// Whether the kernel enforces AppArmor profiles.
    pub(crate) apparmor: bool,
    /// The runtime gives containers no groups but those they ask for, where they ask for that.
    pub(crate) strict_groups: bool,
    /// What it is short of.
    pub(crate) pressures: &'a [Scarce],
}

/// The pods that take of the node, from their admission to the end of their last container.
#[derive(Default)]
pub(crate) struct Admitted {
    pods: Mutex<BTreeMap<String, Held>>,
}

struct Held {
    /// As it runs: with what it was granted.
    pod: Arc<Pod>,
    granted: Granted,
    wish: Option<Wish>,
}

/// What a pod asks for that there is no room for yet.
struct Wish {
    pod: Arc<Pod>,
    /// Wishes are numbered in the order in which they came.
    number: u64,
}

/// What a pod may have.
pub(crate) struct Settled {
    /// The pod with what it was granted.
    pub(crate) pod: Arc<Pod>,
    /// Why that is not what it asks for.
    pub(crate) refusal: Option<String>,
    /// The UIDs of others that were granted what they waited for.
    pub(crate) others: Vec<String>,
}

impl Held {
    fn new(pod: &Arc<Pod>, granted: Granted) -> Self {
        Self { pod: granted.apply(pod), granted, wish: None }
    }

    /// Who is served first: those that take no more than they have, then by priority and class, then who waited longest.
    fn rank(&self) -> Option<(bool, Reverse<i32>, bool, u64)> {
        let wish = self.wish.as_ref()?;
        let (has, wants) = (resources::requests(facts::spec(&self.pod), None), facts::spec(&wish.pod));
        let more = |(name, wanted): (String, Quantity)| wanted > has.get(&name).copied().unwrap_or_default();
        let takes_more = resources::requests(wants, None).into_iter().any(more);
        let guaranteed = qos_class(wants) == QosClass::Guaranteed;
        Some((takes_more, Reverse(wants.priority.unwrap_or_default()), !guaranteed, wish.number))
    }
}

impl Admitted {
    /// Lets a pod in if it fits beside those that are in; otherwise says why not.
    pub(crate) fn admit(&self, pod: &Arc<Pod>, place: &Place<'_>) -> Result<(), Ending> {
        let mut pods = self.pods.lock();
        if let Some((reason, message)) = refusal(pod, &others(&pods, facts::uid(pod)), place) {
            return Err(Ending::refusal(reason, format!("Pod was rejected: {message}")));
        }
        pods.insert(facts::uid(pod).to_owned(), Held::new(pod, Granted::of(pod)));
        Ok(())
    }

    /// This pod has begun already, and been granted this.
    pub(crate) fn take_in(&self, pod: &Arc<Pod>, granted: &Granted) {
        self.pods.lock().insert(facts::uid(pod).to_owned(), Held::new(pod, granted.clone()));
    }

    /// The pod as it is to run. What it asks for beyond that is granted when there is room, to those who wait in turn.
    pub(crate) fn settle(&self, pod: &Arc<Pod>, allocatable: &ResourceList) -> Settled {
        let (mut pods, uid) = (self.pods.lock(), facts::uid(pod));
        let next = pods.values().filter_map(|held| held.wish.as_ref()).map(|wish| wish.number + 1).max().unwrap_or(0);
        let mut settled = Settled { pod: pod.clone(), refusal: None, others: Vec::new() };
        let Some(held) = pods.get_mut(uid) else { return settled };
        held.pod = held.granted.apply(pod);
        let number = held.wish.take().map_or(next, |wish| wish.number);
        if Arc::ptr_eq(&held.pod, pod) {
            return settled;
        }
        held.wish = Some(Wish { pod: pod.clone(), number });
        let mut waiting: Vec<_> = pods.iter().filter_map(|(uid, held)| Some((held.rank()?, uid.clone()))).collect();
        waiting.sort();
        for (_, waiter) in waiting {
            let Some(wish) = pods.get(&waiter).and_then(|held| held.wish.as_ref()).map(|wish| wish.pod.clone()) else {
                continue;
            };
            let lack = shortage(&wish, &others(&pods, &waiter), allocatable);
            match (lack, pods.get_mut(&waiter)) {
                (None, Some(held)) => {
                    *held = Held::new(&wish, Granted::of(&wish));
                    settled.others.extend((waiter != uid).then_some(waiter));
                }
                (Some((_, message)), _) if waiter == uid => settled.refusal = Some(message),
                _ => {}
            }
        }
        settled.pod = pods.get(uid).map_or_else(|| pod.clone(), |held| held.pod.clone());
        settled
    }

    /// A pod that is in has changed; gives the UIDs of those that may find room now.
    pub(crate) fn update(&self, pod: &Arc<Pod>) -> Vec<String> {
        let mut pods = self.pods.lock();
        let Some(held) = pods.get_mut(facts::uid(pod)) else { return Vec::new() };
        let takes = |pod: &Pod| resources::requests(facts::spec(pod), pod.status.as_ref());
        let before = std::mem::replace(&mut held.pod, held.granted.apply(pod));
        if takes(&before) == takes(&held.pod) { Vec::new() } else { waiters(&pods) }
    }

    /// Nothing of this pod runs any more; gives the UIDs of those that may find room now.
    pub(crate) fn forget(&self, uid: &str) -> Vec<String> {
        let mut pods = self.pods.lock();
        pods.remove(uid);
        waiters(&pods)
    }

    /// All of them, as granted.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().values().map(|held| held.pod.clone()).collect()
    }
}

fn others<'a>(pods: &'a BTreeMap<String, Held>, uid: &str) -> Vec<&'a Pod> {
    pods.iter().filter(|(other, _)| *other != uid).map(|(_, held)| &*held.pod).collect()
}

fn waiters(pods: &BTreeMap<String, Held>) -> Vec<String> {
    pods.iter().filter(|(_, held)| held.wish.is_some()).map(|(uid, _)| uid.clone()).collect()
}

/// Why a pod cannot run beside `others`: reason and message.
fn refusal(pod: &Pod, others: &[&Pod], place: &Place<'_>) -> Option<(String, String)> {
    let spec = facts::spec(pod);
    let told = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return told("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
    }
    let groups = spec.security_context.as_ref().and_then(|c| c.supplemental_groups_policy.as_deref());
    if groups == Some("Strict") && !place.strict_groups {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return told("SupplementalGroupsPolicyNotSupported", message);
    }
    if !place.apparmor && wants_apparmor(pod) {
        return told("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
    if let Some(message) = pressure::refusal(pod, place.pressures) {
        return Some(("Evicted".to_owned(), message));
    }
    if let Some((name, message)) = shortage(pod, others, place.allocatable) {
        return Some((format!("OutOf{name}"), message));
    }
    let predicate = |name: &str, why: &str| Some((name.to_owned(), format!("Predicate {name} failed: {why}")));
    let view = NodeView { name: place.name, labels: place.labels };
    if !affinity::pod_fits(spec, view) {
        return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    if others.iter().any(|other| share_a_port(pod, other)) {
        return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if taints::untolerated(place.taints, tolerations, &[taints::NO_EXECUTE]).is_some() {
        return predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    None
}

/// The first resource that is not left, and the story. What the node does not know at all is the cluster's to count.
fn shortage(pod: &Pod, others: &[&Pod], allocatable: &ResourceList) -> Option<(String, String)> {
    let lack = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Some((name.to_owned(), message))
    };
    let room = allocatable.get("pods").map_or(0, |amount| amount.value());
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count >= room {
        return lack("pods", 1, count, room);
    }
    let mut used = ResourceList::new();
    for other in others {
        resources::add(&mut used, &resources::requests(facts::spec(other), other.status.as_ref()));
    }
    for (name, wanted) in resources::requests(facts::spec(pod), None) {
        let Some(has) = allocatable.get(&name).filter(|_| !wanted.is_zero()) else { continue };
        // Processors are counted in thousandths, everything else in whole units.
        let count = |amount: &Quantity| if name == "cpu" { amount.milli() } else { amount.value() };
        let (wanted, has, used) = (count(&wanted), count(has), used.get(&name).map_or(0, count));
        if wanted > has - used {
            return lack(&name, wanted, used, has);
        }
    }
    None
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = facts::init_containers(pod).iter().filter(|container| is_sidecar(container));
    let containers = facts::main_containers(pod).iter().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|number| number > 0))
}

fn share_a_port(pod: &Pod, other: &Pod) -> bool {
    let everywhere = |address: &str| matches!(address, "" | "0.0.0.0");
    let clash = |a: &ContainerPort, b: &ContainerPort| {
        let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let (at, bt) = (a.host_ip.as_deref().unwrap_or_default(), b.host_ip.as_deref().unwrap_or_default());
        a.host_port == b.host_port && protocol(a) == protocol(b) && (at == bt || everywhere(at) || everywhere(bt))
    };
    host_ports(pod).any(|port| host_ports(other).any(|taken| clash(port, taken)))
}

fn wants_apparmor(pod: &Pod) -> bool {
    let whole = facts::spec(pod).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let profile = |container: &Container| {
        let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
        own.or(whole).is_some_and(|profile| profile.type_ != "Unconfined")
    };
    facts::containers(pod).iter().any(|(_, container)| profile(container))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).expect("a pod")
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount, "example.com/x": "3"}}}]})
    }

    fn port(port: Value) -> Value {
        json!({"containers": [{"name": "c", "ports": [port]}]})
    }

    #[test]
    fn pods_that_do_not_fit_are_refused_with_upstreams_reasons() {
        let here: BTreeMap<String, String> = [("zone".to_owned(), "a".to_owned())].into();
        let taints: Vec<Taint> = serde_json::from_value(json!([{"key": "k", "effect": "NoExecute"}])).expect("taints");
        let allocatable: ResourceList = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")]
            .map(|(k, v)| (k.to_owned(), v.parse().expect("a number")))
            .into();
        let toleration = json!([{"key": "k", "operator": "Exists"}]);
        let tolerant = |mut spec: Value| {
            spec["tolerations"] = toleration.clone();
            spec
        };
        let http = json!({"containerPort": 80, "hostPort": 80});
        for (what, spec, others, expected) in [
            ("it fits", tolerant(cpu("500m")), vec![cpu("1500m")], ""),
            ("processors", tolerant(cpu("501m")), vec![cpu("1500m")], "OutOfcpu"),
            ("an unknown resource is not ours to count", tolerant(cpu("0")), vec![], ""),
            ("too many", tolerant(json!({})), vec![json!({}), json!({}), json!({})], "OutOfpods"),
            ("another zone", tolerant(json!({"nodeSelector": {"zone": "b"}})), vec![], "NodeAffinity"),
            ("a port is taken", tolerant(port(http.clone())), vec![port(http.clone())], "NodePorts"),
            (
                "another protocol",
                tolerant(port(json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}))),
                vec![port(http.clone())],
                "",
            ),
            (
                "other addresses",
                tolerant(port(json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}))),
                vec![port(json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.2"}))],
                "",
            ),
            ("a taint", json!({}), vec![], "TaintToleration"),
            ("another system", json!({"os": {"name": "windows"}}), vec![], "PodOSNotSupported"),
            (
                "strict groups",
                json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
                vec![],
                "SupplementalGroupsPolicyNotSupported",
            ),
            (
                "AppArmor",
                json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
                vec![],
                "AppArmor",
            ),
        ] {
            let place = Place {
                name: "n",
                labels: &here,
                taints: &taints,
                allocatable: &allocatable,
                apparmor: false,
                strict_groups: false,
                pressures: &[],
            };
            let others: Vec<Pod> = others.into_iter().map(pod).collect();
            let refused = refusal(&pod(spec), &others.iter().collect::<Vec<_>>(), &place);
            assert_eq!(refused.map(|(reason, _)| reason).unwrap_or_default(), expected, "{what}");
        }
    }

    #[test]
    fn the_story_is_upstreams() {
        let allocatable: ResourceList =
            [("cpu", "2"), ("pods", "9")].map(|(k, v)| (k.to_owned(), v.parse().expect("a number"))).into();
        let place = Place {
            name: "n",
            labels: &BTreeMap::new(),
            taints: &[],
            allocatable: &allocatable,
            apparmor: true,
            strict_groups: false,
            pressures: &[],
        };
        let (admitted, big) = (Admitted::default(), Arc::new(pod(cpu("1500m"))));
        admitted.take_in(&big, &Granted::of(&big));
        let mut other = pod(cpu("1"));
        other.metadata.uid = Some("other".to_owned());
        let refused = admitted.admit(&Arc::new(other.clone()), &place).expect_err("refused");
        let story = "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000";
        assert_eq!(refused.message, format!("Pod was rejected: {story}"));
        admitted.forget(facts::uid(&big));
        admitted.admit(&Arc::new(other), &place).expect("room");
    }
}
