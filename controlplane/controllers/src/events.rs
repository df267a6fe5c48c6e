//! Events: best effort, off the controllers' path, repeated ones counted instead of written anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use crate::action::Notice;

/// Events that may wait to be written; more are dropped.
const BACKLOG: usize = 1024;
/// How long the same event counts as a repetition, and how many are remembered.
const MEMORY: Duration = Duration::from_secs(600);
const REMEMBERED: usize = 1024;

/// Where controllers tell what happened.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Notice>);

/// One told before.
struct Known {
    name: String,
    count: u64,
    at: Instant,
}

/// Uid of the object, reason, message.
type Same = (String, &'static str, String);

// === impl Events ===

impl Events {
    /// The sender, and the receiver for [`write`].
    pub fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), receiver)
    }

    pub fn tell(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(notice) {
            tracing::debug!("event dropped: {error}");
        }
    }
}

/// Writes events until all senders are gone.
pub async fn write(client: Client, mut notices: mpsc::Receiver<Notice>) {
    let mut known: HashMap<Same, Known> = HashMap::new();
    while let Some(notice) = notices.recv().await {
        if known.len() >= REMEMBERED {
            known.retain(|_, known| known.at.elapsed() < MEMORY);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        if let Err(error) = tell(&client, &notice, &mut known).await {
            tracing::debug!("event {} for {:?}: {error}", notice.reason, notice.about.name);
        }
    }
}

async fn tell(client: &Client, notice: &Notice, known: &mut HashMap<Same, Known>) -> kube::Result<()> {
    let namespace = notice.about.namespace.as_deref().unwrap_or("default");
    let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client.clone(), namespace);
    let same: Same = (notice.about.uid.clone().unwrap_or_default(), notice.reason, notice.message.clone());
    let now = Timestamp::now();
    let stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    if let Some(before) = known.get_mut(&same).filter(|before| before.at.elapsed() < MEMORY) {
        let patch = json!({"count": before.count + 1, "lastTimestamp": stamp});
        if api.patch(&before.name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
            before.count += 1;
            before.at = Instant::now();
            return Ok(());
        }
    }
    let name = format!("{}.{:x}", notice.about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": notice.about,
        "type": if notice.warning { "Warning" } else { "Normal" },
        "reason": notice.reason, "message": notice.message, "count": 1,
        "firstTimestamp": stamp, "lastTimestamp": stamp,
        "source": {"component": notice.component}, "reportingComponent": notice.component, "reportingInstance": "",
    });
    let event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &event).await?;
    known.insert(same, Known { name, count: 1, at: Instant::now() });
    Ok(())
}
