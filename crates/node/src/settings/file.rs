//! The file itself, and what its values mean.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use skiff_api::resources::{self, ResourceList};
use skiff_meta::Quantity;
use skiff_meta::codec::yaml;
use skiff_meta::quantity::Format;

use super::{Eviction, Settings, SettingsError};
use crate::pinning::{self, Alignment, Policy};
use crate::pressure::{Amount, Signal, Threshold};
use crate::shutdown::{self, Period};

type Texts = BTreeMap<String, String>;

/// The fields that mean something here, under upstream's names.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    max_pods: Option<u32>,
    eviction_hard: Option<Texts>,
    eviction_soft: Texts,
    eviction_soft_grace_period: Texts,
    eviction_minimum_reclaim: Texts,
    eviction_max_pod_grace_period: i64,
    eviction_pressure_transition_period: Option<String>,
    merge_default_eviction_settings: bool,
    shutdown_grace_period: Option<String>,
    shutdown_grace_period_critical_pods: Option<String>,
    shutdown_grace_period_by_pod_priority: Vec<Period>,
    system_reserved: Texts,
    kube_reserved: Texts,
    #[serde(rename = "reservedSystemCPUs")]
    reserved_system_cpus: String,
    cpu_manager_policy: String,
    memory_manager_policy: String,
    reserved_memory: Vec<ReservedMemory>,
    topology_manager_policy: String,
    topology_manager_scope: String,
    container_log_max_size: Option<String>,
    container_log_max_files: Option<usize>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Memory of one node of the machine that is not for containers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReservedMemory {
    numa_node: u32,
    limits: Texts,
}

pub(super) fn read(text: &[u8]) -> Result<Settings, SettingsError> {
    let value = yaml::decode(text).map_err(|error| SettingsError::Form(error.to_string()))?.value;
    let file: File = serde_json::from_value(value).map_err(|error| SettingsError::Form(error.to_string()))?;
    if (file.api_version.as_str(), file.kind.as_str()) != ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration") {
        return Err(SettingsError::Kind);
    }
    let known = Settings::default();
    let log_files = file.container_log_max_files.unwrap_or(known.log_files);
    if log_files < 2 {
        return Err(wrong("containerLogMaxFiles", "must be greater than 1"));
    }
    let log_size = file.container_log_max_size.as_deref().map(|text| bytes("containerLogMaxSize", text)).transpose()?;
    let mut reserved = amounts("systemReserved", &file.system_reserved)?;
    resources::add(&mut reserved, &amounts("kubeReserved", &file.kube_reserved)?);
    let cpus = pinning::parse(&file.reserved_system_cpus).len();
    if cpus > 0 {
        let count = i64::try_from(cpus).unwrap_or(i64::MAX);
        reserved.insert("cpu".to_owned(), Quantity::new(count, Format::DecimalSi));
    }
    let eviction = eviction(&file)?;
    Ok(Settings {
        pinning: pinning(&file, &reserved, &eviction)?,
        max_pods: file.max_pods.unwrap_or(known.max_pods),
        eviction,
        shutdown: shutdown(&file)?,
        reserved,
        log_size: log_size.unwrap_or(known.log_size),
        log_files,
        unheeded: file.others.into_keys().collect(),
    })
}

fn wrong(field: &'static str, why: impl Into<String>) -> SettingsError {
    SettingsError::Field { field, why: why.into() }
}

