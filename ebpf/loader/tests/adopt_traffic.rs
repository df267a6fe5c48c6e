//! Connections through tc while the data path is replaced under them: by an agent with larger maps, and by one of another
//! version of the maps.

mod kit;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use thalweg_abi::{ABI_VERSION, CtEntry, CtState, LocalPod, Proto, StateKey, Tuple};
use thalweg_lab::netns::Netns;
use thalweg_loader::{Datapath, Error, Maps, Options, Sizes, Start, Table};

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 80);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 0, 3), Ipv4Addr::new(10, 244, 0, 4)];
const WAIT: Duration = Duration::from_secs(5);

/// A node with a client and two servers that answer with what they hear. Fields in the order of their removal.
struct Lab {
    datapath: Option<Datapath>,
    client: Netns,
    _servers: Vec<Netns>,
    node: Netns,
    options: Options,
    pins: kit::Pins,
}

/// Tells the clients to stop when dropped.
struct Stop<'a>(&'a AtomicBool);

// === impl Lab ===

impl Lab {
    fn new(name: &str) -> Self {
        let pins = kit::Pins::new(name);
        // Nobody sweeps here, and finished flows stay.
        let sizes = Sizes { conntrack: 65_536, ..pins.options().sizes };
        let options = Options { socket_lb: false, sizes, ..pins.options() };
        let node = Netns::create(&format!("tw-{name}")).expect("the node");
        for (file, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0")] {
            node.enter(|| fs::write(format!("/proc/sys/net/ipv4/{file}"), value)).expect("enter").expect(file);
        }
        let mut datapath = node.enter(|| Datapath::open(&options)).expect("enter").expect("open");
        let mut plug = |at: usize, addr: Ipv4Addr| {
            let pod = Netns::create(&format!("tw-{name}{at}")).expect("a pod");
            let link = format!("twp{at}");
            node.ip(&format!("link add {link} type veth peer name eth0 netns tw-{name}{at}")).expect("a veth");
            node.ip(&format!("link set {link} up")).expect("up");
            let (index, mac) = link_of(&node, &link);
            let (_, pod_mac) = link_of(&pod, "eth0");
            pod.ip("link set eth0 up").expect("up");
            pod.ip(&format!("addr add {addr}/32 dev eth0")).expect("its address");
            pod.ip(&format!("neigh add {GATEWAY} lladdr {} dev eth0 nud permanent", text(mac))).expect("a neighbour");
            pod.ip(&format!("route add default via {GATEWAY} dev eth0 onlink")).expect("a route");
            node.ip(&format!("route add {addr}/32 dev {link}")).expect("a route");
            node.ip(&format!("neigh add {addr} lladdr {} dev {link} nud permanent", text(pod_mac))).expect("a neighbour");
            let local = LocalPod { ifindex: index, pod_mac, host_mac: mac };
            datapath.maps().expect("maps").local_pods.update(&[(addr.into(), local)]).expect("a pod of this node");
            node.enter(|| datapath.attach_pod(&link)).expect("enter").expect("attach");
            pod
        };
        let client = plug(0, CLIENT);
        let servers: Vec<_> = BACKENDS.into_iter().enumerate().map(|(at, addr)| plug(at + 1, addr)).collect();
        for (server, addr) in servers.iter().zip(BACKENDS) {
            let listener = server.enter(|| TcpListener::bind((addr, 8080))).expect("enter").expect("listen");
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || echo(stream));
                }
            });
            let socket = server.enter(|| UdpSocket::bind((addr, 8080))).expect("enter").expect("bind");
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            });
        }
        let mut maps = datapath.maps().expect("maps");
        let backends = [(1, SocketAddrV4::new(BACKENDS[0], 8080)), (2, SocketAddrV4::new(BACKENDS[1], 8080))];
        kit::serve(&mut maps, VIP, Proto::TCP, 0, &backends);
        let backends = backends.map(|(id, at)| (id + 2, at));
        kit::serve(&mut maps, VIP, Proto::UDP, 10, &backends);
        Self { datapath: Some(datapath), client, _servers: servers, node, options, pins }
    }

    /// What the next agent does at its start.
    fn next_agent(&mut self) -> Result<&mut Datapath, Error> {
        drop(self.datapath.take());
        let datapath = self.node.enter(|| Datapath::open(&self.options)).expect("enter")?;
        Ok(self.datapath.insert(datapath))
    }

    fn maps(&self) -> Maps {
        self.datapath.as_ref().expect("an agent").maps().expect("maps")
    }

    /// Talks through the VIP all the time while `change` is at work: over connections that are older, over new ones, and
    /// over one UDP socket. Returns how many exchanges there were; none may fail.
    fn under_traffic(&mut self, change: impl FnOnce(&mut Self)) -> u32 {
        let dial = || TcpStream::connect_timeout(&VIP.into(), WAIT);
        let mut old: Vec<_> = (0..20).map(|_| self.client.enter(dial).expect("enter").expect("dial")).collect();
        let socket = self.client.enter(|| UdpSocket::bind((CLIENT, 0))).expect("enter").expect("bind");
        socket.connect(VIP).expect("connect");
        socket.set_read_timeout(Some(WAIT)).expect("a bounded wait");
        old.iter_mut().for_each(|stream| exchange(stream).expect("before"));
        let (stop, exchanges) = (AtomicBool::new(false), AtomicU32::new(0));
        let client = Netns::existing(self.client.name());
        let running = || {
            exchanges.fetch_add(1, Ordering::Relaxed);
            !stop.load(Ordering::Relaxed)
        };
        thread::scope(|scope| {
            // Also when a check in `change` fails: the scope waits for its threads.
            let stopping = Stop(&stop);
            let transfers = scope.spawn(|| {
                while running() {
                    old.iter_mut().try_for_each(exchange)?;
                }
                std::io::Result::Ok(())
            });
            let fresh = scope.spawn(|| {
                client.enter(|| {
                    while running() {
                        exchange(&mut dial()?)?;
                    }
                    std::io::Result::Ok(())
                })
            });
            let datagrams = scope.spawn(|| {
                let mut buffer = [0; 64];
                while running() {
                    socket.send(b"ping")?;
                    socket.recv(&mut buffer)?;
                }
                std::io::Result::Ok(())
            });
            while exchanges.load(Ordering::Relaxed) < 100 {
                thread::yield_now();
            }
            change(self);
            let after = exchanges.load(Ordering::Relaxed) + 100;
            while exchanges.load(Ordering::Relaxed) < after && !transfers.is_finished() && !datagrams.is_finished() {
                thread::yield_now();
            }
            drop(stopping);
            transfers.join().expect("transfers").expect("no connection is lost");
            datagrams.join().expect("datagrams").expect("no datagram is lost");
            fresh.join().expect("dialling").expect("enter").expect("no new connection fails");
        });
        exchanges.into_inner()
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Index and hardware address of a link.
fn link_of(netns: &Netns, link: &str) -> (u32, [u8; 6]) {
    let shown = netns.ip(&format!("-o link show dev {link}")).expect("the link");
    let index = shown.split(':').next().expect("an index").parse().expect("a number");
    let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("its address");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
    (index, bytes.try_into().expect("six bytes"))
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(&[7; 2000])?;
    stream.read_exact(&mut [0; 2000])
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn maps_grow_under_traffic() {
    let mut lab = Lab::new("grow");
    let exchanges = lab.under_traffic(|lab| {
        for size in [131_072, 100_000] {
            lab.options.sizes.conntrack = size;
            lab.options.sizes.frontends = size / 2;
            lab.options.sizes.affinity = size / 4;
            let start = lab.next_agent().expect("the next agent").start().clone();
            assert_eq!(start, Start::Resized { maps: vec!["FRONTENDS", "CONNTRACK", "AFFINITY"] });
            let maps = lab.maps();
            assert_eq!((maps.conntrack.capacity(), maps.frontends.capacity()), (size, size / 2));
            assert!(maps.frontends.get(&kit::frontend_key(VIP, Proto::TCP)).expect("get").is_some(), "content is kept");
            let flows = maps.conntrack.entries().expect("flows");
            let is_established = |key: &Tuple, entry: &CtEntry| key.proto == Proto::TCP && entry.state == CtState::ESTABLISHED;
            let established = flows.iter().filter(|(key, entry)| is_established(key, entry)).count();
            assert!(established >= 40, "both directions of twenty connections: {established}");
            assert_eq!(kit::folders(lab.pins.path()), kit::one_of_each(), "nothing else is left");
        }
    });
    println!("{exchanges} exchanges");
    // Shrinking below what is in use is refused, and changes nothing.
    let used = lab.maps().conntrack.entries().expect("flows").len();
    lab.options.sizes.conntrack = 16;
    for _ in 0..3 {
        let error = lab.next_agent().expect_err("too small");
        assert!(
            matches!(error, Error::TooSmall { table: "CONNTRACK", wanted: 16, used: found } if found as usize == used),
            "{error}"
        );
        let folders = kit::folders(lab.pins.path());
        let programs = folders.iter().filter(|name| *name == "programs").count();
        assert_eq!(programs, 1, "a start that failed leaves no more than one: {folders:?}");
    }
    lab.options.sizes.conntrack = 100_000;
    assert_eq!(*lab.next_agent().expect("as before").start(), Start::Adopted);
}

/// The pins of this version, under the name of another: what a later version finds.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn another_version_takes_over_under_traffic() {
    let mut lab = Lab::new("version");
    let exchanges = lab.under_traffic(|lab| {
        for (round, conntrack) in [65_536, 131_072].into_iter().enumerate() {
            drop(lab.datapath.take());
            let ours = lab.pins.path().join(format!("v{ABI_VERSION}"));
            fs::rename(&ours, lab.pins.path().join("v1")).expect("rename");
            lab.options.sizes.conntrack = conntrack;
            let datapath = lab.next_agent().expect("the next agent");
            assert_eq!(*datapath.start(), Start::Migrated { from: "v1".to_owned() });
            assert!(!datapath.is_live() && !ours.exists(), "round {round}: the old one is still at work");
            let maps = datapath.maps().expect("maps");
            assert!(maps.frontends.get(&kit::frontend_key(VIP, Proto::TCP)).expect("get").is_some(), "content is taken over");
            datapath.go_live().expect("go live");
            datapath.go_live().expect("once is enough");
            assert!(datapath.is_live());
            assert_eq!(kit::folders(lab.pins.path()), kit::one_of_each(), "nothing else is left");
        }
    });
    println!("{exchanges} exchanges");
}

/// An agent that dies at the worst moments: what the next one finds is taken over.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_switch_that_was_cut_off_is_finished_by_the_next_agent() {
    let mut lab = Lab::new("cut");
    let ours = lab.pins.path().join(format!("v{ABI_VERSION}"));
    let exchanges = lab.under_traffic(|lab| {
        // Before it went live: new maps beside those in use.
        drop(lab.datapath.take());
        fs::rename(&ours, lab.pins.path().join("v1")).expect("rename");
        lab.next_agent().expect("an agent that dies");
        assert_eq!(*lab.next_agent().expect("the next").start(), Start::Migrated { from: "v1".to_owned() });
        // Right after the new maps were put in their place: links still have the old programs.
        drop(lab.datapath.take());
        lab.datapath = None;
        fs::rename(lab.pins.path().join("v1"), lab.pins.path().join("old")).expect("rename");
        assert_eq!(*lab.next_agent().expect("the next").start(), Start::Migrated { from: "old".to_owned() });
        lab.datapath.as_mut().expect("an agent").go_live().expect("go live");
        assert_eq!(kit::folders(lab.pins.path()), kit::one_of_each(), "nothing else is left");
        // The same with another table of flows: those that are in the old one come along.
        drop(lab.datapath.take());
        fs::rename(&ours, lab.pins.path().join("old")).expect("rename");
        lab.options.sizes.conntrack *= 2;
        let datapath = lab.next_agent().expect("an agent that dies");
        assert_eq!(*datapath.start(), Start::Migrated { from: "old".to_owned() });
        datapath.maps().expect("maps").set_state(StateKey::Abi, u64::from(ABI_VERSION)).expect("sign");
        drop(lab.datapath.take());
        fs::rename(lab.pins.path().join("new"), &ours).expect("rename");
        // Yet another size has to wait: the flows of the oldest maps come first.
        let conntrack = lab.options.sizes.conntrack;
        lab.options.sizes.conntrack *= 2;
        assert_eq!(*lab.next_agent().expect("the next").start(), Start::Adopted);
        assert_eq!(lab.maps().conntrack.capacity(), conntrack);
        assert_eq!(*lab.next_agent().expect("the one after").start(), Start::Resized { maps: vec!["CONNTRACK"] });
        assert_eq!(lab.maps().conntrack.capacity(), conntrack * 2);
        assert_eq!(kit::folders(lab.pins.path()), kit::one_of_each(), "nothing else is left");
    });
    println!("{exchanges} exchanges");
}
