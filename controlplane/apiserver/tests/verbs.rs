//! The verbs over TLS, as clients use them: create, read, change, delete, and what is refused.

mod common;

use common::{Server, config_map, deployment, pod, service};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_begins_with_its_namespaces_and_its_own_service() {
    let server = Server::start().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = server.ok("GET", &format!("/api/v1/namespaces/{name}"), Value::Null).await;
        assert_eq!(namespace["status"]["phase"], "Active");
    }
    let service = server.ok("GET", &format!("{SERVICES}/kubernetes"), Value::Null).await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = server.ok("GET", slices, Value::Null).await;
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["172.30.0.1"]));
    let (code, version) = server.call("GET", "/version", Value::Null).await;
    assert_eq!((code, version["minor"].as_str()), (200, Some("36")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_created_read_changed_and_deleted() {
    let server = Server::start().await;
    let made = server.ok("POST", CONFIG_MAPS, config_map("a", json!({"x": "y"}))).await;
    assert_eq!(made["kind"], "ConfigMap");
    assert!(made["metadata"]["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    assert!(made["metadata"]["creationTimestamp"].is_string());
    let one = format!("{CONFIG_MAPS}/a");
    let read = server.ok("GET", &one, Value::Null).await;
    assert_eq!(read, made);

    let mut changed = read.clone();
    changed["data"]["k"] = json!("w");
    let updated = server.ok("PUT", &one, changed.clone()).await;
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let words = "the object has been modified; please apply your changes to the latest version and try again";
    changed["data"]["k"] = json!("z");
    server.fails("PUT", &one, changed, 409, "Conflict", words).await;
    let same = server.ok("PUT", &one, updated.clone()).await;
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"], "no change, no new version");

    server
        .fails("POST", CONFIG_MAPS, config_map("a", json!({})), 409, "AlreadyExists", "configmaps \"a\" already exists")
        .await;
    let uid = json!({"preconditions": {"uid": "other"}});
    server.fails("DELETE", &one, uid, 409, "Conflict", "Precondition failed: UID").await;
    let deleted = server.ok("DELETE", &one, Value::Null).await;
    assert_eq!(
        (&deleted["kind"], &deleted["status"], &deleted["details"]["name"]),
        (&json!("Status"), &json!("Success"), &json!("a"))
    );
    server.fails("GET", &one, Value::Null, 404, "NotFound", "configmaps \"a\" not found").await;
    server.fails("DELETE", &one, Value::Null, 404, "NotFound", "configmaps \"a\" not found").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_survives_a_restart() {
    let server = Server::start().await;
    let made = server.ok("POST", SERVICES, service("web", json!({"clusterIP": "10.96.7.7", "type": "NodePort"}))).await;
    let kubeconfig = std::fs::read_to_string(server.kubeconfig()).expect("a kubeconfig");
    let server = Server::start_in(server.stop().await).await;
    assert_eq!(server.ok("GET", &format!("{SERVICES}/web"), Value::Null).await, made);
    let taken = service("other", json!({"clusterIP": "10.96.7.7"}));
    server.fails("POST", SERVICES, taken, 422, "Invalid", "provided IP is already allocated").await;
    let port = json!([{"port": 80, "nodePort": made["spec"]["ports"][0]["nodePort"]}]);
    let taken = service("other", json!({"type": "NodePort", "ports": port}));
    server.fails("POST", SERVICES, taken, 422, "Invalid", "provided port is already allocated").await;
    let ca = |text: &str| text.lines().find(|line| line.contains("certificate-authority-data")).map(str::to_owned);
    let again = std::fs::read_to_string(server.kubeconfig()).expect("a kubeconfig");
    assert_eq!(ca(&again), ca(&kubeconfig), "the cluster keeps its CA");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_generated_and_namespaces_must_be_open() {
    let server = Server::start().await;
    let mut generated = config_map("", json!({}));
    generated["metadata"] = json!({"generateName": "web-"});
    let one = server.ok("POST", CONFIG_MAPS, generated.clone()).await;
    let two = server.ok("POST", CONFIG_MAPS, generated).await;
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    assert_eq!(one["metadata"]["name"].as_str().map(str::len), Some(9));

    let nowhere = "/api/v1/namespaces/nowhere/configmaps";
    server.fails("POST", nowhere, config_map("a", json!({})), 404, "NotFound", "namespaces \"nowhere\" not found").await;
    server.ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "brief"}})).await;
    let brief = server.ok("DELETE", "/api/v1/namespaces/brief", Value::Null).await;
    assert_eq!(brief["status"]["phase"], "Terminating");
    let inside = "/api/v1/namespaces/brief/configmaps";
    server.fails("POST", inside, config_map("a", json!({})), 403, "Forbidden", "because it is being terminated").await;
    let ensuring = "The system is ensuring all content is removed";
    server.fails("DELETE", "/api/v1/namespaces/brief", Value::Null, 409, "Conflict", ensuring).await;
    let mut finalized = brief.clone();
    finalized["spec"]["finalizers"] = json!([]);
    server.ok("PUT", "/api/v1/namespaces/brief/finalize", finalized).await;
    server.fails("GET", "/api/v1/namespaces/brief", Value::Null, 404, "NotFound", "not found").await;
    server.fails("DELETE", "/api/v1/namespaces/default", Value::Null, 403, "Forbidden", "may not be deleted").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_scale_are_apart() {
    let server = Server::start().await;
    let made = server.ok("POST", DEPLOYMENTS, deployment("web", 2)).await;
    assert_eq!(made["metadata"]["generation"], 1);
    let one = format!("{DEPLOYMENTS}/web");

    let status = json!({"status": {"replicas": 2, "observedGeneration": 1}, "spec": {"replicas": 9}});
    let patched = server.ok("PATCH", &format!("{one}/status"), status).await;
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(patched["metadata"]["generation"], 1);
    let patched = server.ok("PATCH", &one, json!({"status": {"replicas": 7}, "spec": {"replicas": 3}})).await;
    assert_eq!((&patched["spec"]["replicas"], &patched["status"]["replicas"]), (&json!(3), &json!(2)));
    assert_eq!(patched["metadata"]["generation"], 2);

    let scale = server.ok("GET", &format!("{one}/scale"), Value::Null).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("app=web")));
    let mut more = scale.clone();
    more["spec"]["replicas"] = json!(4);
    server.ok("PUT", &format!("{one}/scale"), more.clone()).await;
    server.fails("PUT", &format!("{one}/scale"), more, 409, "Conflict", "has been modified").await;
    let less = server.ok("PATCH", &format!("{one}/scale"), json!({"spec": {"replicas": 0}})).await;
    assert_eq!(less["spec"]["replicas"], 0);
    let now = server.ok("GET", &one, Value::Null).await;
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(0), &json!(4)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_patch_language_is_spoken() {
    let server = Server::start().await;
    server.ok("POST", DEPLOYMENTS, deployment("web", 1)).await;
    let one = format!("{DEPLOYMENTS}/web");
    let patch = async |language: &str, body: Value| server.send("PATCH", &one, language, body.to_string()).await;

    let container = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "demo:2"}]}}}});
    let (code, merged) = patch("application/strategic-merge-patch+json", container).await;
    assert_eq!(code, 200, "{merged}");
    let containers = &merged["spec"]["template"]["spec"]["containers"];
    assert_eq!((containers.as_array().map(Vec::len), &containers[0]["image"]), (Some(1), &json!("demo:2")));

    let replace =
        json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 2}]);
    let (code, replaced) = patch("application/json-patch+json", replace.clone()).await;
    assert_eq!((code, &replaced["spec"]["replicas"]), (200, &json!(2)));
    let (code, failed) = patch("application/json-patch+json", replace).await;
    assert_eq!((code, &failed["reason"]), (422, &json!("Invalid")), "{failed}");

    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 5}});
    let (code, conflict) = patch("application/merge-patch+json", stale).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    let (code, refused) = patch("application/vnd.kubernetes.protobuf", json!({})).await;
    assert_eq!((code, &refused["reason"]), (415, &json!("UnsupportedMediaType")));
    let (code, wrong) = patch("application/merge-patch+json", json!({"spec": {"replicas": "many"}})).await;
    assert_eq!((code, &wrong["reason"]), (400, &json!("BadRequest")), "{wrong}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_bound_and_end_gracefully() {
    let server = Server::start().await;
    let made = server.ok("POST", PODS, pod("p")).await;
    assert_eq!((&made["status"]["phase"], &made["spec"]["restartPolicy"]), (&json!("Pending"), &json!("Always")));
    let one = format!("{PODS}/p");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = server.ok("POST", &format!("{one}/binding"), binding.clone()).await;
    assert_eq!(bound["status"], "Success");
    server.fails("POST", &format!("{one}/binding"), binding, 409, "Conflict", "already assigned to node \"n1\"").await;
    assert_eq!(server.ok("GET", &one, Value::Null).await["spec"]["nodeName"], "n1");

    let dying = server.ok("DELETE", &one, Value::Null).await;
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 30);
    let sooner = server.ok("DELETE", &one, json!({"gracePeriodSeconds": 2})).await;
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 2);
    let uid = made["metadata"]["uid"].clone();
    server.ok("DELETE", &one, json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})).await;
    server.fails("GET", &one, Value::Null, 404, "NotFound", "pods \"p\" not found").await;

    server.ok("POST", PODS, pod("q")).await;
    server.ok("POST", &format!("{PODS}/q/eviction"), json!({"metadata": {"name": "q"}})).await;
    server.fails("GET", &format!("{PODS}/q"), Value::Null, 404, "NotFound", "not found").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_hold_an_object() {
    let server = Server::start().await;
    let mut held = config_map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    server.ok("POST", CONFIG_MAPS, held).await;
    let one = format!("{CONFIG_MAPS}/held");
    let marked = server.ok("DELETE", &one, Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.org/hold", "example.org/more"]}});
    server.fails("PATCH", &one, more, 422, "Invalid", "no new finalizers can be added").await;
    server.ok("PATCH", &one, json!({"metadata": {"finalizers": null}})).await;
    server.fails("GET", &one, Value::Null, 404, "NotFound", "not found").await;

    server.ok("POST", DEPLOYMENTS, deployment("web", 1)).await;
    let foreground = server.ok("DELETE", &format!("{DEPLOYMENTS}/web"), json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_their_addresses_and_ports() {
    let server = Server::start().await;
    let web = server.ok("POST", SERVICES, service("web", json!({"clusterIP": "10.96.0.10"}))).await;
    assert_eq!(web["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    let words =
        "spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is already allocated";
    let twice = service("twice", json!({"clusterIP": "10.96.0.10"}));
    server.fails("POST", SERVICES, twice.clone(), 422, "Invalid", words).await;
    let range = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    let low = service("low", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}));
    server.fails("POST", SERVICES, low, 422, "Invalid", range).await;
    server.ok("DELETE", &format!("{SERVICES}/web"), Value::Null).await;
    server.ok("POST", SERVICES, twice).await;

    let tried = server.ok("POST", &format!("{SERVICES}?dryRun=All"), service("try", json!({"clusterIP": "10.96.0.20"}))).await;
    assert_eq!(tried["spec"]["clusterIP"], "10.96.0.20");
    server.fails("GET", &format!("{SERVICES}/try"), Value::Null, 404, "NotFound", "not found").await;
    server.ok("POST", SERVICES, service("real", json!({"clusterIP": "10.96.0.20"}))).await;
    let port = server.ok("PATCH", &format!("{SERVICES}/real"), json!({"spec": {"type": "NodePort"}})).await;
    assert!(port["spec"]["ports"][0]["nodePort"].as_u64().is_some_and(|port| (30000..=32767).contains(&port)), "{port}");
    let words = "may not change once set";
    server
        .fails(
            "PATCH",
            &format!("{SERVICES}/real"),
            json!({"spec": {"clusterIP": "10.96.0.21", "clusterIPs": ["10.96.0.21"]}}),
            422,
            "Invalid",
            words,
        )
        .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bodies_are_answered_with_what_is_wrong() {
    let server = Server::start().await;
    let send =
        async |path: &str, content_type: &str, body: &str| server.send("POST", path, content_type, body.to_owned()).await;
    let check = async |path: &str, content_type: &str, body: &str, code: u16, words: &str| {
        let (got, answer) = send(path, content_type, body).await;
        let message = answer["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(got, code, "{body:.60}: {answer}");
        assert!(message.contains(words), "{body:.60}: {message}");
    };
    check(CONFIG_MAPS, "application/json", "{", 400, "error decoding").await;
    check(CONFIG_MAPS, "application/json", "[]", 400, "not an object").await;
    check(CONFIG_MAPS, "application/vnd.kubernetes.protobuf", "{}", 400, "does not begin with the protobuf prefix").await;
    check(CONFIG_MAPS, "application/cbor", "{}", 415, "application/cbor").await;
    check(CONFIG_MAPS, "application/json", &" ".repeat(4 << 20), 413, "limit is 3145728").await;
    check(CONFIG_MAPS, "application/json", r#"{"kind":"Secret"}"#, 400, "does not match the expected kind").await;
    check(CONFIG_MAPS, "application/json", r#"{"metadata":{"name":"Ä"}}"#, 422, "metadata.name").await;
    check(DEPLOYMENTS, "application/json", r#"{"metadata":{"name":"a"}}"#, 422, "spec.selector").await;
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let unknown = r#"{"metadata":{"name":"u"},"pie":1,"data":{"a":"1","a":"2"}}"#;
    check(&strict, "application/json", unknown, 400, "unknown field \"pie\", duplicate field \"data.a\"").await;
    let (code, made) = send(CONFIG_MAPS, "application/yaml", "metadata:\n  name: y\ndata:\n  a: b\n").await;
    assert_eq!((code, &made["data"]["a"]), (201, &json!("b")));
    let (code, made) = send(CONFIG_MAPS, "application/json", unknown).await;
    assert_eq!((code, made.get("pie")), (201, None), "unknown fields are dropped");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_are_deleted_by_selector() {
    let server = Server::start().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        server.ok("POST", CONFIG_MAPS, config_map(name, json!({ "app": app }))).await;
    }
    let gone = server.ok("DELETE", &format!("{CONFIG_MAPS}?labelSelector=app%3Dx"), Value::Null).await;
    assert_eq!(gone["items"].as_array().map(Vec::len), Some(2));
    let left = server.ok("GET", CONFIG_MAPS, Value::Null).await;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_apply_remembers_who_set_what() {
    let server = Server::start().await;
    let one = format!("{CONFIG_MAPS}/applied");
    let apply = async |manager: &str, data: Value| {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data});
        server.send("PATCH", &format!("{one}?fieldManager={manager}"), "application/apply-patch+yaml", config.to_string()).await
    };
    let (code, made) = apply("a", json!({"x": "1", "y": "2"})).await;
    assert_eq!((code, &made["metadata"]["managedFields"][0]["manager"]), (201, &json!("a")), "{made}");
    let (code, same) = apply("a", json!({"x": "1", "y": "2"})).await;
    assert_eq!((code, &same["metadata"]["resourceVersion"]), (200, &made["metadata"]["resourceVersion"]));
    let (code, both) = apply("b", json!({"z": "3"})).await;
    assert_eq!((code, &both["data"]), (200, &json!({"x": "1", "y": "2", "z": "3"})));
    let (code, conflict) = apply("b", json!({"x": "9"})).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    assert!(
        conflict["message"].as_str().is_some_and(|text| text.contains("conflict with \"a\" using v1: .data.x")),
        "{conflict}"
    );
    let (code, forced) = apply("b&force=true", json!({"x": "9"})).await;
    assert_eq!((code, &forced["data"]), (200, &json!({"x": "9", "y": "2"})));
    server.ok("PATCH", &format!("{one}?fieldManager=c"), json!({"data": {"y": "5"}})).await;
    let (code, conflict) = apply("a", json!({"y": "2"})).await;
    assert_eq!(code, 409, "{conflict}");
    server.stop().await;
}
