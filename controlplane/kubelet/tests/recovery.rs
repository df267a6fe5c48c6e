//! What others did to the status of a node and of its pods while the node was silent is put right by the node, and only that.

mod common;
#[path = "common/live.rs"]
mod live;

use std::time::{Duration, Instant};

use common::Node as Machine;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use live::{client, condition, kubelet, server, until};
use serde_json::{Value, json};

/// A repair takes a write and a watch event; the bound is for a busy machine.
const REPAIR: u64 = 3;

/// The pod's name has the number of its address in it.
fn pod() -> Pod {
    let json = json!({"metadata": {"name": "web-73", "namespace": "default"}, "spec": {"nodeName": "node1",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "none", "command": ["/bin/sleep", "600"]}]}});
    serde_json::from_value(json).expect("pod")
}

struct Cluster {
    nodes: Api<Node>,
    pods: Api<Pod>,
    events: Api<Event>,
}

// === impl Cluster ===

impl Cluster {
    async fn node(&self) -> Value {
        serde_json::to_value(self.nodes.get("node1").await.expect("node")).expect("json")
    }

    async fn pod(&self) -> Value {
        serde_json::to_value(self.pods.get("web-73").await.expect("pod")).expect("json")
    }

    async fn versions(&self) -> [String; 2] {
        [self.node().await, self.pod().await].map(|object| version(&object))
    }

    /// Nothing is written to the node or the pod for a while. Returns their versions.
    async fn quiet(&self) -> [String; 2] {
        // What is under way arrives first.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let before = self.versions().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(self.versions().await, before, "node and pod at rest");
        before
    }

