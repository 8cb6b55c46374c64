//! Kernel switches under `/proc/sys/net` of the calling thread's network namespace.

use std::io;
use std::path::PathBuf;

use crate::Family;

/// A switch could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to {value}: {source}")]
pub struct SysctlError {
    /// The switch, in dotted form.
    pub name: String,
    /// The value it should have.
    pub value: &'static str,
    /// Why not.
    pub source: io::Error,
}

/// Sets `net.ipv4.conf.<device>.<key>`-like switches, given as path segments below `/proc/sys/net`; writes only where
/// the value differs, so that a read-only `/proc/sys` with the right value is good enough.
///
/// # Errors
/// When the switch is missing or may not be written.
pub(crate) fn set(segments: &[&str], value: &'static str) -> Result<(), SysctlError> {
    let path: PathBuf = ["/proc/sys/net"].iter().chain(segments).collect();
    if std::fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| SysctlError {
        name: format!("net.{}", segments.join(".")),
        value,
        source,
    })
}

/// Makes the machine forward packets. A machine that forwards IPv6 no longer learns its own routes from routers, unless
/// told to: the device `uplink` goes on learning where it did.
///
/// # Errors
/// When a switch is missing or may not be written.
pub(crate) fn forward(family: Family, uplink: Option<&str>) -> Result<(), SysctlError> {
    if family == Family::V4 {
        return set(&["ipv4", "ip_forward"], "1");
    }
    if let Some(uplink) = uplink {
        let learns = ["ipv6", "conf", uplink, "accept_ra"];
        let path: PathBuf = ["/proc/sys/net"].iter().chain(&learns).collect();
        if std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1") {
            set(&learns, "2")?;
        }
    }
    set(&["ipv6", "conf", "all", "forwarding"], "1")
}
