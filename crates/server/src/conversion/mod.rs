//! Custom kinds whose versions are converted by a webhook.
//!
//! Such objects lie in store and cache in the version they were written in. Whoever needs another one asks here, at the
//! edges of the pipeline: a read before it answers, a write for what it starts from and once more for what it stores.
//! An entry of the cache, and an event, keep what was made of them, so that lists and watches ask once for all readers.
//! Everything else of the pipeline sees an object of the request's version and never waits.

mod review;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use skiff_meta::object::canonical_bytes;
use skiff_meta::world::WorldExt;
use skiff_meta::{Object, Status};

use crate::api::Api;
use crate::cache::{Entry, Event, Keyed, Sorted};
use crate::resource::Served;
use crate::resource::custom::Family;
use crate::tree;
use crate::webhooks::ClientConfig;
use crate::webhooks::client::HookError;
use review::Version;

/// How long a webhook may take (upstream's figure).
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects of one question at most.
const TOGETHER: usize = 500;

/// The webhook of a custom kind.
pub(crate) struct Webhook {
    client: ClientConfig,
    review: Option<Version>,
    /// All versions, served or not.
    family: Arc<Family>,
}

impl Webhook {
    /// What the `spec` of a definition says; `None` when versions differ in their names only.
    pub(crate) fn read(spec: &Value, family: &Arc<Family>) -> Option<Self> {
        if tree::text(spec, &["conversion", "strategy"]) != "Webhook" {
            return None;
        }
        let webhook = tree::at(spec, &["conversion", "webhook"])?;
        Some(Self {
            client: ClientConfig::deserialize(webhook.get("clientConfig")?).ok()?,
            review: Version::best(tree::texts(webhook, &["conversionReviewVersions"])),
            family: family.clone(),
        })
    }

    /// Objects in version `to`, in their order.
    async fn ask(&self, api: &Api, objects: &[Value], to: &str) -> Result<Vec<Value>, Status> {
        let first = objects.first();
        let text = |name: &str| first.map(|object| tree::text(object, &[name])).unwrap_or_default();
        let (from, kind) = (text("apiVersion"), text("kind"));
        let failed = |verb: &str, why: &str| {
            Status::failure(500, "", format!("conversion webhook for {from}, Kind={kind} {verb} {why}"))
        };
        let Some(version) = self.review else {
            return Err(Status::failure(500, "", "no supported conversion review versions"));
        };
        let uid = api.world.uuid();
        let body = Bytes::from(review::question(version, &uid, to, objects).to_string());
        let answered = api.hooks.post(&*api.view, &self.client, body, PATIENCE).await;
        let answered = answered.map_err(|error| failed("failed:", &words(&error)))?;
        let converted = review::answer(version, &uid, &answered).map_err(|why| failed("failed:", &why))?;
        if converted.len() != objects.len() {
            let why = format!("{} objects, expected {}", converted.len(), objects.len());
            return Err(failed("returned", &why));
        }
        let accepted = objects.iter().zip(converted).map(|(original, converted)| {
            let mut object = review::accept(original, converted, to).map_err(|why| failed("returned", &why))?;
            self.family.prune(&mut object);
            Ok(object)
        });
        accepted.collect()
    }
}

fn words(error: &HookError) -> String {
    match error {
        HookError::Config(why) => why.clone(),
        HookError::Call { url, why } => format!("Post \"{url}\": {why}"),
        HookError::Code(_, why) => why.clone(),
    }
}

impl Api {
    /// One object in version `to`.
    pub(crate) async fn convert(&self, webhook: &Webhook, object: Value, to: &str) -> Result<Value, Status> {
        if tree::text(&object, &["apiVersion"]) == to {
            return Ok(object);
        }
        let mut converted = webhook.ask(self, &[object], to).await?;
        Ok(converted.pop().unwrap_or_default())
    }

    /// An object in the version it is served at, where a webhook converts.
    pub(crate) async fn object_in(&self, served: &Served, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
        let (Served { resource, version }, meta) = (served, object.meta());
        let Some(webhook) = resource.webhook.as_ref().filter(|_| object.api_version() != version.api_version) else {
            return Ok(object.clone());
        };
        let key = served.key(&meta.namespace, &meta.name);
        let entry = served.cache()?.entry(&key, object.revision());
        let entry = entry.unwrap_or_else(|| Arc::new(Entry::of(&key, object.clone())));
        let found = self.entries_in(webhook, vec![entry], &version.api_version).await?;
        Ok(found.first().map_or_else(|| object.clone(), |entry| entry.object().clone()))
    }

    /// Entries in version `to`, in their order.
    pub(crate) async fn entries_in(
        &self,
        webhook: &Webhook,
        mut entries: Vec<Arc<Entry>>,
        to: &str,
    ) -> Result<Vec<Arc<Entry>>, Status> {
        let mut missing = Vec::new();
        for (index, entry) in entries.iter_mut().enumerate() {
            match entry.form(to) {
                Some(form) => *entry = form,
                None => missing.push(index),
            }
        }
        for indices in missing.chunks(TOGETHER) {
            let trees = indices.iter().map(|&index| entries[index].object().to_value().map_err(Status::internal));
            let trees = trees.collect::<Result<Vec<Value>, Status>>()?;
            for (&index, tree) in indices.iter().zip(webhook.ask(self, &trees, to).await?) {
                let original = entries[index].clone();
                let form = Arc::new(Entry::new(original.key(), object(tree, original.object())?));
                original.keep_form(to, &form);
                entries[index] = form;
            }
        }
        Ok(entries)
    }

    /// A stretch of the cache in version `to`.
    pub(crate) async fn stretch_in(
        &self,
        webhook: &Webhook,
        entries: impl Iterator<Item = &Arc<Entry>>,
        to: &str,
    ) -> Result<Sorted<Entry>, Status> {
        let entries = entries.cloned().collect();
        Ok(Sorted::from_sorted(self.entries_in(webhook, entries, to).await?))
    }

    /// An event in version `to`, made once for all who watch.
    pub(crate) async fn event_in(&self, webhook: &Webhook, event: &Event, to: &str) -> Result<Arc<Event>, Status> {
        let mut forms = event.forms.lock().await;
        if let Some((_, found)) = forms.iter().find(|(version, _)| **version == *to) {
            return found.clone();
        }
        let sides = event.current().into_iter().chain(event.previous()).cloned().collect();
        let made = self.entries_in(webhook, sides, to).await.map(|sides| {
            let mut sides = sides.into_iter();
            let current = event.current().and_then(|_| sides.next());
            Arc::new(Event::new(event.revision(), current, sides.next()))
        });
        forms.push((to.into(), made.clone()));
        made
    }
}

/// A converted tree as the object it was made of.
fn object(mut tree: Value, original: &Object) -> Result<Object, Status> {
    tree::metadata(&mut tree).remove("resourceVersion");
    let bytes = canonical_bytes(&tree).map_err(Status::internal)?;
    Object::from_canonical(bytes, original.revision(), original.trace()).map_err(Status::internal)
}