    /// As the node lifecycle controller does with a silent node.
    async fn node_unknown(&self) -> Value {
        let unknown = |kind: &str| {
            json!({"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].map(unknown);
        self.patch_node(&json!(conditions)).await
    }

    async fn patch_node(&self, conditions: &Value) -> Value {
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let node = self.nodes.patch_status("node1", &PatchParams::default(), &patch).await.expect("patch");
        serde_json::to_value(node).expect("json")
    }

    async fn patch_pod(&self, conditions: &Value) -> Value {
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let pod = self.pods.patch_status("web-73", &PatchParams::default(), &patch).await.expect("patch");
        serde_json::to_value(pod).expect("json")
    }

    async fn told_ready(&self) -> i32 {
        let events = self.events.list(&ListParams::default()).await.expect("events").items;
        events.iter().filter(|e| e.reason.as_deref() == Some("NodeReady")).map(|e| e.count.unwrap_or(1)).sum()
    }
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("resourceVersion").to_owned()
}

fn find(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
}

async fn a_silenced_node_is_ready_again(cluster: &Cluster) {
    let told = cluster.told_ready().await;
    cluster.patch_node(&json!([{"type": "example.com/Raid", "status": "False", "reason": "Degraded"}])).await;
    let broken = cluster.node_unknown().await;
    let began = Instant::now();
    let node = until("node repaired", REPAIR, async || {
        let node = cluster.node().await;
        condition(&node["status"], "Ready").then_some(node)
    })
    .await;
    println!("the node was repaired after {:?}", began.elapsed());
    assert_ne!(version(&node), version(&broken));
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(find(&node, kind)["status"], "False", "{kind}");
    }
    let now = find(&node, "Ready");
    assert_eq!(now["reason"], "KubeletReady");
    assert_ne!(now["lastTransitionTime"], find(&broken, "Ready")["lastTransitionTime"]);
    let theirs = find(&node, "example.com/Raid");
    assert_eq!((&theirs["status"], &theirs["reason"]), (&json!("False"), &json!("Degraded")));
    until("the event of the repair", 10, async || (cluster.told_ready().await > told).then_some(())).await;
}

async fn a_silenced_pod_is_ready_again(cluster: &Cluster, container: &Value) {
    let silenced = json!([
        {"type": "Ready", "status": "False", "reason": "NodeNotReady", "message": "node node1 does not answer",
            "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "example.com/Reached", "status": "False", "reason": "Elsewhere"},
    ]);
    let broken = cluster.patch_pod(&silenced).await;
    assert_eq!(find(&broken, "Ready")["status"], "False");
    let began = Instant::now();
    let pod = until("pod repaired", REPAIR, async || {
        let pod = cluster.pod().await;
        condition(&pod["status"], "Ready").then_some(pod)
    })
    .await;
    println!("the pod was repaired after {:?}", began.elapsed());
    let now = find(&pod, "Ready");
    assert_eq!((&now["reason"], &now["message"]), (&Value::Null, &Value::Null), "no reason of the trouble is left: {now}");
    assert_eq!(find(&pod, "example.com/Reached")["reason"], "Elsewhere");
    assert_eq!(&pod["status"]["containerStatuses"][0]["containerID"], container, "the same container runs on");
}

async fn a_deleted_node_is_registered_again(cluster: &Cluster) {
    let before = cluster.node().await;
    cluster.nodes.delete("node1", &DeleteParams::default()).await.expect("delete");
    let began = Instant::now();
    let after = until("registered again", REPAIR, async || {
        let node = serde_json::to_value(cluster.nodes.get_opt("node1").await.ok()??).ok()?;
        condition(&node["status"], "Ready").then_some(node)
    })
    .await;
    println!("the node was registered again after {:?}", began.elapsed());
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["metadata"]["labels"]["zone"], "a");
    assert_eq!(after["status"]["addresses"], before["status"]["addresses"]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_others_changed_is_put_right_and_nothing_else() {
    let _ = tracing_subscriber::fmt().with_env_filter("thalweg_kubelet=info").with_test_writer().try_init();
    let machine = Machine::new("klrec");
    machine.run(|| async {
        let data = machine.dir.path().join("server");
        let api_server = server(&data).await;
        let node_kubeconfig = machine.dir.path().join("node.kubeconfig");
        let url = "https://127.0.0.1:6443";
        thalweg_apiserver::write_kubeconfig(&data, url, "system:node:node1", &["system:nodes"], &node_kubeconfig)
            .expect("kubeconfig");
        let admin = client(&data.join("admin.kubeconfig")).await;
        let agent = kubelet(&machine, node_kubeconfig, true).await;
        let cluster = Cluster {
            nodes: Api::all(admin.clone()),
            pods: Api::namespaced(admin.clone(), "default"),
            events: Api::namespaced(admin, "default"),
        };
        until("node ready", 20, async || {
            let node = serde_json::to_value(cluster.nodes.get_opt("node1").await.ok()??).ok()?;
            condition(&node["status"], "Ready").then_some(())
        })
        .await;
        cluster.pods.create(&PostParams::default(), &pod()).await.expect("create");
        let running = until("pod ready", 30, async || {
            let pod = cluster.pod().await;
            condition(&pod["status"], "Ready").then_some(pod)
        })
        .await;
        let container = running["status"]["containerStatuses"][0]["containerID"].clone();
        cluster.quiet().await;

        a_silenced_node_is_ready_again(&cluster).await;
        a_silenced_pod_is_ready_again(&cluster, &container).await;
        cluster.quiet().await;

        // Conditions of others come and go without an answer.
        let theirs = json!([{"type": "example.com/Raid", "status": "True", "reason": "Rebuilt"}]);
        let written = [cluster.patch_node(&theirs).await, cluster.patch_pod(&theirs).await].map(|object| version(&object));
        assert_eq!(cluster.quiet().await, written);

        a_deleted_node_is_registered_again(&cluster).await;
        // By now the watch of the node follows another object.
        a_silenced_node_is_ready_again(&cluster).await;
        cluster.quiet().await;

        agent.stop().await;
        assert_eq!(machine.leftovers(), Vec::<String>::new());
        api_server.stop().await;
    });
}
