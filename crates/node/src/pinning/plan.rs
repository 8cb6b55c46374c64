//! Which processors and which memory containers of guaranteed pods have for themselves (`pkg/kubelet/cm` upstream: CPU
//! manager, memory manager, topology manager). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};
use skiff_api::qos::{QosClass, qos_class};
use skiff_api::resources::{self, ResourceList};

use super::topology::{Cpus, Nodes, Topology};
use crate::pod::facts::{self, Role};

/// How much processors and memory that belong together may lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Alignment {
    #[default]
    None,
    BestEffort,
    Restricted,
    SingleNode,
}

/// What is given away, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policy {
    /// Whole processors belong to the containers that ask for them.
    pub(crate) cpus: bool,
    /// Containers' memory lies on nodes of its own choice.
    pub(crate) memory: bool,
    pub(crate) alignment: Alignment,
    /// A pod's containers lie together.
    pub(crate) whole_pods: bool,
    /// Processors that nobody has for himself, and how many where they are not named.
    pub(crate) reserved_cpus: Cpus,
    pub(crate) reserved_count: usize,
    /// Memory that no container has, in bytes by node.
    pub(crate) reserved_memory: BTreeMap<u32, u64>,
}

/// What a container has for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {
    pub(crate) cpus: Cpus,
    /// Where its memory lies; none: anywhere.
    pub(crate) nodes: Nodes,
    /// How much of it counts there, in bytes.
    pub(crate) memory: u64,
}

/// By pod and container.
pub(crate) type Pins = BTreeMap<String, BTreeMap<String, Pin>>;

/// Why a pod does not get what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    Cpus { wanted: usize, left: usize },
    Memory { wanted: u64 },
    Alignment,
}

/// Nodes that would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    /// `None`: any.
    pub(crate) nodes: Option<Nodes>,
    /// No fewer would ever do.
    pub(crate) preferred: bool,
}

/// A machine and what is to be given away of it.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) policy: &'a Policy,
}

/// What a container, or a whole pod, asks for.
#[derive(Clone, Copy, Default)]
struct Wish {
    cpus: usize,
    memory: u64,
}

impl Machine<'_> {
    /// The processors that nobody has for himself.
    fn reserved(&self) -> Cpus {
        let named = &self.policy.reserved_cpus;
        let chosen = || self.topology.take(&self.topology.cpus(), self.policy.reserved_count).unwrap_or_default();
        if named.is_empty() { chosen() } else { named.clone() }
    }

    /// The processors of everybody who has none for himself.
    pub(crate) fn shared(&self, pins: &Pins) -> Cpus {
        let mut cpus = self.topology.cpus();
        cpus.retain(|cpu| !pins.values().flat_map(BTreeMap::values).any(|pin| pin.cpus.contains(cpu)));
        cpus
    }

    /// The processors that can be given away at all.
    pub(crate) fn allocatable(&self) -> Cpus {
        &self.topology.cpus() - &self.reserved()
    }

    fn wish(&self, amounts: &ResourceList) -> Wish {
        let cpus = amounts.get("cpu").filter(|cpus| self.policy.cpus && cpus.milli() % 1000 == 0);
        let memory = amounts.get("memory").filter(|_| self.policy.memory);
        Wish {
            cpus: cpus.map_or(0, |cpus| usize::try_from(cpus.value()).unwrap_or(0)),
            memory: memory.map_or(0, |memory| u64::try_from(memory.value()).unwrap_or(0)),
        }
    }

    /// The nodes on which a wish is best fulfilled, and one for devices with it; `None`: any.
    fn align(&self, free: &Free<'_>, wish: Wish, devices: &[Vec<Hint>]) -> Result<Option<Nodes>, Lack> {
        let all = self.topology.nodes();
        let mut hints = devices.to_vec();
        if wish.cpus > 0 {
            let enough = |cpus: Cpus| cpus.len() >= wish.cpus;
            let every = self.topology.cpus();
            let left = free.cpus();
            let fits = |nodes| enough(self.topology.beside(nodes, &every));
            hints.push(hinted(all, fits, |nodes| enough(self.topology.beside(nodes, &left))));
        }
        if wish.memory > 0 {
            hints.push(free.memory_hints(wish.memory));
        }
        let single = self.policy.alignment == Alignment::SingleNode;
        match (self.policy.alignment, merged(&hints, all, single)) {
            (Alignment::None, _) => Ok(None),
            (Alignment::BestEffort, hint) => Ok(hint.nodes),
            (_, hint) if hint.preferred => Ok(hint.nodes),
            _ => Err(Lack::Alignment),
        }
    }
}

