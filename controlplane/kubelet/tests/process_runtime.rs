//! The `process` runtime on a real kernel: namespaces, root file system, logs, signals, and what a killed kubelet leaves.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Node, eventually};
use thalweg_kubelet::process::ProcessRuntime;
use thalweg_kubelet::runtime::*;

fn sandbox_config(name: &str) -> SandboxConfig {
    SandboxConfig {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        hostname: name.into(),
        dns: DnsConfig { nameservers: vec!["10.96.0.10".into()], searches: vec!["svc.cluster.local".into()], options: vec![] },
        ..SandboxConfig::default()
    }
}

fn shell(node: &Node, name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: log(node, name),
        ..ContainerConfig::default()
    }
}

fn log(node: &Node, name: &str) -> PathBuf {
    node.dir.path().join(format!("logs/{name}.log"))
}

fn words(node: &Node, name: &str) -> String {
    let text = std::fs::read_to_string(log(node, name)).unwrap_or_default();
    let content = |l: &str| l.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    text.lines().map(content).collect::<Vec<_>>().join("\n")
}

async fn launch(runtime: &ProcessRuntime, sandbox: &str, config: ContainerConfig) -> String {
    let id = runtime.create_container(sandbox, config).await.expect("create");
    runtime.start_container(&id).await.expect("start");
    id
}

