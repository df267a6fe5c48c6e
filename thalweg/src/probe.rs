//! Whether packets flow: a virtual IP of the agent's own is dialled from time to time, as any service is, and nothing
//! that is dialled can leave the machine when it is not translated.
//!
//! - Where the socket load balancer serves this process, a socket dials, and whoever answers says a word that only this
//!   process knows. The address is a link-local one (of IPv6: one to be discarded), which nobody routes, and the socket is
//!   bound to the loopback interface: what is not translated meets no route, and the kernel discards what it would have to
//!   forward there.
//! - Where there are rules, too; but what is dialled is a port of the loopback that this process has reserved and does not
//!   listen at. What the rules do not lead to the port where it does is refused.
//! - Where there are only the tc programs, the node's own connections pass none of them. So no connection is made: the
//!   programs that are attached are run on a packet to the virtual IP, with the tables that all packets meet
//!   (BPF_PROG_TEST_RUN), and must have given it the endpoint's address. Each must be attached where it was.

mod packet;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, bind, connect, getsockname, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::{Family, Name};
use thalweg_loader::Injected;
use thalweg_loader::probe::{Attached, attached};
use thalweg_proxy::health::Dial;
use thalweg_proxy::plan::{EndpointSet, PlannedFrontend, ServicePlan};

use crate::addresses::NodeAddresses;

/// Not what NodeLocal DNS or clouds use.
const VIP: Ipv4Addr = Ipv4Addr::new(169, 254, 116, 119);
/// From the prefix of addresses that are discarded (RFC 6666).
const VIP6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0x7468, 0x616c);
const PORT: u16 = 10_256;
/// From whom a packet comes that nobody sends: documentation's (RFC 5737, RFC 3849).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOBODY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Where such a packet is led to: nobody waits for it.
const DISCARD: u16 = 9;
/// Its ports: a flow of each is remembered for a while.
const PORTS: std::ops::Range<u16> = 40_000..40_064;
/// A namespace that Kubernetes cannot have.
const NAME: (&str, &str) = ("thalweg.internal", "health");
/// A connection on this machine takes far less.
const PATIENCE: i64 = 2;

/// The service that is dialled, and who answers.
pub struct Probe {
    /// What is dialled, and where it leads to.
    served: Vec<(SocketAddr, SocketAddr)>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// By sockets; and what keeps ports from being others', where that is needed.
    Sockets { word: [u8; 16], _reserved: Arc<Vec<OwnedFd>> },
    /// Through the programs that are pinned here.
    Packets { pins: PathBuf, port: Arc<AtomicU16>, places: Arc<Mutex<Places>> },
}

/// Where programs have been seen attached: the index of the interface, by the program and the interface's name.
type Places = BTreeMap<(String, String), u32>;

/// A probe for rules.
///
/// # Errors
/// Why there is none, for people.
pub fn by_rules(node: NodeAddresses) -> Result<Probe, &'static str> {
    Probe::of_rules(node).map_err(no_port)
}

/// For people; the log says more.
pub fn no_port(error: anyhow::Error) -> &'static str {
    tracing::warn!("{error:#}");
    "no port is to be had on the loopback"
}

/// Whether this process is in a control group, or below it, and its sockets are balanced with it.
pub fn is_inside(cgroup: &Path) -> bool {
    let own = std::process::id().to_string();
    let mut folders = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        if members.lines().any(|member| member == own) {
            return true;
        }
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    false
}

// === impl Probe ===

impl Probe {
    /// By sockets that are translated when they dial, for each family that the node has.
    ///
    /// # Errors
    /// When no port is to be had on the loopback.
    pub fn of_sockets(node: NodeAddresses) -> Result<Self> {
        let word = word();
        let mut served = Vec::new();
        for (vip, _, own) in families(node) {
            served.push((SocketAddr::new(vip, PORT), answer(own, word)?));
        }
        Ok(Self { served, way: Way::Sockets { word, _reserved: Arc::default() } })
    }

