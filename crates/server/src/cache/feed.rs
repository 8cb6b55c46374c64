//! The one watch of the store, and how its changes reach the caches.
//!
//! All resources share one stream, so that their caches move through the same revisions in the same order, and one
//! number says how far the server has seen. Which resources there are is itself an object (CustomResourceDefinition)
//! and arrives on the same stream: the [`Registrar`] is asked for the caches to fill before that number moves on, so
//! whoever waits for the revision of a definition finds its resource served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::RwLock;
use skiff_meta::WorldRef;
use skiff_meta::world::{AbortOnDrop, WorldExt};
use skiff_store::{Change, KeyRange, KeyValue, RangeQuery, Revision, Store, StoreError, WatchItem, WatchQuery};
use tokio::sync::watch;

use super::{Content, Entry, Loaded, ResourceCache, Unreadable, Update};

/// Everything the server keeps lies below this.
pub(crate) const ROOT: &str = "/registry/";

/// How long a reader waits for the cache to reach a revision that the store has.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the store is asked again after a failure.
const BACKOFF: Duration = Duration::from_secs(1);
/// Objects read in one step when a cache is filled.
const PAGE: usize = 10_000;

/// Knows which resources there are.
pub(crate) trait Registrar: Send + Sync + 'static {
    /// Whether a change below this prefix may change what is served.
    fn depends_on(&self, prefix: &str) -> bool;
    /// The caches of everything that is to be served, judged by the caches filled so far.
    fn plan(&self) -> Vec<Arc<ResourceCache>>;
    /// All caches of the last plan are filled; serve them.
    fn publish(&self);
}

/// The revision did not come in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the cache has reached revision {reached}, not yet {wanted}")]
pub(crate) struct TooSlow {
    pub(crate) wanted: Revision,
    pub(crate) reached: Revision,
}

/// The feed.
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    world: WorldRef,
    routes: RwLock<HashMap<Box<str>, Arc<ResourceCache>>>,
    revision: watch::Sender<Revision>,
}

impl Feed {
    /// A feed that has read nothing yet.
    pub(crate) fn new(store: Arc<dyn Store>, world: WorldRef) -> Arc<Self> {
        Arc::new(Self { store, world, routes: RwLock::default(), revision: watch::Sender::new(0) })
    }

