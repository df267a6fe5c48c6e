//! Tables over pinned kernel maps: batches where the kernel has them, single operations where not.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aya::Pod;

use crate::{
    Error, Table,
    sys::{self, Cursor},
};

/// Entries per system call: large enough that the call itself costs nothing, small enough for the kernel's buffers.
const BATCH: usize = 4096;

/// How often a write is tried again when the kernel's allocator is momentarily empty, a millisecond apart.
const NO_MEMORY_RETRIES: u32 = 200;

/// A hash map of the kernel.
#[derive(Debug)]
pub struct HashTable<K, V> {
    map: KernelMap,
    types: PhantomData<fn(K) -> V>,
}

/// An array of the kernel, indexed by `u32`. Every index exists; `delete` writes the default value.
#[derive(Debug)]
pub struct ArrayTable<V> {
    map: KernelMap,
    types: PhantomData<fn() -> V>,
}

/// What both have in common.
#[derive(Debug)]
struct KernelMap {
    name: &'static str,
    fd: OwnedFd,
    capacity: u32,
    /// Cleared when the kernel turns out to have no batches for it.
    batches: AtomicBool,
}

// === impl KernelMap ===

impl KernelMap {
    fn open(maps: &Path, name: &'static str, key_size: usize, value_size: usize) -> Result<Self, Error> {
        let path = maps.join(name);
        let fd = open_pin(&path, name)?;
        let shape = sys::map_shape(fd.as_fd()).map_err(|source| Error::Table { table: name, source })?;
        if (shape.key_size as usize, shape.value_size as usize) != (key_size, value_size) {
            let found = format!(
                "keys of {} and values of {} bytes instead of {key_size} and {value_size}",
                shape.key_size, shape.value_size
            );
            return Err(Error::Incompatible { table: name, path, found });
        }
        Ok(Self { name, fd, capacity: shape.max_entries, batches: AtomicBool::new(true) })
    }

    fn error(&self, source: io::Error) -> Error {
        match source.raw_os_error() {
            // Hashes say the first, tries the second.
            Some(libc::E2BIG | libc::ENOSPC) => Error::TableFull { table: self.name, capacity: self.capacity },
            _ => Error::Table { table: self.name, source },
        }
    }

    fn get<K: Pod, V: Pod>(&self, key: &K) -> Result<Option<V>, Error> {
        let values = sys::lookup::<K, V>(self.fd.as_fd(), key, 1).map_err(|error| self.error(error))?;
        Ok(values.and_then(|values| values.first().copied()))
    }

    fn update<K: Pod, V: Pod>(&self, keys: &[K], values: &[V]) -> Result<(), Error> {
        let (mut keys, mut values) = (keys, values);
        let mut retries = 0;
        while !keys.is_empty() {
            let chunk = keys.len().min(BATCH);
            let result = if self.batches.load(Ordering::Relaxed) {
                sys::update_batch(self.fd.as_fd(), &keys[..chunk], &values[..chunk])
            } else {
                one_by_one(chunk, |at| sys::update(self.fd.as_fd(), &keys[at], &values[at]))
            };
            (keys, values) = (&keys[result.done..], &values[result.done..]);
            if result.done > 0 {
                retries = 0;
            }
            match result.error {
                None => {}
                Some(error) if self.stops_batching(&error) => {}
                // Maps without preallocation draw from a cache that an interrupt refills.
                Some(error) if error.raw_os_error() == Some(libc::ENOMEM) && retries < NO_MEMORY_RETRIES => {
                    retries += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                Some(error) => return Err(self.error(error)),
            }
        }
        Ok(())
    }

    fn delete<K: Pod>(&self, keys: &[K]) -> Result<(), Error> {
        let mut keys = keys;
        while !keys.is_empty() {
            let chunk = keys.len().min(BATCH);
            let result = if self.batches.load(Ordering::Relaxed) {
                sys::delete_batch(self.fd.as_fd(), &keys[..chunk])
            } else {
                one_by_one(chunk, |at| sys::delete(self.fd.as_fd(), &keys[at]))
            };
            keys = &keys[result.done..];
            match result.error {
                None => {}
                Some(error) if self.stops_batching(&error) => {}
                // The key that stopped the batch is not there: that is what was wanted.
                Some(error) if error.kind() == io::ErrorKind::NotFound => keys = keys.get(1..).unwrap_or_default(),
                Some(error) => return Err(self.error(error)),
            }
        }
        Ok(())
    }

    /// Shows every entry. An entry that is written meanwhile may be shown or not; none is shown twice by batches.
    fn visit<K: Pod, V: Pod>(&self, see: &mut dyn FnMut(&K, &V)) -> Result<(), Error> {
        if self.batches.load(Ordering::Relaxed) {
            match self.visit_in_batches(see) {
                // Only the first batch can fail like this: nothing has been shown.
                Err(error) if self.stops_batching(&error) => {}
                result => return result.map_err(|error| self.error(error)),
            }
        }
        let mut key: Option<K> = None;
        while let Some(next) = sys::next_key(self.fd.as_fd(), key.as_ref()).map_err(|error| self.error(error))? {
            if let Some(value) = self.get(&next)? {
                see(&next, &value);
            }
            key = Some(next);
        }
        Ok(())
    }

    fn visit_in_batches<K: Pod, V: Pod>(&self, see: &mut dyn FnMut(&K, &V)) -> io::Result<()> {
        let mut cursor = Cursor::default();
        let mut room = BATCH;
        let (mut keys, mut values) = (Vec::<K>::with_capacity(room), Vec::<V>::with_capacity(room));
        loop {
            keys.clear();
            values.clear();
            let result = sys::lookup_batch(self.fd.as_fd(), &mut cursor, &mut keys, &mut values);
            keys.iter().zip(&values).for_each(|(key, value)| see(key, value));
            match result.error {
                None => {}
                Some(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // One bucket holds more than fits: ask for it again with more room.
                Some(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < self.capacity as usize * 2 => {
                    room *= 2;
                    keys.reserve(room);
                    values.reserve(room);
                }
                Some(error) => return Err(error),
            }
        }
    }

    /// Whether the error means that this kernel has no batches here; they are then not tried again.
    fn stops_batching(&self, error: &io::Error) -> bool {
        sys::is_unsupported(error) && self.batches.swap(false, Ordering::Relaxed)
    }
}

fn open_pin(path: &Path, name: &'static str) -> Result<OwnedFd, Error> {
    sys::object_get(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NoMaps { path: path.parent().map_or_else(PathBuf::new, Path::to_owned) },
        _ => Error::Table { table: name, source },
    })
}

/// The same as a batch, with single operations.
fn one_by_one(count: usize, mut operation: impl FnMut(usize) -> io::Result<()>) -> sys::BatchResult {
    for done in 0..count {
        if let Err(error) = operation(done) {
            return sys::BatchResult { done, error: Some(error) };
        }
    }
    sys::BatchResult { done: count, error: None }
}

// === impl HashTable ===

impl<K: Pod, V: Pod> HashTable<K, V> {
    /// Opens the pinned map `name` in the folder `maps`.
    pub(crate) fn open(maps: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { map: KernelMap::open(maps, name, size_of::<K>(), size_of::<V>())?, types: PhantomData })
    }

    /// Makes every later call use single operations, as on a kernel without batches.
    pub fn without_batches(self) -> Self {
        self.map.batches.store(false, Ordering::Relaxed);
        self
    }
}

impl<K: Pod, V: Pod> Table<K, V> for HashTable<K, V> {
    fn get(&self, key: &K) -> Result<Option<V>, Error> {
        self.map.get(key)
    }

