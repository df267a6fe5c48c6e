//! One operation at a time for one attachment; different attachments do not wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thalweg_cni::protocol::AttachmentId;

#[derive(Debug, Default)]
pub struct Keys(Mutex<HashMap<AttachmentId, Arc<Mutex<()>>>>);

// === impl Keys ===

impl Keys {
    pub fn with<T>(&self, id: &AttachmentId, work: impl FnOnce() -> T) -> T {
        let key = Arc::clone(lock(&self.0).entry(id.clone()).or_default());
        let _forget = Forget { keys: self, id };
        let _guard = lock(&key);
        work()
    }
}

/// Removes the key when nobody else waits for it, also when the work panicked.
struct Forget<'a> {
    keys: &'a Keys,
    id: &'a AttachmentId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut keys = lock(&self.keys.0);
        // One is the map's, one is ours (dropped after this).
        if keys.get(self.id).is_some_and(|key| Arc::strong_count(key) <= 2) {
            keys.remove(self.id);
        }
    }
}

// === functions ===

/// A thread that panicked left consistent data behind: all changes under our locks are single steps.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_kept() {
        let keys = Keys::default();
        let inside = [AtomicUsize::new(0), AtomicUsize::new(0)];
        thread::scope(|scope| {
            for worker in 0..8 {
                let (keys, inside) = (&keys, &inside[worker % 2]);
                scope.spawn(move || {
                    let id = AttachmentId::new(format!("c{}", worker % 2), "eth0");
                    for _ in 0..500 {
                        keys.with(&id, || {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert!(lock(&keys.0).is_empty());
    }
}
