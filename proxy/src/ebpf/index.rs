//! Finds the place of something in a vector by what it is called, without a second copy of what it is called.

use std::hash::{BuildHasher as _, Hash, RandomState};

use hashbrown::HashTable;

/// Places, found by the hash of what is there.
#[derive(Debug, Default)]
pub(super) struct Index {
    places: HashTable<u32>,
    hasher: RandomState,
}

// === impl Index ===

impl Index {
    /// The place of `key`; `is_there` says whether it is the one.
    pub fn find<K: Hash>(&self, key: &K, is_there: impl Fn(u32) -> bool) -> Option<u32> {
        self.places.find(self.hasher.hash_one(key), |place| is_there(*place)).copied()
    }

    /// `key` must not be known; `key_of` says what is at a place that is.
    pub fn insert<K: Hash>(&mut self, key: &K, place: u32, key_of: impl Fn(u32) -> K) {
        let Self { places, hasher } = self;
        places.insert_unique(hasher.hash_one(key), place, |known| hasher.hash_one(key_of(*known)));
    }

    /// Forgets `key`, which is at that place; nothing happens when it is not.
    pub fn remove<K: Hash>(&mut self, key: &K, place: u32) {
        if let Ok(entry) = self.places.find_entry(self.hasher.hash_one(key), |known| *known == place) {
            entry.remove();
        }
    }

    /// `key` has moved from one place to another.
    pub fn moved<K: Hash>(&mut self, key: &K, from: u32, to: u32) {
        if let Some(place) = self.places.find_mut(self.hasher.hash_one(key), |known| *known == from) {
            *place = to;
        }
    }
}

/// Appends, with little room to spare: a vector doubles by itself, which of large ones is much that nobody uses.
pub(super) fn push<T>(vector: &mut Vec<T>, item: T) {
    if vector.len() == vector.capacity() {
        vector.reserve_exact(16 + vector.len() / 8);
    }
    vector.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_where_they_are() {
        let mut keys: Vec<String> = Vec::new();
        let mut index = Index::default();
        let find = |index: &Index, keys: &[String], key: &String| index.find(key, |place| keys[place as usize] == *key);
        for number in 0..1_000 {
            let key = format!("key-{number}");
            index.insert(&key, number, |place| keys[place as usize].clone());
            push(&mut keys, key);
        }
        assert!(keys.capacity() < 1_200, "{}", keys.capacity());
        assert!((0..).zip(&keys).all(|(place, key)| find(&index, &keys, key) == Some(place)));
        assert_eq!(find(&index, &keys, &"key-1000".to_owned()), None);

        // The last one comes to the place of one that goes.
        index.remove(&keys[3], 4);
        assert_eq!(find(&index, &keys, &keys[3]), Some(3), "it is not there");
        index.remove(&keys[3], 3);
        index.moved(&keys[999], 999, 3);
        let gone = keys.swap_remove(3);
        assert_eq!((find(&index, &keys, &gone), find(&index, &keys, &"key-999".to_owned())), (None, Some(3)));
    }
}
