//! What controllers cost: `controllers [DEPLOYMENTS [REPLICAS [NODES]]]` brings many Deployments to Available on hollow
//! nodes, then leaves the cluster alone for a while, and once more with pods that no node takes.
//!
//! API server on the memory store, controllers, scheduler and nodes run in this process, which therefore pays for all.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use skiff_client::Kind;
use skiff_meta::world::RealWorld;
use skiff_testkit::cluster::Seen;
use skiff_testkit::writes::Writes;
use skiff_testkit::{Cluster, Options};

const IDLE: Duration = Duration::from_secs(30);
/// Kernel ticks per second, on every Linux of today.
const TICKS: f64 = 100.0;
/// Pods that fit nowhere.
const HOMELESS: i32 = 300;
/// Creations on their way at the same time.
const AT_ONCE: usize = 16;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Processor time of this process so far, in seconds.
fn processor() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(')').ok_or("no process name in stat")?.1;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// Resident memory, in MiB.
fn memory() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? / 1024)
}

fn deployment(number: usize, replicas: i32) -> Result<Deployment, serde_json::Error> {
    let name = format!("web-{number}");
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "pause", "resources": {"requests": {"cpu": "10m"}}}]},
        }},
    }))
}

/// Waits for as many pods that are known to fit nowhere.
async fn refused(cluster: &Cluster) -> Result<(), Failure> {
    let mut homeless = deployment(usize::MAX, HOMELESS)?;
    let pods = homeless.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).ok_or("no pods")?;
    pods.node_selector = Some([("no".to_owned(), "where".to_owned())].into());
    cluster.admin().namespaced::<Deployment>("default").create(&homeless).await?;
    let refused = |pod: &Pod| skiff_api::pods::condition(pod, "PodScheduled").is_some_and(|c| c.status == "False");
    let all = |seen: &Seen<Pod>| seen.values().filter(|pod| refused(pod)).count() == HOMELESS as usize;
    cluster.until("default", all).await;
    Ok(())
}

/// The share of a core that is used, once what was about to settle has settled.
async fn idle() -> Result<f64, Failure> {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (spent, begin) = (processor()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    Ok((processor()? - spent) / begin.elapsed().as_secs_f64())
}

fn is_available(deployment: &Deployment, replicas: i32) -> bool {
    deployment.status.as_ref().is_some_and(|status| status.available_replicas == Some(replicas))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let deployments: usize = words.next().map_or(Ok(1000), |word| word.parse())?;
    let replicas: i32 = words.next().map_or(Ok(10), |word| word.parse())?;
    let nodes: u8 = words.next().map_or(Ok(100), |word| word.parse())?;
    let options = Options { nodes, slowest_container: Duration::ZERO, ..Options::default() };
    let cluster = Cluster::start(RealWorld::shared(), &options).await?;
    let before = cluster.store().revision().await?;
    let (begin, spent) = (Instant::now(), processor()?);

    let api = cluster.admin().namespaced::<Deployment>("default");
    let created =
        futures::stream::iter(0..deployments).map(|number| {
            let api = &api;
            async move {
                api.create(&deployment(number, replicas)?).await.map(|made| made.uid().len()).map_err(Failure::from)
            }
        });
    let outcomes: Vec<_> = created.buffer_unordered(AT_ONCE).collect().await;
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let all = |seen: &Seen<Deployment>| {
        seen.len() == deployments && seen.values().all(|deployment| is_available(deployment, replicas))
    };
    cluster.until("default", all).await;

    let pods = deployments * usize::try_from(replicas)?;
    let (took, cost) = (begin.elapsed().as_secs_f64(), processor()? - spent);
    println!(
        "{deployments} Deployments x {replicas} replicas on {nodes} nodes: {took:.1} s, {:.0} pods/s",
        pods as f64 / took
    );
    println!("processor time: {cost:.1} s, {:.2} ms a pod", cost * 1e3 / pods as f64);
    println!("memory: {} MiB", memory()?);
    match Writes::since(&**cluster.store(), before).await {
        Ok(writes) => println!("writes: {} ({:.2} a pod)", writes.total(), writes.total() as f64 / pods as f64),
        Err(error) => println!("writes: {error}"),
    }
    println!("idle: {:.2}% of a core", idle().await? * 100.0);
    refused(&cluster).await?;
    println!("idle with {HOMELESS} pods that fit nowhere: {:.2}% of a core", idle().await? * 100.0);
    Ok(())
}
