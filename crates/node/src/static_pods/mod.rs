//! Static pods: described by files on the node, run whether there is an API or not, and shown in it by mirrors.
//!
//! A mirror is an ordinary object that the agent made; deleting it ends nothing, it comes back. Its UID is not the pod's,
//! which is made from the file: [`facts::uid`] takes a mirror for its pod.

mod plan;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use skiff_client::{ClientError, DeleteOptions};
use tokio::sync::Notify;

use crate::node::Node;
use crate::os::Watched;
use crate::pod::facts;
use crate::pod::manager::Manager;

/// The pause after an answer of the API that was none.
const RETRY: Duration = Duration::from_secs(2);

/// The pods of files, and what the API shows of them.
#[derive(Default)]
pub(crate) struct Statics {
    known: Mutex<Known>,
    news: Notify,
}

#[derive(Default)]
struct Known {
    /// By UID.
    pods: BTreeMap<String, Arc<Pod>>,
    /// By the UID that the API knows.
    mirrors: BTreeMap<String, Arc<Pod>>,
}

impl Statics {
    /// Whether this is the UID of a static pod.
    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.known.lock().pods.contains_key(uid)
    }

    /// The API's UID of the mirror of a static pod, if there is one.
    pub(crate) fn mirror_of(&self, uid: &str) -> Option<String> {
        let known = self.known.lock();
        let mut mirrors = known.mirrors.iter();
        mirrors.find(|(_, mirror)| facts::uid(mirror) == uid).map(|(uid, _)| uid.clone())
    }

    /// The API has this mirror.
    pub(crate) fn saw(&self, mirror: &Arc<Pod>) {
        let uid = mirror.metadata.uid.clone().unwrap_or_default();
        self.known.lock().mirrors.insert(uid, mirror.clone());
        self.news.notify_one();
    }

    /// The API does not have it any more.
    pub(crate) fn lost(&self, mirror: &Pod) {
        self.known.lock().mirrors.remove(mirror.metadata.uid.as_deref().unwrap_or_default());
        self.news.notify_one();
    }

    /// Something else has changed that may matter to them.
    pub(crate) fn look(&self) {
        self.news.notify_one();
    }

    /// These are the pods from now on; gives the UIDs of those that are no more.
    fn replace(&self, pods: BTreeMap<String, Arc<Pod>>) -> Vec<String> {
        let mut known = self.known.lock();
        let before = std::mem::replace(&mut known.pods, pods);
        before.into_keys().filter(|uid| !known.pods.contains_key(uid)).collect()
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.known.lock().pods.values().cloned().collect()
    }
}

/// Takes in what lies there at the start, before anything is taken for an orphan.
pub(crate) fn begin(node: &Arc<Node>, manager: &Arc<Manager>) {
    if let Some(directory) = &node.config.static_pod_directory {
        node.statics.replace(read(directory, &node.config.name));
        node.statics.pods().iter().for_each(|pod| manager.has_static(pod));
    }
}

/// Follows the files and the mirrors, for ever.
pub(crate) async fn run(node: Arc<Node>, manager: Arc<Manager>) {
    let Some(directory) = node.config.static_pod_directory.clone() else { return };
    let mut watched = match Watched::changes(&directory) {
        Ok(watched) => watched,
        Err(error) => return tracing::error!(directory = %directory.display(), "cannot be watched: {error}"),
    };
    loop {
        for uid in node.statics.replace(read(&directory, &node.config.name)) {
            manager.ends_static(&uid);
        }
        node.statics.pods().iter().for_each(|pod| manager.has_static(pod));
        let well = match node.pods.synced().wait().now_or_never() {
            Some(_) => show(&node).await,
            None => false,
        };
        let again = if well { futures::future::pending().boxed() } else { node.world.sleep(RETRY) };
        tokio::select! {
            heard = watched.changed() => if let Err(error) = heard {
                return tracing::error!(directory = %directory.display(), "is not watched any longer: {error}");
            },
            () = node.statics.news.notified() => {}
            () = again => {}
        }
    }
}

/// Brings mirrors in line. Whether the API did as it was asked.
async fn show(node: &Node) -> bool {
    let (steps, pods, mirrors) = {
        let known = node.statics.known.lock();
        (plan::steps(&known.pods, &known.mirrors), known.pods.clone(), known.mirrors.clone())
    };
    let mut well = true;
    for (uid, mirror) in steps.delete.iter().filter_map(|uid| Some((uid, mirrors.get(uid)?))) {
        let api = node.client.namespaced::<Pod>(facts::namespace(mirror));
        let deleted = api.delete(facts::name(mirror), &DeleteOptions::uid(uid).grace(0)).await;
        well &= told(deleted, mirror);
    }
    let own = node.own.store().get("", &node.config.name).and_then(|own| own.metadata.uid.clone());
    for pod in steps.create.iter().filter_map(|uid| pods.get(uid)) {
        let Some(own) = &own else { return false };
        let Ok(mirror) = serde_json::from_value::<Pod>(plan::mirror(pod, &node.config.name, own)) else { continue };
        let api = node.client.namespaced::<Pod>(facts::namespace(pod));
        well &= told(api.create(&mirror).await.map(drop), pod);
    }
    well
}

fn told(answer: Result<(), ClientError>, pod: &Pod) -> bool {
    match answer {
        Err(error) if !error.is_not_found() && !error.is_already_exists() => {
            tracing::warn!(pod = facts::described(pod), "its mirror is not as it should be: {error}");
            false
        }
        _ => true,
    }
}

/// The pods of all files in a directory; a file that is none is told of and passed over.
fn read(directory: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut pods = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_manifest = path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if !is_manifest || name.starts_with('.') {
            continue;
        }
        let found = std::fs::read(&path).map_err(|error| error.to_string());
        match found.and_then(|bytes| plan::pod(&name, &bytes, node)) {
            Ok(pod) => drop(pods.insert(facts::uid(&pod).to_owned(), Arc::new(pod))),
            Err(why) => tracing::warn!(file = %path.display(), "is no static pod: {why}"),
        }
    }
    pods
}
