//! The graph of owners and dependents, across all resources. Pure: events in, work out.
//!
//! Only what owns or is owned is remembered. An owner that is referred to before it was seen is *virtual*: it is looked
//! up once, and if it does not exist, its dependents are waste. Objects that nobody refers to and that refer to nobody,
//! the great majority in most clusters, leave no trace here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skiff_meta::{Meta, OwnerRef};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// A UID.
pub(crate) type Uid = Arc<str>;

/// Where an object is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// `apps/v1`.
    pub(crate) api_version: Arc<str>,
    /// The kind.
    pub(crate) kind: Arc<str>,
    /// Its namespace; of a virtual owner, that of its dependent.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
}

/// Something to look at; its UID and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Work {
    /// It may have to be deleted, or may finish its deletion.
    Delete(Uid),
    /// Its dependents are to be set free.
    Orphan(Uid),
}

#[derive(Clone, Debug, Default)]
struct Node {
    place: Place,
    owners: Vec<OwnerRef>,
    dependents: BTreeSet<Uid>,
    /// Known only from a reference.
    is_virtual: bool,
    /// It was looked up, and was not where the reference says.
    is_absent: bool,
    deleting: bool,
    /// Deletion waits for its dependents.
    foreground: bool,
    /// Deletion waits until its dependents are set free.
    orphaning: bool,
}

/// What the graph knows of one object, for whoever decides about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) place: Place,
    pub(crate) is_virtual: bool,
    pub(crate) deleting: bool,
    pub(crate) foreground: bool,
    pub(crate) dependents: Vec<Uid>,
    /// Dependents that hold up its foreground deletion.
    pub(crate) blocking: Vec<Uid>,
    /// Whether one of its dependents waits for dependents of its own.
    pub(crate) dependent_waits: bool,
}

/// The graph.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: BTreeMap<Uid, Node>,
}

fn blocks(owner: &OwnerRef) -> bool {
    owner.block_owner_deletion == Some(true)
}

fn refers_to(owner: &OwnerRef, place: &Place) -> bool {
    owner.api_version == *place.api_version && owner.kind == *place.kind && owner.name == *place.name
}

impl Graph {
    /// An object is there, or has changed.
    pub(crate) fn observe(&mut self, place: &Place, meta: &Meta) -> Vec<Work> {
        let uid: Uid = meta.uid.as_str().into();
        let deleting = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| deleting && meta.finalizers.iter().any(|f| f == finalizer);
        let (foreground, orphaning) = (has(FOREGROUND), has(ORPHAN));
        let concerns_us = !meta.owner_references.is_empty() || foreground || orphaning;
        if !concerns_us && !self.nodes.contains_key(&uid) {
            return Vec::new();
        }
        let mut work = Vec::new();
        let node = self.nodes.entry(uid.clone()).or_default();
        let (was_foreground, was_orphaning) = (node.foreground, node.orphaning);
        (node.deleting, node.foreground, node.orphaning) = (deleting, foreground, orphaning);
        (node.is_virtual, node.is_absent) = (false, false);
        if node.place != *place {
            node.place = place.clone();
            let dependents = node.dependents.clone();
            work.extend(dependents.into_iter().filter(|d| !self.fits(d, &uid)).map(Work::Delete));
        }
        self.set_owners(&uid, &meta.owner_references, &mut work);
        if orphaning && !was_orphaning {
            work.push(Work::Orphan(uid.clone()));
        } else if foreground && !was_foreground {
            let dependents = self.nodes.get(&uid).map(|node| node.dependents.clone()).unwrap_or_default();
            work.extend(dependents.into_iter().map(Work::Delete));
            work.push(Work::Delete(uid.clone()));
        }
        self.prune(&uid);
        work
    }

    fn set_owners(&mut self, uid: &Uid, owners: &[OwnerRef], work: &mut Vec<Work>) {
        let Some(node) = self.nodes.get_mut(uid) else { return };
        let namespace = node.place.namespace.clone();
        let before = std::mem::replace(&mut node.owners, owners.to_vec());
        if before == owners {
            return;
        }
        for old in &before {
            let kept = owners.iter().find(|new| new.uid == old.uid);
            let owner: Uid = old.uid.as_str().into();
            if blocks(old) && !kept.is_some_and(blocks) && self.nodes.contains_key(&owner) {
                work.push(Work::Delete(owner.clone()));
            }
            if kept.is_none() {
                if let Some(node) = self.nodes.get_mut(&owner) {
                    node.dependents.remove(uid);
                }
                self.prune(&owner);
            }
        }
        for new in owners.iter().filter(|new| !before.contains(new)) {
            let owner: Uid = new.uid.as_str().into();
            if !self.nodes.contains_key(&owner) {
                let place = Place {
                    api_version: new.api_version.as_str().into(),
                    kind: new.kind.as_str().into(),
                    namespace: namespace.clone(),
                    name: new.name.as_str().into(),
                };
                self.nodes.insert(owner.clone(), Node { place, is_virtual: true, ..Node::default() });
                work.push(Work::Delete(owner.clone()));
            }
            let mut is_absent = false;
            if let Some(node) = self.nodes.get_mut(&owner) {
                node.dependents.insert(uid.clone());
                is_absent = node.is_absent;
            }
            if is_absent || !self.fits(uid, &owner) {
                work.push(Work::Delete(uid.clone()));
            }
        }
    }