    /// By sockets whose packets meet rules, for each family that the node has.
    ///
    /// # Errors
    /// As [`Self::of_sockets`].
    pub fn of_rules(node: NodeAddresses) -> Result<Self> {
        let word = word();
        let (mut served, mut reserved) = (Vec::new(), Vec::new());
        for (_, _, own) in families(node) {
            let (socket, dialled) = reserve(own).with_context(|| format!("reserve a port on {own}"))?;
            served.push((dialled, answer(own, word)?));
            reserved.push(socket);
        }
        Ok(Self { served, way: Way::Sockets { word, _reserved: Arc::new(reserved) } })
    }

    /// By packets that the programs pinned below `pins` are run on.
    pub fn of_packets(node: NodeAddresses, pins: &Path) -> Self {
        let served = families(node).map(|(vip, node, _)| (SocketAddr::new(vip, PORT), SocketAddr::new(node, DISCARD)));
        let port = Arc::new(AtomicU16::new(PORTS.start));
        let way = Way::Packets { pins: pins.to_owned(), port, places: Arc::default() };
        Self { served: served.collect(), way }
    }

    /// Nothing translates what these families dial.
    pub fn leave_out(&mut self, families: &[Family]) {
        let has = |vip: &SocketAddr| families.contains(if vip.is_ipv4() { &Family::V4 } else { &Family::V6 });
        self.served.retain(|(vip, _)| !has(vip));
    }

    /// What the kernel is to hold.
    pub fn plan(&self) -> ServicePlan {
        let frontend = |(set, (vip, _)): (usize, &(SocketAddr, SocketAddr))| PlannedFrontend {
            vip: vip.ip(),
            port: vip.port(),
            protocol: Proto::TCP,
            scope: Scope::INTERNAL,
            flags: FrontendFlags(0),
            affinity_seconds: 0,
            service_port: PORT,
            set,
        };
        ServicePlan {
            name: Name::new(NAME.0, NAME.1),
            frontends: self.served.iter().enumerate().map(frontend).collect(),
            sets: self.served.iter().map(|(_, own)| EndpointSet { endpoints: vec![*own] }).collect(),
            draining: Vec::new(),
            source_ranges: Vec::new(),
        }
    }

    /// Tries every family once.
    pub fn dial(&self) -> Dial {
        let (served, way) = (self.served.clone(), self.way.clone());
        Arc::new(move || match &way {
            Way::Sockets { word, .. } => served.iter().try_for_each(|(vip, _)| ask(*vip, word)),
            Way::Packets { pins, port, places } => {
                let port = port.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(PORTS.start);
                let try_all = || {
                    let links = attached(pins)?;
                    let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
                    are_in_place(&links, &mut places, |name| if_nametoindex(name).ok())?;
                    served.iter().try_for_each(|served| pass(&links, pins, port, *served))
                };
                try_all().map_err(|error| format!("{error:#}"))
            }
        })
    }
}

/// For each family of the node: a virtual IP, the node's own address, and that of the loopback.
fn families(node: NodeAddresses) -> impl Iterator<Item = (IpAddr, IpAddr, IpAddr)> {
    let v4 = node.v4.map(|own| (IpAddr::V4(VIP), IpAddr::V4(own), IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let v6 = node.v6.map(|own| (IpAddr::V6(VIP6), IpAddr::V6(own), IpAddr::V6(Ipv6Addr::LOCALHOST)));
    v4.into_iter().chain(v6)
}

/// Answers at some port from now on, with the word.
fn answer(own: IpAddr, word: [u8; 16]) -> Result<SocketAddr> {
    let listener = TcpListener::bind((own, 0)).with_context(|| format!("listen on {own}"))?;
    let at = listener.local_addr().context("the port of a listener")?;
    let answer = move || {
        for stream in listener.incoming() {
            // Who has gone meanwhile needs no answer.
            let _ = stream.and_then(|mut stream| stream.write_all(&word));
        }
    };
    thread::Builder::new().name("tw-probe".into()).spawn(answer).context("start a thread")?;
    Ok(at)
}

/// A port of a loopback that nobody else gets and nobody answers at.
fn reserve(own: IpAddr) -> nix::Result<(OwnedFd, SocketAddr)> {
    let socket = open(own.is_ipv4())?;
    let port = match own {
        IpAddr::V4(own) => {
            bind(socket.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(own, 0)))?;
            getsockname::<SockaddrIn>(socket.as_raw_fd())?.port()
        }
        IpAddr::V6(own) => {
            bind(socket.as_raw_fd(), &SockaddrIn6::from(std::net::SocketAddrV6::new(own, 0, 0, 0)))?;
            getsockname::<SockaddrIn6>(socket.as_raw_fd())?.port()
        }
    };
    Ok((socket, SocketAddr::new(own, port)))
}

fn open(is_v4: bool) -> nix::Result<OwnedFd> {
    let family = if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)
}

