//! Who has which address of the node's range.
//!
//! A booking is a symbolic link: its name is the address, its target the owner. Making one is a single system call that
//! fails when the name is taken, so two plugins that run at once cannot get the same address and a kill at any moment
//! leaves either a whole booking or none; no lock is needed. Beside it lies a record per owner, so that releasing does
//! not search. Namespaces do not survive a reboot, and neither may bookings: they lie in a directory named after the
//! kernel's boot id, for which reason nothing needs to be synced to disk either.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::protocol::{Attachment, PluginError, PortMapping};
use crate::Family;
use crate::family::after;

/// What is kept about one interface of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its addresses, one of each family.
    pub addresses: Vec<IpAddr>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
}

/// The bookings of one node since it booted.
#[derive(Clone, Debug)]
pub struct Bookings {
    addresses: PathBuf,
    records: PathBuf,
}

impl Attachment {
    /// The name under which the owner is booked; a sandbox id contains no `@`.
    fn owner(&self) -> String {
        format!("{}@{}", self.container, self.interface)
    }

    fn from_owner(owner: &str) -> Option<Self> {
        let (container, interface) = owner.split_once('@')?;
        Some(Self { container: container.to_owned(), interface: interface.to_owned() })
    }
}

impl Bookings {
    /// Opens the bookings under `state_dir`, made if need be.
    ///
    /// # Errors
    /// When the directory cannot be made, or `/proc` is not there.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join(boot_id()?);
        let bookings = Self { addresses: root.join("addresses"), records: root.join("records") };
        fs::create_dir_all(&bookings.addresses)?;
        fs::create_dir_all(&bookings.records)?;
        Ok(bookings)
    }

    /// Removes the bookings of earlier boots.
    ///
    /// # Errors
    /// When a directory cannot be removed.
    pub fn forget_earlier_boots(state_dir: &Path) -> io::Result<()> {
        let current = boot_id()?;
        for entry in read_dir(state_dir)? {
            let entry = entry?;
            if entry.file_name() != *current && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Books an address of `range` for `owner`: the one it has already, or a free one, going round the range so that
    /// an address rests as long as possible before it is used again. `reserved` addresses are left out, as are the
    /// range's first and last.
    ///
    /// # Errors
    /// When none is free or the disk fails.
    pub fn claim(&self, range: IpNet, reserved: &[IpAddr], owner: &Attachment) -> Result<IpAddr, PluginError> {
        let booked = self.find(owner).map_err(PluginError::io("read address bookings"))?;
        if let Some(address) = booked.into_iter().find(|address| range.contains(address)) {
            return Ok(address);
        }
        let count = hosts(range);
        let last = self.last_given(Family::of_range(range)).filter(|last| range.contains(last));
        let start = last.map_or(0, |last| offset(range, last));
        for step in 0..count {
            let index = (u64::from(start) + u64::from(step)) % u64::from(count);
            let address = after(range.network(), 1 + u32::try_from(index).unwrap_or_default());
            if reserved.contains(&address) {
                continue;
            }
            match symlink(owner.owner(), self.addresses.join(address.to_string())) {
                Ok(()) => {
                    self.remember_last(address);
                    return Ok(address);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(PluginError::io("book an address")(error)),
            }
        }
        Err(PluginError::NoAddress(range))
    }

    /// Keeps what belongs to a booking.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn keep(&self, owner: &Attachment, record: &Record) -> io::Result<()> {
        let temporary = self.records.join(format!(".{}", owner.owner()));
        fs::write(&temporary, serde_json::to_vec(record)?)?;
        fs::rename(temporary, self.records.join(owner.owner()))
    }

    /// What was kept for `owner`.
    ///
    /// # Errors
    /// When the disk fails; an unknown owner, or a record that cannot be read, is `None`.
    pub fn record(&self, owner: &Attachment) -> io::Result<Option<Record>> {
        match fs::read(self.records.join(owner.owner())) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All records.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn records(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in read_dir(&self.records)? {
            let name = entry?.file_name();
            let owner = name.to_str().and_then(Attachment::from_owner);
            if let Some(owner) = owner.filter(|owner| !owner.container.starts_with('.'))
                && let Some(record) = self.record(&owner)?
            {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// Gives the owner's address back; having none is fine.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn release(&self, owner: &Attachment) -> io::Result<()> {
        for address in self.find(owner)? {
            remove(&self.addresses.join(address.to_string()))?;
        }
        remove(&self.records.join(owner.owner()))
    }

    /// Everyone who has an address.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn owners(&self) -> io::Result<HashSet<Attachment>> {
        let mut owners = HashSet::new();
        for entry in read_dir(&self.addresses)? {
            let target = fs::read_link(entry?.path());
            owners.extend(target.ok().as_deref().and_then(Path::to_str).and_then(Attachment::from_owner));
        }
        Ok(owners)
    }

    /// The owner's addresses: by its record, or, where a kill came between booking and record, by a search.
    fn find(&self, owner: &Attachment) -> io::Result<Vec<IpAddr>> {
        if let Some(record) = self.record(owner)?
            && record.addresses.iter().all(|address| self.is_booked(&address.to_string(), owner))
        {
            return Ok(record.addresses);
        }
        let mut found = Vec::new();
        for entry in read_dir(&self.addresses)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str()
                && let Ok(address) = name.parse()
                && self.is_booked(name, owner)
            {
                found.push(address);
            }
        }
        Ok(found)
    }

    fn is_booked(&self, address: &str, owner: &Attachment) -> bool {
        fs::read_link(self.addresses.join(address)).is_ok_and(|target| target.as_os_str() == owner.owner().as_str())
    }

    fn last_given(&self, family: Family) -> Option<IpAddr> {
        fs::read_to_string(self.records.join(format!(".last-{family}"))).ok()?.parse().ok()
    }

    /// A hint only: losing it costs nothing but order.
    fn remember_last(&self, address: IpAddr) {
        let _ = fs::write(self.records.join(format!(".last-{}", Family::of(address))), address.to_string());
    }
}

/// How many addresses of a range can be given out: neither its first nor its last, and of a large one as many as a node
/// will ever need.
fn hosts(range: IpNet) -> u32 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1u32.checked_shl(bits).map_or(u32::MAX, |all| all.saturating_sub(2))
}

/// How far `address` is from the first address of its range.
fn offset(range: IpNet, address: IpAddr) -> u32 {
    let distance = match (range.network(), address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => u128::from(u32::from(address) - u32::from(first)),
        (IpAddr::V6(first), IpAddr::V6(address)) => u128::from(address) - u128::from(first),
        _ => 0,
    };
    u32::try_from(distance).unwrap_or_default()
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn read_dir(path: &Path) -> io::Result<Vec<io::Result<fs::DirEntry>>> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Attachment {
        Attachment { container: name.to_owned(), interface: "eth0".to_owned() }
    }

    fn range() -> IpNet {
        "10.9.0.0/29".parse().unwrap()
    }

    #[test]
    fn addresses_go_round_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let bookings = Bookings::open(dir.path()).unwrap();
        let gateway = ["10.9.0.1".parse().unwrap()];
        let claim =
            |name: &str| bookings.claim(range(), &gateway, &owner(name)).map(|address| offset(range(), address));
        let given: Vec<_> = ["a", "b", "c"].iter().map(|name| claim(name).unwrap()).collect();
        assert_eq!(given, [2, 3, 4]);
        assert_eq!(claim("b").unwrap(), 3, "the same owner keeps its address");
        bookings.release(&owner("a")).unwrap();
        assert_eq!(claim("d").unwrap(), 5, "a released address rests");
        assert_eq!((claim("e").unwrap(), claim("f").unwrap()), (6, 2));
        assert!(matches!(claim("g"), Err(PluginError::NoAddress(_))));
        bookings.release(&owner("g")).unwrap();
        assert_eq!(bookings.owners().unwrap().len(), 5);
    }

    #[test]
    fn an_owner_has_an_address_of_each_family() {
        let dir = tempfile::tempdir().unwrap();
        let bookings = Bookings::open(dir.path()).unwrap();
        let six: IpNet = "fd42::/64".parse().unwrap();
        let claim = |range, name| bookings.claim(range, &[], &owner(name)).unwrap().to_string();
        assert_eq!((claim(range(), "a"), claim(six, "a")), ("10.9.0.1".to_owned(), "fd42::1".to_owned()));
        assert_eq!((claim(six, "b"), claim(range(), "b")), ("fd42::2".to_owned(), "10.9.0.2".to_owned()));
        assert_eq!(claim(six, "a"), "fd42::1");
        bookings.release(&owner("a")).unwrap();
        assert_eq!(bookings.find(&owner("a")).unwrap(), [] as [IpAddr; 0]);
        assert_eq!(claim(six, "c"), "fd42::3", "a released address rests");
    }

    #[test]
    fn a_kill_between_booking_and_record_is_healed() {
        let dir = tempfile::tempdir().unwrap();
        let bookings = Bookings::open(dir.path()).unwrap();
        let address = bookings.claim(range(), &[], &owner("a")).unwrap();
        assert_eq!(bookings.record(&owner("a")).unwrap(), None);
        assert_eq!(bookings.claim(range(), &[], &owner("a")).unwrap(), address);
        bookings.release(&owner("a")).unwrap();
        assert!(bookings.owners().unwrap().is_empty());
    }

    #[test]
    fn a_stale_record_does_not_release_anothers_address() {
        let dir = tempfile::tempdir().unwrap();
        let bookings = Bookings::open(dir.path()).unwrap();
        let address = bookings.claim(range(), &[], &owner("a")).unwrap();
        bookings.keep(&owner("b"), &Record { addresses: vec![address], ports: Vec::new() }).unwrap();
        bookings.release(&owner("b")).unwrap();
        assert_eq!(bookings.owners().unwrap(), [owner("a")].into());
    }

    #[test]
    fn claims_at_once_never_share_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let range: IpNet = "10.9.0.0/24".parse().unwrap();
        #[allow(
            clippy::disallowed_methods,
            reason = "the plugin runs as many processes at once; threads stand for them"
        )]
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let bookings = Bookings::open(dir.path()).unwrap();
                std::thread::spawn(move || {
                    (0..20).map(|i| bookings.claim(range, &[], &owner(&format!("{thread}-{i}"))).unwrap()).collect()
                })
            })
            .collect();
        let given: Vec<Vec<IpAddr>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let distinct: HashSet<_> = given.iter().flatten().collect();
        assert_eq!(distinct.len(), 160);
    }

    #[test]
    fn earlier_boots_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let bookings = Bookings::open(dir.path()).unwrap();
        bookings.claim(range(), &[], &owner("a")).unwrap();
        fs::create_dir_all(dir.path().join("another-boot/addresses")).unwrap();
        Bookings::forget_earlier_boots(dir.path()).unwrap();
        assert!(!dir.path().join("another-boot").exists());
        assert_eq!(bookings.owners().unwrap().len(), 1);
    }
}
