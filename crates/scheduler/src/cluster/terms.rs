//! Which pods a rule speaks of: by namespace and labels. Parsed once per pod. Of `matchLabelKeys` nothing is known here:
//! the server has put them into the selectors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;
use skiff_api::labels;
use skiff_meta::selector::LabelSelector;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A term of inter-pod affinity.
#[derive(Clone, Debug)]
pub struct PodTerm {
    namespaces: BTreeSet<String>,
    namespace_selector: LabelSelector,
    selector: LabelSelector,
    /// The label whose values are the domains.
    pub topology_key: String,
    /// Stands for which pods it matches: equal texts, equal pods.
    pub identity: String,
}

fn shown(selector: &LabelSelector) -> String {
    if selector.is_nothing() { "!".to_owned() } else { selector.to_string() }
}

fn compiled(selector: Option<&Typed>) -> LabelSelector {
    // Validation has refused what cannot be compiled; whatever slipped through selects nothing.
    labels::compile(selector).unwrap_or_else(|_| LabelSelector::nothing())
}

impl PodTerm {
    fn new(pod: &Pod, term: &PodAffinityTerm) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(pod.metadata.namespace.clone());
        }
        let namespace_selector = compiled(term.namespace_selector.as_ref());
        let selector = compiled(term.label_selector.as_ref());
        let names = namespaces.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let identity = format!("{names};{};{}", shown(&namespace_selector), shown(&selector));
        Self { namespaces, namespace_selector, selector, topology_key: term.topology_key.clone(), identity }
    }

    /// Whether it speaks of a pod with these labels in this namespace.
    pub fn matches(&self, namespace: &str, of_namespace: Option<&Labels>, labels: &Labels) -> bool {
        let selected = || match of_namespace {
            Some(labels) => self.namespace_selector.matches(labels),
            None => self.namespace_selector.is_everything(),
        };
        (self.namespaces.contains(namespace) || selected()) && self.selector.matches(labels)
    }

    /// Whether which pods it matches depends on the labels of namespaces.
    pub fn looks_at_namespaces(&self) -> bool {
        !self.namespace_selector.is_nothing() && !self.namespace_selector.is_everything()
    }
}

/// A pod's inter-pod affinity.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Pods that must be in the node's domain.
    pub affinity: Vec<Arc<PodTerm>>,
    /// Pods that must not be there.
    pub anti_affinity: Vec<Arc<PodTerm>>,
    /// Pods that had better be there, or, with a negative weight, better not.
    pub preferred: Vec<(i64, Arc<PodTerm>)>,
}

impl Terms {
    /// The pod's terms, if it has any.
    pub fn of(pod: &Pod) -> Option<Box<Self>> {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
        let term = |term: &PodAffinityTerm| Arc::new(PodTerm::new(pod, term));
        let mut terms = Self::default();
        if let Some(to) = &affinity.pod_affinity {
            terms.affinity =
                to.required_during_scheduling_ignored_during_execution.iter().flatten().map(term).collect();
            let soft = to.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            terms.preferred.extend(soft.map(|t| (i64::from(t.weight), term(&t.pod_affinity_term))));
        }
        if let Some(away) = &affinity.pod_anti_affinity {
            terms.anti_affinity =
                away.required_during_scheduling_ignored_during_execution.iter().flatten().map(term).collect();
            let soft = away.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            terms.preferred.extend(soft.map(|t| (-i64::from(t.weight), term(&t.pod_affinity_term))));
        }
        let none = terms.affinity.is_empty() && terms.anti_affinity.is_empty() && terms.preferred.is_empty();
        (!none).then(|| Box::new(terms))
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// By how much domains may differ.
    pub max_skew: i64,
    /// The label whose values are the domains.
    pub topology_key: String,
    /// With fewer domains, the emptiest counts as empty.
    pub min_domains: usize,
    /// `DoNotSchedule`, rather than `ScheduleAnyway`.
    pub hard: bool,
    /// Nodes that the pod's node affinity excludes are no domains.
    pub honor_affinity: bool,
    /// Nodes whose taints the pod does not tolerate are no domains.
    pub honor_taints: bool,
    /// Which pods count, in the pod's own namespace.
    pub selector: LabelSelector,
}

impl Constraint {
    /// From the pod's own spec, or a profile's defaults.
    pub fn new(constraint: &TopologySpreadConstraint) -> Self {
        let honors = |policy: &Option<String>, unsaid: bool| policy.as_deref().map_or(unsaid, |p| p == "Honor");
        Self {
            max_skew: constraint.max_skew.into(),
            topology_key: constraint.topology_key.clone(),
            min_domains: constraint.min_domains.and_then(|n| n.try_into().ok()).unwrap_or(1),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: honors(&constraint.node_affinity_policy, true),
            honor_taints: honors(&constraint.node_taints_policy, false),
            selector: compiled(constraint.label_selector.as_ref()),
        }
    }

    /// The pod's own constraints.
    pub fn of(pod: &Pod) -> Vec<Self> {
        let constraints = pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
        constraints.map(Self::new).collect()
    }
}

/// Which pods count: all terms must match; or, for spreading, those of a namespace that are not on their way out.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Inter-pod affinity.
    Terms(Vec<Arc<PodTerm>>),
    /// Topology spread.
    Spread {
        /// The namespace.
        namespace: String,
        /// The labels; a selector without requirements counts no pod.
        selector: LabelSelector,
    },
}

impl Matcher {
    /// Whether such a pod counts.
    pub fn matches(&self, namespace: &str, of_namespace: Option<&Labels>, labels: &Labels) -> bool {
        match self {
            Self::Terms(terms) => terms.iter().all(|term| term.matches(namespace, of_namespace, labels)),
            Self::Spread { namespace: own, selector } => {
                own == namespace && !selector.is_everything() && selector.matches(labels)
            }
        }
    }

    /// Whether pods that are being deleted count.
    pub fn counts_terminating(&self) -> bool {
        matches!(self, Self::Terms(_))
    }

    /// Equal texts, equal pods.
    pub fn identity(&self) -> String {
        match self {
            Self::Terms(terms) => terms.iter().map(|term| term.identity.as_str()).collect::<Vec<_>>().join("&"),
            Self::Spread { namespace, selector } => format!("~{namespace};{}", shown(selector)),
        }
    }

    /// Whether which pods it matches depends on the labels of namespaces.
    pub fn looks_at_namespaces(&self) -> bool {
        matches!(self, Self::Terms(terms) if terms.iter().any(|term| term.looks_at_namespaces()))
    }
}
