//! Pods in iptables mode: the kernel routes to their links, and nothing is attached. While an earlier eBPF data path drains,
//! pods that go have to leave its tables: their addresses will be others'.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use thalweg_network::{BoxError, PodDatapath, PodLink};

use super::pods::PodTables;
use crate::handover::Drain;

/// The tables of a data path that drains.
#[derive(Default)]
pub struct PlainPods(Mutex<Option<PodTables>>);

// === impl PlainPods ===

impl PlainPods {
    /// # Errors
    /// When the maps of what drains cannot be opened.
    pub fn beside(drain: Option<&Drain>) -> Result<Self> {
        let maps = drain.map(Drain::open_maps).transpose()?.flatten();
        Ok(Self(Mutex::new(maps.map(|maps| PodTables::new(maps.local_pods, maps.local_pods6)))))
    }

    /// Nothing drains any more.
    pub fn drained(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl PodDatapath for PlainPods {
    fn attach(&self, _pod: &PodLink) -> Result<(), BoxError> {
        Ok(())
    }

    fn detach(&self, pod: &PodLink) -> Result<(), BoxError> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(tables) => Ok(tables.remove(pod)?),
            None => Ok(()),
        }
    }
}
