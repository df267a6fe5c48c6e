//! Where the logs of this node's containers are, and which of them still grow: kept by the pods' workers, asked by the server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::RwLock;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogKey {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPlace {
    /// Of the latest instance; none before the first one.
    pub latest: Option<PathBuf>,
    /// Of the one before it.
    pub previous: Option<PathBuf>,
    /// The latest instance runs.
    pub running: bool,
    /// Why there is none running, in the words of the container's status: `PodInitializing`.
    pub waiting: Option<String>,
}

/// By pod and container; a pod of the same name made later takes the name over.
#[derive(Debug, Default)]
pub struct LogIndex(RwLock<HashMap<LogKey, (String, LogPlace)>>);

// === impl LogIndex ===

impl LogIndex {
    pub fn get(&self, key: &LogKey) -> Option<LogPlace> {
        self.0.read().ok()?.get(key).map(|(_, place)| place.clone())
    }

    pub fn set(&self, uid: &str, key: LogKey, place: LogPlace) {
        if let Ok(mut all) = self.0.write() {
            all.insert(key, (uid.to_owned(), place));
        }
    }

    /// The pod's logs are gone.
    pub fn forget(&self, uid: &str) {
        if let Ok(mut all) = self.0.write() {
            all.retain(|_, (owner, _)| owner != uid);
        }
    }
}