async fn exit(runtime: &ProcessRuntime, id: &str) -> Exit {
    let status =
        tokio::time::timeout(Duration::from_secs(20), runtime.wait_container(id)).await.expect("ends").expect("status");
    match status.state {
        ContainerState::Exited(exit) => exit,
        other => panic!("not exited: {other:?}"),
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn containers_of_a_pod_share_localhost_and_see_a_read_only_node() {
    let node = Node::new("kltpod");
    node.run(|| async {
        let runtime = ProcessRuntime::new(node.options()).expect("runtime");
        let sandbox = runtime.run_sandbox(sandbox_config("web-7")).await.expect("sandbox");
        assert_eq!(sandbox.state, SandboxState::Ready);
        assert_eq!(sandbox.ips, ["10.77.0.7".parse::<std::net::IpAddr>().expect("ip")]);

        let server = "import http.server as h\nh.HTTPServer(('127.0.0.1', 8080), h.SimpleHTTPRequestHandler).serve_forever()";
        let server = ContainerConfig { command: vec![python(), "-c".into(), server.into()], ..shell(&node, "server", "") };
        launch(&runtime, &sandbox.id, server).await;
        let fetch = "import time,urllib.request as r\nfor i in range(100):\n  try: print(r.urlopen('http://127.0.0.1:8080/etc/hostname').status); break\n  except OSError: time.sleep(0.1)";
        let client = ContainerConfig { command: vec![python(), "-c".into(), fetch.into()], ..shell(&node, "client", "") };
        let id = launch(&runtime, &sandbox.id, client).await;
        assert_eq!(exit(&runtime, &id).await.code, 0, "{}", words(&node, "client"));
        assert_eq!(words(&node, "client"), "200");

        let volume = node.dir.path().join("volume");
        std::fs::create_dir(&volume).expect("volume");
        let script = "hostname; cat /etc/resolv.conf /etc/hostname; touch /etc/x 2>/dev/null || echo root-ro; \
            touch /tmp/x && echo tmp-rw; touch /data/deep/x && echo data-rw; touch /ro/x 2>/dev/null || echo ro-ro; \
            echo $GREETING; pwd; ps -ef | wc -l; ls /proc/1/root >/dev/null 2>&1; ip -o -4 addr show eth0 | wc -l; \
            mount -o remount,rw / 2>/dev/null || echo no-mount; ls /work 2>/dev/null | head -1 >/dev/null; echo err >&2; exit 7";
        let config = ContainerConfig {
            env: vec![("GREETING".into(), "hello".into())],
            working_dir: Some("/brand/new".into()),
            mounts: vec![
                Mount { source: volume.clone(), target: "/data/deep".into(), read_only: false },
                Mount { source: volume.clone(), target: "/ro".into(), read_only: true },
            ],
            ..shell(&node, "look", script)
        };
        let id = launch(&runtime, &sandbox.id, config).await;
        let end = exit(&runtime, &id).await;
        let text = words(&node, "look");
        assert_eq!((end.code, end.reason.as_str()), (7, "Error"), "{text}");
        let expected = "web-7\nnameserver 10.96.0.10\nsearch svc.cluster.local\nweb-7\nroot-ro\ntmp-rw\ndata-rw\nro-ro\nhello\n/brand/new\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("no-mount") && text.ends_with("err"), "{text}");
        assert!(volume.join("x").exists() && !Path::new("/etc/x").exists() && !Path::new("/brand").exists());

        runtime.remove_sandbox(&sandbox.id).await.expect("remove");
        runtime.remove_sandbox(&sandbox.id).await.expect("remove again");
        assert_eq!(node.leftovers(), Vec::<String>::new());
        let calls = node.cni_calls();
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(calls[0].starts_with("ADD") && calls[0].contains("K8S_POD_NAME=web-7") && calls[1].starts_with("DEL"), "{calls:?}");
    });
}

fn python() -> String {
    ["/usr/bin/python3", "/usr/local/bin/python3"].iter().find(|p| Path::new(p).exists()).unwrap_or(&"python3").to_string()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_container_stops_at_its_signal_or_after_its_grace() {
    let node = Node::new("kltstp");
    node.run(|| async {
        let runtime = ProcessRuntime::new(node.options()).expect("runtime");
        let sandbox = runtime.run_sandbox(sandbox_config("stop-8")).await.expect("sandbox");
        let polite = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let polite = launch(&runtime, &sandbox.id, shell(&node, "polite", polite)).await;
        let deaf =
            launch(&runtime, &sandbox.id, shell(&node, "deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done")).await;
        eventually("both ready", 10, || words(&node, "polite") == "ready" && words(&node, "deaf") == "ready").await;

        runtime.stop_container(&polite, Duration::from_secs(20)).await.expect("stop");
        assert_eq!(exit(&runtime, &polite).await.code, 3);
        assert_eq!(words(&node, "polite"), "ready\nbye");

        let begin = std::time::Instant::now();
        runtime.stop_container(&deaf, Duration::from_millis(300)).await.expect("stop");
        assert!(begin.elapsed() >= Duration::from_millis(300) && begin.elapsed() < Duration::from_secs(5));
        let end = exit(&runtime, &deaf).await;
        assert_eq!((end.code, end.signal), (137, Some(9)));
        runtime.stop_container(&deaf, Duration::ZERO).await.expect("stopping again");
        runtime.remove_sandbox(&sandbox.id).await.expect("remove");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_cannot_start_says_why() {
    let node = Node::new("kltbad");
    node.run(|| async {
        let runtime = ProcessRuntime::new(node.options()).expect("runtime");
        let sandbox = runtime.run_sandbox(sandbox_config("bad-9")).await.expect("sandbox");
        let empty = ContainerConfig { command: vec![], image: "nginx".into(), ..shell(&node, "empty", "") };
        let error = runtime.create_container(&sandbox.id, empty).await.expect_err("no command").to_string();
        assert!(error.contains("no command") && error.contains("nginx"), "{error}");

        let absent = ContainerConfig { command: vec!["/no/such/program".into()], ..shell(&node, "absent", "") };
        let id = runtime.create_container(&sandbox.id, absent).await.expect("create");
        let error = runtime.start_container(&id).await.expect_err("no program").to_string();
        assert!(error.contains("/no/such/program") && error.contains("not found"), "{error}");
        let end = exit(&runtime, &id).await;
        assert_eq!((end.code, end.reason.as_str()), (128, "StartError"));

        let mounts = vec![Mount { source: "/no/such/volume".into(), target: "/x".into(), read_only: true }];
        let unmounted = ContainerConfig { mounts, ..shell(&node, "unmounted", "true") };
        let id = runtime.create_container(&sandbox.id, unmounted).await.expect("create");
        let error = runtime.start_container(&id).await.expect_err("no volume").to_string();
        assert!(error.contains("/no/such/volume"), "{error}");
        runtime.remove_sandbox(&sandbox.id).await.expect("remove");

        std::fs::write(node.dir.path().join("bin/broken"), "").expect("break the plugin");
        let error = runtime.run_sandbox(sandbox_config("bad-10")).await.expect_err("no network").to_string();
        assert!(error.contains("the plugin is broken"), "{error}");
        std::fs::remove_file(node.dir.path().join("bin/broken")).expect("repair the plugin");
        // The broken plugin refused the DEL as well: what is left is found and ended by the next one.
        for sandbox in runtime.list_sandboxes().await.expect("list") {
            assert_eq!(sandbox.state, SandboxState::NotReady);
            runtime.remove_sandbox(&sandbox.id).await.expect("remove");
        }
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn commands_run_inside_a_container_within_their_time() {
    let node = Node::new("kltexe");
    node.run(|| async {
        let runtime = ProcessRuntime::new(node.options()).expect("runtime");
        let sandbox = runtime.run_sandbox(sandbox_config("exec-11")).await.expect("sandbox");
        let id = launch(&runtime, &sandbox.id, shell(&node, "main", "echo mark > /tmp/mark; exec sleep 60")).await;
        let run = async |script: &str, limit| {
            runtime.exec(&id, &["/bin/sh".into(), "-c".into(), script.into()], Duration::from_millis(limit)).await
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        let output = run("cat /tmp/mark; hostname; echo oh >&2; exit 4", 10_000).await.expect("exec");
        assert_eq!(output, ExecOutput { code: 4, output: "mark\nexec-11\noh".into() });
        assert!(matches!(run("sleep 30", 300).await, Err(RuntimeError::Timeout { .. })));
        let output = runtime.exec(&id, &["/no/such".into()], Duration::from_secs(5)).await.expect("exec");
        assert_eq!(output.code, 127, "{}", output.output);
        runtime.remove_sandbox(&sandbox.id).await.expect("remove");
        assert!(run("true", 1000).await.is_err());
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_outlive_the_runtime_and_are_found_again() {
    let node = Node::new("kltout");
    // The first runtime lives in a tokio runtime that is torn down: no task, no child handle, no memory is left of it.
    let (sandbox, id) = node.run(|| async {
        let runtime = ProcessRuntime::new(node.options()).expect("runtime");
        let sandbox = runtime.run_sandbox(sandbox_config("old-12")).await.expect("sandbox");
        let id = launch(&runtime, &sandbox.id, shell(&node, "main", "echo one; sleep 1; echo two; exit 5")).await;
        (sandbox.id, id)
    });
    node.run(|| async {
        let runtime = ProcessRuntime::new(node.options()).expect("runtime");
        let found = runtime.list_sandboxes().await.expect("list");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id.as_str(), found[0].state), (sandbox.as_str(), SandboxState::Ready));
        assert_eq!(found[0].ips.len(), 1);
        let containers = runtime.list_containers(&sandbox).await.expect("list");
        assert!(matches!(containers[0].state, ContainerState::Running { .. }));
        assert_eq!(exit(&runtime, &id).await.code, 5);
        assert_eq!(words(&node, "main"), "one\ntwo");

        // A pause process that dies takes the pod with it, and that is seen.
        let id = launch(&runtime, &sandbox, shell(&node, "second", "sleep 60")).await;
        let pause =
            std::fs::read_to_string(node.dir.path().join("state/sandboxes").join(&sandbox).join("pause.json")).expect("pause");
        let pause: thalweg_kubelet::process::ProcessRef = serde_json::from_str(&pause).expect("record");
        pause.signal(nix::sys::signal::Signal::SIGKILL).expect("kill");
        tokio::time::timeout(Duration::from_secs(5), runtime.wait_sandbox(&sandbox)).await.expect("seen").expect("wait");
        assert_eq!(exit(&runtime, &id).await.code, 137);
        assert_eq!(runtime.list_sandboxes().await.expect("list")[0].state, SandboxState::NotReady);
        runtime.remove_sandbox(&sandbox).await.expect("remove");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}