fn eviction(file: &File) -> Result<Eviction, SettingsError> {
    let reclaim = statements("evictionMinimumReclaim", &file.eviction_minimum_reclaim)?;
    let mut graces = BTreeMap::new();
    for (signal, text) in signals("evictionSoftGracePeriod", &file.eviction_soft_grace_period)? {
        graces.insert(signal, duration("evictionSoftGracePeriod", text)?);
    }
    let threshold = |signal: Signal, least, grace| {
        let reclaim = reclaim.iter().find(|(of, _)| *of == signal).map(|(_, amount)| *amount);
        Threshold { signal, least, grace, reclaim }
    };
    let mut thresholds = Vec::new();
    let hard = file.eviction_hard.as_ref().map(|texts| statements("evictionHard", texts)).transpose()?;
    let own = hard.as_deref().unwrap_or_default();
    let named = |signal: Signal| file.eviction_hard.iter().flatten().any(|(name, _)| name == signal.name());
    let defaults = Threshold::defaults()
        .into_iter()
        .filter(|known| hard.is_none() || (file.merge_default_eviction_settings && !named(known.signal.as_written())));
    thresholds.extend(defaults.map(|known| threshold(known.signal, known.least, Duration::ZERO)));
    for (signal, least) in own {
        thresholds.extend(signal.all_levels().map(|signal| threshold(signal, *least, Duration::ZERO)));
    }
    for (signal, least) in statements("evictionSoft", &file.eviction_soft)? {
        let why = || format!("a grace period must be specified for the soft threshold {}", signal.name());
        let grace = graces.get(&signal).ok_or_else(|| wrong("evictionSoftGracePeriod", why()))?;
        thresholds.push(threshold(signal, least, *grace));
    }
    let transition = file.eviction_pressure_transition_period.as_deref();
    let transition = transition.map(|text| duration("evictionPressureTransitionPeriod", text)).transpose()?;
    Ok(Eviction {
        thresholds,
        max_pod_grace: file.eviction_max_pod_grace_period,
        transition: transition.filter(|period| !period.is_zero()).unwrap_or(Settings::default().eviction.transition),
    })
}

fn shutdown(file: &File) -> Result<Vec<Period>, SettingsError> {
    let seconds = |field, text: &Option<String>| {
        let period = text.as_deref().map_or(Ok(Duration::ZERO), |text| duration(field, text))?;
        if period.is_zero() || period >= Duration::from_secs(1) {
            return Ok(i64::try_from(period.as_secs()).unwrap_or(i64::MAX));
        }
        Err(wrong(field, "must be nothing or at least a second"))
    };
    let whole = seconds("shutdownGracePeriod", &file.shutdown_grace_period)?;
    let critical = seconds("shutdownGracePeriodCriticalPods", &file.shutdown_grace_period_critical_pods)?;
    if critical > whole {
        return Err(wrong("shutdownGracePeriodCriticalPods", "must not be more than shutdownGracePeriod"));
    }
    let by_priority = &file.shutdown_grace_period_by_pod_priority;
    if by_priority.is_empty() {
        return Ok(shutdown::periods(whole, critical));
    }
    if whole > 0 {
        return Err(wrong("shutdownGracePeriodByPodPriority", "cannot be beside shutdownGracePeriod"));
    }
    Ok(by_priority.clone())
}

fn pinning(file: &File, reserved: &ResourceList, eviction: &Eviction) -> Result<Policy, SettingsError> {
    let chosen = |field, text: &str, known: &[&str]| {
        let none = || wrong(field, format!("{text} is none of {}", known.join(", ")));
        let text = if text.is_empty() { known[0] } else { text };
        known.iter().position(|name| name.eq_ignore_ascii_case(text)).ok_or_else(none)
    };
    let cpus = chosen("cpuManagerPolicy", &file.cpu_manager_policy, &["none", "static"])? == 1;
    let memory = chosen("memoryManagerPolicy", &file.memory_manager_policy, &["None", "Static"])? == 1;
    let policies = ["none", "best-effort", "restricted", "single-numa-node"];
    let alignment = match chosen("topologyManagerPolicy", &file.topology_manager_policy, &policies)? {
        0 => Alignment::None,
        1 => Alignment::BestEffort,
        2 => Alignment::Restricted,
        _ => Alignment::SingleNode,
    };
    let whole_pods = chosen("topologyManagerScope", &file.topology_manager_scope, &["container", "pod"])? == 1;
    let count = reserved.get("cpu").map_or(0, |amount| usize::try_from((amount.milli() + 999) / 1000).unwrap_or(0));
    if cpus && count == 0 {
        let why = "static needs processors in systemReserved, kubeReserved or reservedSystemCPUs";
        return Err(wrong("cpuManagerPolicy", why));
    }
    let mut reserved_memory = BTreeMap::new();
    for one in &file.reserved_memory {
        let amount = one.limits.get("memory").map_or(Ok(0), |text| bytes("reservedMemory", text))?;
        reserved_memory.insert(one.numa_node, amount);
    }
    let hard = eviction.thresholds.iter().find(|threshold| threshold.signal == Signal::Memory && threshold.is_hard());
    let least = match hard.map(|threshold| threshold.least) {
        Some(Amount::Of(amount)) => amount,
        _ => 0,
    };
    let needed = reserved.get("memory").map_or(0, |amount| amount.value()).unsigned_abs() + least;
    let sum: u64 = reserved_memory.values().sum();
    if memory && sum != needed {
        let why = format!("{sum} bytes are not the {needed} of systemReserved, kubeReserved and evictionHard together");
        return Err(wrong("reservedMemory", why));
    }
    let reserved_cpus = pinning::parse(&file.reserved_system_cpus);
    Ok(Policy { cpus, memory, alignment, whole_pods, reserved_cpus, reserved_count: count, reserved_memory })
}

