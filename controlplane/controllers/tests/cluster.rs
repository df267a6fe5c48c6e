//! What belongs to the cluster as a whole: namespaces and nodes.

mod common;

use std::time::Duration;

use common::{Cluster, condition, deployments, ready_addresses, slices};
use serde_json::{Value, json};
use thalweg_controllers::Config;

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_has_its_account_and_ca_and_goes_with_all_it_has() {
    let cluster = Cluster::start(Config { root_ca: Some("PEM".into()), ..Config::default() }).await;
    cluster.add_node("a").await;
    cluster.ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
    let path = |rest: &str| format!("/api/v1/namespaces/shop{rest}");
    cluster.until(&path("/serviceaccounts/default"), |account| account.is_object().then_some(())).await;
    cluster.reaches(&path("/configmaps/kube-root-ca.crt"), |map| map["data"]["ca.crt"].clone(), json!("PEM")).await;
    // What is taken away comes back, and what is changed is set right.
    cluster.ok("DELETE", &path("/serviceaccounts/default"), Value::Null).await;
    cluster.until(&path("/serviceaccounts/default"), |account| account.is_object().then_some(())).await;
    cluster.ok("PATCH", &path("/configmaps/kube-root-ca.crt"), json!({"data": {"ca.crt": "forged"}})).await;
    cluster.reaches(&path("/configmaps/kube-root-ca.crt"), |map| map["data"]["ca.crt"].clone(), json!("PEM")).await;

    cluster.deploy("shop", "web", 2, "v1").await;
    cluster.reaches(&slices("shop", "web"), |list| ready_addresses(list).len(), 2).await;
    cluster.ok("POST", &path("/configmaps"), json!({"metadata": {"name": "settings"}, "data": {"a": "b"}})).await;
    cluster.ok("POST", &path("/secrets"), json!({"metadata": {"name": "password"}})).await;
    cluster.ok("DELETE", &path(""), Value::Null).await;
    cluster.reaches(&path(""), Value::is_null, true).await;
    cluster.ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
    for kind in ["pods", "services", "secrets", "endpoints"] {
        assert_eq!(cluster.items(&path(&format!("/{kind}"))).await.len(), 0, "{kind} of the namespace before");
    }
    assert_eq!(cluster.items(&deployments("shop")).await.len(), 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_waits_for_what_somebody_holds() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    cluster.ok("POST", "/api/v1/namespaces/shop/configmaps", held).await;
    cluster.ok("DELETE", "/api/v1/namespaces/shop", Value::Null).await;
    cluster
        .reaches(
            "/api/v1/namespaces/shop",
            |shop| condition(shop, "NamespaceContentRemaining"),
            "True SomeResourcesRemain".to_owned(),
        )
        .await;
    cluster.ok("PATCH", "/api/v1/namespaces/shop/configmaps/held", json!({"metadata": {"finalizers": null}})).await;
    cluster.reaches("/api/v1/namespaces/shop", Value::is_null, true).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_ranges_until_there_are_none() {
    let config = Config { cluster_cidr: "10.9.0.0/23".parse().unwrap(), ..Config::default() };
    let cluster = Cluster::start(config).await;
    for (name, range) in [("a", "10.9.0.0/24"), ("b", "10.9.1.0/24")] {
        cluster.add_node(name).await;
        cluster.reaches(&format!("/api/v1/nodes/{name}"), |node| node["spec"]["podCIDRs"].clone(), json!([range])).await;
    }
    cluster.add_node("c").await;
    cluster
        .until("/api/v1/namespaces/default/events", |list| {
            let mut events = list["items"].as_array()?.iter();
            events.find(|event| event["reason"] == "CIDRNotAvailable" && event["involvedObject"]["name"] == "c").map(|_| ())
        })
        .await;
    // A range that is given back goes to the node that waits.
    cluster.silence("a");
    cluster.ok("DELETE", "/api/v1/nodes/a", Value::Null).await;
    cluster.reaches("/api/v1/nodes/c", |node| node["spec"]["podCIDR"].clone(), json!("10.9.0.0/24")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_loses_its_endpoints_then_its_pods() {
    let config = Config { node_grace: Duration::from_secs(2), ..Config::default() };
    let cluster = Cluster::start(config).await;
    cluster.add_node("a").await;
    cluster.add_node("b").await;
    cluster.deploy("default", "web", 4, "v1").await;
    cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), 4).await;

    cluster.silence("a");
    cluster.reaches("/api/v1/nodes/a", |node| condition(node, "Ready"), "Unknown NodeStatusUnknown".to_owned()).await;
    cluster
        .until("/api/v1/nodes/a", |node| {
            let taints = node["spec"]["taints"].as_array()?;
            let has = |effect: &str| {
                taints.iter().any(|taint| taint["key"] == "node.kubernetes.io/unreachable" && taint["effect"] == effect)
            };
            (has("NoSchedule") && has("NoExecute")).then_some(())
        })
        .await;
    // Its pods serve no more at once; a second later, as they ask by their toleration, they are replaced on the other node.
    let path = "/api/v1/namespaces/default/pods";
    let on = |list: &Value, node: &str, leaving: bool| {
        let pods = list["items"].as_array().into_iter().flatten();
        pods.filter(|pod| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_string() == leaving)
            .count()
    };
    cluster.until(path, |list| (on(list, "a", true) == 2 && on(list, "b", false) == 4).then_some(())).await;
    cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), 4).await;

    // The machine is gone for good: so are the pods that nobody can stop there.
    cluster.ok("DELETE", "/api/v1/nodes/a", Value::Null).await;
    cluster.until(path, |list| (on(list, "a", true) == 0).then_some(())).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_serves_again() {
    let config = Config { node_grace: Duration::from_secs(2), ..Config::default() };
    let cluster = Cluster::start(config).await;
    cluster.add_node("a").await;
    // Another one, so that the first is not the last.
    cluster.add_node("b").await;
    cluster.silence("a");
    cluster.reaches("/api/v1/nodes/a", |node| node["spec"]["taints"].as_array().map_or(0, Vec::len), 2).await;
    cluster.wake("a").await;
    cluster.reaches("/api/v1/nodes/a", |node| node["spec"]["taints"].as_array().map_or(0, Vec::len), 0).await;
    cluster.ok("PATCH", "/api/v1/nodes/a", json!({"spec": {"unschedulable": true}})).await;
    cluster
        .reaches("/api/v1/nodes/a", |node| node["spec"]["taints"][0]["key"].clone(), json!("node.kubernetes.io/unschedulable"))
        .await;
    cluster.stop().await;
}

/// Whoever finds everything in order writes nothing: an idle cluster costs nothing but its leases.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_is_left_alone() {
    let cluster = Cluster::start(Config { root_ca: Some("PEM".into()), ..Config::default() }).await;
    cluster.add_node("a").await;
    cluster.deploy("default", "web", 3, "v1").await;
    cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), 3).await;
    let web = format!("{}/web", deployments("default"));
    cluster.reaches(&web, |deployment| condition(deployment, "Progressing"), "True NewReplicaSetAvailable".to_owned()).await;
    let kinds = ["pods", "services", "endpoints", "nodes", "namespaces", "events", "serviceaccounts", "configmaps"]
        .map(|kind| format!("/api/v1/{kind}"));
    let groups = ["apps/v1/deployments", "apps/v1/replicasets", "discovery.k8s.io/v1/endpointslices"]
        .map(|kind| format!("/apis/{kind}"));
    let revisions = async || {
        let mut revisions = Vec::new();
        for path in kinds.iter().chain(&groups) {
            for item in cluster.items(path).await {
                revisions.push(format!("{path} {} {}", item["metadata"]["name"], item["metadata"]["resourceVersion"]));
            }
        }
        revisions
    };
    // Events come a little later than what they tell.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = revisions().await;
    assert!(before.len() > 15, "{before:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(revisions().await, before);
    cluster.stop().await;
}
