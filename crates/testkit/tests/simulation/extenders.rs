//! Extenders of a scheduler: what they say counts, and what they do not say does not stop others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::config::Remote;
use skiff_client::{Backend, Body, ClientError, Event, ListTarget, Patch};
use skiff_meta::world::Task;
use skiff_scheduler::Config;
use skiff_scheduler::extender::{Extender, Settings};
use skiff_scheduler::profile::Profile;
use skiff_server::chain::User;
use skiff_testkit::cluster::Seen;
use skiff_testkit::{Cluster, Options, Sim};
use tokio::sync::watch;

use crate::scheduling::{class, create, give_units, node_of, placed, pod, reason};
use crate::support::{cluster, run};

/// From a verb and a question to an answer; `None`: it fails.
type Answer = Arc<dyn Fn(&str, &Value) -> Option<Value> + Send + Sync>;

/// An extender, and what it was asked.
#[derive(Clone)]
struct Fake {
    answer: Answer,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Was asked once more.
    again: Arc<watch::Sender<()>>,
}

impl Fake {
    fn new(answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        Self { answer: Arc::new(answer), asked: Arc::default(), again: Arc::default() }
    }

    /// Waits for the first question of this verb.
    async fn question(&self, verb: &str) -> Value {
        let first = || self.asked.lock().iter().find(|(asked, _)| asked == verb).map(|(_, question)| question.clone());
        self.again.subscribe().wait_for(|()| first().is_some()).await.unwrap();
        first().unwrap()
    }

    fn was_asked(&self, verb: &str) -> usize {
        self.asked.lock().iter().filter(|(asked, _)| asked == verb).count()
    }
}

impl Backend for Fake {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let verb = request.uri().path().trim_start_matches('/').to_owned();
        let question: Value = serde_json::from_slice(request.body()).unwrap();
        let answer = (self.answer)(&verb, &question);
        self.asked.lock().push((verb, question));
        self.again.send_replace(());
        Box::pin(async move {
            let answer = answer.ok_or_else(|| ClientError::Transport("nobody is there".to_owned()))?;
            let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
            Ok(Response::new(body))
        })
    }
    fn list_watch(&self, _: ListTarget) -> BoxStream<'static, Event> {
        Box::pin(futures::stream::pending())
    }
    fn remote(&self) -> Option<Arc<Remote>> {
        None
    }
}

/// A second scheduler, called `extended`, with these extenders.
fn schedule(sim: &Sim, cluster: &Cluster, extenders: Vec<(Fake, Settings)>) -> Task {
    let extender = |(fake, settings)| Extender::new(settings, Arc::new(fake), sim.world());
    let config = Config {
        profiles: vec![Profile { name: "extended".to_owned(), ..Profile::default() }],
        extenders: extenders.into_iter().map(extender).collect(),
        ..Config::default()
    };
    let client = cluster.client(User::new("system:kube-scheduler", &["system:authenticated"]));
    let options = skiff_scheduler::Options { config, ..Default::default() };
    sim.world().spawn("extended", Box::pin(skiff_scheduler::run(client, sim.world(), options)))
}

fn settings() -> Settings {
    Settings { url: "extender".to_owned(), knows_nodes: true, timeout: Duration::from_secs(5), ..Settings::default() }
}

async fn extended(cluster: &Cluster, name: &str, units: u32, other: Value) {
    let mut spec = json!({"schedulerName": "extended"});
    spec.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    create(cluster, pod(name, units, spec)).await;
}

