//! What must be left on a node, and whether it is. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::Scarce;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// The machine's memory.
    Memory,
    /// What of it pods may have together.
    PodMemory,
    /// Bytes and files of the file system of volumes and logs,
    NodeSpace,
    NodeInodes,
    /// and of that of images and containers.
    ImageSpace,
    ImageInodes,
    /// Process ids.
    Pids,
}

impl Signal {
    const ALL: [Self; 7] = [
        Self::Memory,
        Self::PodMemory,
        Self::NodeSpace,
        Self::NodeInodes,
        Self::ImageSpace,
        Self::ImageInodes,
        Self::Pids,
    ];

    /// Upstream's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::PodMemory => "allocatableMemory.available",
            Self::NodeSpace => "nodefs.available",
            Self::NodeInodes => "nodefs.inodesFree",
            Self::ImageSpace => "imagefs.available",
            Self::ImageInodes => "imagefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// By that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }

    /// What a hard threshold for this signal holds for: that of memory is pods' together as well.
    pub(crate) fn all_levels(self) -> impl Iterator<Item = Self> {
        [self].into_iter().chain((self == Self::Memory).then_some(Self::PodMemory))
    }

    /// The signal whose threshold in the file this one's comes from.
    pub(crate) fn as_written(self) -> Self {
        if self == Self::PodMemory { Self::Memory } else { self }
    }

    /// What the node is short of when too little is left.
    pub(crate) fn scarce(self) -> Scarce {
        match self {
            Self::Memory | Self::PodMemory => Scarce::Memory,
            Self::NodeSpace | Self::NodeInodes | Self::ImageSpace | Self::ImageInodes => Scarce::Disk,
            Self::Pids => Scarce::Pids,
        }
    }

    /// The resource, as upstream's messages name it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Memory | Self::PodMemory => "memory",
            Self::NodeSpace | Self::ImageSpace => "ephemeral-storage",
            Self::NodeInodes | Self::ImageInodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    /// A part of the whole, which is 1.
    Share(f64),
    /// That, but no more than so much.
    ShareUpTo(f64, u64),
    Of(u64),
}

impl Amount {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Share(share) => (capacity as f64 * share) as u64,
            Self::ShareUpTo(share, most) => Self::Share(share).of(capacity).min(most),
            Self::Of(amount) => amount,
        }
    }
}

/// What must be left of something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) least: Amount,
    /// For how long there may be less before pods have to go; zero: at once.
    pub(crate) grace: Duration,
    /// How much more must be left before nothing has to go any more.
    pub(crate) reclaim: Option<Amount>,
}

impl Threshold {
    /// Memory as upstream has it. Of a file system upstream asks for 10 and 15 of a hundred, which on today's disks is tens
    /// of gigabytes that a small machine shares with everything else: a laptop whose disk is nearly full would run no pod.
    pub(crate) fn defaults() -> Vec<Self> {
        let memory = [Signal::Memory, Signal::PodMemory].map(|signal| (signal, Amount::Of(100 << 20)));
        let bytes = [Signal::NodeSpace, Signal::ImageSpace].map(|signal| (signal, Amount::ShareUpTo(0.05, 1 << 30)));
        let files = [Signal::NodeInodes, Signal::ImageInodes].map(|signal| (signal, Amount::Share(0.05)));
        let all = memory.into_iter().chain(bytes).chain(files);
        all.map(|(signal, least)| Self { signal, least, grace: Duration::ZERO, reclaim: None }).collect()
    }

    /// Whether pods have no time to give.
    pub(crate) fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// Whether too little is left; `reclaiming`: so that there is a little more.
    pub(crate) fn is_crossed(&self, observed: &Observed, reclaiming: bool) -> bool {
        let Some(seen) = observed.get(&self.signal) else { return false };
        let more = self.reclaim.filter(|_| reclaiming).map_or(0, |amount| amount.of(seen.capacity));
        seen.available < self.least.of(seen.capacity).saturating_add(more)
    }
}

/// How much there is of something, and how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
}

/// What was seen last. What the machine does not tell is missing, and there is no shortage of it.
pub(crate) type Observed = BTreeMap<Signal, Observation>;

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Since when each threshold has been crossed, by its place in the list.
    since: BTreeMap<usize, Duration>,
    /// Those for which pods had to go at the last look.
    acting: BTreeSet<usize>,
    /// When each pressure was last seen.
    seen: BTreeMap<Scarce, Duration>,
}

