use super::*;
use crate::backend::{Backend, Body, ClientError};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use skiff_meta::world::RealWorld;
use tokio::sync::mpsc;

/// A backend whose one watch tells what the test sends.
struct Scripted(Mutex<Option<mpsc::UnboundedReceiver<Event>>>);

impl Backend for Scripted {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        Box::pin(async { Err(ClientError::Transport("not scripted".into())) })
    }
    fn list_watch(&self, _: ListTarget) -> BoxStream<'static, Event> {
        let receiver = self.0.lock().take().expect("one watch only: informers are shared");
        futures::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|event| (event, r)) }).boxed()
    }
    fn remote(&self) -> Option<Arc<crate::config::Remote>> {
        None
    }
}

fn pod(name: &str, uid: &str, revision: u64, node: &str) -> Arc<Object> {
    let value = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [], "nodeName": node},
        "metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": revision.to_string()}});
    Arc::new(Object::from_wire(value).expect("a pod"))
}

#[tokio::test]
async fn cache_handlers_and_indexes_follow_the_watch() {
    let (send, receive) = mpsc::unbounded_channel();
    let client = Client::new(Arc::new(Scripted(Mutex::new(Some(receive)))));
    let informers = Informers::new(client, RealWorld::shared());
    let informer = informers.all::<Pod>();
    let by_node = informers.all::<Pod>().index(|pod| pod.spec.iter().filter_map(|s| s.node_name.clone()).collect());
    let (log, mut told) = mpsc::unbounded_channel();
    informer.on(move |change| {
        let node = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let text = format!("{} {:?}->{:?}", change.key(), change.old.map(node), change.new.map(node));
        log.send(text).expect("the test listens");
    });
    assert!(!informer.synced().is());

    send.send(Event::Replace(vec![pod("a", "1", 1, "n1"), pod("b", "2", 2, "n1")])).unwrap();
    informer.synced().wait().await;
    assert_eq!(by_node.get("n1").len(), 2);
    send.send(Event::Apply(pod("a", "1", 3, "n2"))).unwrap();
    send.send(Event::Apply(pod("a", "9", 4, "n3"))).unwrap();
    send.send(Event::Delete(pod("b", "2", 5, "n1"))).unwrap();
    send.send(Event::Replace(vec![pod("a", "9", 4, "n3"), pod("c", "3", 6, "n1")])).unwrap();
    send.send(Event::Replace(vec![pod("c", "3", 6, "n1")])).unwrap();

    let expected = [
        "ns/a None->Some(\"n1\")",
        "ns/b None->Some(\"n1\")",
        "ns/a Some(\"n1\")->Some(\"n2\")",
        "ns/a Some(\"n2\")->None",
        "ns/a None->Some(\"n3\")",
        "ns/b Some(\"n1\")->None",
        "ns/c None->Some(\"n1\")",
        "ns/a Some(\"n3\")->None",
    ];
    for line in expected {
        assert_eq!(told.recv().await.expect("told"), line);
    }
    assert_eq!(by_node.values(), ["n1"]);
    assert_eq!(by_node.count("n1"), 1);
    assert_eq!(informer.store().in_namespace("ns").len(), 1);
    assert!(informer.store().in_namespace("n").is_empty());
    assert_eq!(informer.store().get("ns", "c").map(|pod| pod.uid().to_owned()).as_deref(), Some("3"));

    let (late, mut replayed) = mpsc::unbounded_channel();
    informer.on(move |change| late.send(change.key().to_string()).expect("the test listens"));
    assert_eq!(replayed.recv().await.as_deref(), Some("ns/c"));
}