/// A pod that is being served, container by container.
pub(crate) struct Serving<'a> {
    free: Free<'a>,
    /// It may have processors and memory for itself.
    guaranteed: bool,
    /// Where all its containers lie together.
    whole: Option<Option<Nodes>>,
    given: BTreeMap<String, Pin>,
}

impl<'a> Serving<'a> {
    /// A pod beside what others have. `devices` hints at where all those are that the pod asks for.
    pub(crate) fn begin(
        machine: Machine<'a>,
        pod: &Pod,
        others: &'a Pins,
        devices: &[Vec<Hint>],
    ) -> Result<Self, Lack> {
        let (spec, free) = (facts::spec(pod), Free::new(machine, others));
        // Pods with resources of their own as a whole share what they have.
        let guaranteed = qos_class(spec) == QosClass::Guaranteed && spec.resources.is_none();
        let wish = || if guaranteed { machine.wish(&resources::requests(spec, None)) } else { Wish::default() };
        let whole = machine.policy.whole_pods.then(|| machine.align(&free, wish(), devices)).transpose()?;
        Ok(Self { free, guaranteed, whole, given: BTreeMap::new() })
    }

    /// The next container gets what it is to have for itself; where its devices had best be. `devices` hints at where those
    /// are that it asks for.
    pub(crate) fn next(
        &mut self,
        role: Role,
        container: &Container,
        devices: &[Vec<Hint>],
    ) -> Result<Option<Nodes>, Lack> {
        let machine = self.free.machine;
        let asked = || resources::parse(&container.resources.as_ref().and_then(|r| r.requests.clone()));
        let wish = if self.guaranteed { machine.wish(&asked()) } else { Wish::default() };
        let nodes = self.whole.map_or_else(|| machine.align(&self.free, wish, devices), Ok)?;
        if wish.cpus > 0 || wish.memory > 0 {
            let pin = self.free.take(wish, nodes)?;
            self.free.passes(role, &pin);
            self.given.insert(container.name.clone(), pin);
        }
        Ok(nodes)
    }

    /// What its containers have for themselves.
    pub(crate) fn given(self) -> BTreeMap<String, Pin> {
        self.given
    }
}

/// All sets of nodes that would do now; preferred are those of the least size that would ever do.
pub(crate) fn hinted(all: Nodes, ever: impl Fn(Nodes) -> bool, now: impl Fn(Nodes) -> bool) -> Vec<Hint> {
    let smaller = move |nodes: &Nodes| Some((nodes - 1) & all).filter(|nodes| *nodes != 0);
    let sets = || std::iter::successors(Some(all).filter(|all| *all != 0), smaller);
    let least = sets().filter(|nodes| ever(*nodes)).map(Nodes::count_ones).min();
    let hint = |nodes: Nodes| Hint { nodes: Some(nodes), preferred: Some(nodes.count_ones()) == least };
    sets().filter(|nodes| now(*nodes)).map(hint).collect()
}