impl Watch {
    /// Takes in what was seen; gives the thresholds for which something has to go now. Memory comes first: a node without it
    /// dies sooner.
    pub(crate) fn look<'a>(
        &mut self,
        thresholds: &'a [Threshold],
        observed: &Observed,
        now: Duration,
    ) -> Vec<&'a Threshold> {
        let crossed = |at: &usize| thresholds[*at].is_crossed(observed, self.acting.contains(at));
        let crossed: Vec<usize> = (0..thresholds.len()).filter(crossed).collect();
        self.since = crossed.iter().map(|at| (*at, self.since.get(at).copied().unwrap_or(now))).collect();
        self.seen.extend(crossed.iter().map(|at| (thresholds[*at].signal.scarce(), now)));
        let due = self.since.iter().filter(|(at, since)| now.saturating_sub(**since) >= thresholds[**at].grace);
        self.acting = due.map(|(at, _)| *at).collect();
        let mut due: Vec<&Threshold> = self.acting.iter().map(|at| &thresholds[*at]).collect();
        due.sort_by_key(|threshold| threshold.signal.scarce() != Scarce::Memory);
        due
    }

    /// What the node counts as short of: what it was short of less than `transition` ago.
    pub(crate) fn pressures(&self, now: Duration, transition: Duration) -> Vec<Scarce> {
        let recent = self.seen.iter().filter(|(_, at)| now.saturating_sub(**at) < transition);
        recent.map(|(scarce, _)| *scarce).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(signal: Signal, grace: u64, reclaim: Option<Amount>) -> Threshold {
        Threshold { signal, least: Amount::Share(0.1), grace: Duration::from_secs(grace), reclaim }
    }

    fn seen(left: &[(Signal, u64)]) -> Observed {
        left.iter().map(|(signal, available)| (*signal, Observation { capacity: 100, available: *available })).collect()
    }

    /// A small file system keeps its share free, a large one a gigabyte.
    #[test]
    fn large_disks_are_used_nearly_whole() {
        let defaults = Threshold::defaults();
        for (capacity, available, crossed) in [
            (8 << 30, 400 << 20, true),
            (8 << 30, 420 << 20, false),
            (1 << 40, 1_000 << 20, true),
            (1 << 40, 1_100 << 20, false),
        ] {
            let observed = Observed::from([(Signal::NodeSpace, Observation { capacity, available })]);
            let any = defaults.iter().any(|threshold| threshold.is_crossed(&observed, false));
            assert_eq!(any, crossed, "{available} of {capacity}");
        }
    }

    /// What is left of disk and memory as time goes on; what has to go, and what the node is short of.
    #[test]
    fn thresholds_over_time() {
        use Scarce::{Disk, Memory};
        let soft = threshold(Signal::NodeSpace, 30, None);
        let hard = threshold(Signal::Memory, 0, Some(Amount::Of(5)));
        let thresholds = [soft, hard];
        let mut watch = Watch::default();
        for (at, disk, memory, acting, pressures) in [
            (0, 10, 10, &[][..], &[][..]),
            (10, 9, 10, &[], &[Disk]),
            (30, 9, 10, &[], &[Disk]),
            (40, 9, 9, &[Memory, Disk], &[Memory, Disk]),
            (50, 10, 14, &[Memory], &[Memory, Disk]),
            (60, 9, 15, &[], &[Memory, Disk]),
            (70, 20, 14, &[], &[Memory, Disk]),
            (150, 20, 50, &[], &[Disk]),
            (160, 20, 50, &[], &[]),
        ] {
            let now = Duration::from_secs(at);
            let due = watch.look(&thresholds, &seen(&[(Signal::NodeSpace, disk), (Signal::Memory, memory)]), now);
            assert_eq!(due.iter().map(|t| t.signal.scarce()).collect::<Vec<_>>(), acting, "due at {at}");
            assert_eq!(watch.pressures(now, Duration::from_secs(100)), pressures, "at {at}");
        }
        assert!(!thresholds[1].is_crossed(&Observed::new(), true), "nothing is known");
    }
}