    fn update(&mut self, entries: &[(K, V)]) -> Result<(), Error> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        self.map.update(&keys, &values)
    }

    fn delete(&mut self, keys: &[K]) -> Result<(), Error> {
        self.map.delete(keys)
    }

    fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let mut entries = Vec::new();
        self.map.visit(&mut |key, value| entries.push((*key, *value)))?;
        Ok(entries)
    }

    fn visit(&self, see: &mut dyn FnMut(&K, &V)) -> Result<(), Error> {
        self.map.visit(see)
    }

    fn capacity(&self) -> u32 {
        self.map.capacity
    }
}

// === impl ArrayTable ===

impl<V: Pod> ArrayTable<V> {
    /// Opens the pinned map `name` in the folder `maps`.
    pub(crate) fn open(maps: &Path, name: &'static str) -> Result<Self, Error> {
        Ok(Self { map: KernelMap::open(maps, name, size_of::<u32>(), size_of::<V>())?, types: PhantomData })
    }
}

impl<V: Pod + Default + PartialEq> Table<u32, V> for ArrayTable<V> {
    fn get(&self, key: &u32) -> Result<Option<V>, Error> {
        self.map.get(key)
    }

    fn update(&mut self, entries: &[(u32, V)]) -> Result<(), Error> {
        let (keys, values): (Vec<u32>, Vec<V>) = entries.iter().copied().unzip();
        self.map.update(&keys, &values)
    }

    fn delete(&mut self, keys: &[u32]) -> Result<(), Error> {
        self.map.update(keys, &vec![V::default(); keys.len()])
    }

    fn entries(&self) -> Result<Vec<(u32, V)>, Error> {
        let mut entries = Vec::new();
        self.visit(&mut |index, value| entries.push((*index, *value)))?;
        Ok(entries)
    }

    fn visit(&self, see: &mut dyn FnMut(&u32, &V)) -> Result<(), Error> {
        let unused = V::default();
        self.map.visit(&mut |index, value| {
            if *value != unused {
                see(index, value);
            }
        })
    }

    fn capacity(&self) -> u32 {
        self.map.capacity
    }
}

/// A per-CPU array of `u64`: read as sums, written by kernel programs only.
#[derive(Debug)]
pub(crate) struct PerCpuCounters {
    name: &'static str,
    fd: OwnedFd,
    cpus: usize,
}

// === impl PerCpuCounters ===

impl PerCpuCounters {
    pub(crate) fn open(maps: &Path, name: &'static str) -> Result<Self, Error> {
        let fd = open_pin(&maps.join(name), name)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| Error::Table { table: name, source })?;
        Ok(Self { name, fd, cpus })
    }

    /// The sum over CPUs; 0 for an index that this set of maps does not have.
    pub(crate) fn sum(&self, index: u32) -> Result<u64, Error> {
        let values = sys::lookup::<u32, u64>(self.fd.as_fd(), &index, self.cpus)
            .map_err(|source| Error::Table { table: self.name, source })?;
        Ok(values.unwrap_or_default().into_iter().fold(0, u64::wrapping_add))
    }
}
