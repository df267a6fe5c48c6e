//! Clients that wait for upstreams: a bounded number, and when it is reached the one that waits longest gives way.
//!
//! A client has its place before anything is begun for it. Whoever was told to give way keeps it until it has gone: when
//! these are as many again, whoever comes is not let in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

const MOST: usize = 8192;

pub struct Waiting {
    most: usize,
    queue: Mutex<Queue>,
    shed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    next: u64,
    clients: BTreeMap<u64, oneshot::Sender<()>>,
    /// Clients that were told to give way and have not gone yet.
    leaving: usize,
}

/// A client's place among those who wait; it leaves when this is dropped.
pub struct Place {
    waiting: Arc<Waiting>,
    number: u64,
    told: oneshot::Receiver<()>,
}

// === impl Waiting ===

impl Default for Waiting {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Waiting {
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), queue: Mutex::default(), shed: AtomicU64::new(0) }
    }

    /// A place, for which another client may have to give way; `None` when this one is not let in.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let (sender, told) = oneshot::channel();
        let mut queue = self.lock();
        if queue.clients.len() >= self.most {
            self.shed.fetch_add(1, Ordering::Relaxed);
            if queue.leaving >= self.most {
                return None;
            }
            if let Some((_, oldest)) = queue.clients.pop_first() {
                queue.leaving += 1;
                // An error: it has its answer already.
                let _told = oldest.send(());
            }
        }
        let number = queue.next;
        queue.next += 1;
        queue.clients.insert(number, sender);
        Some(Place { waiting: self.clone(), number, told })
    }

    /// Clients that had to give way or were not let in.
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    /// What `work` gives, or `None` when this client has to make room for others.
    pub async fn until_shed<T>(mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = work => Some(answer),
            _ = &mut self.told => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.waiting.lock();
        if queue.clients.remove(&self.number).is_none() {
            queue.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way() {
        let waiting = Arc::new(Waiting::new(2));
        let enter = || waiting.enter().expect("a place").until_shed(std::future::pending::<()>());
        let (first, second) = (enter(), tokio::spawn(enter()));
        assert_eq!(waiting.enter().expect("a place").until_shed(async { 7 }).await, Some(7), "whoever comes last is served");
        assert_eq!((first.await, waiting.shed()), (None, 1));
        assert!(!second.is_finished());
        second.abort();
        let _aborted = second.await;
        let queue = waiting.lock();
        assert_eq!((queue.clients.len(), queue.leaving), (0, 0), "a client that goes away leaves its place");
    }

    #[test]
    fn no_more_are_let_in_than_leave() {
        let waiting = Arc::new(Waiting::new(2));
        let mut places: Vec<Place> = (0..4).filter_map(|_| waiting.enter()).collect();
        assert_eq!(places.len(), 4, "as many as may wait, and as many that leave");
        assert!(waiting.enter().is_none());
        drop(places.remove(0));
        assert!(waiting.enter().is_some(), "one has left");
        assert_eq!(waiting.shed(), 4);
    }
}