/// The best that agrees with one hint of each kind.
fn merged(kinds: &[Vec<Hint>], all: Nodes, single: bool) -> Hint {
    let impossible = [Hint { nodes: None, preferred: false }];
    let good = |hint: &&Hint| !single || (hint.preferred && hint.nodes.is_none_or(|nodes| nodes.count_ones() == 1));
    let kinds: Vec<Vec<Hint>> = kinds
        .iter()
        .map(|hints| if hints.is_empty() { &impossible[..] } else { hints }.iter().filter(good).copied().collect())
        .collect();
    let least = |hints: &Vec<Hint>| hints.iter().filter_map(|hint| hint.nodes).map(Nodes::count_ones).min();
    let needed = kinds.iter().filter_map(least).max().unwrap_or(0);
    let mut agreed = vec![Hint { nodes: None, preferred: true }];
    for hints in &kinds {
        let with = |so_far: &Hint, hint: &Hint| {
            let same = so_far.nodes.is_none() || hint.nodes.is_none() || so_far.nodes == hint.nodes;
            let nodes = match (so_far.nodes, hint.nodes) {
                (Some(a), Some(b)) => Some(a & b),
                (a, b) => a.or(b),
            };
            Hint { nodes, preferred: so_far.preferred && hint.preferred && same }
        };
        agreed = agreed.iter().flat_map(|so_far| hints.iter().map(move |hint| with(so_far, hint))).collect();
    }
    let rank = |hint: &Hint| {
        let nodes = hint.nodes.unwrap_or(all);
        let count = nodes.count_ones();
        // Where none is preferred, as many as the greediest needs, rather fewer than more.
        let far = if hint.preferred {
            count
        } else if count <= needed {
            needed - count
        } else {
            Nodes::BITS + count
        };
        (!hint.preferred, far, nodes)
    };
    let possible = agreed.into_iter().filter(|hint| hint.nodes != Some(0));
    possible.min_by_key(rank).unwrap_or(Hint { nodes: Some(all), preferred: false })
}

/// What is left while one pod is served.
struct Free<'a> {
    machine: Machine<'a>,
    others: &'a Pins,
    own: Vec<Pin>,
    /// What init containers have had, which those after them may have again.
    reusable: Pin,
}

impl<'a> Free<'a> {
    fn new(machine: Machine<'a>, others: &'a Pins) -> Self {
        Self { machine, others, own: Vec::new(), reusable: Pin::default() }
    }

    fn pins(&self) -> impl Iterator<Item = &Pin> {
        self.others.values().flat_map(BTreeMap::values).chain(&self.own)
    }

    fn cpus(&self) -> Cpus {
        let mut cpus = self.machine.allocatable();
        cpus.retain(|cpu| self.reusable.cpus.contains(cpu) || !self.pins().any(|pin| pin.cpus.contains(cpu)));
        cpus
    }

    /// Memory of nodes is given away together or apart, never both.
    fn memory_hints(&self, wanted: u64) -> Vec<Hint> {
        let all = self.machine.topology.nodes();
        let reserved = |nodes: Nodes| -> u64 {
            let reserved = &self.machine.policy.reserved_memory;
            super::topology::members(nodes).filter_map(|node| reserved.get(&node)).sum()
        };
        let whole = |nodes: Nodes| self.machine.topology.memory_of(nodes).saturating_sub(reserved(nodes));
        let apart = |nodes: Nodes| self.pins().all(|pin| pin.nodes & nodes == 0 || pin.nodes == nodes);
        let used = |nodes: Nodes| self.pins().filter(|pin| pin.nodes == nodes).map(|pin| pin.memory).sum::<u64>();
        let again = |nodes: Nodes| if self.reusable.nodes == nodes { self.reusable.memory } else { 0 };
        let left = |nodes: Nodes| (whole(nodes) + again(nodes)).saturating_sub(used(nodes));
        hinted(all, |nodes| whole(nodes) >= wanted, |nodes| apart(nodes) && left(nodes) >= wanted)
    }

