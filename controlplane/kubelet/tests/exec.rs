//! The real kubectl (1.30 or newer; `KUBECTL` names one) runs commands in a container, and reads its logs from the first moment on.

mod common;
#[path = "common/live.rs"]
mod live;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use common::{Node as Machine, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use live::{client, condition, kubelet, server, until};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

struct Kubectl {
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .env("HOME", &self.home)
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::piped()).spawn().expect("kubectl is installed")
    }

    async fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.spawn(args);
        let mut stdin = child.stdin.take().expect("a pipe");
        let talk = async {
            // A kubectl that has no use for its input may end before it was written.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            child.wait_with_output().await.expect("output")
        };
        tokio::time::timeout(Duration::from_secs(30), talk).await.unwrap_or_else(|_| panic!("kubectl {args:?} ends in time"))
    }

    /// Runs a command and compares its exit code, stdout and the beginning of stderr.
    async fn check(&self, args: &[&str], input: &str, code: i32, stdout: &str, stderr: &str) {
        let output = self.run(args, input.as_bytes()).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let found = (output.status.code(), text(&output.stdout), text(&output.stderr));
        assert_eq!((found.0, found.1.as_str()), (Some(code), stdout), "kubectl {args:?}: {found:?}");
        assert!(if stderr.is_empty() { found.2.is_empty() } else { found.2.contains(stderr) }, "kubectl {args:?}: {found:?}");
    }
}

fn pod(name: &str, containers: Value, init: Value) -> Pod {
    let json = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": "node1",
        "terminationGracePeriodSeconds": 1, "containers": containers, "initContainers": init}});
    serde_json::from_value(json).expect("pod")
}

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "none", "command": ["/bin/sh", "-c", script], "env": [{"name": "COLOR", "value": "blue"}]})
}

/// Whether a process with this word in its command line is in the node's cgroup.
fn runs(cgroup: &Path, word: &str) -> bool {
    let pids = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let command = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let below = std::fs::read_dir(cgroup).into_iter().flatten().flatten().map(|entry| entry.path());
    pids.lines().any(|pid| command(pid).contains(word)) || below.filter(|path| path.is_dir()).any(|path| runs(&path, word))
}

