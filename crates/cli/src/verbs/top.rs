//! `top node` and `top pod`: what is used now, as `metrics.k8s.io` measures it.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::Value;
use skiff_meta::Quantity;

use crate::error::CliError;
use crate::output::{items, table};
use crate::session::Session;
use crate::targets::with_query;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// Display resource (CPU/memory) usage.
#[derive(Args)]
pub struct Top {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Usage of nodes
    #[command(visible_aliases = ["nodes", "no"])]
    Node(Shown),
    /// Usage of pods
    #[command(visible_aliases = ["pods", "po"])]
    Pod {
        #[command(flatten)]
        shown: Shown,
        /// A line per container
        #[arg(long)]
        containers: bool,
        /// A line with the sum
        #[arg(long)]
        sum: bool,
    },
}

#[derive(Args)]
struct Shown {
    /// Its name; all without one
    name: Option<String>,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// cpu or memory, the most first
    #[arg(long)]
    sort_by: Option<String>,
    /// Leave out the heading
    #[arg(long)]
    no_headers: bool,
}

/// CPU in thousandths and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    cpu: i64,
    memory: i64,
}

impl Usage {
    fn read(amounts: &Value) -> Self {
        let of = |name: &str| Quantity::from_json(&amounts[name]).ok();
        Self { cpu: of("cpu").map_or(0, Quantity::milli), memory: of("memory").map_or(0, Quantity::value) }
    }
    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }
    fn cells(self) -> [String; 2] {
        [format!("{}m", self.cpu), format!("{}Mi", self.memory / (1 << 20))]
    }
}

impl Top {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        match &self.what {
            What::Node(shown) => nodes(session, shown).await,
            What::Pod { shown, containers, sum } => pods(session, shown, *containers, *sum).await,
        }
    }
}

impl Shown {
    /// What is measured under a path: one object by its name, or those of the selector.
    async fn fetch(&self, session: &Session, path: &str) -> Result<Vec<Value>, CliError> {
        let path = match &self.name {
            Some(name) => format!("{path}/{name}"),
            None => with_query(path, &[("labelSelector", &self.selector)]),
        };
        match session.wire.get(&path).await {
            // Of a named object it may be only that which is missing.
            Err(error) if error.is_not_found() && self.name.is_none() => {
                Err(CliError::usage("Metrics API not available"))
            }
            found => Ok(items(&found?)),
        }
    }

    fn sort<T>(&self, rows: &mut [T], usage: impl Fn(&T) -> Usage) -> Result<(), CliError> {
        match self.sort_by.as_deref() {
            None | Some("") => {}
            Some("cpu") => rows.sort_by_key(|row| std::cmp::Reverse(usage(row).cpu)),
            Some("memory") => rows.sort_by_key(|row| std::cmp::Reverse(usage(row).memory)),
            Some(_) => return Err(CliError::usage("--sort-by accepts only cpu or memory")),
        }
        Ok(())
    }

    fn print(&self, session: &mut Session, headings: &[&str], rows: Vec<Vec<String>>) -> Result<(), CliError> {
        let headings = headings.iter().map(|text| (*text).to_owned()).collect();
        let rows: Vec<_> = (!self.no_headers).then_some(headings).into_iter().chain(rows).collect();
        session.print(&table::align(&rows))
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

async fn nodes(session: &mut Session, shown: &Shown) -> Result<(), CliError> {
    let mut measured = shown.fetch(session, &format!("{METRICS}/nodes")).await?;
    let mut rooms: BTreeMap<String, Usage> = shown
        .fetch(session, "/api/v1/nodes")
        .await?
        .iter()
        .map(|n| (name_of(n), Usage::read(&n["status"]["allocatable"])))
        .collect();
    measured.sort_by_cached_key(name_of);
    shown.sort(&mut measured, |node| Usage::read(&node["usage"]))?;
    let percent = |used: i64, of: i64| format!("{}%", if of == 0 { 0 } else { used * 100 / of });
    let mut rows = Vec::new();
    for node in &measured {
        let (name, usage) = (name_of(node), Usage::read(&node["usage"]));
        let room = rooms.remove(&name).unwrap_or_default();
        let [cpu, memory] = usage.cells();
        rows.push(vec![name, cpu, percent(usage.cpu, room.cpu), memory, percent(usage.memory, room.memory)]);
    }
    let unknown = || "<unknown>".to_owned();
    rows.extend(rooms.into_keys().map(|name| vec![name, unknown(), unknown(), unknown(), unknown()]));
    shown.print(session, &["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"], rows)
}

async fn pods(session: &mut Session, shown: &Shown, containers: bool, sum: bool) -> Result<(), CliError> {
    // A name is of one namespace.
    let all = session.all_namespaces && shown.name.is_none();
    let place = if all { String::new() } else { format!("/namespaces/{}", session.namespace) };
    let mut measured = shown.fetch(session, &format!("{METRICS}{place}/pods")).await?;
    if measured.is_empty() {
        let place = if all { String::new() } else { format!(" in {} namespace", session.namespace) };
        session.warn(&format!("No resources found{place}."));
        return Ok(());
    }
    measured
        .sort_by_cached_key(|pod| (pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(), name_of(pod)));
    shown.sort(&mut measured, of_pod)?;
    let mut rows = Vec::new();
    for pod in &measured {
        let before = all.then(|| pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
        let before: Vec<String> = before.into_iter().chain([name_of(pod)]).collect();
        if !containers {
            rows.push(before.into_iter().chain(of_pod(pod).cells()).collect());
            continue;
        }
        let mut parts: Vec<Value> = pod["containers"].as_array().cloned().unwrap_or_default();
        parts.sort_by_cached_key(|part| part["name"].as_str().unwrap_or_default().to_owned());
        shown.sort(&mut parts, |part| Usage::read(&part["usage"]))?;
        for part in &parts {
            let name = part["name"].as_str().unwrap_or_default().to_owned();
            rows.push(before.iter().cloned().chain([name]).chain(Usage::read(&part["usage"]).cells()).collect());
        }
    }
    let mut headings = if containers { vec!["POD", "NAME"] } else { vec!["NAME"] };
    if all {
        headings.insert(0, "NAMESPACE");
    }
    headings.extend(["CPU(cores)", "MEMORY(bytes)"]);
    if sum {
        let total = measured.iter().map(of_pod).fold(Usage::default(), Usage::plus);
        let empty = std::iter::repeat_n(String::new(), headings.len() - 2);
        rows.push(empty.clone().chain(["________".to_owned(), "________".to_owned()]).collect());
        rows.push(empty.chain(total.cells()).collect());
    }
    shown.print(session, &headings, rows)
}

fn of_pod(pod: &Value) -> Usage {
    let parts = pod["containers"].as_array().into_iter().flatten();
    parts.map(|part| Usage::read(&part["usage"])).fold(Usage::default(), Usage::plus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sums_of_containers() {
        let pod = json!({"containers": [{"usage": {"cpu": "1500000n", "memory": "1Mi"}}, {"usage": {"cpu": "2m", "memory": "1024Ki"}}]});
        assert_eq!(of_pod(&pod), Usage { cpu: 4, memory: 2 << 20 });
        assert_eq!(of_pod(&pod).cells(), ["4m", "2Mi"]);
    }
}
