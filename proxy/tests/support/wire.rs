//! A node with two pods and a client outside, as namespaces of both families; servers in the pods that say who they are and
//! whom they saw.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use thalweg_cluster::Family;
use thalweg_lab::netns::Netns;
use thalweg_proxy::plan;

#[path = "words.rs"]
pub mod words;

use words::of;

/// How long a dial waits for an answer that ought to come, or not to come.
const PATIENCE: Duration = Duration::from_millis(700);

/// Addresses in the names of IPv4; each has its counterpart of IPv6 besides, see [`of`].
pub struct Wire {
    servers: Servers,
    /// 10.244.0.5
    pub a: Netns,
    /// 10.244.0.6
    pub b: Netns,
    /// 172.30.0.100
    pub client: Netns,
    /// 172.30.0.11
    pub node: Netns,
}

/// Servers that end when this is dropped.
pub struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

// === impl Wire ===

impl Wire {
    pub fn new(name: &str) -> Self {
        let netns = |part: &str| Netns::create(&format!("tw-ipt-{name}-{part}")).expect("a namespace; is this root?");
        let (node, client, a, b) = (netns("node"), netns("cli"), netns("a"), netns("b"));
        let ip = |netns: &Netns, words: &str| drop(netns.ip(words).expect("iproute2"));
        // Before there are links, which inherit these. An address of IPv6 that is still being looked for elsewhere is none yet.
        for netns in [&node, &client, &a, &b] {
            set(netns, &[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")]);
        }
        // A redirect to a pod that reaches itself counts against what the kernel lets through of the ICMP errors that the
        // test waits for.
        set(
            &node,
            &[
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/icmp/ratelimit", "0"),
            ],
        );
        ip(&node, &format!("link add eth0 type veth peer name eth0 netns {}", client.name()));
        for (netns, address) in [(&node, "172.30.0.11/24"), (&client, "172.30.0.100/24")] {
            ip(netns, "link set eth0 up");
            for family in [Family::V4, Family::V6] {
                ip(netns, &format!("address add {} dev eth0{}", of(family, address), nodad(family)));
            }
        }
        for (pod, link, address, mac) in
            [(&a, "tw-a", "10.244.0.5", "02:00:00:00:00:0a"), (&b, "tw-b", "10.244.0.6", "02:00:00:00:00:0b")]
        {
            ip(&node, &format!("link add {link} address {mac} type veth peer name eth0 netns {}", pod.name()));
            ip(&node, &format!("link set {link} up"));
            ip(pod, "link set eth0 up");
            for family in [Family::V4, Family::V6] {
                let (address, gateway) = (of(family, &format!("{address}/32")), of(family, "169.254.1.1"));
                let six = if family == Family::V6 { "-6 " } else { "" };
                ip(pod, &format!("address add {address} dev eth0{}", nodad(family)));
                ip(pod, &format!("neighbour add {gateway} lladdr {mac} dev eth0 nud permanent"));
                ip(pod, &format!("{six}route add default via {gateway} dev eth0 onlink"));
                ip(&node, &format!("{six}route add {address} dev {link}"));
            }
        }
        for family in [Family::V4, Family::V6] {
            let six = if family == Family::V6 { "-6 " } else { "" };
            ip(&client, &format!("{six}route add default via {}", of(family, "172.30.0.11")));
            // Packets of the node to a service need a route before they are translated.
            ip(&node, &format!("{six}route add default via {}", of(family, "172.30.0.100")));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [(&a, "a"), (&b, "b")].into_iter().flat_map(|(pod, name)| serve(pod, name, 8080, &stop)).collect();
        Self { servers: Servers { stop, threads }, a, b, client, node }
    }

    /// The same servers in the node's own namespace, on 6443 and 6444, until what is returned is dropped.
    pub fn serve_on_node(&self) -> Servers {
        let stop = Arc::new(AtomicBool::new(false));
        Servers { threads: serve(&self.node, "node", 6443, &stop), stop }
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

    /// A connection to an echo server.
    pub fn connect(&self, from: &Netns, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().expect("an address");
        let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("a namespace").expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a stream");
        stream
    }

    pub fn udp_socket(&self, from: &Netns, to: &str) -> UdpSocket {
        let to: SocketAddr = to.parse().expect("an address");
        from.enter(|| {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
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

// === impl Servers ===

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.threads.drain(..) {
            // A server that panicked has failed its test already.
            let _ = server.join();
        }
    }
}

/// Settings of a namespace, below /proc/sys/net.
pub fn set(netns: &Netns, settings: &[(&str, &str)]) {
    netns
        .enter(|| {
            for (key, value) in settings {
                std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap_or_else(|error| panic!("{key}: {error}"));
            }
        })
        .expect("a namespace");
}

/// One datagram and its answer.
pub fn ask(socket: &UdpSocket) -> String {
    ask_with(socket, b"?")
}

pub fn ask_with(socket: &UdpSocket, question: &[u8]) -> String {
    let mut buffer = [0; 64];
    match socket.send(question).and_then(|_| socket.recv(&mut buffer)) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(error) => outcome(&error),
    }
}

/// One word to an echo server and back: the word, or what went wrong.
pub fn echo(mut stream: &TcpStream) -> String {
    let mut buffer = [0; 64];
    match stream.write_all(b"hello").and_then(|()| stream.read(&mut buffer)) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(error) => outcome(&error),
    }
}

fn outcome(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        ErrorKind::PermissionDenied => "not permitted".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// An address that is usable at once.
fn nodad(family: Family) -> &'static str {
    if family == Family::V6 { " nodad" } else { "" }
}

/// Until told to stop: TCP and UDP on one port, 8080 in a pod, which say whom they saw; TCP on the next, which says what it heard.
fn serve(pod: &Netns, name: &'static str, port: u16, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let listen = |port| {
        let listener = TcpListener::bind(("::", port)).expect("a listener");
        listener.set_nonblocking(true).expect("a listener");
        listener
    };
    let open = || (listen(port), listen(port + 1), UdpSocket::bind(("::", port)).expect("a socket"));
    let (greeter, echoes, socket) = pod.enter(open).expect("the pod's namespace");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
    let (tcp_stop, echo_stop, udp_stop) = (stop.clone(), stop.clone(), stop.clone());
    let greeting = move |peer: IpAddr| format!("{name} saw {}", peer.to_canonical());
    let tcp = std::thread::spawn(move || {
        while !tcp_stop.load(Ordering::Relaxed) {
            match greeter.accept() {
                // Who hangs up before the answer does not want it.
                Ok((mut stream, peer)) => drop(stream.write_all(greeting(peer.ip()).as_bytes())),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    let echo = std::thread::spawn(move || {
        let mut streams: Vec<TcpStream> = Vec::new();
        while !echo_stop.load(Ordering::Relaxed) {
            while let Ok((stream, _)) = echoes.accept() {
                stream.set_nonblocking(true).expect("a stream");
                streams.push(stream);
            }
            streams.retain_mut(repeat);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let udp = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !udp_stop.load(Ordering::Relaxed) {
            if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(greeting(peer.ip()).as_bytes(), peer);
            }
        }
    });
    vec![tcp, echo, udp]
}

/// Says what it heard, if anything. False when the other end is gone.
fn repeat(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
