//! Whether the proxy is healthy, decided from what happened to it. Pure: the time comes from outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use thalweg_cluster::Node;

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
    /// Since when a change waits.
    oldest_queued: Option<Instant>,
    node_eligible: bool,
}

/// What a probe asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// May load balancers send traffic to this node?
    Healthz,
    /// Does the proxy work? What becomes of the node does not matter.
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
    /// By address family; none before the first update.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub status: BTreeMap<&'static str, FamilyReport>,
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
        Self { timeout, last_updated: None, oldest_queued: None, node_eligible: true }
    }

    /// A change arrived that is not in the kernel yet.
    pub fn queued(&mut self, now: Moment) {
        self.oldest_queued.get_or_insert(now.instant);
    }

    /// Everything that had been queued is in the kernel.
    pub fn updated(&mut self, now: Moment) {
        self.oldest_queued = None;
        self.last_updated = Some(now.timestamp);
    }

    /// What this node's own object says of its future.
    pub fn sync_node(&mut self, node: &Node) {
        let doomed = |taint: &str| taint.split(':').next().is_some_and(|key| key.split('=').next() == Some(TO_BE_DELETED));
        self.node_eligible = !node.deleting && !node.taints.iter().any(|taint| doomed(taint));
    }

    /// Whether the proxy works, whatever becomes of the node.
    pub fn is_healthy(&self, now: Moment) -> bool {
        self.oldest_queued.is_none_or(|since| now.instant.saturating_duration_since(since) < self.timeout)
    }

    pub fn report(&self, probe: Probe, now: Moment) -> Report {
        let works = self.is_healthy(now);
        let healthy = works && (probe == Probe::Livez || self.node_eligible);
        // A proxy without anything to do is up to date: "last updated" is now, as old probes expect.
        let shown = |healthy: bool| match self.last_updated {
            _ if healthy => now.timestamp,
            Some(timestamp) => timestamp,
            None => Timestamp::UNIX_EPOCH,
        };
        let family = |_| ("IPv4", FamilyReport { last_updated: shown(works), healthy: works });
        Report {
            last_updated: shown(healthy),
            current_time: now.timestamp,
            node_eligible: (probe == Probe::Healthz).then_some(self.node_eligible),
            healthy,
            status: self.last_updated.map(family).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn at(start: Moment, seconds: u64) -> Moment {
        let after = Duration::from_secs(seconds);
        Moment {
            instant: start.instant + after,
            timestamp: Timestamp::UNIX_EPOCH
                + jiff::SignedDuration::from_secs(1_000 + i64::try_from(seconds).expect("seconds")),
        }
    }

    fn node(deleting: bool, taints: &[&str]) -> Node {
        Node {
            name: "a".into(),
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            zone: None,
            deleting,
            taints: taints.iter().map(|taint| (*taint).into()).collect(),
        }
    }

    /// After `events`, at second `when`: healthz and livez are as wanted.
    #[track_caller]
    fn check(events: impl FnOnce(&mut HealthState, &dyn Fn(u64) -> Moment), when: u64, healthz: bool, livez: bool) {
        let start = Moment::now();
        let clock = |seconds| at(start, seconds);
        let mut state = HealthState::new(TIMEOUT);
        events(&mut state, &clock);
        assert_eq!(state.report(Probe::Healthz, clock(when)).healthy, healthz, "healthz: {state:?}");
        assert_eq!(state.report(Probe::Livez, clock(when)).healthy, livez, "livez: {state:?}");
        assert_eq!(state.is_healthy(clock(when)), livez);
    }

    #[test]
    fn healthy_while_it_starts() {
        check(|_, _| {}, 1000, true, true);
    }

    #[test]
    fn healthy_while_a_change_is_not_late() {
        check(|state, at| state.queued(at(0)), 59, true, true);
    }

    #[test]
    fn a_late_change_is_unhealthy_even_before_the_first_update() {
        check(|state, at| state.queued(at(0)), 60, false, false);
    }

    #[test]
    fn the_oldest_change_counts() {
        let events = |state: &mut HealthState, at: &dyn Fn(u64) -> Moment| {
            state.updated(at(0));
            state.queued(at(1));
            state.queued(at(50));
        };
        check(events, 61, false, false);
    }

    #[test]
    fn an_update_takes_all_that_waits() {
        let events = |state: &mut HealthState, at: &dyn Fn(u64) -> Moment| {
            state.queued(at(1));
            state.updated(at(100));
        };
        check(events, 1000, true, true);
    }

    #[test]
    fn a_node_that_goes_is_not_for_load_balancers() {
        check(|state, _| state.sync_node(&node(true, &[])), 0, false, true);
        check(|state, _| state.sync_node(&node(false, &["ToBeDeletedByClusterAutoscaler:NoSchedule"])), 0, false, true);
        check(|state, _| state.sync_node(&node(false, &["ToBeDeletedByClusterAutoscaler=1:NoSchedule"])), 0, false, true);
        check(|state, _| state.sync_node(&node(false, &["other:NoSchedule"])), 0, true, true);
        let returns = |state: &mut HealthState, _: &dyn Fn(u64) -> Moment| {
            state.sync_node(&node(true, &[]));
            state.sync_node(&node(false, &[]));
        };
        check(returns, 0, true, true);
    }

    #[test]
    fn the_body_is_that_of_kube_proxy() {
        let start = Moment::now();
        let mut state = HealthState::new(TIMEOUT);
        state.updated(at(start, 0));
        state.queued(at(start, 10));
        let json = |probe, seconds| serde_json::to_string(&state.report(probe, at(start, seconds))).expect("JSON");
        assert_eq!(
            json(Probe::Healthz, 70),
            r#"{"lastUpdated":"1970-01-01T00:16:40Z","currentTime":"1970-01-01T00:17:50Z","nodeEligible":true,"healthy":false,"status":{"IPv4":{"lastUpdated":"1970-01-01T00:16:40Z","healthy":false}}}"#
        );
        assert_eq!(
            json(Probe::Livez, 20),
            r#"{"lastUpdated":"1970-01-01T00:17:00Z","currentTime":"1970-01-01T00:17:00Z","healthy":true,"status":{"IPv4":{"lastUpdated":"1970-01-01T00:17:00Z","healthy":true}}}"#
        );
    }
}
