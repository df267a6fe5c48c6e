//! Against an API server of a few lines that answers from a script: pages, restarts, relists, nonsense.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

type Script = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

enum Answer {
    Json(u16, Value),
    /// The lines of a watch, which then ends, or stays open.
    Events(Vec<String>, bool),
}

/// Answers each request with the first answer left whose text its address contains; without one it hangs.
#[derive(Clone, Default)]
struct Server {
    script: Arc<Mutex<VecDeque<(&'static str, Answer)>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

// === impl Server ===

impl Server {
    fn then(self, wanted: &'static str, answer: Answer) -> Self {
        self.script.lock().expect("lock").push_back((wanted, answer));
        self
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(&request.uri().to_string()).await) }
        });
        Client::new(service, "default")
    }

    async fn connector(&self) -> Connector {
        let server = self.clone();
        Connector::with(move || {
            let client = server.client();
            Box::pin(async { Ok(client) })
        })
        .await
        .expect("client")
    }

    async fn answer(&self, uri: &str) -> Response<Script> {
        self.requests.lock().expect("lock").push(uri.to_owned());
        let next = {
            let mut script = self.script.lock().expect("lock");
            script.iter().position(|(wanted, _)| uri.contains(wanted)).and_then(|position| script.remove(position))
        };
        let Some((_, answer)) = next else { return std::future::pending().await };
        let (code, text, open) = match answer {
            Answer::Json(code, value) => (code, value.to_string(), false),
            Answer::Events(events, open) => (200, events.iter().map(|event| format!("{event}\n")).collect(), open),
        };
        let head = stream::iter([Ok(Frame::data(Bytes::from(text)))]);
        let body = if open { head.chain(stream::pending()).boxed() } else { head.boxed() };
        Response::builder().status(code).body(StreamBody::new(body)).expect("response")
    }
}

fn node(name: &str, version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "resourceVersion": version.to_string()}})
}

fn list(names: &[&str], version: u32, next: Option<&str>) -> Answer {
    let items: Vec<Value> = names.iter().map(|name| node(name, version)).collect();
    let metadata = json!({"resourceVersion": version.to_string(), "continue": next.unwrap_or_default()});
    Answer::Json(200, json!({"apiVersion": "v1", "kind": "NodeList", "metadata": metadata, "items": items}))
}

/// The type comes first, as every API server writes it.
fn event(kind: &str, object: Value) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn status(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason, "metadata": {}})
}

/// Follows nodes through the script; the reports until it is through, as `+name`, `-name`, `listed`.
async fn check(server: Server, expected: &str) -> Vec<String> {
    let (sink, mut reports) = mpsc::channel(64);
    let task = tokio::spawn(
        Watch::<Node>::new(&Arc::new(server.connector().await), Need::Required, &Selectors::default(), &sink).await.run(),
    );
    drop(sink);
    let mut seen: Vec<String> = Vec::new();
    let words = expected.split_whitespace().count();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    // One more report than expected is an error too, so wait a moment for it.
    loop {
        let until = if seen.len() < words { deadline } else { tokio::time::Instant::now() + Duration::from_millis(50) };
        let Ok(report) = tokio::time::timeout_at(until, reports.recv()).await else { break };
        let Some(report) = report else { break };
        for change in report.changes {
            let Change::Node(name, object) = change else { panic!("{change:?}") };
            seen.push(format!("{}{name}", if object.is_some() { '+' } else { '-' }));
        }
        if report.listed {
            seen.push("listed".into());
        }
    }
    task.abort();
    assert_eq!(seen.join(" "), expected);
    let left = server.script.lock().expect("lock").len();
    assert_eq!(left, 0, "answers never asked for");
    server.requests.lock().expect("lock").clone()
}

#[tokio::test]
async fn pages_then_events() {
    let server =
        Server::default().then("limit=500", list(&["a"], 7, Some("more"))).then("continue=more", list(&["b"], 7, None)).then(
            "watch=true",
            Answer::Events(
                vec![event("ADDED", node("c", 8)), event("MODIFIED", node("a", 9)), event("DELETED", node("b", 10))],
                true,
            ),
        );
    let requests = check(server, "+a +b listed +c +a -b").await;
    assert!(requests[2].contains("resourceVersion=7") && requests[2].contains("allowWatchBookmarks=true"), "{requests:?}");
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_from_the_last_version_bookmarks_included() {
    let bookmark = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"resourceVersion": "40"}});
    let server = Server::default()
        .then("limit=500", list(&[], 7, None))
        .then("resourceVersion=7", Answer::Events(vec![event("ADDED", node("a", 8))], false))
        .then("resourceVersion=8", Answer::Events(vec![event("BOOKMARK", bookmark)], false))
        .then("resourceVersion=40", Answer::Events(vec![event("ADDED", node("b", 41))], true));
    check(server, "listed +a +b").await;
}

