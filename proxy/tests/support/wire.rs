//! A node with two pods and a client outside, as namespaces; servers in the pods that say who they are and whom they saw.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::Name;
use thalweg_lab::netns::Netns;
use thalweg_proxy::plan::{EndpointSet, PlannedFrontend, ServicePlan};

/// How long a dial waits for an answer that ought to come, or not to come.
const PATIENCE: Duration = Duration::from_millis(700);

pub struct Wire {
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
    /// 10.244.0.5
    pub a: Netns,
    /// 10.244.0.6
    pub b: Netns,
    /// 172.30.0.100
    pub client: Netns,
    /// 172.30.0.11
    pub node: Netns,
}

// === impl Wire ===

impl Wire {
    pub fn new(name: &str) -> Self {
        let netns = |part: &str| Netns::create(&format!("tw-ipt-{name}-{part}")).expect("a namespace; is this root?");
        let (node, client, a, b) = (netns("node"), netns("cli"), netns("a"), netns("b"));
        let ip = |netns: &Netns, words: &str| drop(netns.ip(words).expect("iproute2"));
        // Before there are links, which inherit these. A redirect to a pod that reaches itself counts against what the
        // kernel lets through of the ICMP errors that the test waits for.
        node.enter(|| {
            let keys = ["ip_forward", "conf/all/send_redirects", "conf/default/send_redirects", "conf/all/rp_filter"];
            for (key, value) in keys.into_iter().zip(["1", "0", "0", "0"]) {
                std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value).expect("a sysctl of the namespace");
            }
        })
        .expect("the node's namespace");
        ip(&node, &format!("link add eth0 type veth peer name eth0 netns {}", client.name()));
        for (netns, address) in [(&node, "172.30.0.11/24"), (&client, "172.30.0.100/24")] {
            ip(netns, &format!("address add {address} dev eth0"));
            ip(netns, "link set eth0 up");
        }
        ip(&client, "route add default via 172.30.0.11");
        for (pod, link, address, mac) in
            [(&a, "tw-a", "10.244.0.5", "02:00:00:00:00:0a"), (&b, "tw-b", "10.244.0.6", "02:00:00:00:00:0b")]
        {
            ip(&node, &format!("link add {link} address {mac} type veth peer name eth0 netns {}", pod.name()));
            ip(&node, &format!("link set {link} up"));
            ip(pod, &format!("address add {address}/32 dev eth0"));
            ip(pod, "link set eth0 up");
            ip(pod, &format!("neighbour add 169.254.1.1 lladdr {mac} dev eth0 nud permanent"));
            ip(pod, "route add default via 169.254.1.1 dev eth0 onlink");
            ip(&node, &format!("route add {address}/32 dev {link}"));
        }
        // Packets of the node to a service need a route before they are translated.
        ip(&node, "route add default via 172.30.0.100");
        let stop = Arc::new(AtomicBool::new(false));
        let servers = [(&a, "a"), (&b, "b")].into_iter().flat_map(|(pod, name)| serve(pod, name, &stop)).collect();
        Self { stop, servers, a, b, client, node }
    }

    /// What the server says, or `refused`, or `timed out`.
    pub fn dial(&self, from: &Netns, to: &str) -> String {
        let to: SocketAddr = to.parse().expect("an address");
        from.enter(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE);
            let mut said = String::new();
            match stream.and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.read_to_string(&mut said)
            }) {
                Ok(_) => said,
                Err(error) => outcome(&error),
            }
        })
        .expect("a namespace")
    }

    /// The different answers to so many dials, in order.
    pub fn dial_often(&self, from: &Netns, to: &str, times: usize) -> Vec<String> {
        let mut seen: Vec<String> = (0..times).map(|_| self.dial(from, to)).collect();
        seen.sort();
        seen.dedup();
        seen
    }

    pub fn udp_socket(&self, from: &Netns, to: &str) -> UdpSocket {
        from.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            std::io::Result::Ok(socket)
        })
        .expect("a namespace")
        .expect("a socket")
    }

    pub fn datagram(&self, from: &Netns, to: &str) -> String {
        ask(&self.udp_socket(from, to))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            // A server that panicked has failed its test already.
            let _ = server.join();
        }
    }
}

/// One datagram and its answer.
pub fn ask(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(error) => outcome(&error),
    }
}

fn outcome(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::PermissionDenied => "not permitted".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// TCP and UDP on port 8080 until told to stop.
fn serve(pod: &Netns, name: &'static str, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let (listener, socket) = pod
        .enter(|| (TcpListener::bind("0.0.0.0:8080").expect("a listener"), UdpSocket::bind("0.0.0.0:8080").expect("a socket")))
        .expect("the pod's namespace");
    listener.set_nonblocking(true).expect("a listener");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
    let (tcp_stop, udp_stop) = (stop.clone(), stop.clone());
    let tcp = std::thread::spawn(move || {
        while !tcp_stop.load(Ordering::Relaxed) {
            match listener.accept() {
                // Who hangs up before the answer does not want it.
                Ok((mut stream, peer)) => drop(stream.write_all(format!("{name} saw {}", peer.ip()).as_bytes())),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    let udp = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !udp_stop.load(Ordering::Relaxed) {
            if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} saw {}", peer.ip()).as_bytes(), peer);
            }
        }
    });
    vec![tcp, udp]
}

/// One frontend per line: `VIP:PORT/PROTO [ext] [local] [drop] [affinity] -> ENDPOINT …`, or `ours VIP`.
pub fn plan(service: &str, lines: &[&str]) -> ServicePlan {
    let (namespace, name) = service.split_once('/').expect("a namespace");
    let mut plan =
        ServicePlan { name: Name::new(namespace, name), frontends: Vec::new(), sets: Vec::new(), draining: Vec::new() };
    for line in lines {
        let (left, right) = line.split_once("->").unwrap_or((line, ""));
        let words: Vec<&str> = left.split_whitespace().collect();
        let endpoints: Vec<SocketAddrV4> = right.split_whitespace().map(|word| word.parse().expect("an endpoint")).collect();
        let set = plan.sets.iter().position(|set| set.endpoints == endpoints).unwrap_or(plan.sets.len());
        if set == plan.sets.len() {
            plan.sets.push(EndpointSet { endpoints });
        }
        let flag = |word, flag| if words.contains(&word) { flag } else { 0 };
        let (dialled, protocol) = match words[0].split_once('/') {
            Some((dialled, "udp")) => (dialled.to_owned(), Proto::UDP),
            Some((dialled, _)) => (dialled.to_owned(), Proto::TCP),
            None => (format!("{}:0", words[1]), Proto::ANY),
        };
        let dialled: SocketAddrV4 = dialled.parse().expect("an address");
        plan.frontends.push(PlannedFrontend {
            vip: *dialled.ip(),
            port: dialled.port(),
            protocol,
            scope: if words.contains(&"ext") { Scope::EXTERNAL } else { Scope::INTERNAL },
            flags: FrontendFlags(
                flag("ours", FrontendFlags::WILDCARD)
                    | flag("drop", FrontendFlags::DROP_WHEN_EMPTY)
                    | flag("local", FrontendFlags::LOCAL_ONLY)
                    | flag("affinity", FrontendFlags::AFFINITY),
            ),
            affinity_seconds: if words.contains(&"affinity") { 30 } else { 0 },
            set,
        });
    }
    plan.frontends.sort_by_key(PlannedFrontend::key);
    plan
}
