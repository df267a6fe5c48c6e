//! The roles grant what the source asks an API server for, and nothing more: it is run against a server that notes
//! every request.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use thalweg_cluster::Source;
use thalweg_cluster::source::KubeOptions;
use thalweg_deploy::{Chart, Manifest, folder};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

const WAIT: Duration = Duration::from_secs(20);

/// Verbs by API group and resource.
type Access = BTreeMap<(String, String), BTreeSet<String>>;

#[derive(Default)]
struct Noted {
    access: Mutex<Access>,
    strange: Mutex<Vec<String>>,
    news: Notify,
}

// === impl Noted ===

impl Noted {
    /// Notes a request; every list is empty, every watch ends at once.
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let watch = request.uri().query().unwrap_or_default().split('&').any(|pair| pair == "watch=true");
        let verb = if watch { "watch" } else { "list" };
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let (group, resource) = match path.as_slice() {
            ["api", _version, resource] => ("", *resource),
            ["apis", group, _version, resource] => (*group, *resource),
            _ => ("", ""),
        };
        if request.method() == Method::GET && !resource.is_empty() {
            let key = (group.to_owned(), resource.to_owned());
            self.access.lock().expect("notes").entry(key).or_default().insert(verb.to_owned());
        } else {
            self.strange.lock().expect("notes").push(format!("{} {}", request.method(), request.uri()));
        }
        self.news.notify_one();
        let empty = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "7"}, "items": []});
        Response::new(Full::from(if watch { String::new() } else { empty.to_string() }))
    }
}

/// What the source asks for, with everything on that a consumer can turn on.
async fn asked() -> Access {
    let noted = Arc::new(Noted::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let server = format!("http://{}", listener.local_addr().expect("an address"));
    let serving = tokio::spawn({
        let noted = Arc::clone(&noted);
        async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let noted = Arc::clone(&noted);
                let service = hyper::service::service_fn(move |request| {
                    let answer = noted.answer(&request);
                    async { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }
    });
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kubeconfig = dir.path().join("kubeconfig");
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(&kubeconfig, text.to_string()).expect("a kubeconfig");
    let options = KubeOptions { kubeconfig: Some(kubeconfig), node: "node-a".to_owned(), pods: true, ..KubeOptions::default() };
    let (sink, mut batches) = mpsc::channel(64);
    let watching = tokio::spawn(Source::Kube(options).run(sink));
    // Synced: every kind has been listed once. Then each is watched.
    let complete = async {
        while !batches.recv().await.expect("the source goes on").synced {}
        while noted.access.lock().expect("notes").values().any(|verbs| verbs.len() < 2) {
            noted.news.notified().await;
        }
    };
    tokio::time::timeout(WAIT, complete).await.expect("synced and watching in time");
    watching.abort();
    serving.abort();
    let strange = noted.strange.lock().expect("notes");
    assert!(strange.is_empty(), "neither list nor watch: {strange:?}");
    noted.access.lock().expect("notes").clone()
}

fn granted(role: &Manifest) -> Access {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut access = Access::new();
    for rule in role.object["rules"].as_array().expect("rules") {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                access.entry((group.clone(), resource)).or_default().extend(words(rule, "verbs"));
            }
        }
    }
    access
}

#[tokio::test]
async fn roles_grant_what_the_source_asks_for_and_nothing_more() {
    let mut roles = Vec::new();
    for name in ["proxy", "agent"] {
        roles.extend(Manifest::load(&folder().join(name)).expect("manifests"));
    }
    let chart = Chart::open(&folder().join("chart/thalweg")).expect("the chart");
    for values in
        [json!({"apiServer": "https://a"}), json!({"apiServer": "https://a", "mode": "agent", "agent": {"uplink": "e"}})]
    {
        roles.extend(chart.render(&values).expect("rendered").manifests);
    }
    roles.retain(|manifest| manifest.kind() == "ClusterRole");
    assert_eq!(roles.len(), 4);
    let asked = asked().await;
    assert!(asked.contains_key(&(String::new(), "services".to_owned())), "{asked:?}");
    for role in roles {
        assert_eq!(granted(&role), asked, "{}", role.origin);
    }
}