/// By signal. What is said of containers' own file system is left out: that is always the node's or that of images.
fn signals<'a>(field: &'static str, texts: &'a Texts) -> Result<Vec<(Signal, &'a str)>, SettingsError> {
    let named = texts.iter().filter(|(name, _)| !name.starts_with("containerfs."));
    let read = |(name, text): (&'a String, &'a String)| match Signal::named(name) {
        Some(signal) => Ok((signal, text.as_str())),
        None => Err(wrong(field, format!("there is no eviction signal {name}"))),
    };
    named.map(read).collect()
}

/// Nothing and everything are no thresholds.
fn statements(field: &'static str, texts: &Texts) -> Result<Vec<(Signal, Amount)>, SettingsError> {
    let mut found = Vec::new();
    for (signal, text) in signals(field, texts)? {
        let amount = match text.strip_suffix('%') {
            Some("0" | "100") => continue,
            Some(share) => {
                let share = share.parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share));
                Amount::Share(share.ok_or_else(|| wrong(field, format!("{text} is no share of a whole")))? / 100.0)
            }
            None => Amount::Of(bytes(field, text)?),
        };
        found.push((signal, amount));
    }
    Ok(found)
}

fn bytes(field: &'static str, text: &str) -> Result<u64, SettingsError> {
    let amount: Quantity = text.parse().map_err(|error| wrong(field, format!("{text}: {error}")))?;
    let value = u64::try_from(amount.value()).ok().filter(|value| *value > 0);
    value.ok_or_else(|| wrong(field, format!("{text} must be positive")))
}

fn amounts(field: &'static str, texts: &Texts) -> Result<ResourceList, SettingsError> {
    let read = |(name, text): (&String, &String)| {
        let known = ["cpu", "memory", "ephemeral-storage", "pid"].contains(&name.as_str());
        let amount = text.parse::<Quantity>().ok().filter(|amount| known && !amount.is_negative());
        Ok((name.clone(), amount.ok_or_else(|| wrong(field, format!("{name}: {text} cannot be set aside")))?))
    };
    texts.iter().map(read).collect()
}

