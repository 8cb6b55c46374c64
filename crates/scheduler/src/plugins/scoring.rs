//! Strategies of NodeResourcesFit: how well a node's resources suit a pod.

use skiff_meta::Quantity;
use skiff_meta::quantity::Format;

use crate::cluster::{NodeInfo, PodInfo};
use crate::framework::MAX_SCORE;

/// A resource and how much it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// `cpu`, `memory`, or another.
    pub name: String,
    /// Its weight.
    pub weight: i64,
}

/// CPU and memory, the same weight.
pub fn cpu_and_memory() -> Vec<Weighed> {
    ["cpu", "memory"].map(|name| Weighed { name: name.to_owned(), weight: 1 }).into()
}

/// Which nodes are better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The emptier ones.
    LeastAllocated,
    /// The fuller ones.
    MostAllocated,
    /// A curve of (utilization in percent, score from 0 to 100).
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A strategy over some resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scorer {
    /// Which nodes are better.
    pub strategy: Strategy,
    /// The resources that count.
    pub resources: Vec<Weighed>,
}

impl Default for Scorer {
    fn default() -> Self {
        Self { strategy: Strategy::LeastAllocated, resources: cpu_and_memory() }
    }
}

impl Scorer {
    /// From 0 to 100.
    pub fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for Weighed { name, weight } in &self.resources {
            let (wanted, used) = match name.as_str() {
                "cpu" => (pod.scored.0, node.scored.0),
                "memory" => (pod.scored.1, node.scored.1),
                other => (pod.requests.get(other), node.used.get(other)),
            };
            let has = node.allocatable.get(name);
            let always = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if has == 0 || (wanted == 0 && !always) {
                continue;
            }
            let score = self.strategy.score(used + wanted, has);
            if score > 0 || !matches!(self.strategy, Strategy::RequestedToCapacityRatio(_)) {
                sum += score * weight;
                weights += weight;
            }
        }
        match (&self.strategy, weights) {
            (_, 0) => 0,
            (Strategy::RequestedToCapacityRatio(_), _) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }
}

impl Strategy {
    fn score(&self, wanted: i64, has: i64) -> i64 {
        match self {
            Self::LeastAllocated => (has - wanted).max(0) * MAX_SCORE / has,
            Self::MostAllocated => wanted.min(has) * MAX_SCORE / has,
            Self::RequestedToCapacityRatio(shape) => {
                broken_line(shape, if wanted > has { 100 } else { wanted * 100 / has })
            }
        }
    }
}

/// The height of a line through points, level before the first and after the last.
fn broken_line(points: &[(i64, i64)], at: i64) -> i64 {
    let Some(next) = points.iter().position(|(x, _)| at <= *x) else { return points.last().map_or(0, |(_, y)| *y) };
    if next == 0 {
        return points[0].1;
    }
    let ((x0, y0), (x1, y1)) = (points[next - 1], points[next]);
    y0 + (y1 - y0) * (at - x0) / (x1 - x0)
}

/// An amount as people write it.
pub fn shown(name: &str, amount: i64) -> String {
    match name {
        "cpu" => Quantity::from_milli(amount, Format::DecimalSi),
        "memory" | "ephemeral-storage" => Quantity::new(amount, Format::BinarySi),
        _ => Quantity::new(amount, Format::DecimalSi),
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies() {
        let curve = Strategy::RequestedToCapacityRatio(vec![(0, 0), (50, 100), (100, 20)]);
        for (strategy, wanted, has, expected) in [
            (Strategy::LeastAllocated, 25, 100, 75),
            (Strategy::LeastAllocated, 120, 100, 0),
            (Strategy::MostAllocated, 25, 100, 25),
            (Strategy::MostAllocated, 120, 100, 100),
            (curve.clone(), 25, 100, 50),
            (curve.clone(), 75, 100, 60),
            (curve.clone(), 120, 100, 20),
            (curve, 0, 100, 0),
        ] {
            assert_eq!(strategy.score(wanted, has), expected, "{strategy:?} {wanted}/{has}");
        }
    }
}
