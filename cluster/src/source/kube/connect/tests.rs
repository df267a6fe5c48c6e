//! Credentials that change while the source runs, against an API server on loopback that checks them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Result;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::world::{Batch, Change};

/// Longer than any back-off, shorter than the minute after which the client reads its token file by itself.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    nodes: Arc<Mutex<BTreeSet<&'static str>>>,
    refused: watch::Sender<u32>,
    /// The one that is taken; open watches end when it changes.
    token: watch::Sender<&'static str>,
}

// === impl Server ===

impl Server {
    async fn start(token: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let server = Self {
            address: listener.local_addr().expect("bound"),
            nodes: Arc::default(),
            refused: watch::Sender::new(0),
            token: watch::Sender::new(token),
        };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                // A client that hangs up in between is none of the test's concern.
                tokio::spawn(async move { server.answer(stream).await.ok() });
            }
        });
        server
    }

    async fn answer(&self, mut stream: TcpStream) -> Result<()> {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        let request = lines.next_line().await?.unwrap_or_default();
        let mut bearer = String::new();
        while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
            if let Some(token) = line.to_lowercase().strip_prefix("authorization: bearer ") {
                token.clone_into(&mut bearer);
            }
        }
        let mut token = self.token.subscribe();
        if bearer != *token.borrow_and_update() {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": "Unauthorized", "message": "Unauthorized", "code": 401});
            write.write_all(http("401 Unauthorized", &status.to_string()).as_bytes()).await?;
            self.refused.send_modify(|refused| *refused += 1);
            return Ok(());
        }
        if request.contains("watch=true") {
            write.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n").await?;
            // A revoked token ends the watch; what it fell behind by is in the next list.
            if request.contains(&format!("resourceVersion={} ", self.version())) {
                token.changed().await.ok();
            }
            let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": "Expired", "message": "too old", "code": 410});
            return write.write_all(format!("{{\"type\":\"ERROR\",\"object\":{gone}}}\n").as_bytes()).await;
        }
        let nodes = if request.contains("/nodes?") { self.nodes.lock().expect("lock").clone() } else { BTreeSet::new() };
        let items: Vec<_> = nodes.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version().to_string()}, "items": items});
        write.write_all(http("200 OK", &list.to_string()).as_bytes()).await
    }

    fn version(&self) -> usize {
        self.nodes.lock().expect("lock").len()
    }

    fn kubeconfig(&self, token_file: &Path) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {"tokenFile": token_file}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }

    /// Waits until a request has been refused from now on.
    async fn refusal(&self) {
        let mut refused = self.refused.subscribe();
        tokio::time::timeout(PATIENCE, refused.changed()).await.expect("a refusal in time").expect("server runs");
    }
}

fn http(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Batches until the source is synced and this node is known; nothing may be removed on the way.
async fn until(batches: &mut mpsc::Receiver<Batch>, node: &str) {
    let mut known = false;
    tokio::time::timeout(PATIENCE, async {
        loop {
            let batch = batches.recv().await.expect("the source runs");
            for change in batch.changes {
                let Change::Node(name, Some(_)) = &change else { panic!("{change:?}") };
                known |= **name == *node;
            }
            if known && batch.synced {
                return;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{node} is not known in time"));
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_again_from_disk() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (token_file, kubeconfig) = (dir.path().join("token"), dir.path().join("kubeconfig"));
    let server = Server::start("second").await;
    server.nodes.lock().expect("lock").insert("early");
    fs::write(&token_file, "first\n").expect("write");
    fs::write(&kubeconfig, server.kubeconfig(&token_file)).expect("write");

    let (sink, mut batches) = mpsc::channel(8);
    let options = KubeOptions { kubeconfig: Some(kubeconfig), node: "early".into(), pods: true, ..KubeOptions::default() };
    let source = tokio::spawn(crate::source::kube::run(options, sink));
    server.refusal().await;
    fs::write(&token_file, "second\n").expect("write");
    until(&mut batches, "early").await;

    // Rotated while it watches, and the new one is late on disk.
    server.nodes.lock().expect("lock").insert("late");
    server.token.send_replace("third");
    server.refusal().await;
    fs::write(&token_file, "third\n").expect("write");
    until(&mut batches, "late").await;

    drop(batches);
    tokio::time::timeout(PATIENCE, source).await.expect("ends").expect("no panic").expect("no error");
}

#[tokio::test]
async fn one_rotation_makes_one_new_client() {
    let made = Arc::new(Mutex::new(0));
    let count = Arc::clone(&made);
    let connector = Connector::with(move || {
        *count.lock().expect("lock") += 1;
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
        });
        Box::pin(async move { Ok(Client::new(service, "default")) })
    })
    .await
    .expect("client");
    let first = connector.session().await;
    let second = connector.renew(&first).await;
    let same = connector.renew(&first).await;
    assert_eq!((second.generation, same.generation, *made.lock().expect("lock")), (1, 1, 2));
}
