//! What is known of the other nodes, kept in step with their objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use skiff_client::Event;
use skiff_meta::Object;

/// Something about each other node, as far as it can be told.
pub(crate) struct Others<V> {
    own: String,
    read: fn(&Node) -> Option<V>,
    known: BTreeMap<String, V>,
}

impl<V: Clone + PartialEq> Others<V> {
    /// None yet; `read` tells what matters of all nodes but `own`.
    pub(crate) fn new(own: &str, read: fn(&Node) -> Option<V>) -> Self {
        Self { own: own.to_owned(), read, known: BTreeMap::new() }
    }

    /// Takes an event; whether anything that matters has changed.
    pub(crate) fn take(&mut self, event: Event) -> bool {
        let before = self.known.clone();
        match event {
            Event::Replace(nodes) => {
                self.known.clear();
                nodes.iter().for_each(|node| self.set(node));
            }
            Event::Apply(node) => self.set(&node),
            Event::Delete(node) => drop(self.known.remove(&node.meta().name)),
        }
        self.known != before
    }

    /// Those that are known, by their names' order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.known.values()
    }

    fn set(&mut self, node: &Object) {
        let name = node.meta().name.clone();
        if name == self.own {
            return;
        }
        match node.typed::<Node>().ok().and_then(|node| (self.read)(&node)) {
            Some(value) => drop(self.known.insert(name, value)),
            None => drop(self.known.remove(&name)),
        }
    }
}
