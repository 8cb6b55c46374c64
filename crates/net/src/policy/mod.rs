//! Network policies (`networking.k8s.io/v1`): who may talk to this node's pods, and to whom they may.
//!
//! Pods, namespaces and policies of the whole cluster are watched; whatever changes, the node's rules are planned anew as
//! a plain value, compared with what was loaded, and the difference goes to the kernel as one transaction. Events gather
//! while that is under way. Policies hold over any CNI plugin whose packets are forwarded by the host.

mod facts;
mod plan;
mod render;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, select_all};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use skiff_client::{Client, Event};
use skiff_meta::{Object, WorldRef};

use crate::guard::{Losses, lost};
use crate::nft::{Nft, NftError, Table};
use crate::{Family, watch};
use facts::{Labels, Pod, Policy};

/// How long to wait before trying again when nftables refused.
const RETRY: Duration = Duration::from_secs(1);

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Pods of all nodes.
    Pods,
    /// Namespaces, for their labels.
    Namespaces,
    /// The policies.
    Policies,
}

/// Keeps tables called `table` of node `node` in step with the cluster, for ever: one for each of `families`. What
/// `losses` says is lost is put up anew.
pub async fn run(
    table: &str,
    families: &[Family],
    node: &str,
    client: Client,
    world: WorldRef,
    nft: Arc<dyn Nft>,
    mut losses: Losses,
) {
    let sources: [(Source, BoxStream<'static, Event>); 3] = [
        (Source::Pods, watch::pods(&client)),
        (Source::Namespaces, watch::namespaces(&client)),
        (Source::Policies, watch::network_policies(&client)),
    ];
    let mut events = select_all(sources.map(|(source, stream)| stream.map(move |event| (source, event)).boxed()));
    let mut state = State::new(table, node);
    // Every list first: rules made of half of what there is would refuse what is allowed.
    let mut missing = vec![Source::Pods, Source::Namespaces, Source::Policies];
    let mut loaded = vec![None; families.len()];
    loop {
        while !missing.is_empty() || !state.dirty {
            tokio::select! {
                event = events.next() => {
                    let Some((source, event)) = event else { return };
                    missing.retain(|other| *other != source);
                    state.take(source, event);
                }
                () = lost(&mut losses) => {
                    loaded.fill(None);
                    state.dirty = true;
                }
            }
        }
        while let Some(Some((source, event))) = events.next().now_or_never() {
            state.take(source, event);
        }
        state.dirty = false;
        for (loaded, family) in loaded.iter_mut().zip(families) {
            if let Err(error) = load(loaded, state.table(*family), &*nft).await {
                tracing::error!("network policies are not up to date: {error}");
                (*loaded, state.dirty) = (None, true);
            }
        }
        if state.dirty {
            world.sleep(RETRY).await;
        }
    }
}

async fn load(loaded: &mut Option<Table>, table: Table, nft: &dyn Nft) -> Result<(), NftError> {
    let script = match loaded.as_ref() {
        None => table.to_string(),
        Some(old) => old.change_to(&table).to_string(),
    };
    if !script.is_empty() {
        nft.run(script).await?;
    }
    *loaded = Some(table);
    Ok(())
}

/// What policies are about, as last seen.
pub struct State {
    name: String,
    node: String,
    pods: BTreeMap<String, Pod>,
    namespaces: BTreeMap<String, Labels>,
    policies: BTreeMap<String, Policy>,
    /// Whether anything that matters has changed.
    dirty: bool,
}

impl State {
    /// Nothing known yet; for table `name` of node `node`.
    pub fn new(name: &str, node: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: node.to_owned(),
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            policies: BTreeMap::new(),
            dirty: true,
        }
    }

    /// Takes an event.
    pub fn take(&mut self, source: Source, event: Event) {
        let (replace, objects, gone) = match event {
            Event::Replace(objects) => (true, objects, None),
            Event::Apply(object) => (false, vec![object], None),
            Event::Delete(object) => (false, Vec::new(), Some(key(&object))),
        };
        let of = |object: &Object| key(object);
        self.dirty |= match source {
            Source::Pods => {
                let node = &self.node;
                let pod = |object: &Object| object.typed::<core::Pod>().ok().and_then(|pod| Pod::of(&pod, node));
                update(&mut self.pods, replace, objects.iter().map(|o| (of(o), pod(o))).collect(), gone)
            }
            Source::Namespaces => {
                let labels = |object: &Object| Some(object.meta().labels.clone());
                let named = objects.iter().map(|o| (o.meta().name.clone(), labels(o))).collect();
                update(&mut self.namespaces, replace, named, gone.map(|key| key.trim_start_matches('/').to_owned()))
            }
            Source::Policies => {
                let policy = |object: &Object| object.typed::<NetworkPolicy>().ok().map(|policy| Policy::of(&policy));
                update(&mut self.policies, replace, objects.iter().map(|o| (of(o), policy(o))).collect(), gone)
            }
        };
    }

    /// The table of a family that follows.
    pub fn table(&self, family: Family) -> Table {
        render::table(&self.name, &plan::plan(family, &self.policies, self.pods.values(), &self.namespaces))
    }
}

fn key(object: &Object) -> String {
    format!("{}/{}", object.meta().namespace, object.meta().name)
}

/// Sets and removes entries; whether any has changed.
fn update<V: PartialEq>(
    map: &mut BTreeMap<String, V>,
    replace: bool,
    seen: BTreeMap<String, Option<V>>,
    gone: Option<String>,
) -> bool {
    let before = map.len();
    map.retain(|key, _| !(gone.as_ref() == Some(key) || (replace && !seen.contains_key(key))));
    let mut changed = map.len() != before;
    for (key, value) in seen {
        changed |= match value {
            Some(value) if map.get(&key) == Some(&value) => false,
            Some(value) => {
                map.insert(key, value);
                true
            }
            None => map.remove(&key).is_some(),
        };
    }
    changed
}
