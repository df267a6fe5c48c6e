//! The whole kubelet against the real API server: the node becomes ready, pods run, logs are read, and both sides may restart.

mod common;
#[path = "common/live.rs"]
mod live;

use std::time::Duration;

use common::Node as Machine;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use live::{client, condition, kubelet, server, until};
use serde_json::{Value, json};

fn pod(name: &str, script: &str) -> Pod {
    let json = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": "node1",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "none", "command": ["/bin/sh", "-c", script]}]}});
    serde_json::from_value(json).expect("pod")
}

async fn ready(pods: &Api<Pod>, name: &str) -> Value {
    until(&format!("{name} ready"), 30, async || {
        let status = serde_json::to_value(pods.get(name).await.ok()?.status).ok()?;
        condition(&status, "Ready").then_some(status)
    })
    .await
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_node_serves_pods_and_logs_and_both_sides_may_restart() {
    let _ = tracing_subscriber::fmt().with_env_filter("thalweg_kubelet=info").with_test_writer().try_init();
    let machine = Machine::new("klnode");
    machine.run(|| async {
        let data = machine.dir.path().join("server");
        let api_server = server(&data).await;
        let node_kubeconfig = machine.dir.path().join("node.kubeconfig");
        let url = "https://127.0.0.1:6443";
        thalweg_apiserver::write_kubeconfig(&data, url, "system:node:node1", &["system:nodes"], &node_kubeconfig)
            .expect("kubeconfig");
        let admin = client(&data.join("admin.kubeconfig")).await;
        let agent = kubelet(&machine, node_kubeconfig.clone(), false).await;

        let nodes = Api::<Node>::all(admin.clone());
        let node = until("node ready", 20, async || {
            let node = nodes.get("node1").await.ok()?;
            condition(&serde_json::to_value(&node.status).ok()?, "Ready").then_some(node)
        })
        .await;
        let labels = node.metadata.labels.expect("labels");
        assert_eq!((labels["kubernetes.io/hostname"].as_str(), labels["zone"].as_str()), ("node1", "a"));
        let leases = Api::<Lease>::namespaced(admin.clone(), "kube-node-lease");
        let lease = until("lease", 20, async || leases.get("node1").await.ok()).await;
        assert_eq!(lease.spec.expect("spec").holder_identity.as_deref(), Some("node1"));

        let pods = Api::<Pod>::namespaced(admin.clone(), "default");
        let script = "echo hello; echo $KUBERNETES_SERVICE_HOST; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done";
        pods.create(&PostParams::default(), &pod("web-71", script)).await.expect("create");
        let status = ready(&pods, "web-71").await;
        assert_eq!((&status["podIP"], &status["phase"]), (&json!("10.77.0.71"), &json!("Running")));
        let log =
            until("logs", 10, async || pods.logs("web-71", &LogParams::default()).await.ok().filter(|l| l.contains("tick 2")))
                .await;
        assert!(log.starts_with("hello\n10.96.0.1\ntick 1\n"), "{log}");
        let tail = pods.logs("web-71", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await.expect("tail");
        assert_eq!(tail.lines().count(), 1, "{tail}");
        let events = Api::<Event>::namespaced(admin.clone(), "default");
        until("events", 10, async || {
            let list = events.list(&ListParams::default()).await.ok()?;
            list.items.iter().any(|e| e.reason.as_deref() == Some("Started")).then_some(())
        })
        .await;

        // The API server goes and comes back: what runs goes on, what is new is heard of.
        api_server.stop().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let api_server = server(&data).await;
        let admin = client(&data.join("admin.kubeconfig")).await;
        let pods = Api::<Pod>::namespaced(admin.clone(), "default");
        pods.create(&PostParams::default(), &pod("web-72", "sleep 600")).await.expect("create");
        ready(&pods, "web-72").await;
        let id = |status: &Value| status["containerStatuses"][0]["containerID"].clone();
        assert_eq!(id(&ready(&pods, "web-71").await), id(&status));

        // The kubelet goes and comes back.
        agent.stop().await;
        pods.delete("web-72", &DeleteParams::default()).await.expect("delete");
        let agent = kubelet(&machine, node_kubeconfig.clone(), true).await;
        until("web-72 gone", 20, async || matches!(pods.get_opt("web-72").await, Ok(None)).then_some(())).await;
        assert_eq!(id(&ready(&pods, "web-71").await), id(&status));
        let more = pods.logs("web-71", &LogParams::default()).await.expect("logs after the restart");
        assert!(more.len() > log.len());

        agent.stop().await;
        assert_eq!(machine.leftovers(), Vec::<String>::new());
        api_server.stop().await;
    });
}
