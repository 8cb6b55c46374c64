//! One nftables table as a value.

use std::collections::BTreeMap;
use std::fmt;

use crate::Family;

/// A chain: its rules, and for base chains where it hooks in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type nat hook output priority -100`, empty for chains that are only jumped to.
    pub hook: String,
    /// The rules, in order.
    pub rules: Vec<String>,
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// `set` or `map`.
    pub keyword: &'static str,
    /// `type ipv4_addr; flags dynamic,timeout; timeout 3h;`, on one line.
    pub spec: String,
    /// Elements that the plan knows; those that packets add are the kernel's own. The value is empty for sets.
    pub elements: BTreeMap<String, String>,
}

impl Set {
    /// A set without elements.
    pub fn plain(spec: impl Into<String>) -> Self {
        Self { keyword: "set", spec: spec.into(), elements: BTreeMap::new() }
    }
    /// A map without elements.
    pub fn map(spec: impl Into<String>) -> Self {
        Self { keyword: "map", spec: spec.into(), elements: BTreeMap::new() }
    }
}

/// One table. Printed as a script that puts it up anew, in place of what has its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Which packets it sees.
    pub family: Family,
    /// Its name; tables of other families may bear it too.
    pub name: String,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A script that removes a table; one that is not there is fine.
pub(crate) fn removal(family: Family, table: &str) -> String {
    let own = format!("{} {table}", family.word());
    format!("add table {own}\ndelete table {own}\n")
}

/// `KEY` or `KEY : VALUE`.
pub(crate) fn element(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key} : {value}") }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, name, sets, chains } = self;
        let own = format!("{} {name}", family.word());
        writeln!(f, "add table {own}\ndelete table {own}\ntable {own} {{")?;
        for (name, set) in sets {
            writeln!(f, "  {} {name} {{ {} }}", set.keyword, set.spec)?;
        }
        // All chains before all rules, since rules jump to chains further down.
        for (name, chain) in chains {
            match chain.hook.as_str() {
                "" => writeln!(f, "  chain {name} {{ }}")?,
                hook => writeln!(f, "  chain {name} {{ {hook}; }}")?,
            }
        }
        writeln!(f, "}}")?;
        for (chain, rule) in chains.iter().flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule))) {
            writeln!(f, "add rule {own} {chain} {rule}")?;
        }
        for (set, Set { elements, .. }) in sets.iter().filter(|(_, set)| !set.elements.is_empty()) {
            write_elements(f, "add", &own, set, elements.iter().map(|(key, value)| element(key, value)))?;
        }
        Ok(())
    }
}

/// `add element FAMILY TABLE SET { ... }`.
pub(super) fn write_elements(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    table: &str,
    set: &str,
    elements: impl Iterator<Item = String>,
) -> fmt::Result {
    write!(f, "{verb} element {table} {set} {{ ")?;
    for (index, element) in elements.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        f.write_str(&element)?;
    }
    writeln!(f, " }}")
}
