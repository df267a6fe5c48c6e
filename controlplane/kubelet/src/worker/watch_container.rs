//! Following a running container: its end, its probes, and what they mean.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Message, Worker};
use crate::api::ClusterApi;
use crate::events::Kind as EventKind;
use crate::pod::{State, spec};
use crate::probe::{self, Kind, Report, Target};
use crate::runtime::{ContainerState, Exit, Runtime};

/// The longest termination message that is read.
const MAX_MESSAGE: u64 = 4096;

/// The tasks that follow one instance; they end with it.
pub(super) struct Watched {
    probes: Vec<AbortHandle>,
    started: watch::Sender<bool>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.probes.iter().for_each(AbortHandle::abort);
    }
}

impl<R: Runtime, A: ClusterApi> Worker<R, A> {
    pub(super) fn watch_sandbox(&mut self, id: &str) {
        let (runtime, messages, id) = (self.node.runtime.clone(), self.messages.clone(), id.to_owned());
        self.tasks.spawn(async move {
            if runtime.wait_sandbox(&id).await.is_ok() {
                let _ = messages.send(Message::SandboxEnded { id }).await;
            }
        });
    }

    /// Begins to follow the running instance of a container.
    pub(super) fn watch_container(&mut self, name: &str) {
        let Some(id) = self.running(name) else { return };
        let found = self.pod.spec.as_ref().and_then(|s| spec::container(s, name));
        let (runtime, messages) = (self.node.runtime.clone(), self.messages.clone());
        let (own_name, own_id) = (name.to_owned(), id.clone());
        self.tasks.spawn(async move {
            while let Err(e) = runtime.wait_container(&own_id).await {
                tracing::warn!(container = own_name, error = %e, "the container cannot be watched; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let _ = messages.send(Message::Exited { name: own_name, id: own_id }).await;
        });
        let Some((container, _)) = found else { return };
        let container = container.clone();
        let Some(record) = self.records.get_mut(name) else { return };
        record.started |= container.startup_probe.is_none();
        record.ready |= container.readiness_probe.is_none();
        let (started, ready) = (record.started, record.ready);
        let watched = self.probe(container, &id, started, ready);
        self.watched.insert(id, watched);
    }

    fn probe(&mut self, container: Container, id: &str, started: bool, ready: bool) -> Watched {
        let probes = [
            (Kind::Startup, container.startup_probe.clone(), false),
            (Kind::Readiness, container.readiness_probe.clone(), ready),
            (Kind::Liveness, container.liveness_probe.clone(), true),
        ];
        let target = self.target(container, id);
        let (sender, receiver) = watch::channel(started);
        let (reports, mut inbox) = tokio::sync::mpsc::channel(8);
        let wanted = probes.into_iter().filter(|(kind, _, _)| !(started && *kind == Kind::Startup));
        let mut handles: Vec<_> = wanted
            .filter_map(|(kind, probe, initial)| Some((kind, probe?, initial)))
            .map(|(kind, probe, initial)| {
                self.tasks.spawn(probe::run(kind, probe, target.clone(), initial, receiver.clone(), reports.clone()))
            })
            .collect();
        let messages = self.messages.clone();
        handles.push(self.tasks.spawn(async move {
            while let Some(report) = inbox.recv().await {
                let _ = messages.send(Message::Probe(report)).await;
            }
        }));
        Watched { probes: handles, started: sender }
    }

    pub(super) fn target(&self, container: Container, id: &str) -> Target<R> {
        let ip = self.pod_ips().first().copied();
        Target { runtime: self.node.runtime.clone(), container: Arc::new(container), id: id.to_owned(), ip }
    }

    pub(super) fn probed(&mut self, report: Report) {
        let Some(record) = self.records.get_mut(&report.container) else { return };
        if record.id.as_deref() != Some(report.id.as_str()) || !record.running() {
            return; // of an earlier instance
        }
        match (report.kind, report.verdict) {
            (Kind::Readiness, Some(verdict)) => record.ready = verdict,
            (Kind::Startup, Some(true)) => {
                record.started = true;
                if let Some(watched) = self.watched.get(&report.id) {
                    let _ = watched.started.send(true);
                }
            }
            _ => {}
        }
        // A pod on its way out fails its probes as a matter of course.
        if self.stopping.is_some() {
            return;
        }
        let name = report.container.as_str();
        if let Some(failure) = &report.failure {
            let text = format!("{} probe failed: {failure}", report.kind.name());
            self.node.recorder.container(&self.pod, Some(name), EventKind::Warning, "Unhealthy", text);
        }
        if report.kind != Kind::Readiness && report.verdict == Some(false) {
            let text = format!("Container {name} failed {} probe, will be restarted", report.kind.name().to_lowercase());
            let container = self.pod.spec.as_ref().and_then(|s| spec::container(s, name)).map(|(c, _)| c.clone());
            let Some(container) = container else { return };
            let probe = if report.kind == Kind::Startup { &container.startup_probe } else { &container.liveness_probe };
            let own = probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
            let grace = own.unwrap_or_else(|| spec::grace_seconds(&self.pod));
            self.kill(container, &report.id, Duration::from_secs(grace.unsigned_abs()), text);
        }
    }

    /// The instance has ended.
    pub(super) async fn exited(&mut self, name: &str, id: &str) {
        self.watched.remove(id);
        self.killing.remove(id);
        if self.records.get(name).is_none_or(|r| r.id.as_deref() != Some(id)) {
            return;
        }
        let exit = match self.node.runtime.container_status(id).await.map(|c| c.state) {
            Ok(ContainerState::Exited(exit)) => exit,
            Ok(_) => return,
            Err(e) => lost(&e.to_string()),
        };
        let message = exit.message.clone().or_else(|| self.termination_message(name));
        if let Some(record) = self.records.get_mut(name) {
            record.state = State::Exited(Exit { message, ..exit });
            (record.started, record.ready) = (false, false);
        }
    }

    /// What the container wrote as its last words.
    fn termination_message(&self, name: &str) -> Option<String> {
        use std::io::Read;
        let attempt = self.records.get(name)?.restarts;
        let file = std::fs::File::open(self.termination_path(name, attempt)).ok()?;
        let mut text = String::new();
        file.take(MAX_MESSAGE).read_to_string(&mut text).ok()?;
        Some(text).filter(|t| !t.is_empty())
    }
}

fn lost(why: &str) -> Exit {
    Exit {
        code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".into(),
        message: Some(why.to_owned()),
        started_at: None,
        finished_at: jiff::Timestamp::now(),
    }
}
