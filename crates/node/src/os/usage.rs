//! What processes, devices and file systems use, as the kernel counts it.

use std::path::Path;

/// What a group of processes uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the group began, in nanoseconds.
    pub cpu: u64,
    /// Memory, caches included, in bytes.
    pub memory: u64,
    /// Memory that cannot be taken back without harm, in bytes.
    pub working_set: u64,
    /// Memory that no file stands behind, in bytes.
    pub rss: u64,
    /// Pages that were not mapped when they were touched.
    pub page_faults: u64,
    /// Those of them that had to be read from disk.
    pub major_page_faults: u64,
    /// How many processes there are.
    pub processes: u64,
}

/// What went through a network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Its name.
    pub device: String,
    /// Bytes in.
    pub received: u64,
    /// Packets that did not come in whole.
    pub receive_errors: u64,
    /// Bytes out.
    pub sent: u64,
    /// Packets that did not go out.
    pub send_errors: u64,
}

/// What files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// On disk, in bytes.
    pub bytes: u64,
    /// How many there are, directories included.
    pub inodes: u64,
}

impl std::ops::Add for Size {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |sum, size| sum + size)
    }
}

/// What is left of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Which file system it is.
    pub id: u64,
    /// In bytes.
    pub capacity: u64,
    /// Bytes that nobody has.
    pub free: u64,
    /// Those of them that are not reserved for root.
    pub available: u64,
    /// How many files there can be.
    pub inodes: u64,
    /// How many more there can be.
    pub inodes_free: u64,
}

impl Space {
    /// Of the file system of `path`.
    ///
    /// # Errors
    /// When the path is not there.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let found = nix::sys::statvfs::statvfs(path)?;
        let bytes = |blocks: u64| blocks * found.fragment_size();
        Ok(Self {
            id: found.filesystem_id(),
            capacity: bytes(found.blocks()),
            free: bytes(found.blocks_free()),
            available: bytes(found.blocks_available()),
            inodes: found.files(),
            inodes_free: found.files_free(),
        })
    }
}

/// The number behind `key` in lines of the form `KEY NUMBER`.
pub(super) fn entry(table: &str, key: &str) -> u64 {
    let value = table.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// The first of `devices` in the text of /proc/net/dev.
pub(super) fn traffic(table: &str, devices: &[&str]) -> Option<Traffic> {
    let (device, counters) = devices.iter().find_map(|device| {
        let mut lines = table.lines().filter_map(|line| line.trim_start().strip_prefix(*device)?.strip_prefix(':'));
        Some((*device, lines.next()?))
    })?;
    let counters: Vec<u64> = counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [received, _, receive_errors, _, _, _, _, _, sent, _, send_errors, ..] = counters[..] else { return None };
    Some(Traffic { device: device.to_owned(), received, receive_errors, sent, send_errors })
}

/// The whole machine, from the texts of /proc/stat, /proc/meminfo, /proc/vmstat and /proc/loadavg.
pub(super) fn machine(stat: &str, memory: &str, pages: &str, load: &str) -> Usage {
    // User, nice, system, idle, waiting, interrupts (two), stolen: hundredths of a second.
    let first = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let busy: u64 =
        ticks.iter().enumerate().filter(|(at, _)| matches!(at, 0..=2 | 5..=7)).map(|(_, ticks)| ticks).sum();
    let bytes = |key: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let used = bytes("MemTotal").saturating_sub(bytes("MemFree"));
    Usage {
        cpu: busy * 10_000_000,
        memory: used,
        working_set: bytes("MemTotal").saturating_sub(bytes("MemAvailable")),
        rss: bytes("AnonPages"),
        page_faults: entry(pages, "pgfault"),
        major_page_faults: entry(pages, "pgmajfault"),
        // `0.20 0.18 0.12 1/80 11206`: threads, of which each has an id of its own, behind the stroke.
        processes: load.split([' ', '/']).nth(4).and_then(|count| count.parse().ok()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        let used = machine(
            "cpu  1 2 3 400 5 6 7 8 0 0\ncpu0 9 9 9 9\n",
            "MemTotal: 100 kB\nMemFree:  20 kB\nMemAvailable: 60 kB\nAnonPages: 5 kB\n",
            "pgfault 7\npgmajfault 2\n",
            "0.20 0.18 0.12 1/80 11206\n",
        );
        assert_eq!((used.cpu, used.memory, used.working_set, used.rss), (270_000_000, 80 << 10, 40 << 10, 5 << 10));
        assert_eq!((used.page_faults, used.major_page_faults, used.processes), (7, 2, 80));
        let table = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 0 0 0 0 0 20 4 5 0 0 0 0 0\n";
        let eth = traffic(table, &["eth9", "eth0"]).expect("a device");
        assert_eq!(
            (eth.device.as_str(), eth.received, eth.receive_errors, eth.sent, eth.send_errors),
            ("eth0", 10, 3, 20, 5)
        );
        assert!(traffic(table, &["eth"]).is_none());
    }

    #[test]
    fn this_machine_has_space() {
        let space = Space::of(Path::new("/")).expect("a file system");
        assert!(space.capacity > 0 && space.free <= space.capacity && space.available <= space.free);
    }
}
