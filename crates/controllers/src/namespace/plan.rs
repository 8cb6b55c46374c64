//! The conditions of a namespace that is being deleted, from what was found in it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_meta::GroupVersionResource;

/// What one round of deleting found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Findings {
    /// Groups whose resources are not known now.
    pub(crate) undiscovered: Vec<String>,
    /// What could not be deleted, and why.
    pub(crate) failures: Vec<String>,
    /// How many objects are left, by resource.
    pub(crate) remaining: BTreeMap<GroupVersionResource, usize>,
    /// How many objects wait for a finalizer, by finalizer.
    pub(crate) finalizers: BTreeMap<String, usize>,
}

impl Findings {
    /// Whether nothing is left, as far as is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }
}

/// A condition's type, its reason and message when all is well, and what is wrong.
type Verdict = (&'static str, (&'static str, &'static str), Option<(&'static str, String)>);

fn verdicts(findings: &Findings) -> [Verdict; 5] {
    let some = |list: Vec<String>, reason: &'static str, intro: &str| {
        (!list.is_empty()).then(|| (reason, format!("{intro}{}", list.join(", "))))
    };
    let remaining = findings.remaining.iter();
    let remaining = remaining.map(|(r, n)| format!("{}.{} has {n} resource instances", r.resource, r.group)).collect();
    let finalizers = findings.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let undiscovered = findings.undiscovered.clone();
    let discovery = format!("Discovery failed for some groups, {} failing: ", undiscovered.len());
    let content = format!("Failed to delete all resource types, {} remaining: ", findings.failures.len());
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            some(undiscovered, "DiscoveryFailed", &discovery),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            None,
        ),
        (
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            some(findings.failures.clone(), "ContentDeletionFailed", &content),
        ),
        (
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            some(remaining, "SomeResourcesRemain", "Some resources are remaining: "),
        ),
        (
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            some(finalizers, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "),
        ),
    ]
}

/// The conditions, brought up to date; those that say the same keep the time of their last transition.
pub(crate) fn conditions(old: &[NamespaceCondition], findings: &Findings, now: Timestamp) -> Vec<NamespaceCondition> {
    let mut all = old.to_vec();
    for (type_, (ok_reason, ok_message), wrong) in verdicts(findings) {
        let status = if wrong.is_some() { "True" } else { "False" };
        let (reason, message) = wrong.unwrap_or((ok_reason, ok_message.to_owned()));
        let known = all.iter().position(|condition| condition.type_ == type_);
        let since = known.and_then(|at| all.get(at)).filter(|c| c.status == status);
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.map_or(Some(Time(now)), |c| c.last_transition_time.clone()),
        };
        match known.and_then(|at| all.get_mut(at)) {
            Some(slot) => *slot = condition,
            None => all.push(condition),
        }
    }
    all
}

/// When to look again at what nobody tells us about: seldom, the longer it takes.
pub(crate) fn next_look(deleted: Timestamp, now: Timestamp) -> Duration {
    let age = Duration::try_from(now.duration_since(deleted)).unwrap_or_default();
    (age / 2).clamp(Duration::from_millis(500), Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_remains_is_told_and_times_are_kept() {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let findings = Findings {
            remaining: [(pods, 2)].into(),
            finalizers: [("example.com/wait".to_owned(), 1)].into(),
            ..Findings::default()
        };
        let first = conditions(&[], &findings, at(1));
        let told: Vec<_> = first.iter().map(|c| (&*c.status, c.reason.as_deref().unwrap_or_default())).collect();
        assert_eq!(
            told,
            [
                ("False", "ResourcesDiscovered"),
                ("False", "ParsedGroupVersions"),
                ("False", "ContentDeleted"),
                ("True", "SomeResourcesRemain"),
                ("True", "SomeFinalizersRemain"),
            ]
        );
        let message = first[3].message.as_deref();
        assert_eq!(message, Some("Some resources are remaining: pods. has 2 resource instances"));
        let second = conditions(&first, &Findings::default(), at(9));
        assert_eq!(second[0], first[0]);
        assert_eq!((&*second[3].status, &second[3].last_transition_time), ("False", &Some(Time(at(9)))));
    }

    #[test]
    fn looks_become_rare() {
        let looks = [0, 10, 1000].map(|age| next_look(at(0), at(age)).as_millis());
        assert_eq!(looks, [500, 5_000, 60_000]);
    }
}