#[tokio::test]
async fn a_version_too_old_is_listed_again_in_place() {
    let server = Server::default()
        .then("limit=500", list(&["a", "b"], 7, None))
        .then("resourceVersion=7", Answer::Events(vec![event("ERROR", status(410, "Expired"))], false))
        .then("limit=500", list(&["b", "c"], 20, None))
        .then("resourceVersion=20", Answer::Json(410, status(410, "Gone")))
        .then("limit=500", list(&["c"], 30, None));
    check(server, "+a +b listed +b +c -a listed +c -b listed").await;
}

#[tokio::test]
async fn an_unavailable_server_is_asked_again_and_nothing_is_forgotten() {
    let server = Server::default()
        .then("limit=500", Answer::Json(503, status(503, "ServiceUnavailable")))
        .then("limit=500", Answer::Json(401, status(401, "Unauthorized")))
        .then("limit=500", list(&["a"], 7, None))
        .then("resourceVersion=7", Answer::Json(503, status(503, "ServiceUnavailable")))
        .then("resourceVersion=7", Answer::Events(vec![event("ADDED", node("b", 8))], true));
    check(server, "+a listed +b").await;
}

#[tokio::test]
async fn a_continue_token_that_expired_starts_the_list_again() {
    let server = Server::default()
        .then("limit=500", list(&["a"], 7, Some("more")))
        .then("continue=more", Answer::Json(410, status(410, "Expired")))
        .then("limit=500", list(&["b"], 9, None))
        .then("resourceVersion=9", Answer::Events(vec![], true));
    check(server, "+a +b -a listed").await;
}

#[tokio::test]
async fn an_object_that_makes_no_sense_keeps_its_last_good_state() {
    let mut nonsense = node("a", 8);
    nonsense["spec"] = json!({"podCIDRs": ["everywhere"]});
    let server = Server::default()
        .then("limit=500", list(&["a"], 7, None))
        .then("watch=true", Answer::Events(vec![event("MODIFIED", nonsense), event("ADDED", node("b", 9))], true));
    check(server, "+a listed +b").await;
}

#[tokio::test]
async fn an_object_of_a_shape_that_cannot_be_read_is_skipped_and_its_neighbours_are_not() {
    let broken = |name: &str, version| {
        let mut object = node(name, version);
        object["spec"] = json!({"podCIDRs": "not a list"});
        object
    };
    let metadata = json!({"resourceVersion": "7"});
    let items = json!([node("a", 5), broken("b", 6), node("c", 7)]);
    let again = json!([broken("a", 20), node("c", 7)]);
    let server = Server::default()
        .then(
            "limit=500",
            Answer::Json(200, json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items})),
        )
        .then(
            "resourceVersion=7",
            Answer::Events(vec![event("MODIFIED", broken("a", 8)), event("DELETED", broken("c", 9))], false),
        )
        .then("resourceVersion=9", Answer::Json(410, status(410, "Gone")))
        // In a list that has it, broken as it is, it is not gone.
        .then(
            "limit=500",
            Answer::Json(200, json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": again})),
        )
        .then("resourceVersion=7", Answer::Events(vec![event("DELETED", broken("a", 21))], true));
    check(server, "+a +c listed -c +c listed -a").await;
}

#[tokio::test]
async fn a_list_that_is_forbidden_is_asked_again_until_it_is_granted() {
    let server = Server::default()
        .then("limit=500", Answer::Json(403, status(403, "Forbidden")))
        .then("limit=500", list(&["a"], 7, None));
    check(server, "+a listed").await;
}

