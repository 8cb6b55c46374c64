//! Ways to the objects with a label: a LIST by `app=web` need not look at everything.
//!
//! Most labels are never asked for, so an index is made when a label is asked for again, and kept from then on. Each
//! value leads to an ordered map like the cache's own, which costs a pointer per object and whose snapshots cost nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::Entry;
use super::sorted::{Keyed, Sorted};

/// So few objects are looked at one by one.
pub(super) const FEW: usize = 1_000;
/// Most labels that are remembered for one resource; who asks for more looks at all objects again.
const MOST: usize = 8;

/// The labels that were asked for, the oldest first.
#[derive(Default)]
pub(super) struct Labels(Vec<Label>);

struct Label {
    name: Box<str>,
    /// `None`: it was asked for once.
    values: Option<HashMap<Box<str>, Sorted<Entry>>>,
}

impl Labels {
    /// The objects whose label `name` has this value; `None` where nothing leads to them.
    pub(super) fn find(&self, name: &str, value: &str) -> Option<Sorted<Entry>> {
        let label = self.0.iter().find(|label| *label.name == *name)?;
        label.values.as_ref().map(|values| values.get(value).cloned().unwrap_or_default())
    }

    /// Remembers that a label was asked for; the second time, makes its index.
    pub(super) fn ask(&mut self, name: &str, items: &Sorted<Entry>) {
        match self.0.iter_mut().find(|label| *label.name == *name) {
            Some(label) => label.values = label.values.take().or_else(|| Some(index(name, items))),
            None => {
                if self.0.len() == MOST {
                    self.0.remove(0);
                }
                self.0.push(Label { name: name.into(), values: None });
            }
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes in a change.
    pub(super) fn change(&mut self, previous: Option<&Arc<Entry>>, current: Option<&Arc<Entry>>) {
        for Label { name, values } in &mut self.0 {
            let Some(values) = values else { continue };
            let (before, after) = (previous.and_then(|e| value(e, name)), current.and_then(|e| value(e, name)));
            if let (Some(entry), Some(before)) = (previous, before)
                && Some(before) != after
                && let Some(items) = values.get_mut(before)
            {
                items.remove(entry.key());
                if items.len() == 0 {
                    values.remove(before);
                }
            }
            if let (Some(entry), Some(after)) = (current, after) {
                match values.get_mut(after) {
                    Some(items) => drop(items.insert(entry.clone())),
                    None => drop(values.insert(after.into(), Sorted::from_sorted([entry.clone()]))),
                }
            }
        }
    }
}

fn value<'a>(entry: &'a Entry, name: &str) -> Option<&'a str> {
    entry.object().meta().labels.get(name).map(String::as_str)
}

fn index(name: &str, items: &Sorted<Entry>) -> HashMap<Box<str>, Sorted<Entry>> {
    let mut found: HashMap<Box<str>, Vec<Arc<Entry>>> = HashMap::new();
    for entry in items.iter() {
        let Some(value) = value(entry, name) else { continue };
        match found.get_mut(value) {
            Some(entries) => entries.push(entry.clone()),
            None => drop(found.insert(value.into(), vec![entry.clone()])),
        }
    }
    found.into_iter().map(|(value, entries)| (value, Sorted::from_sorted(entries))).collect()
}
