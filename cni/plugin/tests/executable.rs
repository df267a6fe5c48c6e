//! The executable run as a runtime runs it, against an agent made of a socket and one prepared reply. Needs no root.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use thalweg_cni::error::code;
use thalweg_cni::protocol::{Attached, AttachmentId, Command as Ask, Mac, Reply, Request, tombstone_dir};

/// A state directory, a place for the socket, and the configuration that names them.
struct Node(TempDir);

struct Outcome {
    success: bool,
    stdout: String,
}

// === impl Node ===

impl Node {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn config(&self, version: &str) -> Value {
        json!({"cniVersion": version, "name": "thalweg", "type": "thalweg-cni",
            "socket": self.path().join("cni.sock"), "stateDir": self.path()})
    }

    /// Answers one request after `delay`; the thread returns the request.
    fn agent(&self, reply: Reply, delay: Duration) -> thread::JoinHandle<Request> {
        let listener = UnixListener::bind(self.path().join("cni.sock")).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            thread::sleep(delay);
            // The caller may have given up.
            let _ = stream.write_all(&serde_json::to_vec(&reply).unwrap());
            let _ = stream.shutdown(Shutdown::Both);
            serde_json::from_str(&text).unwrap()
        })
    }
}

// === impl Outcome ===

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.stdout))
    }

    #[track_caller]
    fn failed(&self, want: u32, words: &str) {
        assert!(!self.success, "{}", self.stdout);
        let error = self.json();
        assert_eq!(error["code"], json!(want), "{error}");
        assert!(error.to_string().contains(words), "{words:?} in {error}");
        assert!(error["cniVersion"].is_string() && error["msg"].is_string(), "{error}");
    }
}

// === functions ===

fn run(command: &str, variables: &[(&str, &str)], stdin: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_thalweg-cni"))
        .env_clear()
        .env("CNI_COMMAND", command)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome { success: output.status.success(), stdout: String::from_utf8(output.stdout).unwrap() }
}

/// A descriptor that is no namespace: the fake agent does not mind.
const CONTAINER: [(&str, &str); 3] = [("CNI_CONTAINERID", "tw-test-none"), ("CNI_NETNS", "/dev/null"), ("CNI_IFNAME", "eth0")];

fn attached() -> Reply {
    Reply::Added(Attached {
        host_ifname: "tw0123456789abc".into(),
        host_mac: Mac([6, 0x74, 10, 244, 1, 5]),
        pod_mac: Mac([2, 0x74, 10, 244, 1, 5]),
        mtu: 1500,
        addresses: vec!["10.244.1.5".parse().unwrap()],
    })
}

#[test]
fn version() {
    let outcome = run("VERSION", &[], r#"{"cniVersion":"1.0.0"}"#);
    assert!(outcome.success);
    assert_eq!(outcome.json(), json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}));
}

