//! Whether the proxy is healthy, decided from what happened to it. Pure: the time comes from outside.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use thalweg_cluster::Node;

use super::data_path::DataPath;

/// The cluster autoscaler puts this taint on a node that it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// One moment on both clocks: what is measured, and what is shown.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub instant: Instant,
    pub timestamp: Timestamp,
}

/// What the proxy's health follows from.
#[derive(Clone, Debug)]
pub struct HealthState {
    timeout: Duration,
    last_updated: Option<Timestamp>,
    /// Everything there is has been heard of once.
    is_listed: bool,
    /// Since when a change waits.
    oldest_queued: Option<Instant>,
    node: Eligibility,
    /// What dialling a VIP of our own has found.
    pub data_path: DataPath,
    /// Why none is dialled.
    unprobed: Option<&'static str>,
}

/// May this node get traffic from outside?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Eligibility {
    /// Nothing has been heard of the node: it may.
    Unknown,
    Eligible,
    Deleted,
    ToBeDeleted,
}

/// What a probe asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Probe {
    /// May load balancers send traffic to this node?
    Healthz,
    /// Does the proxy work? What becomes of the node does not matter, nor whether packets flow, which starting the proxy
    /// again would not mend.
    Livez,
}

/// The body of an answer, as kube-proxy words it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub last_updated: Timestamp,
    pub current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    pub healthy: bool,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By address family; none before the first update.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub status: BTreeMap<&'static str, FamilyReport>,
    /// Said when nothing is known of the data path, which is not kube-proxy's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_path: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyReport {
    pub last_updated: Timestamp,
    pub healthy: bool,
}

// === impl Moment ===

impl Moment {
    pub fn now() -> Self {
        Self { instant: Instant::now(), timestamp: Timestamp::now() }
    }
}

// === impl HealthState ===

impl HealthState {
    /// `timeout`: how long a change may wait. A node is eligible until something else is heard of it.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            last_updated: None,
            is_listed: false,
            oldest_queued: None,
            node: Eligibility::Unknown,
            data_path: DataPath::default(),
            unprobed: None,
        }
    }

    /// Everything there is has been heard of, and waits to be written. What comes before waits for the source, whose fault
    /// a slow listing is.
    pub fn listed(&mut self, now: Moment) {
        self.is_listed = true;
        self.queued(now);
    }

    /// A change arrived that is not in the kernel yet.
    pub fn queued(&mut self, now: Moment) {
        if self.is_listed {
            self.oldest_queued.get_or_insert(now.instant);
        }
    }

    /// Nobody tries whether packets flow, and this is why.
    pub fn unprobed(&mut self, reason: &'static str) {
        self.unprobed = Some(reason);
    }

    /// What had been queued is in the kernel, but for what waits since `behind`.
    pub fn updated(&mut self, now: Moment, behind: Option<Instant>) {
        self.oldest_queued = behind;
        self.last_updated = Some(now.timestamp);
    }

    /// What this node's own object says of its future; `None` when there is no such object (any more).
    pub fn sync_node(&mut self, node: Option<&Node>) {
        let doomed = |taint: &str| taint.split(':').next().is_some_and(|key| key.split('=').next() == Some(TO_BE_DELETED));
        self.node = match node {
            None if self.node == Eligibility::Unknown => Eligibility::Unknown,
            None => Eligibility::Deleted,
            Some(node) if node.deleting => Eligibility::Deleted,
            Some(node) if node.taints.iter().any(|taint| doomed(taint)) => Eligibility::ToBeDeleted,
            Some(_) => Eligibility::Eligible,
        };
    }

    /// Whether the proxy works and packets flow, whatever becomes of the node: what a service's health check says.
    pub fn serves(&self, now: Moment) -> bool {
        self.late(now).is_none() && self.data_path.fault(now.instant).is_none()
    }

    pub fn report(&self, probe: Probe, now: Moment) -> Report {
        let late = self.late(now);
        let works = late.is_none();
        let reason = match probe {
            Probe::Healthz => late.or_else(|| self.data_path.fault(now.instant)).or_else(|| self.node.fault()),
            Probe::Livez => late,
        };
        // A proxy without anything to do is up to date: "last updated" is now, as old probes expect.
        let shown = |healthy: bool| match self.last_updated {
            _ if healthy => now.timestamp,
            Some(timestamp) => timestamp,
            None => Timestamp::UNIX_EPOCH,
        };
        let family = |name| (name, FamilyReport { last_updated: shown(works), healthy: works });
        Report {
            last_updated: shown(reason.is_none()),
            current_time: now.timestamp,
            node_eligible: (probe == Probe::Healthz).then_some(self.node.fault().is_none()),
            healthy: reason.is_none(),
            reason,
            // Both are programmed together.
            status: self.last_updated.iter().flat_map(|_| ["IPv4", "IPv6"]).map(family).collect(),
            data_path: self.unprobed.filter(|_| probe == Probe::Healthz).map(|reason| format!("not probed: {reason}")),
        }
    }

    /// What to say when a change has waited for too long.
    fn late(&self, now: Moment) -> Option<String> {
        let waited = now.instant.saturating_duration_since(self.oldest_queued?);
        (waited >= self.timeout).then(|| format!("a change has been waiting for {} s", waited.as_secs()))
    }
}

// === impl Eligibility ===

impl Eligibility {
    fn fault(self) -> Option<String> {
        match self {
            Self::Unknown | Self::Eligible => None,
            Self::Deleted => Some("this node is being deleted".to_owned()),
            Self::ToBeDeleted => Some(format!("this node has the taint {TO_BE_DELETED}")),
        }
    }
}
