//! Telling the API server a pod's status: always the newest, until it has it, without holding up the pod.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::api::{ApiError, ClusterApi, PodId};

/// Sends statuses in a task of its own.
pub(super) struct Publisher {
    wanted: watch::Sender<Option<Value>>,
    /// The latest status the API server has (or has refused).
    settled: watch::Receiver<Option<Value>>,
    task: AbortHandle,
}

// === impl Publisher ===

impl Publisher {
    pub(super) fn start<A: ClusterApi>(api: Arc<A>, id: PodId, pod: &Pod) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (sender, settled) = watch::channel(None);
        let former = pod.status.as_ref().and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
        let ips = former.iter().map(|ip| ip.ip.clone()).collect();
        let task = tokio::spawn(send(api, id, receiver, sender, ips)).abort_handle();
        Self { wanted, settled, task }
    }

    pub(super) fn publish(&self, status: PodStatus) {
        let Ok(value) = serde_json::to_value(status) else { return };
        self.wanted.send_if_modified(|wanted| {
            let new = wanted.as_ref() != Some(&value);
            *wanted = Some(value);
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
    mut wanted: watch::Receiver<Option<Value>>,
    settled: watch::Sender<Option<Value>>,
    mut sent_ips: Vec<String>,
) {
    let mut failures = 0;
    loop {
        let Some(status) = wanted.borrow_and_update().clone() else {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        let ips = addresses(&status);
        match api.patch_status(&id, patch(&status, &sent_ips, &ips)).await {
            Err(ApiError::Unavailable(e)) => {
                failures += 1;
                tracing::debug!(pod = id.name, namespace = id.namespace, error = e, "the status is sent again");
                tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(failures.min(6))).await;
                continue;
            }
            Err(ApiError::NotFound) | Ok(()) => {}
            Err(e) => {
                tracing::warn!(pod = id.name, namespace = id.namespace, error = %e, "the API server did not take the status")
            }
        }
        (failures, sent_ips) = (0, ips);
        let _ = settled.send(Some(status));
        if wanted.changed().await.is_err() {
            return;
        }
    }
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
    let mut ips: Vec<Value> = now.iter().map(|ip| json!({ "ip": ip })).collect();
    ips.extend(before.iter().filter(|ip| !now.contains(ip)).map(|ip| json!({ "$patch": "delete", "ip": ip })));
    if !ips.is_empty() {
        patch["podIPs"] = ips.into();
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_gone_is_said() {
        let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let status = json!({"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]});
        assert_eq!(addresses(&status), own(&["10.0.0.2"]));
        let expected = json!({"phase": "Running", "podIP": "10.0.0.2", "reason": null, "message": null,
            "initContainerStatuses": null, "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}]});
        assert_eq!(patch(&status, &own(&["10.0.0.1", "10.0.0.2"]), &own(&["10.0.0.2"])), expected);
        assert_eq!(patch(&json!({}), &[], &[])["podIP"], Value::Null);
        assert!(patch(&json!({}), &[], &[]).get("podIPs").is_none());
    }
}
