//! Who gets in: certificates, tokens, groups; what strangers see; and the log's way to the kubelet.

mod common;

use std::sync::Arc;

use common::{Server, client, send};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

/// A kubelet of one answer: TLS with a certificate of its own making, clients of the cluster's CA only. Returns what was asked,
/// after the first half of the log was sent; the rest follows when told.
async fn kubelet(
    data: &std::path::Path,
    half: &'static str,
    rest: &'static str,
) -> (u16, tokio::task::JoinHandle<String>, Arc<tokio::sync::Notify>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["kubelet".to_owned()]).expect("a certificate");
    let mut roots = RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_file(data.join("pki/ca.crt")).expect("the CA");
    roots.add(ca).expect("a root");
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("a verifier");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a configuration");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let more = Arc::new(tokio::sync::Notify::new());
    let told = more.clone();
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let mut stream = acceptor.accept(tcp).await.expect("a client of the cluster's CA");
        let mut request = vec![0; 4096];
        let size = stream.read(&mut request).await.expect("a request");
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{}", chunk(half)).as_bytes()).await.expect("sent");
        stream.flush().await.expect("sent");
        told.notified().await;
        stream.write_all(format!("{}0\r\n\r\n", chunk(rest)).as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("closed");
        String::from_utf8_lossy(&request[..size]).into_owned()
    });
    (port, serving, more)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_streamed_from_the_kubelet() {
    let server = Server::start().await;
    let (port, serving, more) = kubelet(&server.dir.path().join("data"), "one\n", "two\n").await;
    let status = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}});
    server.ok("POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}, "status": status})).await;
    server.ok("POST", PODS, common::pod("p")).await;
    server.ok("POST", &format!("{PODS}/p/binding"), json!({"metadata": {"name": "p"}, "target": {"name": "n1"}})).await;
    let request = http::Request::get(format!("{PODS}/p/log?follow=true&tailLines=5")).body(Vec::new()).expect("a request");
    let mut lines = server.client.request_stream(request).await.expect("a stream").lines();
    let mut next =
        async || tokio::time::timeout(common::WAIT, lines.next()).await.expect("in time").map(|line| line.expect("a line"));
    assert_eq!(next().await.as_deref(), Some("one"), "the first line comes before the log ends");
    more.notify_one();
    assert_eq!(next().await.as_deref(), Some("two"));
    assert_eq!(next().await, None);
    let asked = serving.await.expect("no panic");
    assert!(asked.starts_with("GET /containerLogs/default/p/c?follow=true&tailLines=5 HTTP/1.1\r\n"), "{asked}");
    server.stop().await;
}
