//! Arguments of plugins (`pluginConfig`).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAffinity as NodeAffinityTerms, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ConfigError;
use crate::framework::Plugin;
use crate::plugins::scoring::{Scorer, Strategy, Weighed, cpu_and_memory};
use crate::plugins::{
    BalancedAllocation, Ignored, InterPodAffinity, NodeAffinity, NodeResourcesFit, PodTopologySpread,
};
use crate::profile::Preemption;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct FitArgs {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<StrategyArgs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StrategyArgs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    resources: Vec<ResourceArgs>,
    requested_to_capacity_ratio: Option<RatioArgs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceArgs {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RatioArgs {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BalanceArgs {
    resources: Vec<ResourceArgs>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct AffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct NodeAffinityArgs {
    added_affinity: Option<NodeAffinityTerms>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<usize>,
    min_candidate_nodes_absolute: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct VolumeArgs {
    bind_timeout_seconds: Option<u64>,
}

/// Arguments name their own kind and version; nothing at all is no argument.
fn read<T: Default + DeserializeOwned>(place: &str, args: &Value) -> Result<T, ConfigError> {
    let mut args = args.clone();
    let Some(fields) = args.as_object_mut() else { return Ok(T::default()) };
    fields.remove("apiVersion");
    fields.remove("kind");
    serde_json::from_value(args).map_err(|source| ConfigError::Field { place: place.to_owned(), source })
}

fn weighed(place: &str, resources: Vec<ResourceArgs>) -> Result<Vec<Weighed>, ConfigError> {
    if resources.is_empty() {
        return Ok(cpu_and_memory());
    }
    let one = |resource: ResourceArgs| match if resource.weight == 0 { 1 } else { resource.weight } {
        weight @ 1..=100 => Ok(Weighed { name: resource.name, weight }),
        other => Err(ConfigError::value(place, format!("weight {other} is not in the range 1 to 100"))),
    };
    resources.into_iter().map(one).collect()
}

fn scorer(place: &str, args: StrategyArgs) -> Result<Scorer, ConfigError> {
    let strategy = match (args.kind.as_str(), args.requested_to_capacity_ratio) {
        ("LeastAllocated", None) => Strategy::LeastAllocated,
        ("MostAllocated", None) => Strategy::MostAllocated,
        ("RequestedToCapacityRatio", Some(ratio)) => {
            let rising = ratio.shape.windows(2).all(|pair| pair[0].utilization < pair[1].utilization);
            let within = ratio.shape.iter().all(|p| (0..=100).contains(&p.utilization) && (0..=10).contains(&p.score));
            if ratio.shape.is_empty() || !rising || !within {
                let why = "the shape's utilization must rise from 0 to 100 at most, with scores from 0 to 10";
                return Err(ConfigError::value(place, why));
            }
            Strategy::RequestedToCapacityRatio(ratio.shape.iter().map(|p| (p.utilization, p.score * 10)).collect())
        }
        (kind, _) => {
            return Err(ConfigError::value(place, format!("scoring strategy {kind} makes no sense like this")));
        }
    };
    Ok(Scorer { strategy, resources: weighed(place, args.resources)? })
}

/// NodeResourcesFit, which does not look at these resources either.
pub(super) fn fit(place: &str, args: &Value, ignored: &[String]) -> Result<NodeResourcesFit, ConfigError> {
    let args: FitArgs = read(place, args)?;
    let names = args.ignored_resources.into_iter().chain(ignored.iter().cloned()).collect();
    let ignored = Ignored { names, groups: args.ignored_resource_groups };
    let scorer = args.scoring_strategy.map(|args| scorer(place, args)).transpose()?.unwrap_or_default();
    Ok(NodeResourcesFit { scorer: Arc::new(scorer), ignored: Arc::new(ignored) })
}

/// A plugin with its arguments; `None`: it takes none. `ignored` are resources that others look after.
pub(super) fn plugin(
    place: &str,
    name: &str,
    args: &Value,
    ignored: &[String],
) -> Result<Option<Box<dyn Plugin>>, ConfigError> {
    Ok(Some(match name {
        "NodeResourcesFit" => Box::new(fit(place, args, ignored)?),
        "NodeResourcesBalancedAllocation" => {
            let args: BalanceArgs = read(place, args)?;
            Box::new(BalancedAllocation { resources: Arc::new(weighed(place, args.resources)?) })
        }
        "InterPodAffinity" => {
            let args: AffinityArgs = read(place, args)?;
            let hard_weight = args.hard_pod_affinity_weight.unwrap_or(1);
            if !(0..=100).contains(&hard_weight) {
                return Err(ConfigError::value(place, "hardPodAffinityWeight is not in the range 0 to 100"));
            }
            let ignore_preferred_of_existing = args.ignore_preferred_terms_of_existing_pods;
            Box::new(InterPodAffinity { hard_weight, ignore_preferred_of_existing })
        }
        "NodeAffinity" => Box::new(NodeAffinity::new(read::<NodeAffinityArgs>(place, args)?.added_affinity)),
        "PodTopologySpread" => {
            let args: SpreadArgs = read(place, args)?;
            match args.defaulting_type.as_deref() {
                None | Some("System") if args.default_constraints.is_empty() => Box::new(PodTopologySpread::default()),
                Some("List") if args.default_constraints.iter().all(|c| c.label_selector.is_none()) => {
                    Box::new(PodTopologySpread::with_defaults(args.default_constraints))
                }
                _ => {
                    let why = "default constraints need defaultingType List, and have no labelSelector";
                    return Err(ConfigError::value(place, why));
                }
            }
        }
        _ => return Ok(None),
    }))
}

/// Arguments of DefaultPreemption.
pub(super) fn preemption(place: &str, args: &Value) -> Result<Preemption, ConfigError> {
    let (args, default): (PreemptionArgs, _) = (read(place, args)?, Preemption::default());
    let percentage = args.min_candidate_nodes_percentage.unwrap_or(default.percentage);
    if percentage > 100 {
        return Err(ConfigError::value(place, "minCandidateNodesPercentage is not in the range 0 to 100"));
    }
    Ok(Preemption { percentage, absolute: args.min_candidate_nodes_absolute.unwrap_or(default.absolute) })
}

/// Arguments of VolumeBinding.
pub(super) fn volume_timeout(place: &str, args: &Value) -> Result<Option<Duration>, ConfigError> {
    Ok(read::<VolumeArgs>(place, args)?.bind_timeout_seconds.map(Duration::from_secs))
}
