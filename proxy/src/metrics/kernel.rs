//! What is in the maps, for metrics and views: read when asked, and not more often than is useful.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thalweg_loader::{Error, Maps};

use crate::inspect::Status;
pub use crate::inspect::live::read_status;

/// Counting the entries of a map reads all of it, so that many scrapers must not read many times.
const FRESH: Duration = Duration::from_secs(5);

/// Reads the maps of one node; the last result serves for five seconds.
pub struct KernelReader {
    maps: Maps,
    last: Mutex<Option<(Instant, Status)>>,
}

// === impl KernelReader ===

impl KernelReader {
    /// # Errors
    /// As [`Maps::open_pinned`].
    pub fn open(pin_root: &Path) -> Result<Self, Error> {
        Ok(Self { maps: Maps::open_pinned(pin_root)?, last: Mutex::new(None) })
    }

    /// `None` when the kernel refuses, which is logged.
    pub fn status(&self) -> Option<Status> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, status)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(status.clone());
        }
        match read_status(&self.maps) {
            Ok(status) => {
                *last = Some((Instant::now(), status.clone()));
                Some(status)
            }
            Err(error) => {
                tracing::warn!("metrics of the maps: {error}");
                None
            }
        }
    }
}