/// As Go writes it: `1h30m`, `1.5s`, `300ms`.
fn duration(field: &'static str, text: &str) -> Result<Duration, SettingsError> {
    let why = || wrong(field, format!("{text} is no duration such as 1m30s"));
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() && text != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(why)?;
        let (number, more) = rest.split_at(digits);
        let unit = more.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(more.len());
        let (unit, left) = more.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(why()),
        };
        let number: f64 = number.parse().map_err(|_| why())?;
        sum += Duration::try_from_secs_f64(number * seconds).map_err(|_| why())?;
        rest = left;
    }
    if text.is_empty() { Err(why()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(fields: &str) -> Result<Settings, SettingsError> {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        read(format!("{head}{fields}").as_bytes())
    }

    #[test]
    fn a_file_without_fields_changes_nothing() {
        assert_eq!(settings("").expect("settings"), Settings::default());
        assert!(matches!(read(b"kind: Pod"), Err(SettingsError::Kind)));
    }

    #[test]
    fn thresholds() {
        let told = |fields: &str| -> Vec<String> {
            let eviction = settings(fields).expect("settings").eviction;
            let line = |t: &Threshold| format!("{} {:?} {:?} {:?}", t.signal.name(), t.least, t.grace, t.reclaim);
            eviction.thresholds.iter().map(line).collect()
        };
        assert_eq!(
            told(
                "evictionHard: {pid.available: 10%, memory.available: 1Gi, nodefs.available: 0%}\n\
                  evictionMinimumReclaim: {pid.available: \"5\"}"
            ),
            [
                "memory.available Of(1073741824) 0ns None",
                "allocatableMemory.available Of(1073741824) 0ns None",
                "pid.available Share(0.1) 0ns Some(Of(5))",
            ]
        );
        let soft = "evictionSoft: {imagefs.available: 20%}\nevictionSoftGracePeriod: {imagefs.available: 1m30s}";
        assert_eq!(told(soft).last().expect("one"), "imagefs.available Share(0.2) 90s None");
        assert_eq!(told(soft).len(), Threshold::defaults().len() + 1);
        let merged = told("evictionHard: {memory.available: 0%}\nmergeDefaultEvictionSettings: true");
        assert_eq!(merged.len(), Threshold::defaults().len() - 2, "{merged:?}");
    }

    #[test]
    fn processors_and_memory_of_ones_own() {
        let told = settings(
            "cpuManagerPolicy: static\nmemoryManagerPolicy: Static\ntopologyManagerPolicy: restricted\n\
             topologyManagerScope: pod\nreservedSystemCPUs: 0-1\nkubeReserved: {memory: 400Mi}\n\
             reservedMemory: [{numaNode: 0, limits: {memory: 500Mi}}]",
        );
        let policy = told.expect("settings").pinning;
        assert!(policy.cpus && policy.memory && policy.whole_pods);
        assert_eq!((policy.alignment, policy.reserved_count), (Alignment::Restricted, 2));
        assert_eq!(policy.reserved_memory[&0], 500 << 20);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (fields, told) in [
            ("evictionHard: {memory.free: 1Gi}", "evictionHard: there is no eviction signal memory.free"),
            ("evictionHard: {memory.available: 110%}", "evictionHard: 110% is no share of a whole"),
            ("evictionSoft: {pid.available: 5%}", "evictionSoftGracePeriod: a grace period must be specified"),
            ("evictionPressureTransitionPeriod: soon", "evictionPressureTransitionPeriod: soon is no duration"),
            ("systemReserved: {cpu: \"-1\"}", "systemReserved: cpu: -1 cannot be set aside"),
            (
                "shutdownGracePeriod: 10s\nshutdownGracePeriodCriticalPods: 20s",
                "shutdownGracePeriodCriticalPods: must not be more",
            ),
            ("shutdownGracePeriod: 10ms", "shutdownGracePeriod: must be nothing or at least a second"),
            (
                "shutdownGracePeriod: 10s\nshutdownGracePeriodByPodPriority: [{priority: 1}]",
                "shutdownGracePeriodByPodPriority: cannot be beside shutdownGracePeriod",
            ),
            ("cpuManagerPolicy: dynamic", "cpuManagerPolicy: dynamic is none of none, static"),
            ("cpuManagerPolicy: static", "cpuManagerPolicy: static needs processors"),
            ("memoryManagerPolicy: Static", "reservedMemory: 0 bytes are not the 104857600"),
            ("containerLogMaxFiles: 1", "containerLogMaxFiles: must be greater than 1"),
            ("maxPods: many", "invalid type"),
        ] {
            let error = settings(fields).expect_err(fields).to_string();
            assert!(error.starts_with(told), "{fields}: {error}");
        }
        assert_eq!(settings("readOnlyPort: 0").expect("settings").unheeded, ["readOnlyPort"]);
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (text, millis) in [("0", 0), ("1h30m", 5_400_000), ("1.5s", 1500), ("300ms", 300)] {
            assert_eq!(duration("f", text).expect(text), Duration::from_millis(millis));
        }
        assert!(["", "5", "5x", "-1s"].iter().all(|text| duration("f", text).is_err()));
    }
}
