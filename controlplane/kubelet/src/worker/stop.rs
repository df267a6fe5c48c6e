//! Ending a pod: containers by hook, signal and grace, then the network, then everything else, and at last its object.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::{Message, Next, Update, Worker, hooks};
use crate::api::{ApiError, ClusterApi};
use crate::events::Kind;
use crate::pod::Records;
use crate::pod::spec::{self, Role};
use crate::pod::status::Verdict;
use crate::runtime::{Runtime, SandboxState};

/// A hook that used the grace up leaves the container this much.
const MINIMUM: Duration = Duration::from_secs(2);
/// How long the final status may take on its way before the pod is taken down regardless.
const FLUSH: Duration = Duration::from_secs(5);

/// How far a pod's end has come.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    sandbox_ended: bool,
    removed: bool,
    failures: u32,
}

impl<R: Runtime, A: ClusterApi> Worker<R, A> {
    /// One step towards nothing being left.
    pub(super) async fn stop(&mut self, update: &Update) -> Next {
        let mut stopping = self.stopping.take().unwrap_or_default();
        let next = self.stop_step(update, &mut stopping).await;
        self.stopping = Some(stopping);
        next
    }

    async fn stop_step(&mut self, update: &Update, stopping: &mut Stopping) -> Next {
        self.bound(self.grace(update));
        self.back_off.clear();
        if self.kill_running() {
            return Next::Wait(Some(Duration::from_secs(1))); // ends come as messages; a failed kill is tried again
        }
        if !stopping.sandbox_ended {
            if let Some(sandbox) = self.sandbox.as_mut() {
                sandbox.state = SandboxState::NotReady;
                let id = sandbox.id.clone();
                if let Err(e) = self.node.runtime.stop_sandbox(&id).await {
                    self.node.recorder.pod(&self.pod, Kind::Warning, "FailedKillPod", format!("error killing pod: {e}"));
                    return retry(&mut stopping.failures);
                }
            }
            stopping.sandbox_ended = true;
            stopping.failures = 0;
            self.verdict.get_or_insert_with(|| final_verdict(&self.records));
        }
        let told = !update.gone && update.evacuate.is_none();
        if told {
            self.publish();
            self.publisher.flush(FLUSH).await;
        }
        if !stopping.removed {
            if let Err(e) = self.remove().await {
                tracing::warn!(
                    pod = self.id.name,
                    namespace = self.id.namespace,
                    error = e,
                    "what the pod left is not removed yet"
                );
                return retry(&mut stopping.failures);
            }
            (stopping.removed, stopping.failures) = (true, 0);
        }
        if !told {
            return Next::Done;
        }
        match self.node.api.delete_pod(&self.id).await {
            Ok(()) | Err(ApiError::NotFound | ApiError::Conflict(_)) => Next::Done,
            Err(e) => {
                tracing::warn!(pod = self.id.name, namespace = self.id.namespace, error = %e, "the stopped pod is not deleted yet");
                retry(&mut stopping.failures)
            }
        }
    }

    /// The pod has come to its end and stays to be looked at: nothing runs, the network is given back.
    pub(super) async fn wind_down(&mut self) -> Next {
        self.back_off.clear();
        if self.kill_running() {
            return Next::Wait(Some(Duration::from_secs(1)));
        }
        let Some(sandbox) = self.sandbox.as_mut().filter(|s| s.state == SandboxState::Ready) else { return Next::Wait(None) };
        let id = sandbox.id.clone();
        match self.node.runtime.stop_sandbox(&id).await {
            Ok(()) => {
                sandbox.state = SandboxState::NotReady;
                self.failures = 0;
                Next::Wait(None)
            }
            Err(e) => {
                self.node.recorder.pod(&self.pod, Kind::Warning, "FailedKillPod", format!("error killing pod: {e}"));
                retry(&mut self.failures)
            }
        }
    }

