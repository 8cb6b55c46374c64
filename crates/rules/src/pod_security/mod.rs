//! Pod security standards: which pods a namespace takes (upstream: `k8s.io/pod-security-admission`).
//!
//! A standard is a level at a version of Kubernetes: what a level forbids has changed over time, and a namespace may pin
//! how it was then. Pure: what labels ask for, and what a pod violates.

mod checks;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much pods may do to their node, from everything to little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    #[default]
    Privileged,
    /// Nothing that is known to lead out of a container.
    Baseline,
    /// What is best practice for hardened pods.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// The minor version of Kubernetes whose rules count; `None`: the latest.
type Minor = Option<u32>;

/// A level as it was at a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standard {
    /// The level.
    pub level: Level,
    version: Minor,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(minor) => write!(f, "{}:v1.{minor}", self.level),
            None => write!(f, "{}:latest", self.level),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Pods that violate this are refused.
    pub enforce: Standard,
    /// Pods and workloads that violate this are noted in the audit log.
    pub audit: Standard,
    /// Whoever makes pods or workloads that violate this is warned.
    pub warn: Standard,
}

impl Policy {
    /// What labels of a namespace say, and what is wrong with them. Labels that cannot be understood count as the
    /// strictest for `enforce`, and as nothing for the others.
    pub fn of(labels: &BTreeMap<String, String>) -> (Self, FieldErrors) {
        Self::over(Self::default(), labels)
    }

    /// The same where something else holds for those that do not say.
    pub fn over(defaults: Self, labels: &BTreeMap<String, String>) -> (Self, FieldErrors) {
        let (mut policy, mut faults) = (defaults, Vec::new());
        let said = |mode: &str| labels.get(&format!("{PREFIX}{mode}"));
        let mut understood = false;
        for (mode, at) in [("enforce", &mut policy.enforce), ("audit", &mut policy.audit), ("warn", &mut policy.warn)] {
            let mut wrong = |label: &str, value: &str, why: &str| {
                let path = FieldPath::new("metadata.labels").key(&format!("{PREFIX}{label}"));
                faults.push(FieldError::invalid(&path, value, why));
            };
            if let Some(text) = said(mode) {
                let level = Level::parse(text);
                if level.is_none() {
                    wrong(mode, text, "must be one of privileged, baseline, restricted");
                }
                understood |= level.is_some() && mode == "enforce";
                let fallback = if mode == "enforce" { Level::Restricted } else { Level::Privileged };
                at.level = level.unwrap_or(fallback);
            }
            let label = format!("{mode}-version");
            if let Some(text) = said(&label) {
                at.version = version(text).unwrap_or_else(|| {
                    wrong(&label, text, "must be \"latest\" or \"v1.x\"");
                    None
                });
            }
        }
        // Whoever is held to something is also told about it, workloads included.
        if said("warn").is_none() && understood && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if said("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, faults)
    }

    /// What a configuration says for namespaces that do not: `enforce`, `enforce-version` and so on.
    ///
    /// # Errors
    /// The name of what is wrong, and why.
    pub fn by_default(said: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut policy = Self::default();
        for (name, text) in said {
            let mode = name.strip_suffix("-version").unwrap_or(name);
            let at = match mode {
                "enforce" => &mut policy.enforce,
                "audit" => &mut policy.audit,
                "warn" => &mut policy.warn,
                _ => return Err(format!("{name}: is not known")),
            };
            if mode == name {
                let why = || format!("{name}: must be one of privileged, baseline, restricted");
                at.level = Level::parse(text).ok_or_else(why)?;
            } else {
                at.version = version(text).ok_or_else(|| format!("{name}: must be \"latest\" or \"v1.x\""))?;
            }
        }
        Ok(policy)
    }

    /// Whether nothing is asked for.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }
}

/// `v1.N` or `latest`; `None`: neither.
fn version(text: &str) -> Option<Minor> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    // Versions beyond all that will be are not told from each other.
    plain.then(|| digits.parse().ok().map(Some)).flatten()
}

/// What a pod violates, one by one: reason and detail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Reasons only: alike for pods that differ in names only.
    pub fn reasons(&self) -> String {
        self.0.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (reason, detail)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{reason} ({detail})")?;
        }
        Ok(())
    }
}

/// What a pod or pod template violates of a standard.
pub fn violations(standard: Standard, template: &Value) -> Violations {
    let minor = standard.version.unwrap_or(u32::MAX);
    Violations(checks::run(standard.level, minor, template))
}

/// Whether a namespace that changes its policy thus shall hear which of its pods would not be let in any more.
pub fn tightens(new: &Policy, old: &Policy) -> bool {
    let (new, old) = (new.enforce, old.enforce);
    new != old
        && new.level != Level::Privileged
        && (new.version != old.version || new.level.cmp(&old.level) == Ordering::Greater)
}

#[cfg(test)]
mod tests;
