//! The real kubectl (`KUBECTL` names another one, 1.20 or newer) against a server in this process: what its users do all day.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::Server;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 3
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: server
        image: demo:1
        command: [thalweg, echo]
        ports:
        - {name: http, containerPort: 8080}
        readinessProbe:
          httpGet: {path: /, port: http}
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30080}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: web
data:
  key: value
"#;

struct Kubectl<'a>(&'a Server);

impl Kubectl<'_> {
    async fn run(&self, arguments: &str, input: &str) -> (bool, String) {
        let server = self.0;
        let mut child = Command::new(std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()))
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .arg("--cache-dir")
            .arg(server.dir.path().join("cache"))
            .args(arguments.split_whitespace())
            .env("HOME", server.dir.path())
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl is installed (package kubernetes-client)");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).await.expect("kubectl reads its input");
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {arguments} ends in time")).expect("output");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), text)
    }

    /// Which 1.x it is.
    async fn minor(&self) -> u32 {
        let text = self.ok("version --client -o json", "", &[]).await;
        let version: Value = serde_json::from_str(&text).expect("JSON");
        let minor = version["clientVersion"]["minor"].as_str().expect("a minor version");
        minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
    }

    /// Runs a command that must succeed and print all of these.
    async fn ok(&self, arguments: &str, input: &str, expected: &[&str]) -> String {
        let (success, text) = self.run(arguments, input).await;
        assert!(success, "kubectl {arguments}:\n{text}");
        self.prints(arguments, &text, expected);
        text
    }

    /// Runs a command that must fail and print all of these.
    async fn fails(&self, arguments: &str, input: &str, expected: &[&str]) {
        let (success, text) = self.run(arguments, input).await;
        assert!(!success, "kubectl {arguments} succeeded:\n{text}");
        self.prints(arguments, &text, expected);
    }

    fn prints(&self, arguments: &str, text: &str, expected: &[&str]) {
        for words in expected {
            assert!(text.contains(words), "kubectl {arguments} does not print {words:?}:\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_applied_shown_changed_and_deleted() {
    let server = Server::start().await;
    let kubectl = Kubectl(&server);
    let created = ["deployment.apps/web created", "service/web created", "configmap/web created"];
    kubectl.ok("apply -f -", MANIFEST, &created).await;
    let unchanged = ["deployment.apps/web unchanged", "service/web unchanged", "configmap/web unchanged"];
    kubectl.ok("apply -f -", MANIFEST, &unchanged).await;
    kubectl.ok("diff -f -", MANIFEST, &[]).await;
    let changed = MANIFEST.replace("demo:1", "demo:2").replace("key: value", "key: other");
    kubectl
        .ok("apply -f -", &changed, &["deployment.apps/web configured", "service/web unchanged", "configmap/web configured"])
        .await;

    kubectl.ok("get deployments -o wide", "", &["READY", "0/3", "CONTAINERS", "demo:2", "app=web"]).await;
    kubectl.ok("get deploy,svc,cm", "", &["deployment.apps/web", "service/web", "80:30080/TCP", "configmap/web"]).await;
    kubectl.ok("get all -l app=web", "", &["deployment.apps/web"]).await;
    kubectl.ok("get svc web -o yaml", "", &["clusterIP: 10.96.", "nodePort: 30080", "sessionAffinity: None"]).await;
    kubectl.ok("get deploy web -o jsonpath={.spec.strategy.rollingUpdate.maxSurge}", "", &["25%"]).await;
    kubectl.ok("get deploy -l app=other", "", &["No resources found"]).await;
    kubectl.ok("get namespaces", "", &["kube-system", "Active"]).await;
    kubectl
        .ok("describe deployment web", "", &["Replicas:               3 desired", "Image:      demo:2", "25% max unavailable"])
        .await;
    kubectl.ok("describe service web", "", &["NodePort:", "30080/TCP", "Selector:", "app=web"]).await;
    kubectl.ok("describe namespace default", "", &["Status:", "Active"]).await;

    kubectl.ok("scale deployment web --replicas=5", "", &["deployment.apps/web scaled"]).await;
    kubectl.ok("get deploy web -o jsonpath={.spec.replicas}", "", &["5"]).await;
    kubectl.fails("scale deployment web --current-replicas=9 --replicas=1", "", &["Expected replicas to be 9, was 5"]).await;
    kubectl.ok("label deployment web tier=front", "", &["deployment.apps/web labeled"]).await;
    kubectl.ok("annotate deployment web note=x", "", &["deployment.apps/web annotate"]).await;
    kubectl.ok("set image deployment/web server=demo:3", "", &["image updated"]).await;
    kubectl.ok("rollout restart deployment/web", "", &["restarted"]).await;
    kubectl.ok("patch configmap web -p {\"data\":{\"more\":\"1\"}}", "", &["patched"]).await;
    // These send protobuf, from kubectl 1.32 on.
    kubectl.ok("create configmap made --from-literal=a=b", "", &["configmap/made created"]).await;
    kubectl.ok("create namespace apart", "", &["namespace/apart created"]).await;
    kubectl.ok("create deployment typed --image=demo:1 --replicas=2 --port=80", "", &["deployment.apps/typed created"]).await;
    kubectl.ok("get deploy typed -o jsonpath={.spec.template.spec.containers[0].ports[0].containerPort}", "", &["80"]).await;
    kubectl.ok("create service clusterip typed --tcp=80:8080", "", &["service/typed created"]).await;
    kubectl.ok("expose deployment typed --name=exposed", "", &["service/exposed exposed"]).await;
    kubectl.ok("create secret generic typed --from-literal=a=b", "", &["secret/typed created"]).await;
    kubectl.ok("replace -f -", &without_namespace("v1", "ConfigMap", "web"), &["configmap/web replaced"]).await;
    kubectl.ok("apply --server-side --force-conflicts -f -", MANIFEST, &["deployment.apps/web serverside-applied"]).await;
    kubectl.ok("apply --server-side -f -", MANIFEST, &["deployment.apps/web serverside-applied"]).await;
    kubectl.ok("delete -f -", MANIFEST, &["\"web\" deleted"]).await;
    kubectl.fails("get deployment web", "", &["Error from server (NotFound): deployments.apps \"web\" not found"]).await;
    server.stop().await;
}

fn without_namespace(api_version: &str, kind: &str, name: &str) -> String {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "data": {"a": "b"}}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_explains_itself() {
    let server = Server::start().await;
    let kubectl = Kubectl(&server);
    kubectl.ok("version", "", &["v1.36.0+thalweg"]).await;
    let resources = ["deployments", "deploy", "apps/v1", "endpointslices", "discovery.k8s.io/v1", "nodes", "leases"];
    kubectl.ok("api-resources", "", &resources).await;
    kubectl.ok("api-versions", "", &["apps/v1", "coordination.k8s.io/v1", "v1"]).await;
    kubectl.ok("explain deployment.spec.strategy", "", &["strategy <", "rollingUpdate", "RollingUpdate"]).await;
    kubectl.ok("explain pods.spec.containers", "", &["KIND:", "Pod\n", "image", "<string>", "-required-"]).await;
    kubectl.ok("cluster-info", "", &["Kubernetes control plane"]).await;
    // Reviews: questions that kubectl sends as protobuf, from 1.32 on.
    kubectl.ok("auth can-i delete pods", "", &["yes"]).await;
    kubectl.ok("auth can-i get /metrics", "", &["yes"]).await;
    kubectl.ok("auth can-i create pods --subresource=exec -n kube-system", "", &["yes"]).await;
    kubectl.ok("auth can-i --list", "", &["*.*", "[*]"]).await;
    if kubectl.minor().await >= 28 {
        kubectl.ok("auth whoami", "", &["kubernetes-admin", "system:masters"]).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_named() {
    let server = Server::start().await;
    let kubectl = Kubectl(&server);
    let misspelt = MANIFEST.replace("replicas:", "replica:");
    kubectl.fails("apply -f -", &misspelt, &["unknown field", "replica\""]).await;
    let out_of_range = MANIFEST.replace("30080", "80");
    let words = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    kubectl
        .fails(
            "apply -f -",
            &out_of_range,
            &["The Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: 80", words],
        )
        .await;
    let wrong = MANIFEST.replace("containerPort: 8080", "containerPort: 80800");
    kubectl.fails("apply -f -", &wrong, &["containerPort: Invalid value: 80800: must be between 1 and 65535, inclusive"]).await;
    kubectl.ok("apply -f -", MANIFEST, &[]).await;
    let other = MANIFEST.replace("{app: web}", "{app: other}");
    kubectl.fails("apply -f -", &other, &["spec.selector", "field is immutable"]).await;
    kubectl
        .fails("create -f -", MANIFEST, &["Error from server (AlreadyExists)", "deployments.apps \"web\" already exists"])
        .await;
    kubectl.fails("get pies", "", &["the server doesn't have a resource type \"pies\""]).await;
    kubectl.fails("get pods nobody", "", &["Error from server (NotFound): pods \"nobody\" not found"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_followed_to_its_end() {
    let server = Server::start().await;
    let kubectl = Kubectl(&server);
    kubectl.ok("apply -f -", MANIFEST, &[]).await;
    let status = "/apis/apps/v1/namespaces/default/deployments/web/status";
    let part = json!({"status": {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 1}});
    server.ok("PATCH", status, part).await;
    let watching = kubectl.run("rollout status deployment/web --timeout=30s", "");
    let finishing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let whole = json!({"status": {"availableReplicas": 3, "readyReplicas": 3}});
        server.ok("PATCH", status, whole).await
    };
    let ((success, text), _) = tokio::join!(watching, finishing);
    assert!(success, "{text}");
    kubectl.prints(
        "rollout status",
        &text,
        &["1 of 3 updated replicas are available", "deployment \"web\" successfully rolled out"],
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_described_waited_for_and_deleted() {
    let server = Server::start().await;
    let kubectl = Kubectl(&server);
    let pods = "/api/v1/namespaces/default/pods";
    server.ok("POST", pods, common::pod("p")).await;
    let event = json!({"metadata": {"name": "p.1"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default",
        "uid": server.ok("GET", &format!("{pods}/p"), Value::Null).await["metadata"]["uid"]},
        "reason": "Scheduled", "message": "assigned to n1", "type": "Normal", "source": {"component": "test"}});
    server.ok("POST", "/api/v1/namespaces/default/events", event).await;
    server.ok("POST", &format!("{pods}/p/binding"), json!({"metadata": {"name": "p"}, "target": {"name": "n1"}})).await;
    let running = json!({"status": {"phase": "Running", "podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "demo", "imageID": "",
            "started": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}});
    server.ok("PATCH", &format!("{pods}/p/status"), running).await;
    kubectl.ok("get pods -o wide", "", &["1/1", "Running", "10.244.1.2", "n1"]).await;
    kubectl.ok("get pods -A --field-selector spec.nodeName=n1", "", &["default", "p"]).await;
    kubectl.ok("describe pod p", "", &["Node:", "n1", "Ready:          True", "Scheduled", "assigned to n1"]).await;
    kubectl.ok("get events", "", &["Scheduled", "pod/p", "assigned to n1"]).await;
    kubectl.ok("wait --for=condition=Ready pod/p --timeout=20s", "", &["condition met"]).await;
    kubectl.ok("delete pod p --now --wait=false", "", &["pod \"p\" deleted"]).await;
    kubectl.ok("get pods", "", &["Terminating"]).await;
    kubectl.ok("delete pod p --force", "", &["force deleted"]).await;
    kubectl.ok("get pods", "", &["No resources found"]).await;
    server.stop().await;
}
