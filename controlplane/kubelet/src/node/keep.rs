//! Keeping the Node's status true at the API server: sent when the node has news, when somebody else made it untrue, and as a
//! heartbeat. The object is followed for that, and made again when it was deleted.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::json;
use tokio::time::Instant;

use super::view::{Need, View};
use super::{RETRY, Registration, bounded};
use crate::api::WATCH_LASTS;
use crate::events::Kind;
use crate::runtime::Runtime;

/// How often the machine and the network are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The first status waits this long for what the API server has of the node, to go on with its times.
const PATIENCE: Duration = Duration::from_secs(5);

// === impl Registration ===

impl<R: Runtime> Registration<R> {
    /// Keeps the status true, for as long as it is polled.
    pub async fn keep_status(&self) {
        let selector = watcher::Config::default().fields(&format!("metadata.name={}", self.name)).timeout(WATCH_LASTS);
        let mut object = pin!(watcher(Api::<Node>::all(self.client.clone()), selector));
        let mut view = View::default();
        let began = Instant::now();
        self.recorder.node(Kind::Normal, "Starting", "Starting kubelet.");
        loop {
            if view.lost {
                tracing::warn!(node = self.name, "the Node object was deleted; registering again");
                view.registered(&self.registered().await);
            }
            if view.known || began.elapsed() >= PATIENCE {
                self.bring_up_to_date(&mut view).await;
            }
            tokio::select! {
                Some(event) = object.next() => match event {
                    Ok(event) => view.event(event),
                    Err(e) => {
                        tracing::debug!(node = self.name, error = %e, "the watch of the node begins again");
                        tokio::time::sleep(RETRY).await;
                    }
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Sends the status if there is a need. What does not work is tried again at the next look.
    async fn bring_up_to_date(&self, view: &mut View) {
        let status = self.status(view.conditions(), Timestamp::now());
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let Some(need) = view.need(conditions, Instant::now()) else { return };
        match self.send_status(&status).await {
            Ok(node) => {
                self.announce(need, view.conditions(), conditions);
                view.told(need, conditions, &node, Instant::now());
            }
            Err(kube::Error::Api(e)) if e.code == 404 => view.lost = true,
            Err(e) => {
                tracing::warn!(node = self.name, error = %e, "the node's status was not taken");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// An event for what others are interested in.
    fn announce(&self, need: Need, before: &[NodeCondition], now: &[NodeCondition]) {
        let ready = |list: &[NodeCondition]| list.iter().find(|c| c.type_ == "Ready").cloned();
        let Some(now) = ready(now) else { return };
        let before = ready(before).map(|c| c.status).unwrap_or_default();
        if need == Need::Repair {
            tracing::info!(
                node = self.name,
                before,
                now = now.status,
                "somebody else changed the node's conditions; told again"
            );
        }
        if need == Need::News || (need == Need::Repair && before != now.status) {
            let reason = if now.status == "True" { "NodeReady" } else { "NodeNotReady" };
            let text = format!("Node {} status is now: {reason}: {}", self.name, now.message.unwrap_or_default());
            self.recorder.node(Kind::Normal, reason, text);
        }
    }

    async fn send_status(&self, status: &NodeStatus) -> kube::Result<Node> {
        let patch = Patch::Strategic(json!({ "status": status }));
        bounded(Api::<Node>::all(self.client.clone()).patch_status(&self.name, &PatchParams::default(), &patch)).await
    }
}
