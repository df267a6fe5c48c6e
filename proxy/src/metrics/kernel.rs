//! What is in the maps, for metrics and views: read when asked, and not more often than is useful.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thalweg_abi::StateKey;
use thalweg_loader::{Error, Maps, Table};

use crate::inspect::{Status, status};

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

/// Reads state, fill levels and counters.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses a look-up.
pub fn read_status(maps: &Maps) -> Result<Status, Error> {
    let keys = [StateKey::Abi, StateKey::CreatedAt, StateKey::Adoptions, StateKey::Applies, StateKey::Synced];
    let state = keys.into_iter().map(|key| Ok((key, maps.state(key)?))).collect::<Result<Vec<_>, Error>>()?;
    let used = [
        usage("FRONTENDS", &maps.frontends)?,
        usage("SLOTS", &maps.slots)?,
        usage("BACKENDS", &maps.backends)?,
        usage("CONNTRACK", &maps.conntrack)?,
        usage("LOCAL_PODS", &maps.local_pods)?,
        usage("SERVICES", &maps.services)?,
    ];
    Ok(status(&state, &used, &maps.counters()?, &maps.drops()?))
}

fn usage<K, V>(name: &'static str, table: &impl Table<K, V>) -> Result<(&'static str, u64, u64), Error> {
    Ok((name, table.entries()?.len() as u64, u64::from(table.capacity())))
}
