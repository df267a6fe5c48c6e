//! Deployments on a whole control plane: from the template to endpoints, through scaling and rollouts, to the end.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, condition, deployments, names, ready_addresses, slices};
use serde_json::{Value, json};
use thalweg_controllers::Config;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn two_nodes() -> Cluster {
    let cluster = Cluster::start(Config::default()).await;
    cluster.add_node("a").await;
    cluster.add_node("b").await;
    cluster
}

fn complete(deployment: &Value) -> bool {
    let status = &deployment["status"];
    let wanted = &deployment["spec"]["replicas"];
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].iter().all(|count| status[count] == *wanted)
        && condition(deployment, "Progressing") == "True NewReplicaSetAvailable"
}

async fn scale(cluster: &Cluster, replicas: i32) {
    let scale = json!({"spec": {"replicas": replicas}});
    cluster.ok("PATCH", &format!("{DEPLOYMENT}/scale"), scale).await;
}

async fn set_image(cluster: &Cluster, image: &str) {
    let containers = json!([{"name": "main", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]);
    cluster.ok("PATCH", DEPLOYMENT, json!({"spec": {"template": {"spec": {"containers": containers}}}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_becomes_available_and_scales_and_its_endpoints_follow() {
    let cluster = two_nodes().await;
    cluster.deploy("default", "web", 3, "v1").await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    let deployment = cluster.get(DEPLOYMENT).await;
    assert_eq!(condition(&deployment, "Available"), "True MinimumReplicasAvailable");
    assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");

    let pods = cluster.items(PODS).await;
    let nodes: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap()).collect();
    assert_eq!((pods.len(), nodes.len()), (3, 2), "three pods on both nodes");
    let sets = cluster.items(SETS).await;
    let hash = &sets[0]["metadata"]["labels"]["pod-template-hash"];
    assert_eq!(sets[0]["metadata"]["name"], format!("web-{}", hash.as_str().unwrap()));
    assert!(pods.iter().all(|pod| pod["metadata"]["labels"]["pod-template-hash"] == *hash));

    cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), 3).await;
    let slice = cluster.items(&slices("default", "web")).await.remove(0);
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(slice["metadata"]["ownerReferences"][0]["name"], "web");
    let endpoints = cluster.get("/api/v1/namespaces/default/endpoints/web").await;
    assert_eq!(endpoints["subsets"][0]["addresses"].as_array().unwrap().len(), 3);

    for replicas in [5, 1, 0] {
        let start = Instant::now();
        scale(&cluster, replicas).await;
        let wanted = usize::try_from(replicas).unwrap();
        cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), wanted).await;
        assert!(start.elapsed() < Duration::from_secs(1), "endpoints follow within a second, not after {:?}", start.elapsed());
        cluster.reaches(PODS, |list| list["items"].as_array().map_or(0, Vec::len), wanted).await;
        cluster
            .reaches(DEPLOYMENT, |deployment| deployment["status"]["replicas"].as_i64().unwrap_or(0), i64::from(replicas))
            .await;
    }
    assert_eq!(names(&cluster.items(SETS).await).len(), 1, "scaling makes no new set");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_vanishes_is_replaced_and_a_terminating_one_serves_no_more() {
    let cluster = two_nodes().await;
    cluster.deploy("default", "web", 2, "v1").await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), 2).await;
    let victim = cluster.items(PODS).await.remove(0);
    let (name, address) =
        (victim["metadata"]["name"].as_str().unwrap(), victim["status"]["podIP"].as_str().unwrap().to_owned());
    cluster.ok("DELETE", &format!("{PODS}/{name}"), Value::Null).await;
    let path = slices("default", "web");
    cluster
        .until(&path, |list| {
            let ready = ready_addresses(list);
            (ready.len() == 2 && !ready.contains(&address)).then_some(())
        })
        .await;
    cluster.reaches(PODS, |list| list["items"].as_array().map_or(0, Vec::len), 2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_keeps_serving_and_can_be_undone() {
    let cluster = two_nodes().await;
    cluster.deploy("default", "web", 4, "v1").await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), 4).await;

    for (image, revision, sets) in [("v2", "2", 2), ("v1", "3", 2)] {
        set_image(&cluster, image).await;
        let path = slices("default", "web");
        let start = Instant::now();
        loop {
            let ready = cluster.ready_endpoints("default", "web").await.len();
            assert!(ready >= 3, "at most a quarter may be missing, {ready} of 4 are there");
            let deployment = cluster.get(DEPLOYMENT).await;
            if complete(&deployment) {
                assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], revision);
                break;
            }
            assert!(start.elapsed() < common::WAIT, "{deployment:#}");
        }
        cluster.reaches(&path, |list| ready_addresses(list).len(), 4).await;
        cluster.reaches(PODS, |list| list["items"].as_array().map_or(0, Vec::len), 4).await;
        let pods = cluster.items(PODS).await;
        assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == image));
        assert_eq!(cluster.items(SETS).await.len(), sets, "the set of an old template is used again");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_cannot_end_says_so_and_keeps_what_works() {
    let cluster = two_nodes().await;
    cluster.deploy("default", "web", 4, "v1").await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    cluster.ok("PATCH", DEPLOYMENT, json!({"spec": {"progressDeadlineSeconds": 2}})).await;
    set_image(&cluster, "broken").await;
    cluster
        .reaches(DEPLOYMENT, |deployment| condition(deployment, "Progressing"), "False ProgressDeadlineExceeded".to_owned())
        .await;
    assert_eq!(condition(&cluster.get(DEPLOYMENT).await, "Available"), "True MinimumReplicasAvailable");
    assert_eq!(cluster.ready_endpoints("default", "web").await.len(), 3);
    set_image(&cluster, "v3").await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_recreated_when_it_asks_for_that() {
    let cluster = two_nodes().await;
    let mut deployment = common::deployment("web", 2, "v1");
    deployment["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.ok("POST", &deployments("default"), deployment).await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    set_image(&cluster, "v2").await;
    let start = Instant::now();
    loop {
        let pods = cluster.items(PODS).await;
        let images: std::collections::BTreeSet<_> =
            pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap()).collect();
        assert!(images.len() <= 1, "never both: {images:?}");
        if images.contains("v2") && complete(&cluster.get(DEPLOYMENT).await) {
            break;
        }
        assert!(start.elapsed() < common::WAIT);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_takes_dependents_along_or_sets_them_free() {
    let cluster = two_nodes().await;
    for policy in ["Background", "Foreground", "Orphan"] {
        cluster.deploy("default", "web", 2, "v1").await;
        cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        cluster.ok("DELETE", DEPLOYMENT, options).await;
        cluster.reaches(DEPLOYMENT, Value::is_null, true).await;
        if policy == "Foreground" {
            assert_eq!(names(&cluster.items(SETS).await), [""; 0], "owners go last");
            assert_eq!(names(&cluster.items(PODS).await), [""; 0], "owners go last");
        }
        if policy == "Orphan" {
            cluster
                .until(SETS, |list| {
                    list["items"][0]["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty).then_some(())
                })
                .await;
            assert_eq!((cluster.items(SETS).await.len(), cluster.items(PODS).await.len()), (1, 2));
            // A new deployment of the same selector takes them on instead of making its own.
            let before = names(&cluster.items(PODS).await);
            cluster.ok("POST", &deployments("default"), common::deployment("web", 2, "v1")).await;
            cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
            assert_eq!(names(&cluster.items(PODS).await), before);
        } else {
            for kind in [SETS, PODS] {
                cluster.reaches(kind, |list| list["items"].as_array().map_or(0, Vec::len), 0).await;
            }
        }
        cluster.ok("DELETE", "/api/v1/namespaces/default/services/web", Value::Null).await;
        cluster.reaches(&slices("default", "web"), |list| list["items"].as_array().map_or(0, Vec::len), 0).await;
        cluster.reaches("/api/v1/namespaces/default/endpoints/web", Value::is_null, true).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches_and_undoes_rollouts() {
    let cluster = two_nodes().await;
    cluster.deploy("default", "web", 3, "v1").await;
    let status = ["rollout", "status", "deployment/web", "--timeout=20s"];
    assert!(cluster.kubectl(&status).await.contains("deployment \"web\" successfully rolled out"));
    cluster.kubectl(&["set", "image", "deployment/web", "main=v2"]).await;
    assert!(cluster.kubectl(&status).await.contains("successfully rolled out"));
    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]).await;
    assert_eq!(history.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).count(), 2, "{history}");
    cluster.kubectl(&["rollout", "undo", "deployment/web"]).await;
    assert!(cluster.kubectl(&status).await.contains("successfully rolled out"));
    cluster
        .reaches(DEPLOYMENT, |deployment| deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone(), json!("v1"))
        .await;
    cluster.reaches(PODS, |list| list["items"].as_array().map_or(0, Vec::len), 3).await;

    // While it is paused a new template waits; scaling does not.
    cluster.kubectl(&["rollout", "pause", "deployment/web"]).await;
    cluster.kubectl(&["set", "image", "deployment/web", "main=v3"]).await;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=4"]).await;
    cluster.reaches(DEPLOYMENT, |deployment| deployment["status"]["readyReplicas"].clone(), json!(4)).await;
    assert_eq!(condition(&cluster.get(DEPLOYMENT).await, "Progressing"), "Unknown DeploymentPaused");
    assert!(cluster.items(PODS).await.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "v1"));
    cluster.kubectl(&["rollout", "resume", "deployment/web"]).await;
    assert!(cluster.kubectl(&status).await.contains("successfully rolled out"));
    cluster.reaches(PODS, |list| list["items"].as_array().map_or(0, Vec::len), 4).await;
    assert!(cluster.items(PODS).await.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "v3"));
    let events = cluster.kubectl(&["events", "--for", "deployment/web"]).await;
    assert!(events.contains("Scaled up replica set"), "{events}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_outlive_the_server() {
    let mut cluster = two_nodes().await;
    cluster.deploy("default", "web", 2, "v1").await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    cluster.stop_server().await;
    assert_eq!(cluster.call("GET", DEPLOYMENT, &Value::Null).await.0, 0, "the server is away");
    cluster.start_server().await;
    scale(&cluster, 4).await;
    cluster.until(DEPLOYMENT, |deployment| complete(deployment).then_some(())).await;
    cluster.reaches(&slices("default", "web"), |list| ready_addresses(list).len(), 4).await;
    assert_eq!(cluster.items(SETS).await.len(), 1);
    cluster.stop().await;
}