/// The cgroups of commands that are there.
fn scopes(cgroup: &Path) -> Vec<PathBuf> {
    let below =
        std::fs::read_dir(cgroup).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    below
        .flat_map(|path| {
            let own = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("exec-"));
            scopes(&path).into_iter().chain(own.then_some(path)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kubectl_runs_commands_in_containers_and_reads_their_logs() {
    let _ = tracing_subscriber::fmt().with_env_filter("thalweg_kubelet=debug").with_test_writer().try_init();
    let machine = Machine::new("klexec");
    machine.run(|| async {
        let data = machine.dir.path().join("server");
        let api_server = server(&data).await;
        let node_kubeconfig = machine.dir.path().join("node.kubeconfig");
        let url = "https://127.0.0.1:6443";
        thalweg_apiserver::write_kubeconfig(&data, url, "system:node:node1", &["system:nodes"], &node_kubeconfig)
            .expect("kubeconfig");
        let admin = client(&data.join("admin.kubeconfig")).await;
        let agent = kubelet(&machine, node_kubeconfig.clone(), true).await;
        let kubectl = Kubectl { kubeconfig: data.join("admin.kubeconfig"), home: machine.dir.path().to_owned() };
        let pods = Api::<Pod>::namespaced(admin.clone(), "default");
        let both = json!([container("main", "echo up; exec sleep 1000"), container("side", "echo beside; exec sleep 1000")]);
        pods.create(&PostParams::default(), &pod("web-71", both, json!([]))).await.expect("create");
        until("web-71 ready", 30, async || {
            let status = serde_json::to_value(pods.get("web-71").await.ok()?.status).ok()?;
            condition(&status, "Ready").then_some(())
        })
        .await;
        exits_and_streams(&kubectl).await;
        terminals(&kubectl).await;
        clients_that_leave(&kubectl, &machine.cgroup).await;
        copies(&kubectl, machine.dir.path()).await;
        refusals(&kubectl).await;
        logs(&kubectl, &pods).await;
        agent.stop().await;
        assert_eq!(machine.leftovers(), Vec::<String>::new());
        api_server.stop().await;
    });
}

async fn exits_and_streams(kubectl: &Kubectl) {
    let main = ["exec", "web-71", "-c", "main", "--"];
    let run = async |words: &[&str], code, stdout: &str, stderr: &str| {
        kubectl.check(&[&main, words].concat(), "", code, stdout, stderr).await;
    };
    run(&["echo", "a b", "c&d"], 0, "a b c&d\n", "").await;
    run(&["sh", "-c", "echo out; echo err >&2; exit 7"], 7, "out\n", "err\ncommand terminated with exit code 7").await;
    run(&["sh", "-c", "kill -9 $$"], 137, "", "command terminated with exit code 137").await;
    run(&["sh", "-c", "echo $COLOR $(hostname) $(cat /proc/1/comm)"], 0, "blue web-71 pause\n", "").await;
    run(&["no-such-program"], 127, "", "exec: \"no-such-program\": not found").await;
    // What it leaves running neither holds the client nor is killed.
    run(&["sh", "-c", "sleep 987 & echo left"], 0, "left\n", "").await;
    // The first container is the default one; kubectl says which, on stderr.
    kubectl.check(&["exec", "web-71", "--", "true"], "", 0, "", "Defaulted container \"main\" out of: main, side").await;

    let megabytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let echoed = kubectl.run(&["exec", "-i", "web-71", "-c", "main", "--", "cat"], &megabytes).await;
    assert!(echoed.status.success(), "{:?}", String::from_utf8_lossy(&echoed.stderr));
    assert!(echoed.stdout == megabytes, "{} bytes came back", echoed.stdout.len());
    // The end of the input arrives, and a command that does not read it is no harm.
    kubectl.check(&["exec", "-i", "web-71", "-c", "side", "--", "wc", "-c"], "12345", 0, "5\n", "").await;
    kubectl.check(&["exec", "-i", "web-71", "-c", "side", "--", "true"], "12345", 0, "", "").await;
}

/// kubectl wants a terminal of its own for -t, which script(1) gives it.
async fn terminals(kubectl: &Kubectl) {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
    // kubectl tells the size once the command runs.
    let wait = "n=0; while test \"$(stty size)\" = \"0 0\" && test $n -lt 100; do sleep 0.1; n=$((n+1)); done";
    let inner = format!("test -t 0 && test -t 1 && tty && {{ {wait}; }} && stty size && echo $TERM && exit 5");
    let line = format!(
        "stty rows 33 cols 99; {program} --kubeconfig {} exec -it web-71 -c main -- sh -c '{inner}'; echo code $?",
        kubectl.kubeconfig.display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("HOME", &kubectl.home).env_remove("HTTPS_PROXY").env_remove("https_proxy");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("script(1) is installed (package bsdutils)");
    let stdin = child.stdin.take();
    let output =
        tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("in time").expect("output");
    drop(stdin);
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    for words in ["/dev/pts/0\n", "33 99\n", "xterm\n", "code 5\n"] {
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
}

async fn clients_that_leave(kubectl: &Kubectl, cgroup: &Path) {
    for flag in ["-i", "-q"] {
        // Something that does not end with its input, has a child in a session of its own, and says when it runs.
        let script = "setsid sleep 4321 & echo running; trap '' TERM HUP; while :; do sleep 4322; done";
        let mut client = kubectl.spawn(&["exec", flag, "web-71", "-c", "main", "--", "sh", "-c", script]);
        let mut out = BufReader::new(client.stdout.take().expect("a pipe"));
        let mut line = String::new();
        tokio::time::timeout(Duration::from_secs(20), out.read_line(&mut line)).await.expect("in time").expect("a line");
        assert_eq!(line, "running\n");
        eventually("the command runs", 5, || runs(cgroup, "4321") && runs(cgroup, "4322")).await;
        client.kill().await.expect("kill kubectl");
        eventually("nothing of the command is left", 10, || !runs(cgroup, "4321") && !runs(cgroup, "4322")).await;
        assert!(runs(cgroup, "1000"), "the container itself goes on");
        assert!(runs(cgroup, "987"), "what an ended command left goes on");
        eventually("no cgroup of a command is left", 5, || scopes(cgroup).is_empty()).await;
    }
}

async fn copies(kubectl: &Kubectl, dir: &Path) {
    let (there, back) = (dir.join("there"), dir.join("back"));
    std::fs::write(&there, "some words\n").expect("write");
    let path = |path: &Path| path.display().to_string();
    let to = kubectl.run(&["cp", &path(&there), "web-71:/tmp/copied", "-c", "main"], b"").await;
    assert!(to.status.success(), "{}", String::from_utf8_lossy(&to.stderr));
    kubectl.check(&["exec", "web-71", "-c", "main", "--", "cat", "/tmp/copied"], "", 0, "some words\n", "").await;
    let from = kubectl.run(&["cp", "web-71:/tmp/copied", &path(&back), "-c", "main"], b"").await;
    assert!(from.status.success(), "{}", String::from_utf8_lossy(&from.stderr));
    assert_eq!(std::fs::read_to_string(&back).expect("copied"), "some words\n");
}

async fn refusals(kubectl: &Kubectl) {
    kubectl.check(&["exec", "nobody", "--", "true"], "", 1, "", "pods \"nobody\" not found").await;
    kubectl
        .check(&["exec", "web-71", "-c", "third", "--", "true"], "", 1, "", "container third is not valid for pod web-71")
        .await;
    kubectl.check(&["port-forward", "web-71", "8080:80"], "", 1, "", "port-forward is not served yet").await;
    kubectl.check(&["attach", "web-71"], "", 1, "", "attach is not served yet").await;
}

async fn logs(kubectl: &Kubectl, pods: &Api<Pod>) {
    let all = kubectl.run(&["logs", "web-71", "--all-containers", "--prefix"], b"").await;
    let text = String::from_utf8_lossy(&all.stdout).into_owned();
    let mut lines: Vec<_> = text.lines().collect();
    // kubectl asks for both at once.
    lines.sort_unstable();
    assert_eq!(lines, ["[pod/web-71/main] up", "[pod/web-71/side] beside"]);
    kubectl
        .check(
            &["logs", "web-71", "-c", "main", "--previous"],
            "",
            1,
            "",
            "previous terminated container \"main\" in pod \"web-71\" not found",
        )
        .await;
    kubectl.check(&["logs", "web-71", "-c", "side", "--tail=1", "--since=1h"], "", 0, "beside\n", "").await;

    // From the moment of its creation a pod's logs are answered: with words, never with an error of the server.
    let first = json!([container("first", "echo begun; sleep 3; echo done")]);
    pods.create(&PostParams::default(), &pod("late-72", json!([container("main", "echo here; sleep 1; exit 4")]), first))
        .await
        .expect("create");
    for _ in 0..3 {
        let early = kubectl.run(&["logs", "late-72", "-c", "main"], b"").await;
        let words = String::from_utf8_lossy(&early.stderr).into_owned();
        let expected = "Error from server (BadRequest): container \"main\" in pod \"late-72\" is waiting to start: ";
        assert!(words.starts_with(expected), "{words}");
        assert!(["PodInitializing\n", "ContainerCreating\n"].iter().any(|reason| words.ends_with(reason)), "{words}");
    }
    until("the first container runs", 10, async || {
        let status = serde_json::to_value(pods.get("late-72").await.ok()?.status).ok()?;
        status["initContainerStatuses"][0]["state"].get("running").map(|_| ())
    })
    .await;
    // Followed to the container's end.
    kubectl.check(&["logs", "-f", "late-72", "-c", "first"], "", 0, "begun\ndone\n", "").await;
    until("a restart", 20, async || {
        let status = serde_json::to_value(pods.get("late-72").await.ok()?.status).ok()?;
        (status["containerStatuses"][0]["restartCount"].as_i64()? >= 1).then_some(())
    })
    .await;
    kubectl.check(&["logs", "late-72", "-c", "main", "--previous"], "", 0, "here\n", "").await;
    kubectl.check(&["logs", "late-72", "-c", "main"], "", 0, "here\n", "").await;
}