    fn take(&self, wish: Wish, nodes: Option<Nodes>) -> Result<Pin, Lack> {
        let topology = self.machine.topology;
        let mut pin = Pin::default();
        if wish.cpus > 0 {
            let free = self.cpus();
            let near = nodes.map(|nodes| topology.beside(nodes, &free)).unwrap_or_default();
            let lack = || Lack::Cpus { wanted: wish.cpus, left: free.len() };
            pin.cpus = topology.take(&near, wish.cpus.min(near.len())).ok_or_else(lack)?;
            let rest = topology.take(&(&free - &pin.cpus), wish.cpus - pin.cpus.len()).ok_or_else(lack)?;
            pin.cpus.extend(rest);
        }
        if wish.memory > 0 {
            let hints = self.memory_hints(wish.memory);
            let wanted = nodes.unwrap_or(0);
            let fit = hints.iter().filter_map(|hint| hint.nodes);
            // The nodes that were agreed on, or the fewest others with as many of them as can be.
            let best = fit.min_by_key(|has| ((wanted & !has).count_ones(), has.count_ones(), *has));
            pin.nodes = best.ok_or(Lack::Memory { wanted: wish.memory })?;
            let again = if self.reusable.nodes == pin.nodes { self.reusable.memory } else { 0 };
            pin.memory = wish.memory.saturating_sub(again);
        }
        Ok(pin)
    }

