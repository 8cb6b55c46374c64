//! How long one write takes to reach a thousand watchers: `watchers KUBECONFIG [WATCHERS [WRITES]]`.
//!
//! A compiled reader, since an interpreted one needs longer to drain its sockets than the server to fill them. Watches
//! share connections, a hundred on each, as those of an informer's process do.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use skiff_client::Backend;
use skiff_client::config::Kubeconfig;
use skiff_client::http::HttpBackend;
use skiff_meta::world::RealWorld;
use tokio::sync::mpsc;

const PATH: &str = "/api/v1/namespaces/default/configmaps";
const PER_CONNECTION: usize = 100;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let kubeconfig = words.next().ok_or("usage: watchers KUBECONFIG [WATCHERS [WRITES]]")?;
    let watchers: usize = words.next().map_or(Ok(1000), |w| w.parse())?;
    let writes: usize = words.next().map_or(Ok(50), |w| w.parse())?;
    let remote = Kubeconfig::load(Path::new(&kubeconfig))?.remote(None)?;
    let backend = || HttpBackend::new(remote.clone(), RealWorld::shared(), "watchers");

    let (seen, mut arrivals) = mpsc::unbounded_channel();
    let version = newest(&backend()?).await?;
    let connections = watchers.div_ceil(PER_CONNECTION);
    let backends = (0..connections).map(|_| backend().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    // Each connection is there before many ask for it at once, else every asker would dial its own.
    for backend in &backends {
        newest(backend).await?;
    }
    join_all((0..watchers).map(|i| watch(backends[i % connections].clone(), version.clone(), seen.clone()))).await;

    let writer = backend()?;
    let mut latencies = Vec::with_capacity(watchers * writes);
    for n in 0..writes {
        let name = format!("w-{}-{n}", std::process::id());
        let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
        let request = Request::post(PATH).header("content-type", "application/json").body(Bytes::from(body))?;
        let begin = Instant::now();
        writer.send(request).await?.into_body().collect().await?;
        for _ in 0..watchers {
            let arrived = tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await?;
            latencies.push(arrived.ok_or("all watches ended")?.saturating_duration_since(begin));
        }
    }
    latencies.sort();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("p50 {:.2} ms p99 {:.2} ms", at(50), at(99));
    Ok(())
}

async fn newest(backend: &HttpBackend) -> Result<String, Failure> {
    let request = Request::get(format!("{PATH}?limit=1")).body(Bytes::new())?;
    let bytes = backend.send(request).await?.into_body().collect().await?.to_bytes();
    let list: serde_json::Value = serde_json::from_slice(&bytes)?;
    Ok(list["metadata"]["resourceVersion"].as_str().ok_or("no resourceVersion")?.to_owned())
}

/// Opens a watch; every event that arrives on it is told with its time.
async fn watch(backend: Arc<HttpBackend>, version: String, seen: mpsc::UnboundedSender<Instant>) {
    let target = format!("{PATH}?watch=true&resourceVersion={version}");
    let Ok(request) = Request::get(target).body(Bytes::new()) else { return };
    let Ok(response) = backend.send(request).await else { return };
    let mut body = response.into_body();
    tokio::spawn(async move {
        let _kept = backend;
        while let Some(Ok(frame)) = body.frame().await {
            let events = frame.data_ref().map_or(0, |data| data.iter().filter(|b| **b == b'\n').count());
            for _ in 0..events {
                let _ = seen.send(Instant::now());
            }
        }
    });
}
