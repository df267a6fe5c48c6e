//! The trait every home of the data implements, and how it fails.

use futures::future::BoxFuture;

use crate::{Get, Outcome, Page, Range, Txn, Watch};

pub type Result<T> = std::result::Result<T, StoreError>;

/// A versioned key space. Revisions grow by every committed transaction that changes something and never return.
///
/// Reads see every write that was acknowledged before they began. A write is acknowledged when it is durable.
pub trait Store: Send + Sync + 'static {
    /// The revision of the last committed change.
    fn revision(&self) -> BoxFuture<'_, Result<u64>>;

    /// One key, now or as of a past revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`] for a revision that is no longer, or not yet, there.
    fn get<'a>(&'a self, key: &'a [u8], at: Option<u64>) -> BoxFuture<'a, Result<Get>>;

    /// The keys with a prefix, in order, page by page. Errors as for `get`.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page>>;

    /// Compares, then writes, as one change.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>>;

    /// Every change after revision `from` of the keys with a prefix, in order, without gaps.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when changes after `from` are no longer known, [`StoreError::Future`] for an unknown `from`.
    fn watch<'a>(&'a self, prefix: &'a [u8], from: u64) -> BoxFuture<'a, Result<Watch>>;

    /// Forgets how keys looked before `revision`.
    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<()>>;
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("revision {asked} is compacted; the oldest that can be read is {oldest}")]
    Compacted { asked: u64, oldest: u64 },
    #[error("revision {asked} is in the future; the current one is {current}")]
    Future { asked: u64, current: u64 },
    #[error("a transaction of {size} bytes exceeds the limit of {limit}: split it, or make the object smaller")]
    TooLarge { size: usize, limit: usize },
    #[error("key written twice in one transaction: {0}")]
    DuplicateKey(String),
    #[error("store file {path}: {message}: check the disk, the file's owner, and that no other process has it open")]
    Open { path: String, message: String },
    #[error("writing the store failed: {0}: check the disk for space and errors")]
    Write(String),
    #[error("the store is closed")]
    Closed,
}