    /// Whether the references of `dependent` to `owner` say what is known of the owner: where they do not, they must be
    /// looked up one by one.
    fn fits(&self, dependent: &Uid, owner: &Uid) -> bool {
        let (Some(dependent), Some(owned)) = (self.nodes.get(dependent), self.nodes.get(owner)) else { return true };
        let same_namespace = owned.place.namespace.is_empty() || owned.place.namespace == dependent.place.namespace;
        let mut references = dependent.owners.iter().filter(|reference| *reference.uid == **owner);
        same_namespace && references.all(|reference| refers_to(reference, &owned.place))
    }

    /// An object is gone: its dependents may be waste, and an owner that waited for it may go.
    pub(crate) fn gone(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut work: Vec<Work> = node.dependents.iter().cloned().map(Work::Delete).collect();
        for reference in &node.owners {
            let owner: Uid = reference.uid.as_str().into();
            let Some(owned) = self.nodes.get_mut(&owner) else { continue };
            owned.dependents.remove(uid);
            if owned.foreground {
                work.push(Work::Delete(owner.clone()));
            }
            self.prune(&owner);
        }
        work
    }

    /// All objects of a kind as they are now: those that are not among them are gone.
    pub(crate) fn replace<'a>(
        &mut self,
        api_version: &str,
        kind: &str,
        all: impl Iterator<Item = (Place, &'a Meta)>,
    ) -> Vec<Work> {
        let known = self.nodes.iter().filter(|(_, node)| {
            !node.is_virtual && *node.place.api_version == *api_version && *node.place.kind == *kind
        });
        let mut missing: BTreeSet<Uid> = known.map(|(uid, _)| uid.clone()).collect();
        let mut work = Vec::new();
        for (place, meta) in all {
            missing.remove(&*meta.uid);
            work.extend(self.observe(&place, meta));
        }
        work.extend(missing.iter().flat_map(|uid| self.gone(uid)));
        work
    }

    /// A virtual object was looked up and is not there: every reference to it has to be looked up for itself, since
    /// others may say better where it is. So has every one that comes later, from a controller that has not heard yet.
    pub(crate) fn absent(&mut self, uid: &Uid) -> Vec<Work> {
        let Some(node) = self.nodes.get_mut(uid) else { return Vec::new() };
        node.is_absent = node.is_virtual;
        let dependents = node.dependents.clone();
        self.prune(uid);
        dependents.into_iter().map(Work::Delete).collect()
    }

    /// What is known of an object.
    pub(crate) fn view(&self, uid: &Uid) -> Option<View> {
        let node = self.nodes.get(uid)?;
        let dependents = || node.dependents.iter().filter_map(|uid| Some((uid, self.nodes.get(uid)?)));
        let holds_up = |dependent: &Node| dependent.owners.iter().any(|r| *r.uid == **uid && blocks(r));
        Some(View {
            place: node.place.clone(),
            is_virtual: node.is_virtual,
            deleting: node.deleting,
            foreground: node.foreground,
            dependents: node.dependents.iter().cloned().collect(),
            blocking: dependents().filter(|(_, node)| holds_up(node)).map(|(uid, _)| uid.clone()).collect(),
            dependent_waits: dependents().any(|(_, node)| node.foreground),
        })
    }

