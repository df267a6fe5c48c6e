//! What the tests with real pods are built from: a node in a network namespace, pods, and the plugin run as a runtime
//! runs it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use thalweg_cni::protocol::AttachmentId;
use thalweg_lab::netns::Netns;
use thalweg_network::{BoxError, Options, PodDatapath, PodLink, PodNetwork};

pub const PLUGIN: &str = env!("CARGO_BIN_EXE_thalweg-cni");
/// podCIDRs of both families.
pub const DUAL: [&str; 2] = ["10.244.1.0/24", "fd00:244:1::/64"];
pub const QUARANTINE: Duration = Duration::from_secs(1);

/// A data path that does nothing but remember: the host's routing joins the pods.
#[derive(Default)]
pub struct Recorder {
    pub attached: Mutex<Vec<PodLink>>,
    pub detached: Mutex<Vec<PodLink>>,
    pub refuse: AtomicBool,
}

/// A node: its namespace with an uplink `eth0`, its state, and (unless it is stopped) its pod network.
pub struct Node {
    pub network: Option<PodNetwork>,
    pub datapath: Arc<Recorder>,
    pub state: TempDir,
    pub name: String,
    pub netns: Netns,
}

/// A container's namespace; the container id is its name.
pub struct Pod {
    pub netns: Netns,
    pub id: AttachmentId,
}

pub struct Outcome {
    pub success: bool,
    pub stdout: String,
    pub took: Duration,
}

/// The agent as a process, killed when dropped.
pub struct Agent(Child);

// === impl Recorder ===

impl PodDatapath for Recorder {
    fn attach(&self, pod: &PodLink) -> Result<(), BoxError> {
        self.attached.lock().unwrap().push(pod.clone());
        if self.refuse.load(Ordering::SeqCst) { Err("refused by the test".into()) } else { Ok(()) }
    }

    fn detach(&self, pod: &PodLink) -> Result<(), BoxError> {
        self.detached.lock().unwrap().push(pod.clone());
        Ok(())
    }
}

// === impl Node ===

impl Node {
    /// With an uplink that ends in the same namespace, and no pod network yet.
    pub fn stopped(test: &str) -> Self {
        let name = format!("tw-{test}-node");
        let netns = Netns::create(&name).unwrap();
        netns.ip("link add eth0 mtu 1460 type veth peer name lan0").unwrap();
        netns.ip("address add 172.30.0.11/24 dev eth0").unwrap();
        for link in ["eth0", "lan0"] {
            netns.ip(&format!("link set {link} up")).unwrap();
        }
        Self { network: None, datapath: Arc::default(), state: tempfile::tempdir().unwrap(), name, netns }
    }

    /// Started, with podCIDRs and an uplink of both families.
    pub fn dual(test: &str) -> Self {
        let mut node = Self::stopped(test);
        node.netns.ip("address add fd30::11/64 dev eth0 nodad").unwrap();
        node.start(&DUAL);
        node
    }

    /// Started, with these podCIDRs.
    pub fn new(test: &str, cidrs: &[&str]) -> Self {
        let mut node = Self::stopped(test);
        node.start(cidrs);
        node
    }

    pub fn options(&self) -> Options {
        Options {
            socket: self.socket(),
            state_dir: self.state.path().to_owned(),
            node: self.name.clone(),
            uplink: "eth0".into(),
            mtu: None,
            quarantine: QUARANTINE,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.state.path().join("cni.sock")
    }

    pub fn start(&mut self, cidrs: &[&str]) {
        assert!(self.network.is_none(), "stop it first");
        let (options, datapath) = (self.options(), Arc::clone(&self.datapath));
        let network = self.netns.enter(|| PodNetwork::start(options, datapath)).unwrap().unwrap();
        if !cidrs.is_empty() {
            let cidrs: Vec<IpNetwork> = cidrs.iter().map(|text| text.parse().unwrap()).collect();
            network.set_pod_cidrs(cidrs).unwrap();
        }
        self.network = Some(network);
    }

    pub fn stop(&mut self) {
        self.network.take().expect("it runs").shutdown();
    }

    /// The agent as a process of its own.
    pub fn agent(&self, cidr: &str, mode: &str) -> Agent {
        let program = Path::new(PLUGIN).with_file_name("examples").join("pod-network");
        assert!(program.exists(), "{} is built by a plain `cargo test -p thalweg-cni`", program.display());
        let mut command = self.netns.command(program);
        command.arg(self.socket()).arg(self.state.path()).args(["eth0", cidr, mode]);
        Agent(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    pub fn network(&self) -> &PodNetwork {
        self.network.as_ref().expect("it runs")
    }

    pub fn config(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "thalweg", "type": "thalweg-cni",
            "socket": self.socket(), "stateDir": self.state.path()})
    }

    pub fn add(&self, pod: &Pod) -> Outcome {
        self.run("ADD", pod, &self.config())
    }

    pub fn del(&self, pod: &Pod) -> Outcome {
        self.run("DEL", pod, &self.config())
    }

    /// CHECK against the result of an ADD.
    pub fn check(&self, pod: &Pod, result: &Value) -> Outcome {
        let mut config = self.config();
        config["prevResult"] = result.clone();
        self.run("CHECK", pod, &config)
    }

    pub fn run(&self, command: &str, pod: &Pod, config: &Value) -> Outcome {
        self.run_with(command, &pod.id, &pod.netns.path().display().to_string(), config)
    }

    /// The plugin as a runtime runs it: in the node's namespace, environment, stdin, stdout.
    pub fn run_with(&self, command: &str, id: &AttachmentId, netns: &str, config: &Value) -> Outcome {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &id.container_id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", &id.ifname),
            ("CNI_PATH", "/opt/cni/bin"),
            (
                "CNI_ARGS",
                &format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-{}", id.container_id),
            ),
        ];
        let start = Instant::now();
        let mut child = self.netns.command(PLUGIN);
        let child = child.envs(variables).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        Outcome { success: output.status.success(), stdout, took: start.elapsed() }
    }

