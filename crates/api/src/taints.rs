//! Which taints keep which pods away (`Toleration.ToleratesTaint` upstream).

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// New pods stay away.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// New pods stay away where they can.
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
/// New pods stay away and running ones must go.
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether this toleration bears this taint: no effect bears any, no key (with `Exists`) bears any.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let fits = |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|w| w.is_empty() || w == have);
    if !fits(&toleration.effect, &taint.effect) || !fits(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        "Exists" => true,
        _ => false,
    }
}

/// Whether any of these tolerations bears this taint.
pub fn any_tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// The first taint with one of these effects that no toleration bears.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    taints.iter().find(|t| effects.contains(&&*t.effect) && !any_tolerates(tolerations, t))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        let value = (!value.is_empty()).then(|| value.to_owned());
        Taint { key: key.into(), value, effect: effect.into(), time_added: None }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn table() {
        let gpu = taint("gpu", "big", NO_SCHEDULE);
        for (key, operator, value, effect, expected) in [
            ("gpu", "Equal", "big", NO_SCHEDULE, true),
            ("gpu", "", "big", "", true),
            ("gpu", "Equal", "small", NO_SCHEDULE, false),
            ("gpu", "Exists", "", NO_SCHEDULE, true),
            ("gpu", "Exists", "", NO_EXECUTE, false),
            ("", "Exists", "", "", true),
            ("cpu", "Exists", "", "", false),
            ("gpu", "Gt", "1", "", false),
        ] {
            let toleration = toleration(key, operator, value, effect);
            assert_eq!(tolerates(&toleration, &gpu), expected, "{toleration:?}");
        }
        assert!(tolerates(&toleration("k", "Equal", "", ""), &taint("k", "", NO_EXECUTE)));
    }

    #[test]
    fn the_first_untolerated_one_counts() {
        let taints = [taint("a", "", PREFER_NO_SCHEDULE), taint("b", "", NO_SCHEDULE), taint("c", "", NO_EXECUTE)];
        let hard = [NO_SCHEDULE, NO_EXECUTE];
        assert_eq!(untolerated(&taints, &[], &hard).unwrap().key, "b");
        let b = toleration("b", "Exists", "", "");
        assert_eq!(untolerated(&taints, std::slice::from_ref(&b), &hard).unwrap().key, "c");
        assert!(untolerated(&taints, &[b, toleration("c", "Exists", "", "")], &hard).is_none());
        assert_eq!(untolerated(&taints, &[], &[PREFER_NO_SCHEDULE]).unwrap().key, "a");
    }
}
