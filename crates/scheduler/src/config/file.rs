//! The file's form, and how it becomes profiles.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use skiff_meta::WorldRef;

use super::args;
use super::extenders::{ExtenderArgs, extenders, ignored};
use super::{Config, ConfigError};
use crate::profile::{Preemption, Profile, Slot, default_slots};
use crate::queue::Pauses;

/// The file. Fields about matters that are settled elsewhere (ports, leader election, clients) are taken and not used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default, rename = "parallelism")]
    _parallelism: Option<i64>,
    #[serde(default, rename = "leaderElection")]
    _leader_election: Option<Value>,
    #[serde(default, rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(default, rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(default, rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(default, rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    #[serde(default)]
    extenders: Vec<ExtenderArgs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: BTreeMap<String, PluginSet>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginSet {
    #[serde(default)]
    enabled: Vec<PluginRef>,
    #[serde(default)]
    disabled: Vec<PluginRef>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginRef {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

impl PluginSet {
    fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|plugin| plugin.name == "*" || plugin.name == name)
    }
    fn enables(&self, name: &str) -> Option<&PluginRef> {
        self.enabled.iter().find(|plugin| plugin.name == name)
    }
}

/// Plugins that neither filter nor score: they are part of the scheduler itself.
const BUILT_IN: &[&str] = &["SchedulingGates", "PrioritySort", "DefaultPreemption", "DefaultBinder"];
/// Extension points, besides `multiPoint`.
const POINTS: &[&str] = &[
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
];

fn percentage(place: &str, percentage: Option<i64>) -> Result<Option<usize>, ConfigError> {
    match percentage {
        None | Some(0) => Ok(None),
        Some(share @ 1..=100) => Ok(usize::try_from(share).ok()),
        Some(other) => Err(ConfigError::value(place, format!("{other} is not in the range 0 to 100"))),
    }
}

impl File {
    pub(super) fn config(mut self, world: &WorldRef) -> Result<Config, ConfigError> {
        if self.profiles.is_empty() {
            self.profiles.push(FileProfile::default());
        }
        let pauses = Pauses {
            first: Duration::from_secs(self.pod_initial_backoff_seconds.unwrap_or(1)),
            longest: Duration::from_secs(self.pod_max_backoff_seconds.unwrap_or(10)),
            ..Pauses::default()
        };
        if pauses.longest < pauses.first {
            return Err(ConfigError::value("podMaxBackoffSeconds", "is less than podInitialBackoffSeconds"));
        }
        let share = percentage("percentageOfNodesToScore", self.percentage_of_nodes_to_score)?;
        let ignored = ignored(&self.extenders);
        let extenders = extenders(self.extenders, world)?;
        let mut config = Config { profiles: Vec::new(), pauses, extenders, ..Config::default() };
        let mut names = BTreeSet::new();
        for (number, file) in self.profiles.iter().enumerate() {
            let place = format!("profiles[{number}]");
            let (mut profile, timeout) = file.profile(&place, &ignored)?;
            profile.percentage_of_nodes_to_score = profile.percentage_of_nodes_to_score.or(share);
            if !names.insert(profile.name.clone()) {
                return Err(ConfigError::value(place, format!("the schedulerName {} is there twice", profile.name)));
            }
            config.volume_timeout = timeout.unwrap_or(config.volume_timeout);
            config.profiles.push(profile);
        }
        Ok(config)
    }
}

impl FileProfile {
    /// The profile, and how long volumes have to be bound; `ignored` are resources that others look after.
    fn profile(&self, place: &str, ignored: &[String]) -> Result<(Profile, Option<Duration>), ConfigError> {
        let mut slots = default_slots();
        if !ignored.is_empty() {
            let fit = args::fit(place, &Value::Null, ignored)?;
            slots
                .iter_mut()
                .filter(|s| s.plugin.name() == "NodeResourcesFit")
                .for_each(|s| s.plugin = Box::new(fit.clone()));
        }
        let mut preemption = Preemption::default();
        let mut timeout = None;
        for PluginConfig { name, args } in &self.plugin_config {
            let place = format!("{place}.pluginConfig {name}");
            match name.as_str() {
                "DefaultPreemption" => preemption = args::preemption(&place, args)?,
                "VolumeBinding" => timeout = args::volume_timeout(&place, args)?,
                other => {
                    let slot = slots.iter_mut().find(|slot| slot.plugin.name() == other);
                    let slot = slot.ok_or_else(|| ConfigError::value(&place, "there is no such plugin"))?;
                    if let Some(plugin) = args::plugin(&place, other, args, ignored)? {
                        slot.plugin = plugin;
                    }
                }
            }
        }
        self.check_names(place, &slots)?;
        let set = |point: &str| self.plugins.get(point).cloned().unwrap_or_default();
        let multi = set("multiPoint");
        let on = |name: &str, point: &str| {
            let own = set(point);
            let by_default = multi.enables(name).is_some() || !multi.disables(name);
            own.enables(name).is_some() || (by_default && !own.disables(name))
        };
        if !on("DefaultBinder", "bind") {
            return Err(ConfigError::value(place, "at least one bind plugin is needed: enable DefaultBinder"));
        }
        if !on("PrioritySort", "queueSort") {
            return Err(ConfigError::value(place, "a queue sort plugin is needed: enable PrioritySort"));
        }
        let score = set("score");
        for slot in &mut slots {
            let name = slot.plugin.name();
            slot.filter = on(name, "filter") && on(name, "preFilter");
            let weight =
                [score.enables(name), multi.enables(name)].into_iter().flatten().map(|p| p.weight).find(|w| *w > 0);
            let wanted = weight.unwrap_or(slot.weight);
            slot.weight = if on(name, "score") && on(name, "preScore") { wanted } else { 0 };
        }
        order(&mut slots, &multi);
        let profile = Profile {
            name: self.scheduler_name.clone().unwrap_or_else(|| crate::NAME.to_owned()),
            slots,
            preemption: on("DefaultPreemption", "postFilter").then_some(preemption),
            percentage_of_nodes_to_score: percentage(place, self.percentage_of_nodes_to_score)?,
        };
        Ok((profile, timeout))
    }

    fn check_names(&self, place: &str, slots: &[Slot]) -> Result<(), ConfigError> {
        for (point, set) in &self.plugins {
            let place = format!("{place}.plugins.{point}");
            if point != "multiPoint" && !POINTS.contains(&point.as_str()) {
                return Err(ConfigError::value(place, "there is no such extension point"));
            }
            let known = |name: &str| BUILT_IN.contains(&name) || slots.iter().any(|slot| slot.plugin.name() == name);
            let unknown = set.enabled.iter().find(|plugin| !known(&plugin.name));
            if let Some(PluginRef { name, .. }) = unknown {
                return Err(ConfigError::value(place, format!("plugin {name:?} does not exist")));
            }
        }
        Ok(())
    }
}

/// With all defaults disabled, plugins filter in the order in which they are enabled.
fn order(slots: &mut [Slot], multi: &PluginSet) {
    if multi.disabled.iter().any(|plugin| plugin.name == "*") {
        let place = |slot: &Slot| multi.enabled.iter().position(|plugin| plugin.name == slot.plugin.name());
        slots.sort_by_key(|slot| place(slot).unwrap_or(usize::MAX));
    }
}
