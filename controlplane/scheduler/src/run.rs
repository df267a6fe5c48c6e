//! The scheduler's loop: watch nodes and pods, decide, bind, and say why a pod waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::model::{NodeInfo, PodInfo};
use crate::score::{Decision, decide};

/// Pause after a failed binding, and between two messages about a pod that fits nowhere.
const RETRY: Duration = Duration::from_secs(1);
const REMIND: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Pods whose `spec.schedulerName` is this one are ours.
    pub name: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { name: "default-scheduler".to_owned() }
    }
}

enum Seen {
    Node(Box<Event<Node>>),
    Pod(Box<Event<Pod>>),
}

struct Scheduler {
    client: kube::Client,
    config: SchedulerConfig,
    cluster: Cluster,
    /// Names of a list under way, to find what vanished between two watches.
    listed_nodes: BTreeSet<Arc<str>>,
    listed_pods: BTreeSet<Arc<str>>,
    nodes_synced: bool,
    pods_synced: bool,
    /// Pods that fit nowhere: what was said, and when.
    waiting: BTreeMap<Arc<str>, (String, Instant)>,
}

/// Runs until `shutdown`.
///
/// # Errors
/// Never for an API server that is away: watches are resumed for ever.
pub async fn run(client: kube::Client, config: SchedulerConfig, shutdown: CancellationToken) -> Result<()> {
    let nodes = watch(Api::<Node>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Node(Box::new(event)));
    let pods = watch(Api::<Pod>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Pod(Box::new(event)));
    let mut events = futures::stream::select(nodes.boxed(), pods.boxed());
    let mut scheduler = Scheduler {
        client,
        config,
        cluster: Cluster::default(),
        listed_nodes: BTreeSet::new(),
        listed_pods: BTreeSet::new(),
        nodes_synced: false,
        pods_synced: false,
        waiting: BTreeMap::new(),
    };
    let mut retry = tokio::time::interval(RETRY);
    retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            event = events.next() => match event {
                Some(Ok(event)) => {
                    scheduler.see(event);
                    // Everything that has arrived is taken in before deciding: a burst of pods costs one pass.
                    while let Some(Some(Ok(event))) = futures::FutureExt::now_or_never(events.next()) {
                        scheduler.see(event);
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!("watch: {error}");
                    continue;
                }
                None => return Ok(()),
            },
            _ = retry.tick() => {}
        }
        scheduler.schedule().await;
    }
}

// === impl Scheduler ===

impl Scheduler {
    fn see(&mut self, event: Seen) {
        match event {
            Seen::Node(event) => self.see_node(*event),
            Seen::Pod(event) => self.see_pod(*event),
        }
    }

    fn see_node(&mut self, event: Event<Node>) {
        match event {
            Event::Apply(node) => self.cluster.set_node(NodeInfo::from(&node)),
            Event::Delete(node) => self.cluster.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            Event::Init => self.listed_nodes.clear(),
            Event::InitApply(node) => {
                let info = NodeInfo::from(&node);
                self.listed_nodes.insert(Arc::clone(&info.name));
                self.cluster.set_node(info);
            }
            Event::InitDone => {
                for name in self.cluster.node_names() {
                    if !self.listed_nodes.contains(&name) {
                        self.cluster.remove_node(&name);
                    }
                }
                self.nodes_synced = true;
            }
        }
    }

    fn see_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Apply(pod) => self.cluster.set_pod(PodInfo::from(&pod)),
            Event::Delete(pod) => self.gone(pod.metadata.uid.as_deref().unwrap_or_default()),
            Event::Init => self.listed_pods.clear(),
            Event::InitApply(pod) => {
                let info = PodInfo::from(&pod);
                self.listed_pods.insert(Arc::clone(&info.uid));
                self.cluster.set_pod(info);
            }
            Event::InitDone => {
                for uid in self.cluster.pod_uids() {
                    if !self.listed_pods.contains(&uid) {
                        self.gone(&uid);
                    }
                }
                self.pods_synced = true;
            }
        }
    }

    fn gone(&mut self, uid: &str) {
        self.waiting.remove(uid);
        self.cluster.remove_pod(uid);
    }

    /// Places every waiting pod; decisions follow each other, so that each sees the ones before.
    async fn schedule(&mut self) {
        if !self.nodes_synced || !self.pods_synced {
            return;
        }
        let pending = self.cluster.pending(&self.config.name);
        if pending.is_empty() {
            return;
        }
        let mut bindings = Vec::new();
        for pod in pending {
            match decide(&pod, &self.cluster) {
                Decision::Node(node) => {
                    self.waiting.remove(&pod.uid);
                    self.cluster.assume(&pod.uid, &node);
                    bindings.push((pod, node));
                }
                Decision::Nowhere(reason) => self.explain(&pod, reason).await,
            }
        }
        let client = &self.client;
        let results: Vec<_> = futures::stream::iter(bindings)
            .map(|(pod, node)| async move { (bind(client, &pod, &node).await, pod, node) })
            .buffer_unordered(16)
            .collect()
            .await;
        for (result, pod, node) in results {
            match result {
                Ok(()) => {
                    let text = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                    self.event(&pod, "Normal", "Scheduled", &text).await;
                }
                Err(error) => {
                    tracing::warn!("bind {}/{} to {node}: {error:#}", pod.namespace, pod.name);
                    self.cluster.forget(&pod.uid);
                }
            }
        }
    }

    /// Says why a pod waits: by its condition and an event, once per reason and then once a minute.
    async fn explain(&mut self, pod: &PodInfo, reason: String) {
        if self.waiting.get(&pod.uid).is_some_and(|(said, when)| *said == reason && when.elapsed() < REMIND) {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason});
        let patch = json!({"status": {"conditions": [condition]}});
        if let Err(error) = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            tracing::debug!("status of {}/{}: {error}", pod.namespace, pod.name);
        }
        self.event(pod, "Warning", "FailedScheduling", &reason).await;
        self.waiting.insert(Arc::clone(&pod.uid), (reason, Instant::now()));
    }

    /// Events are best effort: a lost one changes nothing.
    async fn event(&self, pod: &PodInfo, kind: &str, reason: &str, message: &str) {
        let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", pod.name), "namespace": pod.namespace.as_ref()},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": pod.name.as_ref(), "namespace": pod.namespace.as_ref(), "uid": pod.uid.as_ref()},
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": self.config.name}, "reportingComponent": self.config.name, "reportingInstance": "",
        });
        let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        let sent = match serde_json::from_value(event) {
            Ok(event) => api.create(&PostParams::default(), &event).await.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            tracing::debug!("event {reason} for {}/{}: {error}", pod.namespace, pod.name);
        }
    }
}

/// Posts the binding. The uid guards against a pod of the same name that was made anew.
async fn bind(client: &kube::Client, pod: &PodInfo, node: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name.as_ref(), "namespace": pod.namespace.as_ref(), "uid": pod.uid.as_ref()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let _: serde_json::Value =
        api.create_subresource("binding", &pod.name, &PostParams::default(), &binding).await.context("post the binding")?;
    Ok(())
}
