//! Events of pods and of the node. Recording never blocks and never fails its caller; the same event again raises a count.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::{ApiError, ClusterApi};

/// More waiting events than this are dropped: while the API server is away they would only fill memory.
const QUEUE: usize = 512;
/// Counts are kept for this many different events.
const REMEMBERED: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Warning,
}

/// Hands events to the task that sends them.
#[derive(Debug, Clone)]
pub struct Recorder {
    node: Arc<str>,
    queue: mpsc::Sender<Note>,
}

#[derive(Debug)]
struct Note {
    object: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

// === impl Recorder ===

impl Recorder {
    /// Starts the sending task; it ends when the last recorder is dropped.
    pub fn start<A: ClusterApi>(api: Arc<A>, node: &str) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        tokio::spawn(send(api, node.to_owned(), notes));
        Self { node: node.into(), queue }
    }

    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &'static str, message: impl Into<String>) {
        self.container(pod, None, kind, reason, message);
    }

    /// An event about one container: `fieldPath` says which.
    pub fn container(&self, pod: &Pod, container: Option<&str>, kind: Kind, reason: &'static str, message: impl Into<String>) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| field_path(pod, name)),
        };
        self.note(object, kind, reason, message.into());
    }

    pub fn node(&self, kind: Kind, reason: &'static str, message: impl Into<String>) {
        let name = self.node.to_string();
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            uid: Some(name.clone()),
            name: Some(name),
            ..ObjectReference::default()
        };
        self.note(object, kind, reason, message.into());
    }

    fn note(&self, object: ObjectReference, kind: Kind, reason: &'static str, message: String) {
        tracing::info!(object = object.name.as_deref(), namespace = object.namespace.as_deref(), reason, "{message}");
        // A full queue means the API server is away; the log has it.
        let _ = self.queue.try_send(Note { object, kind, reason, message, at: Timestamp::now() });
    }
}

fn field_path(pod: &Pod, name: &str) -> String {
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).is_some_and(|i| i.iter().any(|c| c.name == name));
    format!("spec.{}{{{name}}}", if init { "initContainers" } else { "containers" })
}

async fn send<A: ClusterApi>(api: Arc<A>, node: String, mut notes: mpsc::Receiver<Note>) {
    let mut sent: HashMap<String, (String, i32)> = HashMap::new();
    while let Some(note) = notes.recv().await {
        let object = &note.object;
        let key = format!("{:?} {:?} {} {}", object.uid, object.field_path, note.reason, note.message);
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".into());
        if let Some((name, count)) = sent.get_mut(&key) {
            *count += 1;
            let patch = json!({ "count": count, "lastTimestamp": Time(note.at) });
            match api.patch_event(&namespace, name, patch).await {
                Err(ApiError::NotFound) => {} // expired: made anew below
                _ => continue,
            }
        }
        let name = format!("{}.{:x}", object.name.as_deref().unwrap_or_default(), note.at.as_nanosecond());
        let event = event(&note, &node, &namespace, &name);
        match api.create_event(event).await {
            Ok(()) => {
                if sent.len() >= REMEMBERED {
                    sent.clear();
                }
                sent.insert(key, (name, 1));
            }
            Err(e) => tracing::debug!(error = %e, reason = note.reason, "an event was not recorded"),
        }
    }
}

fn event(note: &Note, node: &str, namespace: &str, name: &str) -> Event {
    Event {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() },
        involved_object: note.object.clone(),
        type_: Some(if note.kind == Kind::Normal { "Normal" } else { "Warning" }.into()),
        reason: Some(note.reason.into()),
        message: Some(note.message.chars().take(1024).collect()),
        count: Some(1),
        first_timestamp: Some(Time(note.at)),
        last_timestamp: Some(Time(note.at)),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.into()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}