/// The port after this one.
fn next(port: u16) -> Option<u16> {
    Some(if port + 1 < PORTS.end { port + 1 } else { PORTS.start })
}

/// Whether every program still is where one of its kind has been before; an interface that has gone, as `index_of` says,
/// takes its programs with it.
fn are_in_place(links: &[Attached], places: &mut Places, index_of: impl Fn(&str) -> Option<u32>) -> Result<()> {
    for link in links.iter().filter(|link| link.index != 0) {
        places.insert((link.program.clone(), link.interface.clone()), link.index);
    }
    places.retain(|(_, interface), index| index_of(interface) == Some(*index));
    for ((program, interface), index) in &*places {
        let is_there = |link: &Attached| link.program == *program && link.index == *index;
        ensure!(links.iter().any(is_there), "{program} is not attached to {interface} any more");
    }
    Ok(())
}

/// Runs what is attached on a packet of its own, which must come out with another destination.
fn pass(links: &[Attached], pins: &Path, port: u16, (vip, own): (SocketAddr, SocketAddr)) -> Result<()> {
    let (program, from) = match vip {
        SocketAddr::V4(_) => ("tc_from_wire", IpAddr::V4(NOBODY)),
        SocketAddr::V6(_) => ("tc_from_wire6", IpAddr::V6(NOBODY6)),
    };
    let link = links.iter().find(|link| link.program == program && link.index != 0);
    let link = link.with_context(|| format!("{program} is attached to no interface"))?;
    let packet = packet::syn(SocketAddr::new(from, port), vip);
    let outcome = link.run(pins, &Injected { packet: &packet, ..Injected::default() })?;
    let found = packet::destination(&outcome.packet);
    ensure!(
        found == Some(own),
        "a packet to {vip} through {program} of {} was not translated to {own} (verdict {}, destination {found:?})",
        link.interface,
        outcome.verdict,
    );
    Ok(())
}

/// Says what went wrong, for people.
fn ask(vip: SocketAddr, word: &[u8]) -> Result<(), String> {
    let started = Instant::now();
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} {vip}: {error} after {:?}", started.elapsed());
    let mut stream = dial(vip).map_err(|error| match error {
        // So the kernel says that the time to connect is over.
        Errno::EINPROGRESS => failed("connect to", &"no answer"),
        error => failed("connect to", &error),
    })?;
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).map_err(|error| failed("read from", &error))?;
    if heard == word { Ok(()) } else { Err(format!("somebody else answers at {vip}")) }
}

