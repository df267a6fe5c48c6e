//! The redb file: one table of current keys, one of facts about the store.

use std::path::Path;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::state::Tree;
use crate::KeyValue;

/// key -> create revision (8 bytes, little endian), mod revision (8 bytes), value.
const CURRENT: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("current");
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
const HEADER: usize = 16;
/// Everything is read from memory, so the file's own cache only needs to serve writes.
const CACHE_BYTES: usize = 16 << 20;

pub(super) struct Disk {
    database: Database,
}

// === impl Disk ===

impl Disk {
    pub(super) fn open(file: &Path) -> Result<Self, redb::Error> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(file)?;
        let write = database.begin_write()?;
        {
            let mut facts = write.open_table(FACTS)?;
            let format = facts.get(FORMAT)?.map(|value| value.value());
            match format {
                None => {
                    facts.insert(FORMAT, FORMAT_VERSION)?;
                    facts.insert(REVISION, 1)?;
                }
                Some(FORMAT_VERSION) => {}
                Some(other) => return Err(corrupted(format!("format {other} is unknown to this version"))),
            }
            write.open_table(CURRENT)?;
        }
        write.commit()?;
        Ok(Self { database })
    }

    /// The revision and all current keys.
    pub(super) fn load(&self) -> Result<(u64, Tree), redb::Error> {
        let read = self.database.begin_read()?;
        let revision = read.open_table(FACTS)?.get(REVISION)?.map_or(1, |value| value.value());
        let mut tree = Tree::new();
        for row in read.open_table(CURRENT)?.iter()? {
            let (key, value) = row?;
            let item = decode(key.value(), value.value())?;
            tree.insert(item.key.clone(), item);
        }
        Ok((revision, tree))
    }

    /// Writes a group of changes (key, new state) durably, with the revision they lead to.
    pub(super) fn commit<'a>(
        &self,
        revision: u64,
        changes: impl Iterator<Item = (&'a Bytes, Option<&'a KeyValue>)>,
    ) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut current = write.open_table(CURRENT)?;
            let mut row = Vec::new();
            for (key, item) in changes {
                match item {
                    Some(item) => {
                        encode(item, &mut row);
                        current.insert(&key[..], &row[..])?;
                    }
                    None => {
                        current.remove(&key[..])?;
                    }
                }
            }
            write.open_table(FACTS)?.insert(REVISION, revision)?;
        }
        write.commit()?;
        Ok(())
    }
}

fn encode(item: &KeyValue, row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&item.create_revision.to_le_bytes());
    row.extend_from_slice(&item.mod_revision.to_le_bytes());
    row.extend_from_slice(&item.value);
}

fn decode(key: &[u8], row: &[u8]) -> Result<KeyValue, redb::Error> {
    let (Some((create, rest)), true) = (row.split_first_chunk::<8>(), row.len() >= HEADER) else {
        return Err(corrupted(format!("key {:?} has a row of {} bytes", String::from_utf8_lossy(key), row.len())));
    };
    let Some((modified, value)) = rest.split_first_chunk::<8>() else {
        return Err(corrupted("a row ends in its header".into()));
    };
    Ok(KeyValue {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        create_revision: u64::from_le_bytes(*create),
        mod_revision: u64::from_le_bytes(*modified),
    })
}

fn corrupted(message: String) -> redb::Error {
    redb::Error::Corrupted(message)
}
