//! Questions to a pod's spec that several rules ask.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use jiff::Timestamp;

/// A container's place in the pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the main containers.
    Sidecar,
    Main,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Every container in the order of the spec, init containers first.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, Role)> {
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|c| (c, if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }));
    init.chain(spec.containers.iter().map(|c| (c, Role::Main)))
}

pub fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<(&'a Container, Role)> {
    containers(spec).find(|(c, _)| c.name == name)
}

pub fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// When the pod must be gone: deletion time plus what it was given. `None`: it is not being deleted.
pub fn deadline(pod: &Pod) -> Option<Timestamp> {
    // The API server sets deletionTimestamp to the end of the grace period already.
    pod.metadata.deletion_timestamp.as_ref().map(|t| t.0)
}

/// Seconds the pod has to stop, from its deletion, else from its spec.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(30).max(0)
}

/// It has run to its end: nothing of it is started any more.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
