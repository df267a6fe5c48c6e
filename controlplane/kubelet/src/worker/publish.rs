//! Telling the API server a pod's status: always the newest, until it has it, without holding up the pod; and again when
//! somebody else has changed conditions that are the kubelet's to tell.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Update;
use crate::api::told::{Claim, Told};
use crate::api::{ApiError, ClusterApi, PodId};

/// Between two repairs of one pod's status: who insists on another one than ours costs no more than this.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// A status to be told.
#[derive(Debug, Clone, PartialEq)]
struct Statement {
    status: Value,
    /// The conditions in it: those that are the kubelet's.
    claims: Vec<Claim>,
}

/// Sends statuses in a task of its own.
pub(super) struct Publisher {
    wanted: watch::Sender<Option<Statement>>,
    /// The latest status the API server has (or has refused).
    settled: watch::Receiver<Option<Statement>>,
    task: AbortHandle,
}

// === impl Publisher ===

impl Publisher {
    /// `updates` tells what the API server has of the pod.
    pub(super) fn start<A: ClusterApi>(api: Arc<A>, id: PodId, updates: watch::Receiver<Update>) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (sender, settled) = watch::channel(None);
        let task = tokio::spawn(send(api, id, receiver, sender, updates)).abort_handle();
        Self { wanted, settled, task }
    }

    pub(super) fn publish(&self, status: PodStatus) {
        let claims = Claim::all(status.conditions.iter().flatten());
        let Ok(status) = serde_json::to_value(status) else { return };
        let statement = Statement { status, claims };
        self.wanted.send_if_modified(|wanted| {
            let new = wanted.as_ref() != Some(&statement);
            *wanted = Some(statement);
            new
        });
    }

    /// Waits until the API server has the newest status, at most `limit`.
    pub(super) async fn flush(&mut self, limit: Duration) {
        let wanted = self.wanted.borrow().clone();
        let _ = tokio::time::timeout(limit, self.settled.wait_for(|s| *s == wanted)).await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send<A: ClusterApi>(
    api: Arc<A>,
    id: PodId,
    mut wanted: watch::Receiver<Option<Statement>>,
    settled: watch::Sender<Option<Statement>>,
    mut updates: watch::Receiver<Update>,
) {
    let mut sent_ips = former_addresses(&updates.borrow().pod);
    let mut failures = 0;
    let mut repair_from = Instant::now();
    loop {
        let Some(statement) = wanted.borrow_and_update().clone() else {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        let ips = addresses(&statement.status);
        let told = match api.patch_status(&id, patch(&statement.status, &sent_ips, &ips)).await {
            Ok(version) => Some(Told { version, claims: statement.claims.clone() }),
            Err(ApiError::Unavailable(e)) => {
                failures += 1;
                tracing::debug!(pod = id.name, namespace = id.namespace, error = e, "the status is sent again");
                tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(failures.min(6))).await;
                continue;
            }
            Err(ApiError::NotFound) => None,
            Err(e) => {
                tracing::warn!(pod = id.name, namespace = id.namespace, error = %e, "the API server did not take the status");
                None
            }
        };
        (failures, sent_ips) = (0, ips);
        let _ = settled.send(Some(statement));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = undone(&mut updates, told, repair_from) => {
                tracing::info!(pod = id.name, namespace = id.namespace, "somebody else changed the pod's conditions; telling them again");
                repair_from = Instant::now() + REPAIR_PAUSE;
            }
        }
    }
}

/// Waits until the API server's pod does not say any more what it was told, but not less than until `from`.
async fn undone(updates: &mut watch::Receiver<Update>, told: Option<Told>, from: Instant) {
    tokio::time::sleep_until(from).await;
    if let Some(told) = told {
        let differs = |update: &Update| {
            let version = update.pod.metadata.resource_version.as_deref().unwrap_or_default();
            let conditions = update.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            !update.gone && told.undone_by(version, conditions)
        };
        if updates.wait_for(differs).await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

fn former_addresses(pod: &Pod) -> Vec<String> {
    let former = pod.status.as_ref().and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    former.iter().map(|ip| ip.ip.clone()).collect()
}

fn addresses(status: &Value) -> Vec<String> {
    let ips = status["podIPs"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["ip"].as_str()).map(str::to_owned).collect()
}

/// The strategic merge patch: lists with merge keys keep what is not named, so what has gone is said.
fn patch(status: &Value, before: &[String], now: &[String]) -> Value {
    let mut patch = status.clone();
    for field in ["reason", "message", "podIP", "initContainerStatuses"] {
        if status.get(field).is_none() {
            patch[field] = Value::Null;
        }
    }
    for condition in patch.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    let mut ips: Vec<Value> = now.iter().map(|ip| json!({ "ip": ip })).collect();
    ips.extend(before.iter().filter(|ip| !now.contains(ip)).map(|ip| json!({ "$patch": "delete", "ip": ip })));
    if !ips.is_empty() {
        patch["podIPs"] = ips.into();
    }
    patch
}

#[cfg(test)]
mod tests;
