//! How a pod's worker is told that something has changed. It is told that, never what: it looks for itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use skiff_meta::TraceContext;
use tokio::sync::Notify;

use super::status::Ending;

/// Where news for one worker wait.
pub(crate) struct Mailbox {
    inbox: Mutex<Inbox>,
    news: Notify,
    down: Notify,
}

/// What waits there.
#[derive(Clone)]
struct Inbox {
    pod: Arc<Pod>,
    gone: bool,
    cause: Option<TraceContext>,
    refresh: bool,
    retry: bool,
    ended: Vec<String>,
    verdict: Option<Ending>,
    down: bool,
}

/// What a worker finds when it looks into its mailbox.
pub(crate) struct News {
    /// The pod as the API last had it.
    pub(crate) pod: Arc<Pod>,
    /// The API does not have it any more.
    pub(crate) gone: bool,
    /// The cause of the pod's last change.
    pub(crate) cause: Option<TraceContext>,
    /// What the pod refers to has changed.
    pub(crate) refresh: bool,
    /// What failed may work now: an image has come, a driver, a volume.
    pub(crate) retry: bool,
    /// The runtime says that these containers or sandboxes have ended.
    pub(crate) ended: Vec<String>,
    /// The node has decided that the pod must end.
    pub(crate) verdict: Option<Ending>,
}

impl Mailbox {
    pub(crate) fn new(pod: Arc<Pod>, gone: bool, cause: Option<TraceContext>) -> Arc<Self> {
        let (ended, verdict) = (Vec::new(), None);
        let inbox = Inbox { pod, gone, cause, refresh: false, retry: false, ended, verdict, down: false };
        Arc::new(Self { inbox: Mutex::new(inbox), news: Notify::new(), down: Notify::new() })
    }
    fn change(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.inbox.lock());
        self.news.notify_one();
    }
    /// The pod has changed.
    pub(crate) fn update(&self, pod: Arc<Pod>, cause: Option<TraceContext>) {
        self.change(|inbox| (inbox.pod, inbox.cause) = (pod, cause));
    }
    /// The pod is gone from the API.
    pub(crate) fn removed(&self, cause: Option<TraceContext>) {
        self.change(|inbox| (inbox.gone, inbox.cause) = (true, cause));
    }
    /// What the pod refers to has changed. Always true, for use where listeners that are there are kept.
    pub(crate) fn refresh(&self) -> bool {
        self.change(|inbox| inbox.refresh = true);
        true
    }
    /// What failed may be tried again now.
    pub(crate) fn retry(&self) {
        self.change(|inbox| inbox.retry = true);
    }
    /// A container or sandbox of the pod has ended.
    pub(crate) fn ended(&self, id: &str) {
        self.change(|inbox| inbox.ended.push(id.to_owned()));
    }
    /// The pod must end.
    pub(crate) fn condemn(&self, verdict: Ending) {
        self.change(|inbox| inbox.verdict = Some(verdict));
    }
    /// Nothing of the pod runs or is mounted any more.
    pub(crate) fn is_down(&self) {
        self.inbox.lock().down = true;
        self.down.notify_waiters();
    }
    /// Completes when that is so.
    pub(crate) async fn until_down(&self) {
        let told = self.down.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if !self.inbox.lock().down {
            told.await;
        }
    }
    /// Look again, for whatever reason.
    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }
    /// Whether the node has decided that the pod must end.
    pub(crate) fn is_condemned(&self) -> bool {
        self.inbox.lock().verdict.is_some()
    }
    /// Seconds it has for that at most.
    pub(crate) fn most_grace(&self) -> Option<i64> {
        self.inbox.lock().verdict.as_ref().and_then(|verdict| verdict.grace)
    }
    /// Waits for news.
    pub(crate) async fn wait(&self) {
        self.news.notified().await;
    }
    /// Takes the news.
    pub(crate) fn take(&self) -> News {
        let mut inbox = self.inbox.lock();
        News {
            pod: inbox.pod.clone(),
            gone: inbox.gone,
            cause: inbox.cause,
            refresh: std::mem::take(&mut inbox.refresh),
            retry: std::mem::take(&mut inbox.retry),
            ended: std::mem::take(&mut inbox.ended),
            verdict: inbox.verdict.clone(),
        }
    }
    /// The pod as the API last had it, and whether it still has it; news stay where they are.
    pub(crate) fn pod(&self) -> (Arc<Pod>, bool) {
        let inbox = self.inbox.lock();
        (inbox.pod.clone(), inbox.gone)
    }
}

/// Whose container or sandbox an id of the runtime is.
#[derive(Default)]
pub(crate) struct Registry {
    owners: Mutex<HashMap<String, Weak<Mailbox>>>,
}

impl Registry {
    /// This id belongs to the pod behind `mailbox`. Said before a container is started, so that its end is never
    /// nobody's.
    pub(crate) fn owns(&self, mailbox: &Arc<Mailbox>, id: &str) {
        self.owners.lock().insert(id.to_owned(), Arc::downgrade(mailbox));
    }
    /// This id is history.
    pub(crate) fn forget(&self, id: &str) {
        self.owners.lock().remove(id);
    }
    /// Passes on that the runtime said something about this id.
    pub(crate) fn ended(&self, id: &str) {
        let owner = self.owners.lock().get(id).and_then(Weak::upgrade);
        if let Some(mailbox) = owner {
            mailbox.ended(id);
        }
    }
    /// The pod with this id shall look again.
    pub(crate) fn wake(&self, id: &str) {
        let owner = self.owners.lock().get(id).and_then(Weak::upgrade);
        if let Some(mailbox) = owner {
            mailbox.wake();
        }
    }
    /// All pods shall look again.
    pub(crate) fn wake_all(&self) {
        let mailboxes: Vec<_> = self.owners.lock().values().filter_map(Weak::upgrade).collect();
        mailboxes.iter().for_each(|mailbox| mailbox.wake());
    }
}
