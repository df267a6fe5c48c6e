//! The laboratory of these tests.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use thalweg_abi::{Backend, BackendState, Be16, Be128, Counter, Frontend, FrontendKey, Proto, Scope, Slot, SockBackend};
use thalweg_lab::netns::Netns;
use thalweg_loader::{Datapath, Maps, Options, Table, netns};

use crate::kit;

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1);
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
const WAIT: Duration = Duration::from_secs(2);

/// The process has one cgroup, so one test at a time has a lab.
static ONE_LAB: Mutex<()> = Mutex::new(());

/// A data path, and a namespace with the backends' addresses. Fields in the order of their removal.
pub struct Lab {
    pub maps: Maps,
    pub datapath: Datapath,
    pub ns: Netns,
    _cgroup: kit::Cgroup,
    _pins: kit::Pins,
    _turn: MutexGuard<'static, ()>,
}

// === impl Lab ===

impl Lab {
    /// The namespace is a pod's that nobody has told the data path about.
    pub fn new(socket_lb: bool) -> Self {
        Self::make(socket_lb, false)
    }

    /// The namespace is the node's own.
    pub fn of_node() -> Self {
        Self::make(true, true)
    }

    fn make(socket_lb: bool, of_node: bool) -> Self {
        let turn = ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner);
        let pins = kit::Pins::new("sock");
        let cgroup = kit::Cgroup::enter("sock");
        let ns = Netns::create("tw-sock").expect("a namespace");
        for address in ["10.99.0.1/32", "10.99.0.2/32", "fd99::1/128", "fd99::2/128"] {
            ns.ip(&format!("addr add {address} dev lo")).expect("a backend address");
        }
        let open = || Self::open(&pins, cgroup.path(), socket_lb);
        let datapath = if of_node { ns.enter(open).expect("enter the namespace") } else { open() };
        let maps = datapath.maps().expect("maps");
        Self { maps, datapath, ns, _cgroup: cgroup, _pins: pins, _turn: turn }
    }

    fn open(pins: &kit::Pins, cgroup: &Path, socket_lb: bool) -> Datapath {
        let options =
            Options { cgroup: cgroup.to_owned(), node_addr: Some(NODE), node_addr6: Some(NODE6), socket_lb, ..pins.options() };
        let mut datapath = Datapath::open(&options).expect("open");
        datapath.attach_cgroup().expect("attach");
        datapath
    }

    /// Runs inside the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.ns.enter(work).expect("enter the namespace")
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        let counters = self.maps.counters().expect("counters");
        counters.iter().find(|(name, _)| *name == counter).map(|(_, count)| *count).expect("every counter is there")
    }

    /// A TCP server that closes what it accepts; ends with the test process.
    pub fn tcp_server(&self, address: impl Into<SocketAddr>) {
        let address = address.into();
        let listener = self.inside(|| TcpListener::bind(address)).expect("listen");
        thread::spawn(move || listener.incoming().for_each(drop));
    }

    /// A UDP server that answers with its own address; ends with the test process.
    pub fn udp_server(&self, address: impl Into<SocketAddr>) {
        let address = address.into();
        let socket = self.inside(|| UdpSocket::bind(address)).expect("bind");
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(address.to_string().as_bytes(), peer);
            }
        });
    }

    pub fn udp_socket(&self) -> UdpSocket {
        self.udp_socket_at("0.0.0.0:0")
    }

    pub fn udp_socket_at(&self, local: &str) -> UdpSocket {
        let socket = self.inside(|| UdpSocket::bind(local)).expect("bind");
        socket.set_read_timeout(Some(WAIT)).expect("a bounded wait");
        socket
    }

    /// Tells the data path whose the namespace is.
    pub fn introduce(&mut self, netns: thalweg_abi::Netns) {
        let cookie = self.inside(netns::own_cookie).expect("its cookie");
        self.maps.netns.update(&[(cookie, netns)]).expect("write NETNS");
    }

    /// Writes backends, slots from `base` in the order of addresses, and then the frontend, of either family.
    pub fn publish(&mut self, vip: SocketAddr, proto: Proto, frontend: Frontend, backends: &[(u32, SocketAddr)]) {
        let port = Be16::from_host(vip.port());
        let mut backends = backends.to_vec();
        backends.sort_by_key(|(_, addr)| *addr);
        for (position, (id, at)) in (frontend.base..).zip(&backends) {
            let (addr, port) = (Be128::from(at.ip()), Be16::from_host(at.port()));
            let backend = Backend { addr, port, state: BackendState::READY, generation: 1, ..Backend::default() };
            self.maps.backends.update(&[(*id, backend)]).expect("write the backend");
            let slot = Slot { addr, port, backend: *id, generation: 1, ..Slot::default() };
            self.maps.slots.update(&[(position, slot)]).expect("write the slot");
        }
        let count = u32::try_from(backends.len()).expect("few backends");
        let frontend = Frontend { generation: 1, count, service_port: port, ..frontend };
        let scope = Scope::INTERNAL;
        match vip.ip() {
            IpAddr::V4(addr) => self.maps.frontends.update(&[(FrontendKey { vip: addr.into(), port, proto, scope }, frontend)]),
            IpAddr::V6(addr) => {
                self.maps.frontends6.update(&[(FrontendKey { vip: addr.into(), port, proto, scope }, frontend)])
            }
        }
        .expect("write the frontend");
    }

    /// The remembered backends of all connected sockets.
    pub fn registered(&self) -> Vec<SockBackend> {
        self.maps.sock_backends.entries().expect("SOCK_BACKENDS").into_iter().map(|(_, value)| value).collect()
    }
}

/// One of the namespace's addresses.
pub fn address(last: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, last), port)
}

pub fn vip(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(VIP, port)
}

pub fn dial(to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&to.into(), WAIT)
}

/// Sends one datagram and returns who answered (as text, by itself) and whom the socket says it heard.
pub fn ask(socket: &UdpSocket, to: impl Into<SocketAddr>) -> std::io::Result<(String, SocketAddr)> {
    socket.send_to(b"who are you?", to.into())?;
    let mut buffer = [0; 64];
    let (length, heard) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), heard))
}

pub fn address6(last: u16, port: u16) -> SocketAddr {
    (Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last), port).into()
}

pub fn vip6(port: u16) -> SocketAddr {
    (VIP6, port).into()
}

/// As a socket of IPv6 names it.
pub fn mapped(address: SocketAddrV4) -> SocketAddr {
    (address.ip().to_ipv6_mapped(), address.port()).into()
}