fn dial(vip: SocketAddr) -> nix::Result<TcpStream> {
    let socket = open(vip.is_ipv4())?;
    setsockopt(&socket, sockopt::BindToDevice, &"lo".into())?;
    // The kernel takes the one for writing as that for connecting.
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(PATIENCE, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
    match vip {
        SocketAddr::V4(vip) => connect(socket.as_raw_fd(), &SockaddrIn::from(vip))?,
        SocketAddr::V6(vip) => connect(socket.as_raw_fd(), &SockaddrIn6::from(vip))?,
    }
    Ok(TcpStream::from(socket))
}

/// What no other process says here: a former one of this kind had another number or began at another time.
fn word() -> [u8; 16] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut word = [0; 16];
    word[..8].copy_from_slice(&u64::from(std::process::id()).to_be_bytes());
    word[8..].copy_from_slice(&u64::try_from(now.as_nanos()).unwrap_or_default().to_be_bytes());
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> NodeAddresses {
        NodeAddresses { v4: Some([172, 30, 0, 11].into()), v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x11)) }
    }

    #[test]
    fn every_family_of_the_node_has_a_frontend_of_its_own() {
        let probe = Probe::of_sockets(NodeAddresses { v6: None, ..both() }).expect("a port of the loopback");
        let plan = probe.plan();
        let [frontend] = &plan.frontends[..] else { panic!("{plan:?}") };
        assert!(frontend.vip == IpAddr::V4(VIP) && frontend.scope == Scope::INTERNAL);
        assert!(plan.sets[frontend.set].endpoints[0].ip().is_loopback());
        assert_eq!(Probe::of_packets(both(), Path::new("/nonexistent")).plan().frontends.len(), 2);
    }

    #[test]
    fn a_family_without_rules_is_not_dialled() {
        let mut probe = Probe::of_packets(both(), Path::new("/nonexistent"));
        probe.leave_out(&[Family::V6]);
        let [frontend] = &probe.plan().frontends[..] else { panic!("{:?}", probe.plan()) };
        assert_eq!(frontend.vip, IpAddr::V4(VIP));
    }

    #[test]
    fn whoever_answers_must_know_the_word() {
        let probe = Probe::of_sockets(NodeAddresses { v6: None, ..both() }).expect("a port of the loopback");
        let Way::Sockets { word, .. } = &probe.way else { panic!("sockets") };
        let own = probe.served[0].1;
        assert_eq!(ask(own, word), Ok(()));
        assert!(ask(own, &[0; 16]).is_err_and(|said| said.contains("somebody else")));
    }

    #[test]
    fn what_no_rule_translates_is_refused_and_nobody_elses() {
        let probe = Probe::of_rules(NodeAddresses { v6: None, ..both() }).expect("a port of the loopback");
        let [(dialled, _)] = probe.served[..] else { panic!("{:?}", probe.served) };
        assert!(dialled.ip().is_loopback());
        assert!((probe.dial())().is_err_and(|said| said.contains("connect to")), "nobody translates here");
        TcpListener::bind(dialled).expect_err("the port is reserved");
        drop(probe);
        TcpListener::bind(dialled).expect("the port is free again");
    }

    #[test]
    fn packets_need_programs_that_are_attached() {
        let probe = Probe::of_packets(both(), Path::new("/nonexistent"));
        let dial = probe.dial();
        assert!(dial().is_err_and(|said| said.contains("tc_from_wire is attached to no interface")));
        assert_eq!((next(PORTS.start), next(PORTS.end - 1)), (Some(PORTS.start + 1), Some(PORTS.start)));
    }

    #[test]
    fn a_program_that_has_left_its_interface_is_missed() {
        let link = |interface: &str, index| Attached::new("tc_from_wire", interface, index);
        let mut places = Places::new();
        let mut check = |links: &[Attached], interfaces: &[(&str, u32)], wanted: Option<&str>| {
            let index_of = |name: &str| interfaces.iter().find(|(known, _)| *known == name).map(|(_, index)| *index);
            let said = are_in_place(links, &mut places, index_of).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), wanted, "{links:?}");
        };
        let gone = Some("tc_from_wire is not attached to eth0 any more");
        let both = [("eth0", 2), ("eth1", 3)];
        check(&[link("eth0", 2), link("eth1", 3)], &both, None);
        check(&[link("eth1", 3)], &both, gone);
        check(&[link("eth0", 0), link("eth1", 3)], &both, gone);
        check(&[link("eth0", 2), link("eth1", 3)], &both, None);
        // An interface that goes, and one of the same name.
        check(&[link("eth0", 0), link("eth1", 3)], &both[1..], None);
        check(&[link("eth1", 3)], &[("eth0", 9), ("eth1", 3)], None);
        check(&[link("eth0", 9), link("eth1", 3)], &[("eth0", 9), ("eth1", 3)], None);
        check(&[link("eth1", 3)], &[("eth0", 9), ("eth1", 3)], gone);
    }

    #[test]
    fn a_control_group_that_is_not_there_holds_nobody() {
        assert!(!is_inside(Path::new("/nonexistent")));
    }
}
