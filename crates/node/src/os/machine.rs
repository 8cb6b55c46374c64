//! What the machine is.

use std::io;
use std::path::Path;

use super::Topology;
use super::usage::{self, Traffic, Usage};

/// Knows the machine.
pub trait Machine: Send + Sync + 'static {
    /// What it is; does not change while it runs.
    fn facts(&self) -> MachineFacts;
    /// The text of its resolv.conf now; empty where there is none.
    fn resolv_conf(&self) -> String;
    /// The text of its /etc/hosts now; empty where there is none.
    fn hosts(&self) -> String;
    /// What everything on it uses.
    fn usage(&self) -> Usage;
    /// What went through its main network device, where it has one.
    fn traffic(&self) -> Option<Traffic>;
}

/// What a node tells of its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// Processors online.
    pub processors: u64,
    /// Where they and the memory are.
    pub topology: Topology,
    /// In bytes.
    pub memory: u64,
    /// Of the file system that images and volumes are on, in bytes.
    pub storage: u64,
    /// Sizes of huge pages, in bytes, with the memory set aside for each.
    pub huge_pages: Vec<(u64, u64)>,
    /// From /etc/machine-id.
    pub machine_id: String,
    /// From the firmware; the machine id where that says nothing.
    pub system_uuid: String,
    /// Different at every start.
    pub boot_id: String,
    /// Such as `6.1.0-18-amd64`.
    pub kernel: String,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// How many processes there can be.
    pub max_processes: u64,
    /// Whether the kernel enforces AppArmor profiles.
    pub apparmor: bool,
}

impl MachineFacts {
    /// This machine; `directory` lies on the file system to measure, or below it.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let text = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        let machine_id = text("/etc/machine-id").unwrap_or_default();
        let uuid = text("/sys/class/dmi/id/product_uuid").map(|uuid| uuid.to_lowercase());
        let memory = memory_total(&std::fs::read_to_string("/proc/meminfo")?);
        let topology = Topology::read(&|path| text(&format!("/sys/devices/system/{path}")).ok(), memory);
        Ok(Self {
            processors: (topology.cpus().len() as u64).max(1),
            topology,
            memory,
            storage: storage(directory),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            system_uuid: uuid.unwrap_or_else(|_| machine_id.clone()),
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id")?,
            kernel: text("/proc/sys/kernel/osrelease")?,
            os_image: pretty_name(&text("/etc/os-release").unwrap_or_default()),
            max_processes: [text("/proc/sys/kernel/pid_max"), text("/proc/sys/kernel/threads-max")]
                .into_iter()
                .filter_map(|text| text.ok()?.parse().ok())
                .min()
                .unwrap_or(0),
            apparmor: text("/sys/module/apparmor/parameters/enabled").is_ok_and(|enabled| enabled == "Y"),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64".to_owned(),
                "aarch64" => "arm64".to_owned(),
                other => other.to_owned(),
            },
        })
    }
}

impl Machine for MachineFacts {
    fn facts(&self) -> MachineFacts {
        self.clone()
    }
    fn resolv_conf(&self) -> String {
        std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
    }
    fn hosts(&self) -> String {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    }
    fn usage(&self) -> Usage {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        usage::machine(&text("/proc/stat"), &text("/proc/meminfo"), &text("/proc/vmstat"), &text("/proc/loadavg"))
    }
    fn traffic(&self) -> Option<Traffic> {
        let routes = std::fs::read_to_string("/proc/net/route").ok()?;
        let default = routes.lines().find(|line| line.split_whitespace().nth(1) == Some("00000000"))?;
        usage::traffic(&std::fs::read_to_string("/proc/net/dev").ok()?, &[default.split_whitespace().next()?])
    }
}

fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn pretty_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| name.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".to_owned())
}

fn storage(directory: &Path) -> u64 {
    // The directory may not have been made yet; whatever is above it is on the same file system.
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(there).map(|fs| fs.blocks() * fs.fragment_size()).unwrap_or(0)
}

fn huge_pages(directory: &Path) -> Vec<(u64, u64)> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")?.parse::<u64>().ok());
        let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).unwrap_or_default();
        if let Some(size) = size {
            sizes.push((size * 1024, size * 1024 * count.trim().parse::<u64>().unwrap_or(0)));
        }
    }
    sizes.sort_unstable();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_understood() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"X 1\"\n"), "X 1");
    }

    #[test]
    fn this_machine_is_one() {
        let facts = MachineFacts::read(Path::new("/none/such")).expect("facts");
        assert!(facts.processors >= 1 && facts.memory > 0 && facts.storage > 0 && !facts.kernel.is_empty());
    }
}
