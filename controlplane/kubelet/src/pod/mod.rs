//! The rules of a pod's life, without I/O: what to start when, what the status says, what a container sees.

pub mod backoff;
pub mod dns;
pub mod env;
pub mod fields;
pub mod identity;
pub mod plan;
pub mod quantity;
pub mod security;
pub mod spec;
pub mod status;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::runtime::Exit;

/// What the kubelet knows of one container of a pod: its latest instance, and how the one before ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The latest instance in the runtime.
    pub id: Option<String>,
    pub state: State,
    /// The instance before the latest: id and end.
    pub last: Option<(String, Exit)>,
    /// How often it was started again.
    pub restarts: i32,
    /// The startup probe has passed (or there is none).
    pub started: bool,
    /// The readiness probe passes (or there is none).
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not running; `since` is when making it failed.
    Waiting {
        reason: String,
        message: Option<String>,
        since: Option<Timestamp>,
    },
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// By container name, init containers too: names are unique in a pod.
pub type Records = BTreeMap<String, Record>;

// === impl Record ===

impl Record {
    pub fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        let state = State::Waiting { reason: String::new(), message: None, since: None };
        Self { id: None, state, last: None, restarts: 0, started: false, ready: false }
    }
}