    /// Fills all caches, then follows the store until the returned handle is dropped.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub(crate) async fn start(self: &Arc<Self>, registrar: Arc<dyn Registrar>) -> Result<AbortOnDrop, StoreError> {
        let revision = self.fill(&*registrar).await?;
        let feed = self.clone();
        let task = async move { feed.follow(revision, &*registrar).await };
        Ok(AbortOnDrop(self.world.spawn("cache-feed", Box::pin(task))))
    }

    /// How far the caches have come: they hold every change up to this revision.
    pub(crate) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Waits until the caches hold `wanted`.
    pub(crate) async fn reach(&self, wanted: Revision, patience: Duration) -> Result<(), TooSlow> {
        if self.revision() >= wanted {
            return Ok(());
        }
        let mut revision = self.revision.subscribe();
        let reached = async move { revision.wait_for(|r| *r >= wanted).await.is_ok() };
        if self.world.timeout(patience, reached).await == Some(true) {
            Ok(())
        } else {
            Err(TooSlow { wanted, reached: self.revision() })
        }
    }

    /// Waits until the caches hold every write acknowledged before this call.
    pub(crate) async fn catch_up(&self) -> Result<Revision, CatchUpError> {
        let newest = self.store.revision().await?;
        self.reach(newest, PATIENCE).await?;
        Ok(newest)
    }

    async fn follow(&self, mut revision: Revision, registrar: &dyn Registrar) {
        loop {
            let end = self.session(revision, registrar).await;
            tracing::warn!("the store's watch ended, starting anew: {end}");
            loop {
                self.world.sleep(BACKOFF).await;
                self.routes.write().clear();
                match self.fill(registrar).await {
                    Ok(now) => {
                        revision = now;
                        break;
                    }
                    Err(error) => tracing::warn!("the store cannot be read: {error}"),
                }
            }
        }
    }

    /// Reads all caches as of one revision.
    async fn fill(&self, registrar: &dyn Registrar) -> Result<Revision, StoreError> {
        let revision = self.store.revision().await?;
        self.route(registrar, revision).await?;
        self.revision.send_replace(revision);
        Ok(revision)
    }

    /// Fills and routes what is new in the plan, until a plan brings nothing new; forgets what is no longer in it.
    async fn route(&self, registrar: &dyn Registrar, revision: Revision) -> Result<(), StoreError> {
        loop {
            let wanted = registrar.plan();
            let new: Vec<_> = wanted.iter().filter(|c| !self.is_routed(c)).cloned().collect();
            for cache in &new {
                self.load(cache, revision).await?;
            }
            let mut routes = self.routes.write();
            routes.retain(|prefix, cache| {
                let keep = wanted.iter().any(|w| w.prefix() == &**prefix);
                if !keep {
                    cache.end_watches();
                }
                keep
            });
            let again = new.iter().any(|c| registrar.depends_on(c.prefix()));
            for cache in new {
                if let Some(replaced) = routes.insert(cache.prefix().into(), cache) {
                    replaced.end_watches();
                }
            }
            drop(routes);
            if !again {
                registrar.publish();
                return Ok(());
            }
        }
    }

    fn is_routed(&self, cache: &Arc<ResourceCache>) -> bool {
        self.routes.read().get(cache.prefix()).is_some_and(|c| Arc::ptr_eq(c, cache))
    }

    async fn load(&self, cache: &ResourceCache, revision: Revision) -> Result<(), StoreError> {
        let mut keys = KeyRange::prefix(cache.prefix().to_owned().into_bytes());
        let mut loaded = Loaded::default();
        loop {
            let query = RangeQuery { keys: keys.clone(), limit: PAGE, at: Some(revision) };
            let page = self.store.range(query).await?;
            if let Some(last) = page.items.last() {
                keys.start = KeyRange::one(last.key.clone()).end;
            }
            for pair in page.items {
                let Some(key) = tail(cache.prefix(), &pair.key).map(Box::<str>::from) else { continue };
                match read(cache, pair) {
                    Ok((object, as_stored)) => {
                        loaded.entries.push(Entry::new(&key, object));
                        if !as_stored {
                            loaded.outdated.insert(key);
                        }
                    }
                    Err(why) => drop(loaded.unreadable.insert(key, why)),
                }
            }
            if page.remaining == 0 {
                break;
            }
        }
        cache.load(loaded, revision);
        Ok(())
    }

    async fn session(&self, after: Revision, registrar: &dyn Registrar) -> StoreError {
        let keys = KeyRange { start: Default::default(), end: Default::default() };
        let mut watch = match self.store.watch(WatchQuery { keys, after: Some(after) }).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        while let Some(item) = watch.next().await {
            let step = match item {
                Ok(WatchItem::Changes(changes)) => self.take(changes, registrar).await,
                Ok(WatchItem::Progress(revision)) => {
                    self.advance(revision);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = step {
                return error;
            }
        }
        StoreError::Closed
    }

    fn advance(&self, revision: Revision) {
        self.revision.send_if_modified(|r| {
            let newer = revision > *r;
            *r = revision.max(*r);
            newer
        });
    }

    /// Takes in changes, run by run of the same resource, so that each cache is locked once per run.
    async fn take(&self, changes: Vec<Change>, registrar: &dyn Registrar) -> Result<(), StoreError> {
        let mut newest = 0;
        let mut run: Option<(Arc<ResourceCache>, Vec<Update>)> = None;
        let mut replan = false;
        for change in changes {
            newest = revision_of(&change);
            let Some(cache) = self.cache_of(key_of(&change)) else { continue };
            replan |= registrar.depends_on(cache.prefix());
            let Some(update) = update(&cache, change) else { continue };
            match &mut run {
                Some((same, updates)) if Arc::ptr_eq(same, &cache) => updates.push(update),
                _ => {
                    if let Some((cache, updates)) = run.replace((cache, vec![update])) {
                        cache.apply(updates);
                    }
                }
            }
        }
        if let Some((cache, updates)) = run {
            cache.apply(updates);
        }
        if replan {
            // New resources are read as of this revision; later changes of theirs come over the watch.
            self.route(registrar, newest).await?;
        }
        self.advance(newest);
        Ok(())
    }

    /// The cache whose prefix begins `key`: prefixes have one segment or two.
    fn cache_of(&self, key: &[u8]) -> Option<Arc<ResourceCache>> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix(ROOT)?;
        let one = rest.find('/')? + 1;
        let two = rest[one..].find('/').map(|i| one + i + 1);
        let routes = self.routes.read();
        let find = |end: usize| routes.get(&key[..ROOT.len() + end]).cloned();
        two.and_then(find).or_else(|| find(one))
    }
}

/// Why the cache cannot answer as of now.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CatchUpError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache does not come along.
    #[error(transparent)]
    TooSlow(#[from] TooSlow),
}

fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put { current, .. } => current.modified,
        Change::Delete { revision, .. } => *revision,
    }
}

fn key_of(change: &Change) -> &[u8] {
    match change {
        Change::Put { current, .. } => &current.key,
        Change::Delete { key, .. } => key,
    }
}

fn tail<'a>(prefix: &str, key: &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)
}

fn read(cache: &ResourceCache, pair: KeyValue) -> Result<(skiff_meta::Object, bool), Unreadable> {
    let key = pair.key.clone();
    cache.read(pair).inspect_err(|why| {
        tracing::error!(key = %String::from_utf8_lossy(&key), "the store holds something unreadable: {why}");
    })
}

fn update(cache: &ResourceCache, change: Change) -> Option<Update> {
    let (key, revision) = (tail(cache.prefix(), key_of(&change))?.into(), revision_of(&change));
    let content = match change {
        Change::Put { current, .. } => match read(cache, current) {
            Ok((object, as_stored)) => Content::Object(Box::new(object), as_stored),
            Err(why) => Content::Unreadable(why),
        },
        Change::Delete { .. } => Content::Nothing,
    };
    Some(Update { key, revision, content })
}