/// Runs a story with a scheduler that has these extenders.
fn tell(seed: u64, extenders: Vec<(Fake, Settings)>, story: impl AsyncFnOnce(&Cluster)) {
    let (sim, cluster) = cluster(seed, &Options::default());
    let _scheduler = schedule(&sim, &cluster, extenders);
    run(&sim, seed, "story", async {
        give_units(&cluster, 3).await;
        story(&cluster).await;
    });
    sim.run_for(Duration::from_secs(1));
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn extenders_choose_among_nodes() {
    let licensed = Arc::new(Mutex::new(vec!["node-1", "node-2"]));
    let known = licensed.clone();
    let picky = Fake::new(move |verb, question| {
        let names = question["NodeNames"].as_array().unwrap();
        let has = |name: &Value| known.lock().iter().any(|known| name == known);
        Some(match verb {
            "filter" => {
                let failed: serde_json::Map<_, _> = names
                    .iter()
                    .filter(|name| !has(name))
                    .map(|name| (name.as_str().unwrap().to_owned(), json!("no licence")))
                    .collect();
                json!({"NodeNames": names.iter().filter(|name| has(name)).collect::<Vec<_>>(), "FailedNodes": failed})
            }
            _ => json!([{"Host": "node-1", "Score": 0}, {"Host": "node-2", "Score": 10}]),
        })
    });
    let broken = Fake::new(|_, _| None);
    let verbs = Settings { filter: "filter".to_owned(), prioritize: "prioritize".to_owned(), weight: 3, ..settings() };
    let only_units = Settings { resources: vec!["example.com/unit".to_owned()], ..verbs.clone() };
    let ignored = Settings { is_ignorable: true, ..verbs };
    tell(51, vec![(broken.clone(), ignored), (picky.clone(), only_units)], async |cluster| {
        extended(cluster, "best", 1, json!({})).await;
        assert_eq!(placed(cluster, "best").await, "node-2", "its own scores decide");
        *licensed.lock() = vec!["node-1"];
        extended(cluster, "only", 1, json!({})).await;
        assert_eq!(placed(cluster, "only").await, "node-1");
        let before = picky.was_asked("filter");
        extended(cluster, "plain", 0, json!({})).await;
        placed(cluster, "plain").await;
        assert_eq!(picky.was_asked("filter"), before, "it is asked about what it looks after");
        assert!(broken.was_asked("filter") >= 3);

        licensed.lock().clear();
        extended(cluster, "never", 1, json!({})).await;
        let (why, message) = reason(cluster, "never").await;
        assert_eq!(why, "Unschedulable");
        assert!(message.starts_with("0/3 nodes are available: 3 no licence. "), "{message}");
        // Whatever happens is a reason to ask again.
        *licensed.lock() = vec!["node-0"];
        let label = Patch::Merge(json!({"metadata": {"labels": {"new": "label"}}}));
        cluster.admin().all::<Node>().patch("node-1", &label).await.unwrap();
        assert_eq!(placed(cluster, "never").await, "node-0");
    });
}

#[test]
fn an_extender_that_is_needed_stops_what_it_does_not_answer() {
    let broken = Fake::new(|_, _| None);
    tell(52, vec![(broken, Settings { filter: "filter".to_owned(), ..settings() })], async |cluster| {
        extended(cluster, "stopped", 0, json!({})).await;
        let (why, message) = reason(cluster, "stopped").await;
        assert_eq!((&*why, &*message), ("SchedulerError", "extender \"extender\": nobody is there"));
    });
}

#[test]
fn extenders_bind_and_bound_who_goes() {
    // Room is made on one node alone, whatever the scheduler prefers.
    let strict = Fake::new(|verb, question| {
        let asked = &question["NodeNameToMetaVictims"];
        Some(match verb {
            "preempt" => json!({"NodeNameToMetaVictims": {"node-1": asked["node-1"]}}),
            // Whoever binds does so by himself, here the test.
            _ => json!({"Error": ""}),
        })
    });
    let verbs = Settings { preempt: "preempt".to_owned(), bind: "bind".to_owned(), ..settings() };
    tell(53, vec![(strict.clone(), verbs)], async |cluster| {
        class(cluster, "low", 1, "PreemptLowerPriority").await;
        class(cluster, "high", 1000, "PreemptLowerPriority").await;
        for number in 0..3 {
            let on = json!({"priorityClassName": "low", "nodeSelector": {"kubernetes.io/hostname": format!("node-{number}")}});
            create(cluster, pod(&format!("low-{number}"), 2, on)).await;
            placed(cluster, &format!("low-{number}")).await;
        }
        extended(cluster, "high", 2, json!({"priorityClassName": "high"})).await;
        let gone = |seen: &Seen<Pod>| !seen.contains_key(&("default".to_owned(), "low-1".to_owned()));
        cluster.until("default", gone).await;
        let asked = strict.question("bind").await;
        assert_eq!((&asked["PodName"], &asked["Node"]), (&json!("high"), &json!("node-1")));
        let pods = cluster.admin().namespaced::<Pod>("default");
        assert_eq!(node_of(&pods.get("high").await.unwrap()), "", "the scheduler leaves it to whom it asked");
        pods.bind("high", asked["PodUID"].as_str().unwrap(), "node-1").await.unwrap();
        assert_eq!(placed(cluster, "high").await, "node-1");
        for other in ["low-0", "low-2"] {
            assert!(!skiff_api::pods::is_terminating(&pods.get(other).await.unwrap()), "{other} stays");
        }
    });
}
