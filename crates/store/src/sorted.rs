//! A sorted list in outline: what all its keys begin with, and the few bytes that follow in each, side by side.
//!
//! Keys lie all over memory, and to look at one is to wait for it. The outline lies in one place and mostly settles a
//! search alone; only keys that look the same in it are looked at themselves.

use std::ops::{Deref, DerefMut};

/// What has a place among others by its key, which never changes.
pub(crate) trait Keyed {
    fn sort_key(&self) -> &[u8];
}

/// Items in the order of their keys, of each of which the outline has `N` bytes.
pub(crate) struct Sorted<T, const N: usize> {
    items: Vec<T>,
    /// All keys begin with this; there may be more they have in common.
    prefix: Box<[u8]>,
    /// What follows the prefix in each key, up to `N` bytes, then zeros. In the order of the keys, as far as that shows.
    outline: Vec<[u8; N]>,
}

impl<T, const N: usize> Default for Sorted<T, N> {
    fn default() -> Self {
        Self { items: Vec::new(), prefix: Box::default(), outline: Vec::new() }
    }
}

impl<T, const N: usize> Deref for Sorted<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T, const N: usize> DerefMut for Sorted<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<T: Keyed, const N: usize> Sorted<T, N> {
    /// Where the key is, or where it belongs.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let Some(rest) = key.strip_prefix(&*self.prefix) else {
            return Err(if *key < *self.prefix { 0 } else { self.items.len() });
        };
        let short = shorten(rest);
        let from = self.outline.partition_point(|other| *other < short);
        if self.outline.get(from) != Some(&short) {
            return Err(from);
        }
        let to = from + self.outline[from..].partition_point(|other| *other == short);
        let found = self.items[from..to].binary_search_by(|item| item.sort_key().cmp(key));
        found.map(|at| from + at).map_err(|at| from + at)
    }

    /// Puts an item where its key belongs.
    pub(crate) fn insert(&mut self, at: usize, item: T) {
        let rest = item.sort_key().strip_prefix(&*self.prefix).filter(|_| !self.items.is_empty());
        let short = rest.map(shorten);
        self.items.insert(at, item);
        match short {
            Some(short) => self.outline.insert(at, short),
            None => self.draw(),
        }
    }

    pub(crate) fn remove(&mut self, at: usize) -> T {
        self.outline.remove(at);
        self.items.remove(at)
    }

    /// Cuts off everything from `at` on.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let mut rest = Self { items: self.items.split_off(at), ..Self::default() };
        rest.draw();
        self.draw();
        rest
    }

    /// Adds items whose keys come after all that are here.
    pub(crate) fn append(&mut self, next: Self) {
        self.items.extend(next.items);
        self.draw();
    }

    /// Makes the outline anew. What the first key and the last have in common, all between them have.
    fn draw(&mut self) {
        let (Some(first), Some(last)) = (self.items.first(), self.items.last()) else { return *self = Self::default() };
        let (first, last) = (first.sort_key(), last.sort_key());
        let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        self.prefix = first[..common].into();
        self.outline.clear();
        self.outline.extend(self.items.iter().map(|item| shorten(&item.sort_key()[common..])));
    }
}

/// The first `N` bytes.
fn shorten<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut short = [0; N];
    let length = bytes.len().min(N);
    short[..length].copy_from_slice(&bytes[..length]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for Vec<u8> {
        fn sort_key(&self) -> &[u8] {
            self
        }
    }

    fn check(sorted: &Sorted<Vec<u8>, 2>, model: &[Vec<u8>], probes: &[Vec<u8>]) {
        assert_eq!(**sorted, *model);
        for probe in probes {
            assert_eq!(sorted.find(probe), model.binary_search(probe), "{probe:?} in {model:?}");
        }
    }

    /// Keys that begin alike, end in zeros, are part of each other, or are longer than the outline: all that can look the
    /// same in it, or change the prefix.
    #[test]
    fn agrees_with_a_sorted_vec() {
        let letters = [0, b'a', 0xff];
        let mut keys = vec![Vec::new()];
        for length in 0..5 {
            let longer = keys.iter().filter(|key| key.len() == length);
            let longer: Vec<_> = longer.flat_map(|key| letters.map(|letter| [&key[..], &[letter]].concat())).collect();
            keys.extend(longer);
        }
        let (mut sorted, mut model) = (Sorted::<Vec<u8>, 2>::default(), Vec::new());
        check(&sorted, &model, &keys);
        for step in 0..3000 {
            // Long keys with a common beginning first, then all of them, in an order that is neither sorted nor random.
            let among = if step < 100 { &keys[keys.len() - 27..] } else { &keys[..] };
            let key = &among[step * 7919 % among.len()];
            match model.binary_search(key) {
                Ok(at) => {
                    model.remove(at);
                    assert_eq!(sorted.remove(at), *key);
                }
                Err(at) => {
                    model.insert(at, key.clone());
                    sorted.insert(at, key.clone());
                }
            }
            if step % 50 == 0 {
                check(&sorted, &model, &keys);
                let at = step % (model.len() + 1);
                let rest = sorted.split_off(at);
                check(&sorted, &model[..at], &keys);
                check(&rest, &model[at..], &keys);
                sorted.append(rest);
                check(&sorted, &model, &keys);
            }
        }
    }
}
