//! Who gets in: certificates, tokens, groups; what strangers see; and the log's way to the kubelet.

mod common;

use common::{Server, client, send};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn get(client: &kube::Client, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    send(client, "GET", path, headers, String::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_see_health_and_version_only() {
    let server = Server::start().await;
    let nobody = client(&server.kubeconfig(), |config| config.auth_info = Default::default()).await;
    for path in ["/healthz", "/livez", "/readyz?verbose", "/version"] {
        assert_eq!(get(&nobody, path, &[]).await.0, 200, "{path}");
    }
    for path in [PODS, "/api", "/apis", "/openapi/v3", "/metrics", "/nowhere"] {
        let (code, status) = get(&nobody, path, &[]).await;
        assert_eq!((code, &status["reason"], &status["kind"]), (401, &json!("Unauthorized"), &json!("Status")), "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_name_users_and_groups_decide() {
    let server = Server::start().await;
    let nobody = client(&server.kubeconfig(), |config| config.auth_info = Default::default()).await;
    let with = |token: &str| format!("Bearer {token}");
    assert_eq!(get(&nobody, PODS, &[("authorization", &with("admin-token"))]).await.0, 200);
    for wrong in [with("wrong"), with(""), "Basic YTpi".to_owned(), "Bearer".to_owned()] {
        let (code, status) = get(&nobody, PODS, &[("authorization", &wrong)]).await;
        assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")), "{wrong}");
    }
    let (code, status) = get(&nobody, PODS, &[("authorization", &with("eve-token"))]).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    let words = "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!(status["message"], words);
    assert_eq!(get(&nobody, "/apis", &[("authorization", &with("eve-token"))]).await.0, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_another_authority_are_refused() {
    let server = Server::start().await;
    let ours = server.dir.path().join("node.kubeconfig");
    let url = |config: &kube::Config| config.cluster_url.to_string();
    let admin = kube::config::Kubeconfig::read_from(server.kubeconfig()).expect("a kubeconfig");
    let address = admin.clusters[0].cluster.as_ref().and_then(|cluster| cluster.server.clone()).expect("a server");
    let data = server.dir.path().join("data");
    thalweg_apiserver::write_kubeconfig(&data, &address, "system:node:n1", &["system:nodes"], &ours).expect("a kubeconfig");
    let node = client(&ours, |config| assert!(url(config).starts_with("https://127.0.0.1:"))).await;
    let (code, me) = send(
        &node,
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        &[("content-type", "application/json")],
        "{}".into(),
    )
    .await;
    assert_eq!((code, &me["status"]["userInfo"]["username"]), (201, &json!("system:node:n1")));
    assert_eq!(me["status"]["userInfo"]["groups"], json!(["system:nodes", "system:authenticated"]));

    // A CA of the same name, but another key: its client certificates are offered by the client and refused by the server.
    let theirs = server.dir.path().join("theirs.kubeconfig");
    let other = server.dir.path().join("other");
    thalweg_apiserver::write_kubeconfig(&other, &address, "kubernetes-admin", &["system:masters"], &theirs)
        .expect("a kubeconfig");
    let stranger = client(&theirs, |config| config.accept_invalid_certs = true).await;
    let (code, status) = get(&stranger, PODS, &[]).await;
    assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));
    let (code, _) = get(&stranger, PODS, &[("authorization", "Bearer admin-token")]).await;
    assert_eq!(code, 200, "a good token counts, whatever the certificate");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_have_tags() {
    let server = Server::start().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    for (path, accept) in
        [("/openapi/v3", "application/json"), ("/openapi/v2", "application/json"), ("/apis", aggregated), ("/api", aggregated)]
    {
        let request = || http::Request::get(path).header("accept", accept);
        let first =
            server.client.send(request().body(kube::client::Body::empty()).expect("a request")).await.expect("an answer");
        assert_eq!(first.status(), 200, "{path}");
        let tag = first.headers()["etag"].clone();
        let again = request().header("if-none-match", tag).body(kube::client::Body::empty()).expect("a request");
        assert_eq!(server.client.send(again).await.expect("an answer").status(), 304, "{path}");
    }
    let index = server.ok("GET", "/openapi/v3", Value::Null).await;
    let link = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a link").to_owned();
    let document = server.ok("GET", &link, Value::Null).await;
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_say_why_there_are_none() {
    let server = Server::start().await;
    server.ok("POST", PODS, common::pod("p")).await;
    let log = format!("{PODS}/p/log");
    assert_eq!(server.ok("GET", &log, Value::Null).await, json!(""), "a pod that never ran said nothing");
    server
        .fails("GET", &format!("{log}?container=x"), Value::Null, 400, "BadRequest", "container x is not valid for pod p")
        .await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    server.ok("POST", &format!("{PODS}/p/binding"), binding).await;
    server.fails("GET", &log, Value::Null, 404, "NotFound", "nodes \"n1\" not found").await;
    // A port of this machine where nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let status = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": closed}}});
    server.ok("POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}, "status": status})).await;
    let words = format!("https://127.0.0.1:{closed}/containerLogs/default/p/c");
    server.fails("GET", &log, Value::Null, 500, "InternalError", &words).await;
    server.stop().await;
}
