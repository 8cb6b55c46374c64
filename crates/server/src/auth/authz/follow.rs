//! Something derived from a few resources of the cache, kept up to date at the cost of what changed.
//!
//! Readers catch up before they read: when nothing moved that is one comparison per resource. There is no task that
//! follows in the background, so an answer is never older than the cache, and an idle server does nothing.

use std::sync::Arc;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use skiff_meta::{GroupResource, Object, Status};
use skiff_store::Revision;

use crate::chain::View;

/// What can be kept up to date object by object.
pub(crate) trait Derived: Default + Send + Sync {
    /// Group and plural of the resources this derives from; the other methods get indexes into this.
    const RESOURCES: &'static [(&'static str, &'static str)];
    /// An object is there or has changed.
    fn put(&mut self, resource: usize, object: &Object);
    /// An object is gone.
    fn remove(&mut self, resource: usize, object: &Object);
    /// Forget all objects of a resource.
    fn clear(&mut self, resource: usize);
}

/// A [`Derived`] and how far it has come.
pub(crate) struct Followed<D> {
    view: Arc<dyn View>,
    resources: Vec<GroupResource>,
    state: RwLock<State<D>>,
}

struct State<D> {
    derived: D,
    /// Per resource: the newest change that has been taken in.
    seen: Vec<Revision>,
}

impl<D: Derived> Followed<D> {
    /// Starts empty; the first read takes in what is there.
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        let resources: Vec<_> = D::RESOURCES.iter().map(|(group, name)| GroupResource::new(*group, *name)).collect();
        let state = State { derived: D::default(), seen: vec![0; resources.len()] };
        Self { view, resources, state: RwLock::new(state) }
    }

    /// The derived value, as new as the cache.
    pub(crate) fn read(&self) -> MappedRwLockReadGuard<'_, D> {
        if !self.is_current(&self.state.read()) {
            self.catch_up(&mut self.state.write());
        }
        RwLockReadGuard::map(self.state.read(), |state| &state.derived)
    }

    /// Makes the cache hold every write acknowledged before this call; whether that brought anything new.
    pub(crate) async fn refresh(&self) -> Result<bool, Status> {
        for resource in &self.resources {
            self.view.refresh(resource).await?;
        }
        Ok(!self.is_current(&self.state.read()))
    }

    fn is_current(&self, state: &State<D>) -> bool {
        self.resources.iter().zip(&state.seen).all(|(resource, seen)| self.view.changed(resource) == *seen)
    }

    fn catch_up(&self, state: &mut State<D>) {
        for (index, resource) in self.resources.iter().enumerate() {
            let (changed, seen) = (self.view.changed(resource), state.seen[index]);
            if changed == seen {
                continue;
            }
            // What comes in while this runs is above `changed` and taken in (again) next time, which does no harm.
            state.seen[index] = changed;
            match self.view.changes(resource, seen).filter(|_| seen > 0) {
                Some(changes) => {
                    for change in changes {
                        match change.removed {
                            true => state.derived.remove(index, &change.object),
                            false => state.derived.put(index, &change.object),
                        }
                    }
                }
                None => {
                    state.derived.clear(index);
                    for object in self.view.list(resource, "") {
                        state.derived.put(index, &object);
                    }
                }
            }
        }
    }
}