#[test]
fn refusals() {
    let node = Node::new();
    let good = node.config("1.1.0").to_string();
    run("", &[], &good).failed(code::INVALID_ENVIRONMENT, "CNI_COMMAND");
    run("ADD", &[], &good).failed(code::INVALID_ENVIRONMENT, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME");
    run("ADD", &CONTAINER, "{\"cniVersion\":").failed(code::DECODE, "not JSON");
    run("ADD", &CONTAINER, r#"{"cniVersion":"1.0.0","name":""}"#).failed(code::INVALID_CONFIG, "name");
    run("ADD", &CONTAINER, &node.config("0.2.0").to_string()).failed(code::INCOMPATIBLE_VERSION, "0.2.0");
    run("GC", &[], &node.config("1.0.0").to_string()).failed(code::INCOMPATIBLE_VERSION, "no GC");
    run("STATUS", &[], &node.config("1.0.0").to_string()).failed(code::INCOMPATIBLE_VERSION, "no STATUS");
    run("CHECK", &CONTAINER, &node.config("0.3.1").to_string()).failed(code::INCOMPATIBLE_VERSION, "no CHECK");
    run("CHECK", &CONTAINER, &good).failed(code::INVALID_CONFIG, "prevResult");
    run("GC", &[], &good).failed(code::INVALID_CONFIG, "cni.dev/valid-attachments");
    let mut with_ipam = node.config("1.1.0");
    with_ipam["ipam"] = json!({"type": "host-local"});
    run("ADD", &CONTAINER, &with_ipam.to_string()).failed(code::UNSUPPORTED_FIELD, "host-local");
    let own = [CONTAINER[0], ("CNI_NETNS", "/proc/self/ns/net"), CONTAINER[2]];
    run("ADD", &own, &good).failed(code::INVALID_ENVIRONMENT, "host's own");
    let vanished = [CONTAINER[0], ("CNI_NETNS", "/run/netns/tw-never-was"), CONTAINER[2]];
    run("ADD", &vanished, &good).failed(code::UNKNOWN_CONTAINER, "tw-never-was");
}

#[test]
fn add_in_the_configured_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let node = Node::new();
        let agent = node.agent(attached(), Duration::ZERO);
        let mut variables = CONTAINER.to_vec();
        variables.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u1"));
        let outcome = run("ADD", &variables, &node.config(version).to_string());
        assert!(outcome.success, "{}", outcome.stdout);
        let result = outcome.json();
        assert_eq!(result["cniVersion"], json!(version));
        assert_eq!(result["ips"][0]["address"], json!("10.244.1.5/32"));
        let Ask::Add(add) = agent.join().unwrap().command else { panic!("not an ADD") };
        assert_eq!(add.id, AttachmentId::new("tw-test-none", "eth0"));
        assert_eq!((add.pod.namespace.as_str(), add.pod.name.as_str(), add.pod.uid.as_str()), ("default", "web-0", "u1"));
    }
}

#[test]
fn the_agents_error_is_the_answer() {
    let node = Node::new();
    let full = thalweg_cni::CniError::new(code::TRY_AGAIN, "no address is free").details("254 of 254 in use");
    let agent = node.agent(Reply::Failed(full), Duration::ZERO);
    run("ADD", &CONTAINER, &node.config("1.1.0").to_string()).failed(code::TRY_AGAIN, "254 of 254");
    agent.join().unwrap();
}

#[test]
fn without_an_agent() {
    let node = Node::new();
    let config = node.config("1.1.0").to_string();
    run("STATUS", &[], &config).failed(code::UNAVAILABLE, "cni.sock");
    run("ADD", &CONTAINER, &config).failed(code::TRY_AGAIN, "cni.sock");

    let start = Instant::now();
    for _ in 0..2 {
        let outcome = run("DEL", &CONTAINER, &config);
        assert!(outcome.success && outcome.stdout.is_empty(), "{}", outcome.stdout);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "a DEL does not wait for an agent: {:?}", start.elapsed());
    let tombstone = tombstone_dir(node.path()).join(AttachmentId::new("tw-test-none", "eth0").host_ifname());
    assert!(tombstone.exists());
}

#[test]
fn an_add_waits_for_an_agent_that_restarts() {
    let node = Node::new();
    let config = node.config("1.1.0").to_string();
    let add = thread::spawn(move || run("ADD", &CONTAINER, &config));
    thread::sleep(Duration::from_millis(300));
    let agent = node.agent(attached(), Duration::ZERO);
    let outcome = add.join().unwrap();
    assert!(outcome.success, "{}", outcome.stdout);
    agent.join().unwrap();
}

#[test]
fn an_agent_that_hangs_does_not_hold_a_del() {
    let node = Node::new();
    let agent = node.agent(Reply::Done, Duration::from_secs(11));
    let start = Instant::now();
    let outcome = run("DEL", &CONTAINER, &node.config("1.1.0").to_string());
    assert!(outcome.success, "{}", outcome.stdout);
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    assert_eq!(std::fs::read_dir(tombstone_dir(node.path())).unwrap().count(), 1);
    agent.join().unwrap();
}
