//! Which containers to start now, which wait and how long, and whether the pod has come to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodSpec;

use super::backoff::Backoffs;
use super::spec::{RestartPolicy, Role, containers, restart_policy};
use super::{Record, Records, State};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub start: Vec<String>,
    /// Containers held back after their end, with the whole length of their back-off.
    pub back_off: BTreeMap<String, Duration>,
    /// When the plan has to be made again by itself.
    pub again_in: Option<Duration>,
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
}

/// What one container asks for.
enum Wish {
    Start,
    Wait(Duration, Option<Duration>),
    Nothing,
}

pub fn plan(spec: &PodSpec, records: &Records, backoffs: &Backoffs, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let policy = restart_policy(spec);
    let absent = Record::default();
    let record = |name: &str| records.get(name).unwrap_or(&absent);
    // Once a main container was made, init containers have done their work for this sandbox.
    let initialized = spec.containers.iter().any(|c| record(&c.name).id.is_some());

    for (container, role) in containers(spec) {
        let record = record(&container.name);
        let again = match role {
            Role::Init if initialized => continue,
            Role::Init => match record.exit() {
                Some(exit) if exit.code == 0 => continue,
                Some(_) if policy == RestartPolicy::Never => {
                    plan.outcome = Some(Outcome::Failed);
                    return plan;
                }
                _ => true,
            },
            Role::Sidecar => true,
            Role::Main => match (policy, record.exit()) {
                (RestartPolicy::Always, _) | (_, None) => true,
                (RestartPolicy::OnFailure, Some(exit)) => exit.code != 0,
                (RestartPolicy::Never, Some(_)) => false,
            },
        };
        match wish(&container.name, record, again, backoffs, now) {
            Wish::Start => plan.start.push(container.name.clone()),
            Wish::Wait(left, whole) => {
                plan.again_in = Some(plan.again_in.map_or(left, |a| a.min(left)));
                if let Some(whole) = whole {
                    plan.back_off.insert(container.name.clone(), whole);
                }
            }
            Wish::Nothing => {}
        }
        // The next one waits for an init container's end, and for a sidecar to be up.
        let blocks = match role {
            Role::Init => true,
            Role::Sidecar => !(initialized || record.running() && record.started),
            Role::Main => false,
        };
        if blocks {
            return plan;
        }
    }
    let mains = || spec.containers.iter().map(|c| record(&c.name).exit());
    let ended = policy != RestartPolicy::Always && mains().all(|e| e.is_some()) && {
        policy == RestartPolicy::Never || mains().flatten().all(|e| e.code == 0)
    };
    if ended {
        let well = mains().flatten().all(|e| e.code == 0);
        return Plan { outcome: Some(if well { Outcome::Succeeded } else { Outcome::Failed }), ..Plan::default() };
    }
    plan
}

fn wish(name: &str, record: &Record, again: bool, backoffs: &Backoffs, now: Timestamp) -> Wish {
    let until = |since: Timestamp, delay: Duration| {
        let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
        Duration::try_from(delay - now.duration_since(since)).unwrap_or_default()
    };
    match &record.state {
        State::Running { .. } => Wish::Nothing,
        State::Waiting { since: None, .. } => Wish::Start,
        State::Waiting { since: Some(since), .. } => match until(*since, backoffs.retry_delay()) {
            Duration::ZERO => Wish::Start,
            left => Wish::Wait(left, None),
        },
        State::Exited(_) if !again => Wish::Nothing,
        State::Exited(exit) => {
            let whole = backoffs.delay(name, exit.finished_at);
            match until(exit.finished_at, whole) {
                Duration::ZERO => Wish::Start,
                left => Wish::Wait(left, Some(whole)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