    /// Number of objects remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Forgets an object that is neither owner nor owned any more.
    fn prune(&mut self, uid: &Uid) {
        let idle =
            |node: &Node| node.dependents.is_empty() && node.owners.is_empty() && !node.foreground && !node.orphaning;
        if self.nodes.get(uid).is_some_and(idle) {
            self.nodes.remove(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: &str, name: &str) -> Place {
        Place { api_version: "v1".into(), kind: kind.into(), namespace: "ns".into(), name: name.into() }
    }

    /// An object whose UID is its name; owners by name, `!` before it: blocking.
    fn meta(name: &str, owners: &[&str], finalizer: &str) -> Meta {
        let reference = |owner: &&str| OwnerRef {
            api_version: "v1".into(),
            kind: "K".into(),
            name: owner.trim_start_matches('!').into(),
            uid: owner.trim_start_matches('!').into(),
            controller: None,
            block_owner_deletion: Some(owner.starts_with('!')),
        };
        Meta {
            name: name.into(),
            uid: name.into(),
            owner_references: owners.iter().map(reference).collect(),
            finalizers: (!finalizer.is_empty()).then(|| finalizer.to_owned()).into_iter().collect(),
            deletion_timestamp: (!finalizer.is_empty()).then(|| "now".to_owned()),
            ..Meta::default()
        }
    }

    fn observe(graph: &mut Graph, name: &str, owners: &[&str], finalizer: &str) -> Vec<String> {
        told(graph.observe(&place("K", name), &meta(name, owners, finalizer)))
    }

    fn told(work: Vec<Work>) -> Vec<String> {
        let text = |work: Work| match work {
            Work::Delete(uid) => format!("delete {uid}"),
            Work::Orphan(uid) => format!("orphan {uid}"),
        };
        work.into_iter().map(text).collect()
    }

    #[test]
    fn strangers_leave_no_trace() {
        let mut graph = Graph::default();
        assert!(observe(&mut graph, "a", &[], "").is_empty());
        assert!(graph.gone("a").is_empty());
        assert_eq!(graph.len(), 0);
    }

    #[test]
    fn unknown_owners_are_looked_up_once() {
        let mut graph = Graph::default();
        assert_eq!(observe(&mut graph, "pod1", &["set"], ""), ["delete set"]);
        assert!(observe(&mut graph, "pod2", &["set"], "").is_empty());
        assert!(graph.view(&"set".into()).is_some_and(|view| view.is_virtual));
        assert_eq!(told(graph.absent(&"set".into())), ["delete pod1", "delete pod2"]);
        assert_eq!(observe(&mut graph, "pod3", &["set"], ""), ["delete pod3"], "while the others are on their way");
        assert!(observe(&mut graph, "set", &[], "").is_empty(), "it was there after all");
        assert!(graph.view(&"set".into()).is_some_and(|view| !view.is_virtual));
    }

    #[test]
    fn the_end_of_an_owner_reaches_its_dependents_and_theirs_frees_it() {
        let mut graph = Graph::default();
        observe(&mut graph, "pod", &["!set"], "");
        observe(&mut graph, "set", &[], "");
        assert_eq!(observe(&mut graph, "set", &[], FOREGROUND), ["delete pod", "delete set"]);
        assert_eq!(graph.view(&"set".into()).map(|view| view.blocking.len()), Some(1));
        assert!(observe(&mut graph, "set", &[], FOREGROUND).is_empty(), "told once");
        assert_eq!(told(graph.gone("pod")), ["delete set"]);
        assert!(graph.gone("set").is_empty());
        assert_eq!(graph.len(), 0);

        observe(&mut graph, "pod", &["set"], "");
        assert_eq!(told(graph.gone("set")), ["delete pod"]);
    }

    #[test]
    fn orphans_are_set_free_and_references_may_be_withdrawn() {
        let mut graph = Graph::default();
        observe(&mut graph, "pod", &["!set"], "");
        assert_eq!(observe(&mut graph, "set", &[], ORPHAN), ["orphan set"]);
        assert_eq!(observe(&mut graph, "pod", &["set"], ""), ["delete set"], "no longer blocked");
        assert!(observe(&mut graph, "pod", &[], "").is_empty());
        assert!(graph.view(&"pod".into()).is_none(), "neither owner nor owned");
    }

    #[test]
    fn references_that_say_something_else_are_looked_up() {
        let mut graph = Graph::default();
        observe(&mut graph, "pod", &["set"], "");
        let elsewhere = Place { namespace: "other".into(), ..place("K", "set") };
        assert_eq!(told(graph.observe(&elsewhere, &meta("set", &[], ""))), ["delete pod"]);
        assert_eq!(observe(&mut graph, "pod2", &["set"], ""), ["delete pod2"]);
    }

    #[test]
    fn a_new_list_tells_what_went_unseen() {
        let mut graph = Graph::default();
        for name in ["pod1", "pod2"] {
            observe(&mut graph, name, &["set"], "");
        }
        observe(&mut graph, "set", &[], "");
        let left = meta("pod2", &["set"], "");
        let all = [(place("K", "pod2"), &left)];
        assert_eq!(told(graph.replace("v1", "K", all.into_iter())), ["delete pod2"], "its owner is gone as well");
        assert!(graph.view(&"pod1".into()).is_none());
    }
}