/// Before Kubernetes 1.31 there is no ServiceCIDR: 404, or 403 where RBAC, which comes first, does not grant it.
#[tokio::test(start_paused = true)]
async fn a_kind_that_the_server_does_not_have_counts_as_listed_and_may_come_later() {
    for (code, reason) in [(404, "NotFound"), (403, "Forbidden")] {
        let range = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}});
        let ranges = json!({"kind": "ServiceCIDRList", "apiVersion": "networking.k8s.io/v1", "metadata": {"resourceVersion": "9"},
            "items": [range]});
        let server = Server::default()
            .then("servicecidrs", Answer::Json(code, status(code, reason)))
            .then("servicecidrs", Answer::Json(200, ranges));
        let connector = Arc::new(server.connector().await);
        let (sink, mut reports) = mpsc::channel(8);
        let task =
            tokio::spawn(Watch::<ServiceCIDR>::new(&connector, Need::Optional, &Selectors::default(), &sink).await.run());
        let first = reports.recv().await.expect("report");
        assert!(first.listed && first.changes.is_empty(), "{first:?}");
        let asked = tokio::time::Instant::now();
        let second = reports.recv().await.expect("report");
        let [Change::ServiceCidr(name, Some(_))] = &second.changes[..] else { panic!("{second:?}") };
        assert_eq!(&**name, "kubernetes");
        assert_eq!(asked.elapsed().as_secs(), ABSENT_RETRY.as_secs());
        task.abort();
    }
}

/// As where an admission plugin, or a proxy in between, lets one kind of request fail for ever.
#[tokio::test(start_paused = true)]
async fn an_optional_kind_that_cannot_be_listed_holds_nothing_back_and_comes_later() {
    let pod = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": "n1"}});
    let pods = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": [pod]});
    let mut server = Server::default();
    for _ in 0..=OPTIONAL_TRIES {
        server = server.then("pods", Answer::Json(503, status(503, "ServiceUnavailable")));
    }
    let server = server.then("pods", Answer::Json(200, pods));
    let connector = Arc::new(server.connector().await);
    let (sink, mut reports) = mpsc::channel(8);
    let task = tokio::spawn(Watch::<Pod>::new(&connector, Need::Optional, &Selectors::default(), &sink).await.run());
    let first = reports.recv().await.expect("report");
    assert!(first.listed && first.changes.is_empty(), "{first:?}");
    assert_eq!(server.requests.lock().expect("lock").len(), OPTIONAL_TRIES as usize);
    let second = reports.recv().await.expect("report");
    assert!(second.listed && matches!(&second.changes[..], [Change::Pod(_, Some(_))]), "{second:?}");
    task.abort();
}

#[tokio::test]
async fn every_kind_is_followed_and_the_receiver_ends_it() {
    let empty = |kind: &str| {
        Answer::Json(200, json!({"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": "1"}, "items": []}))
    };
    // The kinds are asked in no order: every list answer fits every kind, being empty.
    let mut server = Server::default();
    for _ in 0..5 {
        server = server.then("limit=500", empty("List"));
    }
    let (sink, mut batches) = mpsc::channel(8);
    let options = KubeOptions { kubeconfig: None, node: "n1".into(), pods: true, services: ServiceScope::Proxied };
    let connector = server.connector().await;
    let task = tokio::spawn(async move { follow(connector, &options, sink).await });
    let batch = tokio::time::timeout(Duration::from_secs(20), batches.recv()).await.expect("in time").expect("batch");
    assert!(batch.changes.is_empty() && batch.synced);
    let requests = server.requests.lock().expect("lock").join("\n");
    let labels = "labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name";
    for wanted in [
        &format!("/api/v1/services?&{labels}&limit=500"),
        &format!("/apis/discovery.k8s.io/v1/endpointslices?&{labels}&limit=500"),
        "/api/v1/nodes?&limit",
        "/apis/networking.k8s.io/v1/servicecidrs?&limit",
        "fieldSelector=spec.nodeName%3Dn1",
    ] {
        assert!(requests.contains(wanted), "{wanted} in\n{requests}");
    }
    drop(batches);
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("ends").expect("no panic");
}

#[tokio::test]
async fn a_bad_kubeconfig_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (file, content) in
        [("missing", None), ("broken", Some("clusters: [")), ("empty", Some("apiVersion: v1\nkind: Config\n"))]
    {
        let path = dir.path().join(file);
        if let Some(content) = content {
            std::fs::write(&path, content).expect("write");
        }
        let (sink, _batches) = mpsc::channel(1);
        let options = KubeOptions { kubeconfig: Some(path.clone()), ..KubeOptions::default() };
        let error = run(options, sink).await.expect_err(file);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn backoff_grows_to_its_bound_with_jitter() {
    let mut backoff = Backoff(BACKOFF_MIN);
    let mut bound = BACKOFF_MIN;
    for _ in 0..12 {
        let pause = backoff.next();
        assert!(pause >= bound / 2 && pause <= bound, "{pause:?} of {bound:?}");
        bound = (bound * 2).min(BACKOFF_MAX);
    }
    backoff.reset();
    assert!(backoff.next() <= BACKOFF_MIN);
}
