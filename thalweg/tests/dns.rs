//! `thalweg dns` as a process: kubeadm's Corefile on other ports, a cluster in a file, a change of both, and its end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long it answers while it says that it is not healthy.
const LAMEDUCK: Duration = Duration::from_secs(5);
const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20], ports: [{name: http, port: 80}]}
";

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Where a process serves.
struct Ports {
    dns: SocketAddr,
    health: SocketAddr,
    ready: SocketAddr,
    metrics: SocketAddr,
}

fn corefile(ports: &Ports, ttl: u32) -> String {
    let Ports { dns, health, ready, metrics } = ports;
    format!(
        ".:{} {{
    errors
    health {health} {{
       lameduck {}s
    }}
    ready {ready}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl {ttl}
    }}
    prometheus {metrics}
    forward . 192.0.2.1
    cache 30
    reload 2s
    bind 127.0.0.1
    loadbalance
}}
",
        dns.port(),
        LAMEDUCK.as_secs()
    )
}

/// A port that is free for both, most likely still a moment later.
fn free() -> SocketAddr {
    let holds = |_| {
        let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
        let address = tcp.local_addr().ok()?;
        UdpSocket::bind(address).ok().map(|_| address)
    };
    (0..50).find_map(holds).expect("a port that is free twice")
}

/// The TTL of the address of web.default, or `None` when there is no such answer.
fn ttl_of_web(server: SocketAddr) -> Option<u32> {
    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01";
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    socket.connect(server).expect("connected");
    socket.send(QUERY).ok()?;
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).ok()?;
    let answer = reply[..length].get(QUERY.len()..)?;
    let is_address = answer.get(..4)? == [0xc0, 12, 0, 1] && answer.ends_with(&[0, 4, 10, 96, 0, 20]);
    is_address.then(|| u32::from_be_bytes([answer[6], answer[7], answer[8], answer[9]]))
}

/// A page with its head; `None` when nobody answers.
fn page(server: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(server).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Status of a page; `None` when nobody answers.
fn status(server: SocketAddr, path: &str) -> Option<u16> {
    page(server, path)?.split(' ').nth(1)?.parse().ok()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(folder: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
    command.arg("dns").arg("--corefile").arg(folder.join("Corefile"));
    command.arg("--source").arg(format!("file:{}", folder.join("cluster.yaml").display()));
    Process(command.spawn().expect("started"))
}

#[test]
fn serves_reloads_and_ends_as_a_kubeadm_cluster_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports { dns: free(), health: free(), ready: free(), metrics: free() };
    let Ports { dns, health, ready, metrics } = ports;
    let write = |ttl| std::fs::write(folder.path().join("Corefile"), corefile(&ports, ttl)).expect("written");
    write(30);
    std::fs::write(folder.path().join("cluster.yaml"), CLUSTER).expect("written");
    let mut process = start(folder.path());
    wait_for("it is ready", || status(ready, "/ready") == Some(200));
    assert_eq!(status(health, "/health"), Some(200));
    assert_eq!(ttl_of_web(dns), Some(30));

    write(17);
    wait_for("the change is in use", || {
        let ttl = ttl_of_web(dns);
        assert!(ttl == Some(30) || ttl == Some(17), "every query is answered, by the old or the new: {ttl:?}");
        ttl == Some(17)
    });
    // What cannot be used changes nothing.
    std::fs::write(folder.path().join("Corefile"), ". {\n frobnicate\n}\n").expect("written");
    let is_refused = |page: String| page.lines().any(|line| line == "coredns_reload_failed_total 1");
    wait_for("the bad file is looked at", || page(metrics, "/metrics").is_some_and(is_refused));
    assert_eq!(ttl_of_web(dns), Some(17));

    let pid = i32::try_from(process.0.id()).expect("an id");
    let told = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).expect("told to end");
    wait_for("it answers while it is a lame duck", || status(health, "/health") == Some(503) && ttl_of_web(dns) == Some(17));
    assert!(process.0.wait().expect("ended").success());
    assert!(told.elapsed() >= LAMEDUCK, "it answers for as long as the file says: {:?}", told.elapsed());
}

#[test]
fn a_corefile_that_cannot_be_used_is_said_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("Corefile"), ".:53 {\n    template IN A {\n    }\n}\n").expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
    let output = command.arg("dns").arg("--corefile").arg(folder.path().join("Corefile")).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("line 2: template: not supported"), "{said}");
}
