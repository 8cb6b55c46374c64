//! The rows, one per kind.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::kind::KindRules;

/// All kinds that have something particular.
static ALL: &[&KindRules] = &[];

/// What fits any object.
static ORDINARY: KindRules = KindRules::new("", "");

/// The rules of a kind.
pub(crate) fn find(group: &str, kind: &str) -> &'static KindRules {
    static BY_NAME: OnceLock<HashMap<(&'static str, &'static str), &'static KindRules>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| ALL.iter().map(|rules| ((rules.kind, rules.group), *rules)).collect());
    by_name.get(&(kind, group)).copied().unwrap_or(&ORDINARY)
}