    fn passes(&mut self, role: Role, pin: &Pin) {
        if role == Role::Init {
            self.reusable.cpus.extend(&pin.cpus);
            if self.reusable.nodes == pin.nodes || self.reusable.nodes == 0 {
                (self.reusable.nodes, self.reusable.memory) = (pin.nodes, self.reusable.memory + pin.memory);
            }
        } else {
            self.reusable.cpus.retain(|cpu| !pin.cpus.contains(cpu));
            self.reusable.memory = if self.reusable.nodes == pin.nodes { 0 } else { self.reusable.memory };
        }
        self.own.push(pin.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::{parse, tests::machine, text};
    use super::*;
    use serde_json::{Value, json};

    fn pod(init: &[(&str, &str)], main: &[(&str, &str)]) -> Pod {
        let containers = |prefix: &str, list: &[(&str, &str)]| -> Vec<Value> {
            let one = |(at, (cpu, memory)): (usize, &(&str, &str))| {
                let amounts = json!({"cpu": cpu, "memory": memory});
                json!({"name": format!("{prefix}{at}"), "resources": {"requests": amounts, "limits": amounts}})
            };
            list.iter().enumerate().map(one).collect()
        };
        let spec = json!({"initContainers": containers("i", init), "containers": containers("c", main)});
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).expect("a pod")
    }

    fn policy(alignment: Alignment) -> Policy {
        Policy { cpus: true, memory: true, alignment, reserved_count: 1, ..Policy::default() }
    }

    fn given(policy: &Policy, pod: &Pod, others: &Pins) -> String {
        let topology = machine();
        let machine = Machine { topology: &topology, policy };
        let line = |(name, pin): (&String, &Pin)| format!("{name}={}@{:b}", text(pin.cpus.iter().copied()), pin.nodes);
        let give = || {
            let mut serving = Serving::begin(machine, pod, others, &[])?;
            for (role, container) in facts::containers(pod) {
                serving.next(role, &container, &[])?;
            }
            Ok::<_, Lack>(serving.given())
        };
        match give() {
            Ok(pins) => pins.iter().map(line).collect::<Vec<_>>().join(" "),
            Err(lack) => format!("{lack:?}"),
        }
    }

    fn others(cpus: &str, nodes: Nodes, memory: u64) -> Pins {
        let pin = Pin { cpus: parse(cpus), nodes, memory };
        [("other".to_owned(), [("c".to_owned(), pin)].into())].into()
    }

    /// Processor 0 is reserved.
    #[test]
    fn who_gets_what() {
        use Alignment::{BestEffort, None, Restricted, SingleNode};
        let none = Pins::new();
        let small = ("2", "100Mi");
        for (alignment, init, main, others, expected) in [
            (None, &[][..], &[small][..], &none, "c0=1,5@1"),
            (None, &[], &[("500m", "100Mi")], &none, "c0=@1"),
            (None, &[("3", "1Gi")], &[small, ("2", "1Gi")], &none, "c0=1,5@1 c1=2,6@10 i0=1,4-5@1"),
            (BestEffort, &[], &[("4", "100Mi")], &none, "c0=2-3,6-7@10"),
            (SingleNode, &[], &[("4", "100Mi")], &none, "c0=2-3,6-7@10"),
            (SingleNode, &[], &[("5", "100Mi")], &none, "Alignment"),
            (Restricted, &[], &[("5", "1500Mi")], &none, "c0=2-4,6-7@11"),
            (Restricted, &[], &[("2", "100Mi")], &others("2-7", 0, 0), "Alignment"),
            (BestEffort, &[], &[("2", "100Mi")], &others("3-7", 0, 0), "c0=1-2@11"),
            (SingleNode, &[], &[small], &others("", 1, 1 << 30), "c0=2,6@10"),
            (SingleNode, &[], &[small], &others("", 3, 1), "Alignment"),
            (None, &[], &[("7", "1Gi")], &others("1", 0, 0), "Cpus { wanted: 7, left: 6 }"),
            (None, &[], &[("1", "3Gi")], &none, "Memory { wanted: 3221225472 }"),
        ] {
            assert_eq!(given(&policy(alignment), &pod(init, main), others), expected, "{alignment:?} {main:?}");
        }
    }

    #[test]
    fn a_whole_pod_lies_together() {
        let two = pod(&[], &[("2", "100Mi"), ("2", "100Mi")]);
        let apart = policy(Alignment::SingleNode);
        let together = Policy { whole_pods: true, ..apart.clone() };
        assert_eq!(given(&apart, &two, &Pins::new()), "c0=1,5@1 c1=2,6@10");
        assert_eq!(given(&together, &two, &Pins::new()), "c0=2,6@10 c1=3,7@10");
        let burstable = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources":
            {"requests": {"cpu": "2", "memory": "1Mi"}}}]}}));
        assert_eq!(given(&apart, &burstable.expect("a pod"), &Pins::new()), "");
    }

    /// Devices lie where they lie: processors and memory follow, and who has none of these is refused for their sake too.
    #[test]
    fn devices_say_where() {
        use Alignment::{BestEffort, None, Restricted, SingleNode};
        let near = |nodes: &[Nodes]| {
            nodes.iter().map(|n| Hint { nodes: Some(*n), preferred: n.count_ones() == 1 }).collect::<Vec<_>>()
        };
        let shared = json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c0"}]}});
        let shared: Pod = serde_json::from_value(shared).expect("a pod");
        let own = pod(&[], &[("2", "100Mi")]);
        for (alignment, pod, devices, expected) in [
            (None, &own, vec![near(&[0b10])], "1,5@1 None"),
            (BestEffort, &own, vec![near(&[0b10, 0b11])], "2,6@10 Some(2)"),
            (SingleNode, &own, vec![near(&[0b01, 0b11]), near(&[0b10, 0b11])], "Alignment"),
            (BestEffort, &own, vec![near(&[0b01, 0b11]), near(&[0b10, 0b11])], "1,5@1 Some(1)"),
            (SingleNode, &shared, vec![near(&[0b10, 0b11])], "@0 Some(2)"),
            (SingleNode, &shared, vec![near(&[0b11])], "Alignment"),
            (Restricted, &shared, vec![vec![]], "Alignment"),
            (BestEffort, &shared, vec![vec![]], "@0 None"),
            (SingleNode, &shared, vec![], "@0 None"),
        ] {
            for whole_pods in [false, true] {
                let policy = Policy { whole_pods, ..policy(alignment) };
                let (topology, none) = (machine(), Pins::new());
                let machine = Machine { topology: &topology, policy: &policy };
                let served = Serving::begin(machine, pod, &none, &devices).and_then(|mut serving| {
                    let nodes = serving.next(Role::Main, &facts::main_containers(pod)[0], &devices)?;
                    let pin = serving.given().remove("c0").unwrap_or_default();
                    Ok(format!("{}@{:b} {nodes:?}", text(pin.cpus.iter().copied()), pin.nodes))
                });
                assert_eq!(served.unwrap_or_else(|lack| format!("{lack:?}")), expected, "{alignment:?} {devices:?}");
            }
        }
    }
}
