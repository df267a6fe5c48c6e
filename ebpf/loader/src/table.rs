//! One interface for every key-value map: a pinned kernel map, or memory in tests.

use std::collections::BTreeMap;

use crate::Error;

/// A map of the kernel, as its user sees it. Writes are whole batches; an implementation may split them.
///
/// For array maps the key is the index (`u32`) and `delete` writes the default value.
pub trait Table<K, V> {
    /// # Errors
    /// [`Error::Table`] names the map and the cause.
    fn get(&self, key: &K) -> Result<Option<V>, Error>;

    /// Inserts or replaces. Entries are written in the order given; on an error, a prefix has been written.
    ///
    /// # Errors
    /// [`Error::TableFull`] when the map has no room, else [`Error::Table`].
    fn update(&mut self, entries: &[(K, V)]) -> Result<(), Error>;

    /// Removes; keys that are not there are not an error.
    ///
    /// # Errors
    /// [`Error::Table`] names the map and the cause.
    fn delete(&mut self, keys: &[K]) -> Result<(), Error>;

    /// Everything in the map (for arrays: entries that differ from the default value), in no order. Not atomic.
    ///
    /// # Errors
    /// [`Error::Table`] names the map and the cause.
    fn entries(&self) -> Result<Vec<(K, V)>, Error>;

    /// Shows every entry (as [`Table::entries`]) to `see`, without holding them all in memory.
    ///
    /// # Errors
    /// [`Error::Table`] names the map and the cause.
    fn visit(&self, see: &mut dyn FnMut(&K, &V)) -> Result<(), Error> {
        self.entries()?.iter().for_each(|(key, value)| see(key, value));
        Ok(())
    }

    /// How many entries there are now. A walk over the whole map: the kernel keeps no count that it tells.
    ///
    /// # Errors
    /// [`Error::Table`] names the map and the cause.
    fn count(&self) -> Result<u32, Error> {
        let mut count = 0;
        self.visit(&mut |_, _| count += 1)?;
        Ok(count)
    }

    /// How many entries the map can hold.
    fn capacity(&self) -> u32;
}

/// A table in memory with a capacity, for tests of what is built on tables. Records how often it was written.
#[derive(Clone, Debug)]
pub struct MemoryTable<K, V> {
    name: &'static str,
    map: BTreeMap<K, V>,
    capacity: u32,
    /// Entries written or deleted so far.
    pub writes: u64,
}

// === impl MemoryTable ===

impl<K, V> MemoryTable<K, V> {
    pub fn new(name: &'static str, capacity: u32) -> Self {
        Self { name, map: BTreeMap::new(), capacity, writes: 0 }
    }
}

impl<K: Ord + Copy, V: Copy> Table<K, V> for MemoryTable<K, V> {
    fn get(&self, key: &K) -> Result<Option<V>, Error> {
        Ok(self.map.get(key).copied())
    }

    fn update(&mut self, entries: &[(K, V)]) -> Result<(), Error> {
        for (key, value) in entries {
            if self.map.len() >= self.capacity as usize && !self.map.contains_key(key) {
                return Err(Error::TableFull { table: self.name, capacity: self.capacity });
            }
            self.map.insert(*key, *value);
            self.writes += 1;
        }
        Ok(())
    }

    fn delete(&mut self, keys: &[K]) -> Result<(), Error> {
        for key in keys {
            if self.map.remove(key).is_some() {
                self.writes += 1;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        Ok(self.map.iter().map(|(key, value)| (*key, *value)).collect())
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }
}
