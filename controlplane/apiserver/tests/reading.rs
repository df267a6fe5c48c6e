//! Lists and watches: pages, revisions, selectors, views, resuming, and what happens when a client comes too late.

mod common;

use std::time::Duration;

use common::{Server, WAIT, config_map, pod};
use futures::{AsyncBufReadExt as _, StreamExt as _, stream::BoxStream};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

struct Lines(BoxStream<'static, Value>);

impl Lines {
    async fn open(server: &Server, path: &str, accept: &str) -> Self {
        let request = http::Request::get(path).header("accept", accept).body(Vec::new()).expect("a request");
        let reader = server.client.request_stream(request).await.expect("a stream");
        let parse = |line: std::io::Result<String>| serde_json::from_str(&line.expect("a line")).expect("JSON");
        Self(reader.lines().map(parse).boxed())
    }

    /// The next event as `TYPE name`.
    async fn next(&mut self) -> String {
        let event = self.event().await;
        format!(
            "{} {}",
            event["type"].as_str().unwrap_or_default(),
            event["object"]["metadata"]["name"].as_str().unwrap_or_default()
        )
    }

    async fn event(&mut self) -> Value {
        tokio::time::timeout(WAIT, self.0.next()).await.expect("an event in time").expect("the watch goes on")
    }

    async fn ends(&mut self) -> bool {
        tokio::time::timeout(WAIT, self.0.next()).await.expect("an end in time").is_none()
    }
}

async fn watch(server: &Server, path: &str) -> Lines {
    Lines::open(server, path, "application/json").await
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_one_revision() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.ok("POST", CONFIG_MAPS, config_map(name, json!({}))).await;
    }
    let first = server.ok("GET", &format!("{CONFIG_MAPS}?limit=2"), Value::Null).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    server.ok("DELETE", &format!("{CONFIG_MAPS}/d"), Value::Null).await;
    server.ok("POST", CONFIG_MAPS, config_map("cc", json!({}))).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = server.ok("GET", &format!("{CONFIG_MAPS}?limit=2&continue={token}"), Value::Null).await;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let third = server.ok("GET", &format!("{CONFIG_MAPS}?limit=2&continue={token}"), Value::Null).await;
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["e"], None));
    let now = server.ok("GET", CONFIG_MAPS, Value::Null).await;
    assert_eq!(names(&now), ["a", "b", "c", "cc", "e"]);
    let version = &first["metadata"]["resourceVersion"].as_str().expect("a version");
    let then =
        server.ok("GET", &format!("{CONFIG_MAPS}?resourceVersion={version}&resourceVersionMatch=Exact"), Value::Null).await;
    assert_eq!(names(&then), ["a", "b", "c", "d", "e"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_that_cannot_be_shown_are_refused_by_their_kind() {
    // A restarted server knows the present, not the past.
    let server = Server::start().await;
    server.ok("POST", CONFIG_MAPS, config_map("a", json!({}))).await;
    let server = Server::start_in(server.stop().await).await;
    let get = |options: &str| format!("{CONFIG_MAPS}?{options}");
    server.fails("GET", &get("resourceVersion=1&resourceVersionMatch=Exact"), Value::Null, 410, "Expired", "too old").await;
    server
        .fails("GET", &get("resourceVersionMatch=Exact"), Value::Null, 422, "Invalid", "forbidden unless resourceVersion")
        .await;
    server
        .fails("GET", &get("resourceVersion=0&resourceVersionMatch=Exact"), Value::Null, 422, "Invalid", "forbidden for")
        .await;
    server.fails("GET", &get("resourceVersion=x"), Value::Null, 422, "Invalid", "resourceVersion").await;
    server.fails("GET", &get("continue=junk"), Value::Null, 400, "BadRequest", "continue key is not valid").await;
    server.fails("GET", &get("labelSelector=a%3D%3D%3D"), Value::Null, 400, "BadRequest", "").await;
    let field = "field label not supported: spec.pie";
    server.fails("GET", &get("fieldSelector=spec.pie%3D1"), Value::Null, 400, "BadRequest", field).await;
    let late =
        server.fails("GET", &get("resourceVersion=999999"), Value::Null, 504, "Timeout", "Too large resource version").await;
    assert_eq!(late["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let (code, _) = common::send(&server.client, "GET", CONFIG_MAPS, &[("accept", "text/html")], String::new()).await;
    assert_eq!(code, 406);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_where_it_was() {
    let server = Server::start().await;
    let a = server.ok("POST", CONFIG_MAPS, config_map("a", json!({}))).await;
    let from = a["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut lines = watch(&server, &format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    server.ok("POST", CONFIG_MAPS, config_map("b", json!({}))).await;
    let changed = server.ok("PATCH", &format!("{CONFIG_MAPS}/a"), json!({"data": {"k": "w"}})).await;
    server.ok("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null).await;
    assert_eq!(lines.next().await, "ADDED b");
    let modified = lines.event().await;
    assert_eq!((&modified["type"], &modified["object"]), (&json!("MODIFIED"), &changed));
    let deleted = lines.event().await;
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["k"]), (&json!("DELETED"), &json!("w")));
    assert_ne!(deleted["object"]["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);

    let mut again = watch(&server, &format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    assert_eq!(again.next().await, "ADDED b");
    let mut present = watch(&server, &format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(present.next().await, "ADDED b");
    let mut brief = watch(&server, &format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=1")).await;
    for _ in 0..3 {
        brief.next().await;
    }
    assert!(brief.ends().await, "timeoutSeconds ends the watch");

    let server = Server::start_in(server.stop().await).await;
    let mut late = watch(&server, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    let error = late.event().await;
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(late.ends().await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_turn_changes_into_arrivals_and_departures() {
    let server = Server::start().await;
    let start =
        server.ok("GET", PODS, Value::Null).await["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut web = watch(&server, &format!("{PODS}?watch=1&resourceVersion={start}&labelSelector=app%3Dweb")).await;
    let mut node = watch(&server, &format!("{PODS}?watch=1&resourceVersion={start}&fieldSelector=spec.nodeName%3Dn1")).await;
    server.ok("POST", PODS, pod("p")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    server.ok("POST", &format!("{PODS}/p/binding"), binding).await;
    server.ok("PATCH", &format!("{PODS}/p"), json!({"metadata": {"labels": {"app": "other"}}})).await;
    server.ok("PATCH", &format!("{PODS}/p"), json!({"metadata": {"labels": {"app": "web"}}})).await;
    server.ok("DELETE", &format!("{PODS}/p?gracePeriodSeconds=0"), Value::Null).await;
    for expected in ["ADDED p", "MODIFIED p", "DELETED p", "ADDED p", "DELETED p"] {
        assert_eq!(web.next().await, expected);
    }
    for expected in ["ADDED p", "MODIFIED p", "MODIFIED p", "DELETED p"] {
        assert_eq!(node.next().await, expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_events_end_with_their_bookmark() {
    let server = Server::start().await;
    server.ok("POST", CONFIG_MAPS, config_map("a", json!({}))).await;
    let options = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut lines = watch(&server, &format!("{CONFIG_MAPS}?{options}")).await;
    assert_eq!(lines.next().await, "ADDED a");
    let end = lines.event().await;
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(end["object"]["metadata"]["resourceVersion"].is_string());
    server.ok("POST", CONFIG_MAPS, config_map("b", json!({}))).await;
    assert_eq!(lines.next().await, "ADDED b");
    let wrong = format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true");
    server.fails("GET", &wrong, Value::Null, 422, "Invalid", "requires setting resourceVersionMatch to NotOlderThan").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_follow_the_accept_header() {
    let server = Server::start().await;
    server.ok("POST", PODS, pod("p")).await;
    let get = async |path: &str, accept: &str| {
        let (code, answer) = common::send(&server.client, "GET", path, &[("accept", accept)], String::new()).await;
        assert_eq!(code, 200, "{answer}");
        answer
    };
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let shown = get(PODS, table).await;
    assert_eq!((&shown["kind"], &shown["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(
        (&shown["rows"][0]["cells"][0], &shown["rows"][0]["object"]["kind"]),
        (&json!("p"), &json!("PartialObjectMetadata"))
    );
    assert!(shown["metadata"]["resourceVersion"].is_string());
    let partial = get(&format!("{PODS}/p"), "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    assert_eq!((&partial["kind"], partial.get("spec")), (&json!("PartialObjectMetadata"), None));
    let yaml = get(&format!("{PODS}/p"), "application/yaml").await;
    assert!(yaml.as_str().is_some_and(|text| text.contains("kind: Pod\n")), "{yaml}");
    let mut rows = Lines::open(&server, &format!("{PODS}?watch=1"), table).await;
    let row = rows.event().await;
    assert_eq!((&row["object"]["kind"], &row["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("p")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_watch_ends_with_the_server() {
    let server = Server::start().await;
    let mut lines =
        watch(&server, &format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")).await;
    let waiting = tokio::spawn(async move { lines.ends().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop().await;
    assert!(waiting.await.expect("no panic"));
}
