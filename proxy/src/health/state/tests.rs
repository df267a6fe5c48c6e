//! What makes the proxy healthy, event by event.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);

fn at(start: Moment, seconds: u64) -> Moment {
    let after = Duration::from_secs(seconds);
    Moment {
        instant: start.instant + after,
        timestamp: Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_000 + i64::try_from(seconds).expect("seconds")),
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
    state.listed(clock(0));
    state.updated(clock(0), None);
    events(&mut state, &clock);
    assert_eq!(state.report(Probe::Healthz, clock(when)).healthy, healthz, "healthz: {state:?}");
    assert_eq!(state.report(Probe::Livez, clock(when)).healthy, livez, "livez: {state:?}");
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
fn a_late_change_is_unhealthy() {
    check(|state, at| state.queued(at(0)), 60, false, false);
}

#[test]
fn nothing_is_late_while_the_source_lists_but_the_first_update_may_be() {
    let start = Moment::now();
    let mut state = HealthState::new(TIMEOUT);
    state.queued(at(start, 0));
    assert!(state.report(Probe::Healthz, at(start, 1000)).healthy, "{state:?}");
    state.listed(at(start, 1000));
    assert!(state.report(Probe::Healthz, at(start, 1059)).healthy, "{state:?}");
    assert!(!state.report(Probe::Livez, at(start, 1060)).healthy, "{state:?}");
    state.updated(at(start, 1061), None);
    assert!(state.report(Probe::Livez, at(start, 2000)).healthy, "{state:?}");
}

#[test]
fn a_data_path_that_is_not_probed_is_said_and_not_held_against_it() {
    let mut state = HealthState::new(TIMEOUT);
    state.unprobed("iptables mode");
    let report = |probe| state.report(probe, Moment::now());
    assert!(report(Probe::Healthz).healthy);
    assert_eq!(report(Probe::Healthz).data_path.as_deref(), Some("not probed: iptables mode"));
    assert_eq!(report(Probe::Livez).data_path, None);
}

#[test]
fn the_oldest_change_counts() {
    let events = |state: &mut HealthState, at: &dyn Fn(u64) -> Moment| {
        state.updated(at(0), None);
        state.queued(at(1));
        state.queued(at(50));
    };
    check(events, 61, false, false);
}

#[test]
fn an_update_takes_all_that_waits() {
    let events = |state: &mut HealthState, at: &dyn Fn(u64) -> Moment| {
        state.queued(at(1));
        state.updated(at(100), None);
    };
    check(events, 1000, true, true);
}

#[test]
fn a_node_that_goes_is_not_for_load_balancers() {
    check(|state, _| state.sync_node(Some(&node(true, &[]))), 0, false, true);
    check(|state, _| state.sync_node(Some(&node(false, &["ToBeDeletedByClusterAutoscaler:NoSchedule"]))), 0, false, true);
    check(|state, _| state.sync_node(Some(&node(false, &["ToBeDeletedByClusterAutoscaler=1:NoSchedule"]))), 0, false, true);
    check(|state, _| state.sync_node(Some(&node(false, &["other:NoSchedule"]))), 0, true, true);
    let returns = |state: &mut HealthState, _: &dyn Fn(u64) -> Moment| {
        state.sync_node(Some(&node(true, &[])));
        state.sync_node(Some(&node(false, &[])));
    };
    check(returns, 0, true, true);
}

#[test]
fn the_body_is_that_of_kube_proxy() {
    let start = Moment::now();
    let mut state = HealthState::new(TIMEOUT);
    state.listed(at(start, 0));
    state.updated(at(start, 0), None);
    state.queued(at(start, 10));
    let json = |probe, seconds| serde_json::to_string(&state.report(probe, at(start, seconds))).expect("JSON");
    assert_eq!(
        json(Probe::Healthz, 70),
        r#"{"lastUpdated":"1970-01-01T00:16:40Z","currentTime":"1970-01-01T00:17:50Z","nodeEligible":true,"healthy":false,"reason":"a change has been waiting for 60 s","status":{"IPv4":{"lastUpdated":"1970-01-01T00:16:40Z","healthy":false},"IPv6":{"lastUpdated":"1970-01-01T00:16:40Z","healthy":false}}}"#
    );
    assert_eq!(
        json(Probe::Livez, 20),
        r#"{"lastUpdated":"1970-01-01T00:17:00Z","currentTime":"1970-01-01T00:17:00Z","healthy":true,"status":{"IPv4":{"lastUpdated":"1970-01-01T00:17:00Z","healthy":true},"IPv6":{"lastUpdated":"1970-01-01T00:17:00Z","healthy":true}}}"#
    );
}

#[test]
fn a_node_that_was_there_and_is_gone_is_not_for_load_balancers() {
    check(|state, _| state.sync_node(None), 0, true, true);
    let gone = |state: &mut HealthState, _: &dyn Fn(u64) -> Moment| {
        state.sync_node(Some(&node(false, &[])));
        state.sync_node(None);
    };
    check(gone, 0, false, true);
    let back = |state: &mut HealthState, at: &dyn Fn(u64) -> Moment| {
        gone(state, at);
        state.sync_node(Some(&node(false, &[])));
    };
    check(back, 0, true, true);
}

// kubernetes#134648: healthy means that packets flow. Starting again would not help, so livez says nothing of it.
#[test]
fn a_data_path_that_fails_is_not_for_load_balancers() {
    let fail = |times: u64| {
        move |state: &mut HealthState, at: &dyn Fn(u64) -> Moment| {
            state.updated(at(0), None);
            (0..times).for_each(|index| state.data_path.failed(at(index).instant, "timed out"));
        }
    };
    check(fail(2), 2, true, true);
    check(fail(3), 3, false, true);
    let heals = |state: &mut HealthState, at: &dyn Fn(u64) -> Moment| {
        fail(9)(state, at);
        state.data_path.passed(at(9).instant);
    };
    check(heals, 10, true, true);
}

#[test]
fn the_reason_is_named() {
    let start = Moment::now();
    let reason = |state: &HealthState, seconds| state.report(Probe::Healthz, at(start, seconds)).reason;
    let mut state = HealthState::new(TIMEOUT);
    assert_eq!(reason(&state, 0), None);
    state.sync_node(Some(&node(true, &[])));
    assert_eq!(reason(&state, 0).as_deref(), Some("this node is being deleted"));
    (0..3).for_each(|index| state.data_path.failed(at(start, index).instant, "connect to 10.96.0.2:443: timed out"));
    let said = reason(&state, 3).expect("a reason");
    assert_eq!(said, "the data path does not work: connect to 10.96.0.2:443: timed out (3 times in a row)");
    assert!(!state.serves(at(start, 3)));
    state.listed(at(start, 3));
    assert_eq!(reason(&state, 63).as_deref(), Some("a change has been waiting for 60 s"));
    state.updated(at(start, 63), None);
    state.data_path.passed(at(start, 63).instant);
    assert!(state.serves(at(start, 64)));
}
