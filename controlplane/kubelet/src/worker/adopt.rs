//! Taking over what a former kubelet left running.

use k8s_openapi::api::core::v1::ContainerStatus;

use super::Worker;
use crate::api::ClusterApi;
use crate::pod::{Record, State};
use crate::runtime::{Container, ContainerState, Runtime, Sandbox, SandboxState};

impl<R: Runtime, A: ClusterApi> Worker<R, A> {
    /// The newest sandbox is the pod's; others are ended.
    pub(super) async fn adopt(&mut self, mut sandboxes: Vec<Sandbox>) {
        sandboxes.sort_by_key(|s| (s.state == SandboxState::Ready, s.created_at));
        let current = sandboxes.pop();
        for old in sandboxes {
            if let Err(e) = self.node.runtime.remove_sandbox(&old.id).await {
                tracing::warn!(pod = self.id.name, sandbox = old.id, error = %e, "an old sandbox stays for now");
            }
        }
        let Some(sandbox) = current else { return };
        let containers = self.node.runtime.list_containers(&sandbox.id).await.unwrap_or_default();
        tracing::info!(
            pod = self.id.name,
            namespace = self.id.namespace,
            sandbox = sandbox.id,
            containers = containers.len(),
            "adopted"
        );
        for container in containers {
            self.adopt_container(container).await;
        }
        self.sandbox_attempts = sandbox.config.attempt + 1;
        self.watch_sandbox(&sandbox.id);
        self.sandbox = Some(sandbox);
        let running: Vec<_> = self.records.iter().filter(|(_, r)| r.running()).map(|(n, _)| n.clone()).collect();
        for name in running {
            self.watch_container(&name);
        }
    }

    /// Containers come in the order of their making.
    async fn adopt_container(&mut self, container: Container) {
        let state = match container.state {
            ContainerState::Created => {
                // Made, and never started: it is made again.
                let _ = self.node.runtime.remove_container(&container.id).await;
                return;
            }
            ContainerState::Running { started_at } => State::Running { started_at },
            ContainerState::Exited(exit) => State::Exited(exit),
        };
        let last = self.records.remove(&container.config.name).and_then(|former| match (former.id, former.state) {
            (Some(id), State::Exited(exit)) => Some((id, exit)),
            _ => former.last,
        });
        // What was known of its health holds until a probe says otherwise: a restarted kubelet does not make pods unready.
        let scheme = self.node.runtime.version();
        let full_id = format!("{}://{}", scheme.split("://").next().unwrap_or_default(), container.id);
        let known = self.status_of(&container.config.name).filter(|s| s.container_id.as_deref() == Some(full_id.as_str()));
        let record = Record {
            id: Some(container.id),
            restarts: i32::try_from(container.config.attempt).unwrap_or(i32::MAX),
            started: known.as_ref().is_some_and(|s| s.started == Some(true)),
            ready: known.as_ref().is_some_and(|s| s.ready),
            state,
            last,
        };
        self.records.insert(container.config.name, record);
    }

    fn status_of(&self, name: &str) -> Option<ContainerStatus> {
        let status = self.pod.status.as_ref()?;
        let lists = [&status.container_statuses, &status.init_container_statuses];
        lists.into_iter().flatten().flatten().find(|s| s.name == name).cloned()
    }
}
