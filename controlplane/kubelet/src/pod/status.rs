//! The status of a pod from what is known of its containers: states, conditions, phase.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::spec::{RestartPolicy, Role, containers, restart_policy};
use super::{Record, Records, State};
use crate::runtime::Exit;

/// Everything a status is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub records: &'a Records,
    /// As they were told last: times of what has not changed are carried over from here.
    pub conditions: &'a [PodCondition],
    /// Containers held back after their end.
    pub back_off: &'a BTreeMap<String, Duration>,
    pub sandbox_ready: bool,
    pub pod_ips: &'a [IpAddr],
    pub host_ips: &'a [IpAddr],
    pub start_time: Timestamp,
    /// The pod ended for a reason of its own: phase, reason, message.
    pub verdict: Option<&'a Verdict>,
    /// The scheme of containerID: `process`.
    pub runtime: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub phase: &'static str,
    pub reason: Option<String>,
    pub message: Option<String>,
}

pub fn pod_status(facts: &Facts<'_>, now: Timestamp) -> PodStatus {
    let Some(spec) = &facts.pod.spec else { return PodStatus::default() };
    let initialized = initialized(spec, facts.records);
    let statuses = |wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
        containers(spec)
            .filter(|(_, role)| wanted(*role))
            .map(|(c, role)| container_status(c, role, initialized, facts))
            .collect()
    };
    let init = statuses(|role| role != Role::Main);
    let main = statuses(|role| role == Role::Main);
    let phase = facts.verdict.map_or_else(|| phase(spec, facts.records, initialized), |v| v.phase);
    let ips = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    PodStatus {
        conditions: Some(conditions(facts, spec, &init, &main, initialized, phase, now)),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: facts.host_ips.first().map(ToString::to_string),
        host_ips: Some(ips(facts.host_ips).into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: facts.pod_ips.first().map(ToString::to_string),
        pod_ips: (!facts.pod_ips.is_empty()).then(|| ips(facts.pod_ips).into_iter().map(|ip| PodIP { ip }).collect()),
        phase: Some(phase.into()),
        reason: facts.verdict.and_then(|v| v.reason.clone()),
        message: facts.verdict.and_then(|v| v.message.clone()),
        start_time: Some(Time(facts.start_time)),
        observed_generation: facts.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// All init containers have ended well and all sidecars are up (or a main container was made, which proves it).
fn initialized(spec: &PodSpec, records: &Records) -> bool {
    let get = |name: &str| records.get(name);
    if spec.containers.iter().any(|c| get(&c.name).is_some_and(|r| r.id.is_some())) {
        return true;
    }
    containers(spec).all(|(c, role)| match (role, get(&c.name)) {
        (Role::Main, _) => true,
        (Role::Init, Some(r)) => r.exit().is_some_and(|e| e.code == 0),
        (Role::Sidecar, Some(r)) => r.running() && r.started,
        (_, None) => false,
    })
}

fn container_status(container: &Container, role: Role, initialized: bool, facts: &Facts<'_>) -> ContainerStatus {
    let absent = Record::default();
    let record = facts.records.get(&container.name).unwrap_or(&absent);
    let terminated = |id: &str, exit: &Exit| ContainerStateTerminated {
        container_id: Some(format!("{}://{id}", facts.runtime)),
        exit_code: exit.code,
        finished_at: Some(Time(exit.finished_at)),
        message: exit.message.clone(),
        reason: Some(exit.reason.clone()),
        signal: None,
        started_at: exit.started_at.map(Time),
    };
    let mut last = record.last.as_ref().map(|(id, exit)| terminated(id, exit));
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    let id = record.id.as_deref().unwrap_or_default();
    let state = match &record.state {
        State::Waiting { reason, message, .. } if !reason.is_empty() => waiting(reason, message.clone()),
        State::Waiting { .. } if !facts.sandbox_ready || (initialized && role == Role::Main) => {
            waiting("ContainerCreating", None)
        }
        State::Waiting { .. } => waiting("PodInitializing", None),
        State::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
            ..ContainerState::default()
        },
        State::Exited(exit) => match facts.back_off.get(&container.name) {
            Some(delay) => {
                last = Some(terminated(id, exit));
                let pod = facts.pod.metadata.name.as_deref().unwrap_or_default();
                let text = format!("back-off {}s restarting failed container={} pod={pod}", delay.as_secs(), container.name);
                waiting("CrashLoopBackOff", Some(text))
            }
            None => ContainerState { terminated: Some(terminated(id, exit)), ..ContainerState::default() },
        },
    };
    let image = container.image.clone().unwrap_or_default();
    // An init container is ready when it has done its work, any other one while it can serve.
    let ready = match role {
        Role::Init => record.exit().is_some_and(|e| e.code == 0),
        Role::Sidecar | Role::Main => record.running() && record.started && record.ready,
    };
    ContainerStatus {
        name: container.name.clone(),
        container_id: record.id.as_ref().map(|id| format!("{}://{id}", facts.runtime)),
        image_id: String::new(),
        image,
        ready,
        started: Some(record.running() && record.started),
        restart_count: record.restarts,
        last_state: Some(ContainerState { terminated: last, ..ContainerState::default() }),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// The phase, by the states alone.
fn phase(spec: &PodSpec, records: &Records, initialized: bool) -> &'static str {
    let policy = restart_policy(spec);
    let absent = Record::default();
    let record = |name: &str| records.get(name).unwrap_or(&absent);
    if !initialized {
        let failed =
            containers(spec).any(|(c, role)| role == Role::Init && record(&c.name).exit().is_some_and(|e| e.code != 0));
        return if failed && policy == RestartPolicy::Never { "Failed" } else { "Pending" };
    }
    let mains: Vec<_> = spec.containers.iter().map(|c| record(&c.name)).collect();
    if mains.iter().any(|r| matches!(r.state, State::Waiting { .. }) && r.last.is_none()) {
        return "Pending";
    }
    if mains.iter().any(|r| r.exit().is_none()) || policy == RestartPolicy::Always {
        return "Running";
    }
    let well = mains.iter().all(|r| r.exit().is_some_and(|e| e.code == 0));
    match (well, policy) {
        (true, _) => "Succeeded",
        (false, RestartPolicy::Never) => "Failed",
        (false, _) => "Running",
    }
}

#[allow(clippy::too_many_arguments, reason = "all of them are results of pod_status, its only caller")]
fn conditions(
    facts: &Facts<'_>,
    spec: &PodSpec,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    initialized: bool,
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let others = facts.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let ended = matches!(phase, "Succeeded" | "Failed");
    let sidecars: Vec<_> = containers(spec).filter(|(_, r)| *r == Role::Sidecar).map(|(c, _)| c.name.as_str()).collect();
    let unready: Vec<_> =
        init.iter().filter(|s| sidecars.contains(&s.name.as_str())).chain(main).filter(|s| !s.ready).collect();
    let names = |list: &[&str]| format!("[{}]", list.join(" "));
    let unready_names: Vec<_> = unready.iter().map(|s| s.name.as_str()).collect();

    let containers_ready = match (ended, unready.is_empty()) {
        (true, _) => Err((if phase == "Succeeded" { "PodCompleted" } else { "PodFailed" }.to_owned(), None)),
        (false, true) => Ok(()),
        (false, false) => {
            let text = format!("containers with unready status: {}", names(&unready_names));
            Err(("ContainersNotReady".to_owned(), Some(text)))
        }
    };
    let gates = spec.readiness_gates.iter().flatten().map(|g| g.condition_type.as_str());
    let shut: Vec<_> = gates.filter(|g| !others.iter().any(|c| c.type_ == **g && c.status == "True")).collect();
    let ready = match &containers_ready {
        Ok(()) if !shut.is_empty() => {
            let text = format!("the status of pod readiness gates {} is not \"True\"", names(&shut));
            Err(("ReadinessGatesNotReady".to_owned(), Some(text)))
        }
        other => other.clone(),
    };
    let init_done = match (initialized || phase == "Succeeded", init.iter().find(|s| !s.ready)) {
        (true, _) | (_, None) => Ok(()),
        (false, Some(first)) => {
            let text = format!("containers with incomplete status: {}", names(&[first.name.as_str()]));
            Err(("ContainersNotInitialized".to_owned(), Some(text)))
        }
    };
    let sandbox = if facts.sandbox_ready { Ok(()) } else { Err((String::new(), None)) };
    [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", init_done),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Ok(())),
    ]
    .into_iter()
    .map(|(kind, result)| condition(kind, result, facts.conditions, facts.pod.metadata.generation, now))
    .collect()
}

fn condition(
    kind: &str,
    result: Result<(), (String, Option<String>)>,
    before: &[PodCondition],
    generation: Option<i64>,
    now: Timestamp,
) -> PodCondition {
    let status = if result.is_ok() { "True" } else { "False" };
    let (reason, message) = result.err().unwrap_or_default();
    let former = before.iter().find(|c| c.type_ == kind && c.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason).filter(|r| !r.is_empty()),
        message,
        last_transition_time: Some(former.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now))),
        observed_generation: generation,
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests;
