//! The file itself, and what its values mean.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use skiff_api::resources::{self, ResourceList};
use skiff_meta::Quantity;
use skiff_meta::codec::yaml;

use super::{Eviction, Settings, SettingsError};
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
    container_log_max_size: Option<String>,
    container_log_max_files: Option<usize>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
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
    Ok(Settings {
        max_pods: file.max_pods.unwrap_or(known.max_pods),
        eviction: eviction(&file)?,
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
