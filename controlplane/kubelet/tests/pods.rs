//! Pods from their creation to their last trace, on a real kernel, with an API server played by a table.

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use std::sync::Arc;
use std::time::Duration;

use cluster::{Fake, Kubelet};
use common::{Node, eventually};
use serde_json::{Value, json};

fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "none", "command": ["/bin/sh", "-c", script]})
}

fn python(name: &str, script: &str) -> Value {
    let program = ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|p| std::path::Path::new(p).exists());
    json!({"name": name, "image": "none", "command": [program.unwrap_or("python3"), "-c", script]})
}

const SERVER: &str = "import http.server as h\nh.HTTPServer(('', 8080), h.SimpleHTTPRequestHandler).serve_forever()";

fn container(status: &Value, name: &str) -> Value {
    let lists = [&status["containerStatuses"], &status["initContainerStatuses"]];
    lists.into_iter().filter_map(Value::as_array).flatten().find(|c| c["name"] == name).cloned().unwrap_or_default()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_becomes_ready_restarts_what_ends_and_leaves_no_trace() {
    let node = Node::new("klppod");
    let api = Arc::new(Fake::default());
    node.run(|| async {
        let kubelet = Kubelet::start(&node, &api, false).await;
        let mut server = python("server", SERVER);
        server["readinessProbe"] = json!({"httpGet": {"port": 8080, "path": "/etc/hostname"}, "periodSeconds": 1});
        server["env"] = json!([{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOR"}}}]);
        let mut flaky = sh("flaky", "cat /settings/COLOR; echo; echo gone > /dev/termination-log; sleep 0.2; exit 3");
        flaky["volumeMounts"] = json!([{"name": "settings", "mountPath": "/settings"}]);
        let volumes = json!([{"name": "settings", "configMap": {"name": "settings"}}]);
        let first = sh("first", "sleep 0.3; grep -q ' *web-21$' /etc/hosts");
        api.create("web-21", json!({"initContainers": [first], "containers": [server, flaky], "volumes": volumes}));

        eventually("init container first", 10, || {
            let status = api.status("web-21");
            let server = &container(&status, "server")["state"];
            container(&status, "first")["state"]["running"].is_object() && server["waiting"]["reason"] == "PodInitializing"
        })
        .await;
        eventually("server ready", 20, || container(&api.status("web-21"), "server")["ready"] == true).await;
        let status = api.status("web-21");
        assert_eq!(
            (&status["podIP"], &status["hostIP"], &status["phase"]),
            (&json!("10.77.0.21"), &json!("10.77.0.1"), &json!("Running"))
        );
        eventually("back-off", 20, || {
            let flaky = container(&api.status("web-21"), "flaky");
            let last = &flaky["lastState"]["terminated"];
            flaky["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                && !api.ready("web-21")
                && last["exitCode"] == 3
                && last["message"] == "gone\n"
        })
        .await;
        eventually("three restarts", 20, || container(&api.status("web-21"), "flaky")["restartCount"].as_i64() >= Some(3))
            .await;
        assert_eq!(container(&api.status("web-21"), "server")["restartCount"], 0);
        let logs = node.dir.path().join("state/logs/default_web-21_uid-web-21/flaky");
        let names = std::fs::read_dir(&logs).expect("logs").count();
        assert!(names <= 2, "logs of this and of the former instance only, found {names}");

        api.delete("web-21", 5);
        eventually("gone", 20, || !api.exists("web-21")).await;
        eventually("no trace", 5, || node.leftovers().is_empty()).await;
        for reason in ["Created", "Started", "Killing", "BackOff", "Unhealthy"] {
            let told = !api.told(reason).is_empty();
            assert!(told || reason == "Unhealthy", "no event {reason}");
        }
        kubelet.stop().await;
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn termination_runs_the_hook_sends_the_signal_and_ends_the_deaf() {
    let node = Node::new("klpend");
    let api = Arc::new(Fake::default());
    node.run(|| async {
        let kubelet = Kubelet::start(&node, &api, false).await;
        let shared = node.dir.path().join("shared");
        let mut polite =
            sh("polite", "trap 'date +%s%N > /shared/term; exit 0' TERM; touch /shared/up; while :; do sleep 0.05; done");
        polite["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
        polite["lifecycle"] =
            json!({"preStop": {"exec": {"command": ["/bin/sh", "-c", "date +%s%N > /shared/hook; sleep 0.5"]}}});
        let volumes = json!([{"name": "shared", "hostPath": {"path": shared}}]);
        let deaf = sh("deaf", "trap '' TERM; while :; do sleep 0.05; done");
        api.create("polite-22", json!({"containers": [polite], "volumes": volumes}));
        api.create("deaf-23", json!({"containers": [deaf]}));
        eventually("both ready", 20, || api.ready("polite-22") && api.ready("deaf-23") && shared.join("up").exists()).await;

        let begin = std::time::Instant::now();
        api.delete("polite-22", 30);
        api.delete("deaf-23", 2);
        eventually("polite gone", 10, || !api.exists("polite-22")).await;
        let time = |name: &str| -> u64 { std::fs::read_to_string(shared.join(name)).expect(name).trim().parse().expect(name) };
        assert!(time("term") - time("hook") > 400_000_000, "the signal comes after the hook");
        eventually("deaf gone", 10, || !api.exists("deaf-23")).await;
        assert!(begin.elapsed() >= Duration::from_secs(2) && begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());

        // A second deletion with a shorter grace shortens the first; an object that vanishes ends its pod too.
        let stubborn = sh("c", "trap '' TERM; while :; do sleep 0.05; done");
        api.create("slow-24", json!({"containers": [stubborn]}));
        api.create("lost-25", json!({"terminationGracePeriodSeconds": 1, "containers": [stubborn]}));
        eventually("both ready", 20, || api.ready("slow-24") && api.ready("lost-25")).await;
        api.delete("slow-24", 300);
        tokio::time::sleep(Duration::from_millis(500)).await;
        api.delete("slow-24", 0);
        api.vanish("lost-25");
        eventually("all gone", 10, || !api.exists("slow-24") && node.leftovers().is_empty()).await;
        kubelet.stop().await;
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_that_end_succeed_or_fail_and_unhealthy_ones_are_restarted() {
    let node = Node::new("klpjob");
    let api = Arc::new(Fake::default());
    node.run(|| async {
        let kubelet = Kubelet::start(&node, &api, false).await;
        api.create("job-31", json!({"restartPolicy": "Never", "containers": [sh("c", "exit 0")]}));
        api.create("job-32", json!({"restartPolicy": "Never", "containers": [sh("c", "exit 4")]}));
        api.create("retry-33", json!({"restartPolicy": "OnFailure", "volumes": [{"name": "v", "emptyDir": {}}], "containers": [
            {"name": "c", "command": ["/bin/sh", "-c", "test -e /v/x || { touch /v/x; exit 1; }"],
             "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}));
        let mut sick = sh("c", "touch /tmp/well; sleep 2; rm /tmp/well; sleep 600");
        sick["livenessProbe"] = json!({"exec": {"command": ["/bin/ls", "/tmp/well"]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1});
        api.create("sick-34", json!({"terminationGracePeriodSeconds": 1, "containers": [sick]}));
        api.create("empty-35", json!({"containers": [{"name": "c", "image": "nginx"}]}));
        api.create("confused-36", json!({"containers": [{"name": "c", "command": ["true"], "envFrom": [{"configMapRef": {"name": "nope"}}]}]}));
        api.create("late-37", json!({"activeDeadlineSeconds": 2, "terminationGracePeriodSeconds": 0, "containers": [sh("c", "sleep 600")]}));

        let phase = |name: &str| api.status(name)["phase"].as_str().unwrap_or_default().to_owned();
        eventually("jobs", 20, || phase("job-31") == "Succeeded" && phase("job-32") == "Failed" && phase("retry-33") == "Succeeded").await;
        assert_eq!(container(&api.status("job-32"), "c")["state"]["terminated"]["exitCode"], 4);
        assert_eq!(container(&api.status("retry-33"), "c")["restartCount"], 1);
        let reason = |name: &str| container(&api.status(name), "c")["state"]["waiting"]["reason"].clone();
        eventually("reasons", 10, || reason("empty-35") == "CreateContainerError" && reason("confused-36") == "CreateContainerConfigError").await;
        assert!(api.told("Failed").iter().any(|m| m.contains("no command") && m.contains("nginx")), "{:?}", api.told("Failed"));
        assert!(api.told("Failed").iter().any(|m| m.contains("configmap \"nope\" not found")));
        eventually("restarted", 20, || container(&api.status("sick-34"), "c")["restartCount"].as_i64() >= Some(1)).await;
        assert!(api.told("Unhealthy").iter().any(|m| m.starts_with("Liveness probe failed")), "{:?}", api.told("Unhealthy"));
        eventually("deadline", 10, || phase("late-37") == "Failed" && api.status("late-37")["reason"] == "DeadlineExceeded").await;

        for name in ["job-31", "job-32", "retry-33", "sick-34", "empty-35", "confused-36", "late-37"] {
            api.delete(name, 1);
        }
        eventually("no trace", 20, || node.leftovers().is_empty()).await;
        kubelet.stop().await;
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restarted_kubelet_takes_its_pods_over() {
    let node = Node::new("klpado");
    let api = Arc::new(Fake::default());
    node.run(|| async {
        let kubelet = Kubelet::start(&node, &api, false).await;
        let mut steady = sh("c", "sleep 600");
        steady["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
        api.create(
            "steady-41",
            json!({"terminationGracePeriodSeconds": 0, "containers": [steady, sh("brief", "sleep 2; exit 6")]}),
        );
        eventually("ready", 20, || api.ready("steady-41")).await;
        let before = container(&api.status("steady-41"), "c");
        let calls = node.cni_calls().len();
        kubelet.stop().await;
        tokio::time::sleep(Duration::from_millis(2500)).await; // one container ends while nobody is there

        let kubelet = Kubelet::start(&node, &api, false).await;
        eventually("the end is seen", 20, || container(&api.status("steady-41"), "brief")["restartCount"] == 1).await;
        let after = container(&api.status("steady-41"), "c");
        assert_eq!(
            (&after["containerID"], &after["restartCount"], &after["ready"]),
            (&before["containerID"], &json!(0), &json!(true))
        );
        assert_eq!(container(&api.status("steady-41"), "brief")["lastState"]["terminated"]["exitCode"], 6);
        assert_eq!(node.cni_calls().len(), calls, "the network was not touched");

        // A pause process that dies costs the pod its sandbox; it gets another one and starts anew.
        let sandbox =
            std::fs::read_dir(node.dir.path().join("state/sandboxes")).expect("dir").flatten().next().expect("sandbox");
        let pause = std::fs::read_to_string(sandbox.path().join("pause.json")).expect("pause");
        let pause: thalweg_kubelet::process::ProcessRef = serde_json::from_str(&pause).expect("record");
        pause.signal(nix::sys::signal::Signal::SIGKILL).expect("kill");
        eventually("a new instance", 20, || {
            container(&api.status("steady-41"), "c")["restartCount"] == 1 && api.ready("steady-41")
        })
        .await;
        kubelet.stop().await;

        // On the way out for good, everything goes, and the object stays for another node to mind.
        let kubelet = Kubelet::start(&node, &api, true).await;
        eventually("taken over", 20, || api.ready("steady-41")).await;
        kubelet.stop().await;
        assert!(api.exists("steady-41"));
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_network_that_comes_late_is_waited_for() {
    let node = Node::new("klplat");
    let api = Arc::new(Fake::default());
    node.run(|| async {
        let conf = node.dir.path().join("net.d/10-test.conflist");
        let text = std::fs::read_to_string(&conf).expect("conf");
        std::fs::remove_file(&conf).expect("remove");
        let kubelet = Kubelet::start(&node, &api, false).await;
        api.create("web-51", json!({"terminationGracePeriodSeconds": 0, "containers": [sh("c", "sleep 600")]}));
        eventually("an event", 10, || {
            api.told("FailedCreatePodSandBox").iter().any(|m| m.contains("no network configuration"))
        })
        .await;
        assert_eq!(container(&api.status("web-51"), "c")["state"]["waiting"]["reason"], "ContainerCreating");
        std::fs::write(&conf, "{").expect("a broken one");
        eventually("an event", 10, || api.told("FailedCreatePodSandBox").iter().any(|m| m.contains("10-test.conflist"))).await;
        std::fs::write(&conf, text).expect("write");
        eventually("ready", 30, || api.ready("web-51")).await;
        api.delete("web-51", 0);
        eventually("no trace", 20, || node.leftovers().is_empty()).await;
        kubelet.stop().await;
    });
}

/// Set for the process that plays the kubelet which is killed: its node's directory.
const ROLE: &str = "THALWEG_TEST_KUBELET";

/// Kills the process also when the test fails.
struct Victim(std::process::Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn after_kill_9_orphans_are_removed_at_the_next_start() {
    let api = Arc::new(Fake::default());
    if let Some(dir) = std::env::var_os(ROLE) {
        let node = Node::at("klpkil", dir.into());
        node.run(|| async {
            let _kubelet = Kubelet::start(&node, &api, false).await;
            api.create("orphan-61", json!({"containers": [sh("c", "sleep 600")]}));
            eventually("ready", 20, || api.ready("orphan-61")).await;
            std::fs::write(node.dir.path().join("up"), "").expect("tell");
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        return;
    }
    let dir = tempfile::Builder::new().prefix("thalweg-kubelet-").tempdir().expect("tempdir").keep();
    let node = Node::take_over("klpkil", dir.clone());
    let child = std::process::Command::new(std::env::current_exe().expect("exe"))
        .args(["--ignored", "--exact", "after_kill_9_orphans_are_removed_at_the_next_start"])
        .env(ROLE, &dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("spawn");
    let victim = Victim(child);
    for _ in 0..1500 {
        if dir.join("up").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(dir.join("up").exists(), "the other kubelet's pod does not run");
    drop(victim); // kill -9
    assert!(node.leftovers().len() >= 5, "{:?}", node.leftovers());
    node.run(|| async {
        let kubelet = Kubelet::start(&node, &api, false).await;
        eventually("no trace", 20, || node.leftovers().is_empty()).await;
        kubelet.stop().await;
    });
}
