//! Where a machine's processors and memory are: which processors share a core, and which lie beside which memory.

use std::collections::{BTreeMap, BTreeSet};

/// Processors by number.
pub(crate) type Cpus = BTreeSet<u32>;
/// A set of memory nodes, a bit for each.
pub(crate) type Nodes = u64;

/// Where the processors and the memory of a machine are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    cpus: BTreeMap<u32, Place>,
    /// Bytes by memory node.
    memory: BTreeMap<u32, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// The first processor of its core.
    core: u32,
    node: u32,
}

/// `0-3,6` as numbers.
pub(crate) fn parse(text: &str) -> Cpus {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// Numbers as `0-3,6`.
pub(crate) fn text(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
}

/// The members of a set of memory nodes.
pub(crate) fn members(nodes: Nodes) -> impl Iterator<Item = u32> {
    (0..Nodes::BITS).filter(move |node| nodes & (1 << node) != 0)
}

impl Topology {
    /// As the kernel tells it: `read` gives the text of a file below `/sys/devices/system`. A machine that does not say has
    /// one memory node with all its processors and `memory` bytes.
    pub fn read(read: &dyn Fn(&str) -> Option<String>, memory: u64) -> Self {
        let list = |path: &str| parse(&read(path).unwrap_or_default());
        let nodes: Vec<u32> = list("node/online").into_iter().filter(|node| *node < Nodes::BITS).collect();
        let of_node: Vec<(u32, Cpus)> =
            nodes.iter().map(|node| (*node, list(&format!("node/node{node}/cpulist")))).collect();
        let place = |cpu: u32| {
            let core = list(&format!("cpu/cpu{cpu}/topology/thread_siblings_list")).first().copied().unwrap_or(cpu);
            let node = of_node.iter().find(|(_, cpus)| cpus.contains(&cpu)).map_or(0, |(node, _)| *node);
            (cpu, Place { core, node })
        };
        let cpus = list("cpu/online").into_iter().map(place).collect();
        let bytes = |node: &u32| {
            let told = read(&format!("node/node{node}/meminfo"))?;
            let line = told.lines().find_map(|line| line.split_once("MemTotal:"))?.1.trim().trim_end_matches(" kB");
            Some((*node, line.parse::<u64>().ok()? * 1024))
        };
        let told: BTreeMap<u32, u64> = nodes.iter().filter_map(bytes).collect();
        Self { cpus, memory: if told.is_empty() { [(0, memory)].into() } else { told } }
    }

    pub(crate) fn cpus(&self) -> Cpus {
        self.cpus.keys().copied().collect()
    }

    /// All memory nodes.
    pub(super) fn nodes(&self) -> Nodes {
        self.memory.keys().fold(0, |nodes, node| nodes | 1 << node)
    }

    /// The memory of some nodes, in bytes.
    pub(super) fn memory_of(&self, nodes: Nodes) -> u64 {
        members(nodes).filter_map(|node| self.memory.get(&node)).sum()
    }

    /// Those processors among `cpus` that lie beside some nodes.
    pub(super) fn beside(&self, nodes: Nodes, cpus: &Cpus) -> Cpus {
        let there = |cpu: &&u32| self.cpus.get(cpu).is_some_and(|place| nodes & (1 << place.node) != 0);
        cpus.iter().filter(there).copied().collect()
    }

    /// `count` of the free processors, as close together as can be: whole nodes, then whole cores, then single processors
    /// of cores that are in use already. Nodes with the fewest free ones are filled first, so that others stay whole.
    pub(super) fn take(&self, free: &Cpus, count: usize) -> Option<Cpus> {
        let mut taken = Cpus::new();
        if free.len() < count {
            return None;
        }
        let mut groups: BTreeMap<(u32, Option<u32>), Cpus> = BTreeMap::new();
        for (cpu, place) in &self.cpus {
            groups.entry((place.node, None)).or_default().insert(*cpu);
            groups.entry((place.node, Some(place.core))).or_default().insert(*cpu);
        }
        let left = |node: u32| free.iter().filter(|cpu| self.cpus.get(cpu).is_some_and(|p| p.node == node)).count();
        let (nodes, mut cores): (Vec<_>, Vec<_>) = groups.into_iter().partition(|((_, core), _)| core.is_none());
        cores.sort_by_key(|((node, core), _)| (left(*node), *node, *core));
        for (_, all) in nodes.into_iter().chain(cores.iter().cloned()) {
            if taken.is_disjoint(&all) && all.is_subset(free) && taken.len() + all.len() <= count {
                taken.extend(all);
            }
        }
        let free_of = |all: &Cpus| all.iter().filter(|cpu| free.contains(cpu)).count();
        cores.sort_by_key(|((node, core), all)| (free_of(all), left(*node), *node, *core));
        let single = cores.iter().flat_map(|(_, all)| all).filter(|cpu| free.contains(cpu) && !taken.contains(cpu));
        let single: Vec<u32> = single.copied().take(count - taken.len()).collect();
        taken.extend(single);
        (taken.len() == count).then_some(taken)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two nodes of four processors each, two to a core: 0 and 4, 1 and 5; 2 and 6, 3 and 7. A GiB each.
    pub(in super::super) fn machine() -> Topology {
        let read = |path: &str| {
            let text = match path {
                "node/online" => "0-1",
                "cpu/online" => "0-7",
                "node/node0/cpulist" => "0-1,4-5",
                "node/node1/cpulist" => "2-3,6-7",
                "node/node0/meminfo" => "Node 0 MemTotal:       1048576 kB\nNode 0 MemFree: 1 kB\n",
                "node/node1/meminfo" => "Node 1 MemTotal:       1048576 kB\n",
                path => {
                    let cpu: u32 =
                        path.strip_prefix("cpu/cpu")?.strip_suffix("/topology/thread_siblings_list")?.parse().ok()?;
                    return Some(format!("{},{}", cpu % 4, cpu % 4 + 4));
                }
            };
            Some(text.to_owned())
        };
        Topology::read(&read, 0)
    }

    #[test]
    fn processors_are_taken_close_together() {
        let machine = machine();
        assert_eq!((machine.nodes(), machine.memory_of(0b10)), (0b11, 1 << 30));
        for (free, count, expected) in [
            ("0-7", 4, "0-1,4-5"),
            ("0-7", 2, "0,4"),
            ("1-7", 2, "1,5"),
            ("1-7", 1, "4"),
            ("1-7", 4, "2-3,6-7"),
            ("0-6", 3, "2,6,3"),
            ("0-7", 6, "0-2,4-6"),
            ("0-7", 8, "0-7"),
        ] {
            let taken = machine.take(&parse(free), count).expect("enough");
            assert_eq!(taken, parse(expected), "{count} of {free}");
        }
        assert_eq!(machine.take(&parse("0-1"), 3), None);
        let plain = Topology::read(&|path| (path == "cpu/online").then(|| "0-1".to_owned()), 5);
        assert_eq!((plain.nodes(), plain.memory_of(1), plain.beside(1, &plain.cpus())), (1, 5, parse("0-1")));
    }

    #[test]
    fn numbers_in_ranges() {
        assert_eq!(text(parse("3,0-1,2,6")), "0-3,6");
        assert_eq!((text([]), parse("")), (String::new(), Cpus::new()));
    }
}