    /// Asks a container to end, in a task of its own; its end comes as a message.
    pub(super) fn kill(&mut self, container: Container, id: &str, grace: Duration, why: String) {
        if !self.killing.insert(id.to_owned()) {
            return;
        }
        self.tell(&container.name, Kind::Normal, "Killing", why);
        let hook = container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let name = container.name.clone();
        let target = self.target(container, id);
        let (runtime, messages, id) = (self.node.runtime.clone(), self.messages.clone(), id.to_owned());
        let (recorder, pod) = (self.node.recorder.clone(), self.pod.clone());
        let mut deadline = self.deadline.subscribe();
        let own = Instant::now() + grace;
        self.tasks.spawn(async move {
            let left = |bound: Option<Instant>| bound.map_or(own, |b| b.min(own)).saturating_duration_since(Instant::now());
            let mut hook_ran = false;
            if let Some(hook) = hook {
                hook_ran = true;
                let run = hooks::run(&hook, &target, left(*deadline.borrow()));
                tokio::pin!(run);
                loop {
                    let rest = left(*deadline.borrow_and_update());
                    tokio::select! {
                        result = &mut run => {
                            if let Err(e) = result {
                                recorder.container(&pod, Some(&name), Kind::Warning, "FailedPreStopHook", format!("PreStopHook failed: {e}"));
                            }
                            break;
                        }
                        () = tokio::time::sleep(rest) => break,
                        Ok(()) = deadline.changed() => {}
                    }
                }
            }
            loop {
                let bound = *deadline.borrow_and_update();
                let forced = bound.is_some_and(|b| b <= Instant::now());
                let grace = left(bound).max(if hook_ran && !forced { MINIMUM } else { Duration::ZERO });
                tokio::select! {
                    result = runtime.stop_container(&id, grace) => {
                        if let Err(e) = result {
                            tracing::warn!(container = name, error = %e, "the container does not end; trying again");
                            let _ = messages.send(Message::KillFailed { id }).await;
                        }
                        return;
                    }
                    Ok(()) = deadline.changed() => {}
                }
            }
        });
    }

    /// Kills what runs, main containers first, sidecars after them. False: nothing runs any more.
    fn kill_running(&mut self) -> bool {
        let Some(pod_spec) = self.pod.spec.clone() else { return false };
        let grace = Duration::from_secs(spec::grace_seconds(&self.pod).unsigned_abs());
        let mut running: Vec<_> =
            spec::containers(&pod_spec).filter_map(|(c, role)| Some((c, role, self.running(&c.name)?))).collect();
        let any = !running.is_empty();
        if running.iter().any(|(_, role, _)| *role == Role::Main) {
            running.retain(|(_, role, _)| *role == Role::Main);
        }
        for (container, _, id) in running {
            self.kill(container.clone(), &id, grace, format!("Stopping container {}", container.name));
        }
        any
    }

    /// How long the pod has from now.
    fn grace(&self, update: &Update) -> Duration {
        let own = Duration::from_secs(spec::grace_seconds(&self.pod).unsigned_abs());
        update.evacuate.map_or(own, |most| own.min(most))
    }

    /// Brings the deadline forward; it is never put off.
    fn bound(&self, grace: Duration) {
        let new = Instant::now() + grace;
        self.deadline.send_if_modified(|bound| {
            let sooner = bound.is_none_or(|b| new < b);
            if sooner {
                *bound = Some(new);
            }
            sooner
        });
    }

    async fn remove(&mut self) -> Result<(), String> {
        self.node.logs.forget(&self.id.uid);
        if let Some(sandbox) = &self.sandbox {
            self.node.runtime.remove_sandbox(&sandbox.id).await.map_err(|e| e.to_string())?;
        }
        remove_files(&self.node.pod_dir(&self.id.uid), &self.node.log_dir(&self.id)).map_err(|e| e.to_string())
    }
}

/// A pod's volumes and logs.
pub fn remove_files(pod_dir: &std::path::Path, log_dir: &std::path::Path) -> std::io::Result<()> {
    crate::volumes::remove(&pod_dir.join("volumes"))?;
    for dir in [pod_dir, log_dir] {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn retry(failures: &mut u32) -> Next {
    let wait = Duration::from_millis(250) * 2u32.pow((*failures).min(7));
    *failures += 1;
    Next::Wait(Some(wait))
}

/// How a deleted pod ended, from its containers. One that never ran has not failed, nor has it succeeded; the API has no third word.
fn final_verdict(records: &Records) -> Verdict {
    let well = !records.is_empty() && records.values().all(|r| r.exit().is_some_and(|e| e.code == 0));
    Verdict { phase: if well { "Succeeded" } else { "Failed" }, reason: None, message: None }
}
