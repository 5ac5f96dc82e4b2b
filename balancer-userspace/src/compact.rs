//! A map that takes little memory while it is small, which nearly all maps of a Service are.

use std::{collections::BTreeMap, mem};

/// The most entries that are kept in one sorted array. Beyond it, moving entries aside would cost more than
/// a tree does.
const SMALL: usize = 32;

/// An ordered map, as [`BTreeMap`] is: of a few entries it is a sorted array that is hardly longer than
/// it must be. A tree has room for eleven entries in its first node, most of which nobody uses where there
/// are thousands of maps with one to four entries each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactMap<K, V> {
    /// Sorted by key. Empty if `large` is not.
    small: Vec<(K, V)>,
    large: BTreeMap<K, V>,
}

impl<K, V> Default for CompactMap<K, V> {
    fn default() -> Self {
        Self { small: Vec::new(), large: BTreeMap::new() }
    }
}

impl<K: Ord, V> CompactMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        match self.place(key) {
            Ok(at) => Some(&self.small[at].1),
            Err(_) => self.large.get(key),
        }
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.place(key) {
            Ok(at) => Some(&mut self.small[at].1),
            Err(_) => self.large.get_mut(key),
        }
    }

    /// Whether it has a key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Sets the value of a key; the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if !self.large.is_empty() {
            return self.large.insert(key, value);
        }
        match self.place(&key) {
            Ok(at) => Some(mem::replace(&mut self.small[at].1, value)),
            Err(at) if self.small.len() < SMALL => {
                if self.small.len() == self.small.capacity() {
                    self.small.reserve_exact(1 + self.small.len() / 4);
                }
                self.small.insert(at, (key, value));
                None
            }
            Err(_) => {
                self.large = mem::take(&mut self.small).into_iter().collect();
                self.large.insert(key, value)
            }
        }
    }

    /// Removes a key; the value it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        match self.place(key) {
            Ok(at) => Some(self.small.remove(at).1),
            Err(_) => {
                let removed = self.large.remove(key)?;
                // Well below the limit, so that a map at the limit does not change its form all the time.
                if self.large.len() <= SMALL / 2 {
                    self.small = mem::take(&mut self.large).into_iter().collect();
                }
                Some(removed)
            }
        }
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.small.iter().map(|(key, value)| (key, value)).chain(&self.large)
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn place(&self, key: &K) -> Result<usize, usize> {
        self.small.binary_search_by(|(other, _)| other.cmp(key))
    }
}

impl<K: Ord, V> Extend<(K, V)> for CompactMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_tree_does(steps in vec((0..80_u8, any::<Option<u8>>()), 0..400)) {
            let (mut compact, mut tree) = (CompactMap::default(), BTreeMap::new());
            for (key, value) in steps {
                match value {
                    Some(value) => prop_assert_eq!(compact.insert(key, value), tree.insert(key, value)),
                    None => prop_assert_eq!(compact.remove(&key), tree.remove(&key)),
                }
                prop_assert_eq!(compact.get(&key), tree.get(&key));
                prop_assert_eq!((compact.len(), compact.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert!(compact.iter().eq(&tree));
                prop_assert!(compact.small.is_empty() || compact.large.is_empty());
            }
        }
    }

    #[test]
    fn one_entry_takes_the_room_of_one() {
        let mut map = CompactMap::default();
        map.insert(1, [0_u8; 100]);
        assert_eq!(map.small.capacity(), 1);
        map.extend((2..=1_000).map(|n| (n, [0; 100])));
        assert_eq!(map.small.capacity(), 0);
        (2..=1_000).for_each(|n| assert!(map.remove(&n).is_some()));
        assert_eq!((map.len(), map.large.len()), (1, 0));
    }
}
