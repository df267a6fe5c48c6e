//! The receiving end of a watch: a backlog from history, then a queue that a store fills.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::Event;

/// What a watcher hears.
#[derive(Clone, Debug)]
pub enum WatchItem {
    Event(Arc<Event>),
    /// Every event up to this revision has been delivered. Comes after [`Watch::request_progress`].
    Progress(u64),
}

/// How a watch talks back to its store. Dropping it ends the watch there.
pub trait WatchControl: Send + Sync {
    /// Asks for a [`WatchItem::Progress`] behind all events committed so far.
    fn request_progress(&self);
}

/// A running watch. It ends (`None`) when the watcher was too slow and lost events, or the store closed: read anew.
pub struct Watch {
    backlog: VecDeque<Arc<Event>>,
    queue: mpsc::Receiver<WatchItem>,
    control: Box<dyn WatchControl>,
}

// === impl Watch ===

impl Watch {
    /// For stores: `backlog` is delivered first, then what arrives in `queue`; a closed queue ends the watch.
    pub fn new(backlog: VecDeque<Arc<Event>>, queue: mpsc::Receiver<WatchItem>, control: Box<dyn WatchControl>) -> Self {
        Self { backlog, queue, control }
    }

    /// The next item. Cancel safe.
    pub async fn next(&mut self) -> Option<WatchItem> {
        match self.backlog.pop_front() {
            Some(event) => Some(WatchItem::Event(event)),
            None => self.queue.recv().await,
        }
    }

    /// The next item if one is there already.
    pub fn try_next(&mut self) -> Option<WatchItem> {
        match self.backlog.pop_front() {
            Some(event) => Some(WatchItem::Event(event)),
            None => self.queue.try_recv().ok(),
        }
    }

    pub fn request_progress(&self) {
        self.control.request_progress();
    }
}
