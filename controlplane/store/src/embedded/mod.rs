//! The store inside the process: the current state in memory, durable in one redb file, one writer that commits in groups.
//!
//! A write goes to the writer thread, which checks the compares against memory, commits a whole group of transactions to the
//! file with one fsync, and only then changes memory, tells the watchers and answers. Readers never touch the file.

mod disk;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use self::disk::Disk;
use self::state::State;
use self::writer::Request;
use crate::{Get, Outcome, Page, Range, Result, Store, StoreError, Txn, Watch, WatchControl, WatchItem};

/// What an embedded store may keep in memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events younger than this are kept for watches and reads of the past, as long as `history_bytes` allows.
    pub history_age: Duration,
    /// Older events are kept too, up to this many.
    pub history_events: usize,
    /// Memory for history, in bytes. The oldest events go first.
    pub history_bytes: usize,
    /// Events a watcher may be behind before it is dropped.
    pub watch_queue: usize,
    /// Largest transaction, in bytes of keys and values.
    pub txn_bytes: usize,
}

/// A store in one redb file. Dropping it finishes what was accepted and closes the file.
pub struct Embedded {
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    state: RwLock<State>,
    options: Options,
}

/// Ends a watch in the registry when its receiver is dropped.
struct Control {
    shared: Weak<Shared>,
    prefix: bytes::Bytes,
    id: u64,
    queue: mpsc::WeakSender<WatchItem>,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            history_age: Duration::from_secs(90),
            history_events: 4096,
            history_bytes: 256 << 20,
            watch_queue: 4096,
            txn_bytes: 8 << 20,
        }
    }
}

// === impl Embedded ===

impl Embedded {
    /// Opens the store in `file`, making it when it does not exist.
    pub fn open(file: &Path) -> Result<Self> {
        Self::open_with(file, Options::default())
    }

    pub fn open_with(file: &Path, options: Options) -> Result<Self> {
        let failed = |message: String| StoreError::Open { path: file.display().to_string(), message };
        let disk = Disk::open(file).map_err(|error| failed(error.to_string()))?;
        let (revision, tree) = disk.load().map_err(|error| failed(error.to_string()))?;
        let shared = Arc::new(Shared { state: RwLock::new(State::new(revision, tree)), options });
        let (requests, inbox) = mpsc::channel(4096);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let shared = shared.clone();
                move || writer::run(&disk, &shared, inbox)
            })
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { shared, requests: Some(requests), writer: Some(writer) })
    }

    /// How many watches are open.
    pub fn watchers(&self) -> usize {
        self.shared.read().watchers()
    }
}

impl Store for Embedded {
    fn revision(&self) -> BoxFuture<'_, Result<u64>> {
        std::future::ready(Ok(self.shared.read().revision())).boxed()
    }

    fn get<'a>(&'a self, key: &'a [u8], at: Option<u64>) -> BoxFuture<'a, Result<Get>> {
        std::future::ready(self.shared.read().get(key, at)).boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page>> {
        std::future::ready(self.shared.read().range(&range)).boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        async move {
            writer::check(&txn, self.shared.options.txn_bytes)?;
            let (reply, answer) = oneshot::channel();
            let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
            requests.send(Request::Txn { txn, reply }).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        }
        .boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a [u8], from: u64) -> BoxFuture<'a, Result<Watch>> {
        let (sender, queue) = mpsc::channel(self.shared.options.watch_queue);
        let prefix = bytes::Bytes::copy_from_slice(prefix);
        let weak = sender.downgrade();
        // Registering and reading the backlog happen under one lock, so that no event falls between them.
        let registered = self.shared.write().watch(prefix.clone(), from, sender);
        std::future::ready(registered.map(|(id, backlog)| {
            let control = Control { shared: Arc::downgrade(&self.shared), prefix, id, queue: weak };
            Watch::new(backlog, queue, Box::new(control))
        }))
        .boxed()
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<()>> {
        std::future::ready(self.shared.write().compact(revision)).boxed()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

// === impl Shared ===

impl Shared {
    // The state is changed only by code that does not panic half way; a poisoned lock still guards whole data.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Control ===

impl WatchControl for Control {
    fn request_progress(&self) {
        let (Some(shared), Some(queue)) = (self.shared.upgrade(), self.queue.upgrade()) else { return };
        // Holding the lock keeps the writer from being half way through a delivery. A full queue has events to deliver
        // first, and the asker asks again.
        let state = shared.read();
        let _ = queue.try_send(WatchItem::Progress(state.revision()));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.write().unwatch(&self.prefix, self.id);
        }
    }
}
