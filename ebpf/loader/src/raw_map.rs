//! A pinned map of any layout: as bytes, and as what BTF says of them.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use crate::{
    Error, bpffs,
    btf::{Layout, Types},
    sys::{self, Cursor, MapShape},
};

/// Entries per system call.
const BATCH: usize = 4096;
/// As in `kernel_table`: how often a write waits a millisecond for the kernel's allocator.
const NO_MEMORY_RETRIES: u32 = 200;
/// Kinds of maps by their number in the kernel.
const ARRAY: u32 = 2;

#[derive(Debug)]
pub struct RawMap {
    pub name: &'static str,
    pub shape: MapShape,
    fd: OwnedFd,
}

/// Takes some entries at a time: keys one after the other, and as many values.
type See<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Error> + 'a;

/// How the kernel describes a map's entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    pub key: Layout,
    pub value: Layout,
}

// === impl RawMap ===

impl RawMap {
    /// Opens a pinned map; `None` when there is none of that name.
    pub fn open(folder: &Path, name: &'static str) -> Result<Option<Self>, Error> {
        let error = |source| Error::Table { table: name, source };
        let fd = match sys::object_get(&folder.join(name)) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            fd => fd.map_err(error)?,
        };
        let shape = sys::map_shape(fd.as_fd()).map_err(error)?;
        Ok(Some(Self { name, shape, fd }))
    }

    /// What BTF says of keys and values; `None` when the map has none, or none that can be read.
    pub fn described(&self) -> Option<Described> {
        if self.shape.btf == 0 {
            return None;
        }
        let read = || -> io::Result<Described> {
            let types = Types::parse(&sys::btf(self.shape.btf)?)?;
            Ok(Described { key: types.layout(self.shape.key_type)?, value: types.layout(self.shape.value_type)? })
        };
        read().inspect_err(|error| tracing::warn!(map = self.name, %error, "the layout of a pinned map cannot be read")).ok()
    }

    /// Pins this very map in another folder too.
    pub fn share(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(self.name);
        sys::object_pin(self.fd.as_fd(), &path).map_err(|source| Error::Bpffs { path, action: "cannot pin the map", source })
    }

    pub fn is_array(&self) -> bool {
        self.shape.map_type == ARRAY
    }

    /// Shows every entry in chunks: keys and values of equal number. Of arrays, all elements.
    pub fn visit(&self, see: &mut See<'_>) -> Result<(), Error> {
        let (key_size, value_size) = (self.shape.key_size as usize, self.shape.value_size as usize);
        let mut room = BATCH;
        let (mut keys, mut values) = (vec![0; room * key_size], vec![0; room * value_size]);
        let mut cursor = Cursor::default();
        loop {
            let result = sys::lookup_batch_bytes(self.fd.as_fd(), &self.shape, &mut cursor, &mut keys, &mut values);
            if result.done > 0 {
                see(&keys[..result.done * key_size], &values[..result.done * value_size])?;
            }
            match result.error {
                None => {}
                Some(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // One bucket holds more than fits.
                Some(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < self.shape.max_entries as usize * 2 => {
                    room *= 2;
                    keys.resize(room * key_size, 0);
                    values.resize(room * value_size, 0);
                }
                Some(error) => return Err(self.error(error)),
            }
        }
    }

    /// Shows every entry one by one.
    pub fn for_each(&self, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        let (key_size, value_size) = (self.shape.key_size as usize, self.shape.value_size as usize);
        self.visit(&mut |keys, values| {
            keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)).for_each(|(key, value)| see(key, value));
            Ok(())
        })
    }

    /// How large a map must be to hold what is in this one: entries, or for arrays the last that is not zero.
    pub fn used(&self) -> Result<u32, Error> {
        let mut used = 0;
        let mut index = 0;
        self.for_each(&mut |_, value| {
            index += 1;
            if !self.is_array() || value.iter().any(|byte| *byte != 0) {
                used = index;
            }
        })?;
        Ok(used)
    }

    /// Inserts or replaces entries.
    pub fn write(&self, keys: &[u8], values: &[u8]) -> Result<(), Error> {
        let (key_size, value_size) = (self.shape.key_size as usize, self.shape.value_size as usize);
        let (mut keys, mut values) = (keys, values);
        let mut retries = 0;
        while !keys.is_empty() {
            let chunk = (keys.len() / key_size).min(BATCH);
            let (some_keys, some_values) = (&keys[..chunk * key_size], &values[..chunk * value_size]);
            let result = sys::update_batch_bytes(self.fd.as_fd(), &self.shape, some_keys, some_values);
            (keys, values) = (&keys[result.done * key_size..], &values[result.done * value_size..]);
            match result.error {
                None => retries = 0,
                Some(error) if error.raw_os_error() == Some(libc::ENOMEM) && retries < NO_MEMORY_RETRIES => {
                    retries += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                Some(error) => return Err(self.error(error)),
            }
        }
        Ok(())
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        sys::lookup_bytes(self.fd.as_fd(), &self.shape, key).map_err(|error| self.error(error))
    }

    pub fn delete(&self, key: &[u8]) -> Result<(), Error> {
        sys::delete_bytes(self.fd.as_fd(), &self.shape, key).map_err(|error| self.error(error))
    }

    fn error(&self, source: io::Error) -> Error {
        match source.raw_os_error() {
            // Hashes say the first, tries the second.
            Some(libc::E2BIG | libc::ENOSPC) => Error::TableFull { table: self.name, capacity: self.shape.max_entries },
            _ => Error::Table { table: self.name, source },
        }
    }
}

/// The names of the maps in `folder` that are pinned and ours.
pub fn pinned(folder: &Path) -> Result<Vec<&'static str>, Error> {
    let names = bpffs::names(folder)?;
    Ok(crate::maps::PINNED.into_iter().filter(|name| names.iter().any(|pin| pin == name)).collect())
}
