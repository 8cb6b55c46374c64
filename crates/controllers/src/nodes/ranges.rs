//! Which part of the cluster's pod addresses a node gets. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Addresses per node: a `/24`.
const NODE_BITS: u8 = 24;

/// The first range of `cluster` (such as `10.42.0.0/16`) that is not taken; `None` when all are, or the text is no
/// range.
pub(super) fn free(cluster: &str, taken: &BTreeSet<String>) -> Option<String> {
    let (address, bits) = cluster.split_once('/')?;
    let (base, bits): (u32, u8) = (address.parse::<Ipv4Addr>().ok()?.into(), bits.parse().ok()?);
    if bits > NODE_BITS {
        // Too small to be divided: one node gets all of it.
        return (!taken.contains(cluster)).then(|| cluster.to_owned());
    }
    let count = 1u32 << (NODE_BITS - bits);
    let range = |i: u32| format!("{}/{NODE_BITS}", Ipv4Addr::from(base + (i << (32 - NODE_BITS))));
    (0..count).map(range).find(|range| !taken.contains(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_free() {
        let taken = BTreeSet::from(["10.42.0.0/24".to_owned()]);
        assert_eq!(free("10.42.0.0/16", &BTreeSet::new()).as_deref(), Some("10.42.0.0/24"));
        assert_eq!(free("10.42.0.0/16", &taken).as_deref(), Some("10.42.1.0/24"));
        assert_eq!(free("10.42.0.0/24", &taken), None);
        assert_eq!(free("10.42.0.0/28", &taken).as_deref(), Some("10.42.0.0/28"));
        assert_eq!(free("nonsense", &taken), None);
    }
}