    /// The host ends of pods' links.
    pub fn host_links(&self) -> Vec<String> {
        let text = self.netns.ip("-o link show").unwrap();
        let names = text.lines().filter_map(|line| line.split_whitespace().nth(1)?.split(['@', ':']).next());
        names.filter(|name| name.starts_with("tw")).map(str::to_owned).collect()
    }

    pub fn in_use(&self) -> u32 {
        self.network().usage().iter().map(|usage| usage.in_use).sum()
    }
}

// === impl Pod ===

impl Pod {
    pub fn new(test: &str, number: usize) -> Self {
        let name = format!("tw-{test}-pod{number}");
        Self { netns: Netns::create(&name).unwrap(), id: AttachmentId::new(name, "eth0") }
    }
}

// === impl Outcome ===

impl Outcome {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.stdout))
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.success, "{}", self.stdout);
        self
    }

    #[track_caller]
    pub fn failed(&self, code: u32, words: &str) {
        assert!(!self.success, "{}", self.stdout);
        let error = self.json();
        assert_eq!(error["code"], json!(code), "{error}");
        assert!(error.to_string().contains(words), "{words:?} in {error}");
    }

    /// The first address of a result.
    #[track_caller]
    pub fn address(&self) -> IpAddr {
        self.addresses()[0]
    }

    #[track_caller]
    pub fn addresses(&self) -> Vec<IpAddr> {
        assert!(self.success, "{}", self.stdout);
        let result = self.json();
        let ips = result["ips"].as_array().unwrap().iter();
        ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
    }
}

// === impl Agent ===

impl Agent {
    /// kill -9.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// === functions ===

/// Waits, bounded.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A TCP exchange from one namespace to an address in another, of a byte each way; returns who the server saw.
#[track_caller]
pub fn talk(client: &Netns, server: &Netns, address: IpAddr) -> IpAddr {
    let listener = server.enter(|| TcpListener::bind(SocketAddr::new(address, 8080))).unwrap().unwrap();
    let echo = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
        peer.ip()
    });
    let target = SocketAddr::new(address, 8080);
    let mut stream = client
        .enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))
        .unwrap()
        .unwrap_or_else(|error| panic!("{target}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    echo.join().unwrap()
}

/// One ICMPv6 echo, answered.
#[track_caller]
pub fn ping6(client: &Netns, address: IpAddr) {
    let echo = |socket: Socket| {
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(&[128, 0, 0, 0, 0x74, 0x77, 0, 1], &SocketAddr::new(address, 0).into())?;
        let mut socket = socket;
        let mut answer = [0; 64];
        // A raw socket sees every ICMPv6 of the namespace, its own echo included when that goes to itself.
        while socket.read(&mut answer)? < 8 || answer[0] != 129 {}
        std::io::Result::Ok(())
    };
    let raw = || Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).and_then(echo);
    client.enter(raw).unwrap().unwrap_or_else(|error| panic!("no echo from {address}: {error}"));
}

/// Sends a router advertisement out of an interface: "I am your default router".
#[track_caller]
pub fn advertise(router: &Netns, interface: &str) {
    let send = || {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_hops_v6(255)?;
        let advertisement = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        let all_nodes: SocketAddr = "[ff02::1]:0".parse().expect("address");
        socket.send_to(&advertisement, &all_nodes.into()).map(drop)
    };
    // Until its link-local address is there, it cannot.
    eventually("an advertisement is sent", Duration::from_secs(5), || router.enter(send).unwrap().is_ok());
}

/// A switch of a namespace, by its path below `/proc/sys/net`.
#[track_caller]
pub fn sysctl(netns: &Netns, name: &str) -> String {
    let path = Path::new("/proc/sys/net").join(name);
    netns.enter(|| std::fs::read_to_string(&path)).unwrap().unwrap_or_else(|error| panic!("{name}: {error}")).trim().to_owned()
}

#[track_caller]
pub fn set_sysctl(netns: &Netns, name: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(name);
    netns.enter(|| std::fs::write(&path, value)).unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// Whether a connection to a closed port is refused (somebody is there), or what else happens.
pub fn knock(client: &Netns, address: IpAddr) -> std::io::ErrorKind {
    let target = SocketAddr::new(address, 9);
    client.enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(1500))).unwrap().unwrap_err().kind()
}
