//! Making what a pod needs: sandbox, volumes, containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::{Message, Worker, hooks};
use crate::api::ClusterApi;
use crate::events::Kind;
use crate::pod::spec::{self, RestartPolicy, Role};
use crate::pod::{Record, State};
use crate::runtime::{ContainerState, Runtime, SandboxState};

/// A postStart hook that takes longer is taken for hanging.
const POST_START: Duration = Duration::from_secs(60);

impl<R: Runtime, A: ClusterApi> Worker<R, A> {
    pub(super) async fn make_volumes(&self) -> Result<BTreeMap<String, PathBuf>, String> {
        let dir = self.node.pod_dir(&self.id.uid).join("volumes");
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        crate::volumes::prepare(&*self.node.api, &self.pod, &self.id, &self.place(), &dir).await
    }

    /// Containers of a sandbox that has ended have ended too: this waits until all of them are known to.
    pub(super) async fn settle(&mut self) {
        if self.sandbox.as_ref().is_none_or(|s| s.state == SandboxState::Ready) {
            return;
        }
        let running: Vec<_> =
            self.records.iter().filter(|(_, r)| r.running()).map(|(n, r)| (n.clone(), r.id.clone())).collect();
        for (name, id) in running {
            let Some(id) = id else { continue };
            if let Err(e) = self.node.runtime.stop_container(&id, Duration::ZERO).await {
                tracing::warn!(pod = self.id.name, container = name, error = %e, "a container of an ended sandbox");
            }
            self.exited(&name, &id).await;
        }
    }

    /// A new sandbox in place of one that is not there, or has ended. Containers that shall run start anew in it.
    pub(super) async fn renew_sandbox(&mut self) -> Result<(), String> {
        if let Some(old) = &self.sandbox {
            let id = old.id.clone();
            self.node.recorder.pod(
                &self.pod,
                Kind::Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
            self.node.runtime.remove_sandbox(&id).await.map_err(|e| format!("the ended sandbox: {e}"))?;
            self.sandbox = None;
            self.forget_instances();
        }
        let Some(spec) = self.pod.spec.clone() else { return Err("the pod has no spec".into()) };
        let sandbox = self.node.runtime.run_sandbox(self.sandbox_config(&spec)).await;
        let sandbox = sandbox.map_err(|e| format!("Failed to create pod sandbox: {e}"))?;
        self.sandbox_attempts += 1;
        self.watch_sandbox(&sandbox.id);
        self.sandbox = Some(sandbox);
        Ok(())
    }

    /// The instances went with their sandbox; their ends stay known.
    fn forget_instances(&mut self) {
        let Some(spec) = &self.pod.spec else { return };
        let policy = spec::restart_policy(spec);
        for (container, role) in spec::containers(spec) {
            let Some(record) = self.records.get_mut(&container.name) else { continue };
            let State::Exited(exit) = &record.state else { continue };
            let stays = role == Role::Main
                && (policy == RestartPolicy::Never || (policy == RestartPolicy::OnFailure && exit.code == 0));
            if !stays {
                let last = record.id.clone().zip(record.exit().cloned());
                *record = Record { last, restarts: record.restarts, ..Record::default() };
            }
        }
    }

    /// Makes and starts the next instance of a container. What fails becomes the container's state.
    pub(super) async fn start(&mut self, name: &str) {
        let found = self.pod.spec.as_ref().and_then(|s| spec::container(s, name)).map(|(c, _)| c.clone());
        let (Some(container), Some(sandbox)) = (found, self.sandbox.as_ref().map(|s| s.id.clone())) else { return };
        let former = self.records.get(name).cloned().unwrap_or_default();
        let first = former.id.is_none() && former.last.is_none();
        let attempt = if first { former.restarts } else { former.restarts + 1 };

        let config = match self.container_config(&container, attempt).await {
            Ok(config) => config,
            Err(e) => return self.not_made(name, "CreateContainerConfigError", e),
        };
        let id = match self.node.runtime.create_container(&sandbox, config).await {
            Ok(id) => id,
            Err(e) => return self.not_made(name, "CreateContainerError", e.to_string()),
        };
        self.tell(name, Kind::Normal, "Created", format!("Created container: {name}"));
        self.drop_old_instances(name, &former, attempt).await;
        let ended = former.id.zip(match former.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        });
        if let Some((_, exit)) = &ended {
            self.backoffs.restarted(name, exit.finished_at);
        }
        let started = self.node.runtime.start_container(&id).await;
        let state = match self.node.runtime.container_status(&id).await.map(|c| c.state) {
            Ok(ContainerState::Running { started_at }) => State::Running { started_at },
            Ok(ContainerState::Exited(exit)) => State::Exited(exit),
            Ok(ContainerState::Created) => State::Running { started_at: Timestamp::now() },
            Err(e) => return self.not_made(name, "RunContainerError", e.to_string()),
        };
        let record = Record {
            id: Some(id.clone()),
            state,
            last: ended.or(former.last),
            restarts: attempt,
            started: false,
            ready: false,
        };
        self.records.insert(name.to_owned(), record);
        if let Err(e) = started {
            return self.tell(name, Kind::Warning, "Failed", format!("Error: {e}"));
        }
        self.tell(name, Kind::Normal, "Started", format!("Started container {name}"));
        self.watch_container(name);
        self.post_start(container, &id).await;
        // Ended before it was watched: its end is there to be read.
        if self.records.get(name).is_some_and(|r| r.exit().is_some()) {
            self.watched.remove(&id);
            let _ = self.messages.try_send(Message::Wake);
        }
    }

    async fn post_start(&mut self, container: Container, id: &str) {
        let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.post_start.clone()) else { return };
        let target = self.target(container.clone(), id);
        if let Err(e) = hooks::run(&handler, &target, POST_START).await {
            self.tell(&container.name, Kind::Warning, "FailedPostStartHook", format!("PostStartHook failed: {e}"));
            let grace = Duration::from_secs(spec::grace_seconds(&self.pod).unsigned_abs());
            self.kill(container, id, grace, "FailedPostStartHook".into());
        }
    }

    fn not_made(&mut self, name: &str, reason: &str, message: String) {
        self.tell(name, Kind::Warning, "Failed", format!("Error: {message}"));
        let record = self.records.entry(name.to_owned()).or_default();
        // The end of an instance before is not forgotten.
        if let (Some(id), State::Exited(exit)) = (record.id.take(), &record.state) {
            record.last = Some((id, exit.clone()));
        }
        record.state = State::Waiting { reason: reason.to_owned(), message: Some(message), since: Some(Timestamp::now()) };
    }

    /// Only the latest ended instance is kept, for `logs --previous`.
    async fn drop_old_instances(&self, name: &str, former: &Record, attempt: i32) {
        if let Some((id, _)) = &former.last
            && let Err(e) = self.node.runtime.remove_container(id).await
        {
            tracing::warn!(container = name, error = %e, "an old container stays for now");
        }
        if attempt >= 2 {
            let log = self.log_path(name, attempt - 2);
            let _ = std::fs::remove_file(self.termination_path(name, attempt - 2));
            for suffix in ["", ".1", ".2", ".3", ".4"] {
                let mut path = log.clone().into_os_string();
                path.push(suffix);
                let _ = std::fs::remove_file(path);
            }
        }
    }

    pub(super) fn tell(&self, container: &str, kind: Kind, reason: &'static str, message: String) {
        self.node.recorder.container(&self.pod, Some(container), kind, reason, message);
    }
}
