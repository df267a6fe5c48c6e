//! Clients that wait for upstreams: a bounded number, and when it is reached the one that waits longest gives way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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
}

/// Leaves the queue, whatever happens to the client.
struct Place<'w> {
    waiting: &'w Waiting,
    number: u64,
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

    /// What `work` gives, or `None` when this client had to make room for others.
    pub async fn until_shed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let (place, shed) = self.enter();
        let answer = tokio::select! {
            biased;
            answer = work => Some(answer),
            _ = shed => None,
        };
        drop(place);
        answer
    }

    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    fn enter(&self) -> (Place<'_>, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.clients.len() >= self.most
            && let Some((_, oldest)) = queue.clients.pop_first()
        {
            self.shed.fetch_add(1, Ordering::Relaxed);
            // An error: it has its answer already.
            let _told = oldest.send(());
        }
        let number = queue.next;
        queue.next += 1;
        queue.clients.insert(number, sender);
        (Place { waiting: self, number }, receiver)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.queue.lock().unwrap_or_else(PoisonError::into_inner).clients.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way() {
        let waiting = Arc::new(Waiting::new(2));
        let spawn = || {
            let waiting = waiting.clone();
            tokio::spawn(async move { waiting.until_shed(std::future::pending::<()>()).await })
        };
        let tasks = [spawn(), spawn()];
        while waiting.queue.lock().expect("lock").clients.len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting.until_shed(async { 7 }).await, Some(7), "whoever comes last is served");
        let [first, second] = tasks;
        assert_eq!(first.await.expect("joined"), None);
        assert_eq!(waiting.shed(), 1);
        assert!(!second.is_finished());
        second.abort();
        let _aborted = second.await;
        assert!(waiting.queue.lock().expect("lock").clients.is_empty(), "a client that goes away leaves its place");
    }
}
