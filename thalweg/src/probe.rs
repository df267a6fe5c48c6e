//! Whether packets flow: a virtual IP of the agent's own is dialled from time to time, through the socket load balancer as any
//! service is, and whoever answers behind it says a word that only this process knows.
//!
//! The address is a link-local one (of IPv6: one to be discarded), which nobody routes, and the socket that dials is bound to
//! the loopback interface. So when translation is broken, the packet meets no route and leaves the machine by none: the
//! kernel discards what it would have to forward there.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::Name;
use thalweg_proxy::health::Dial;
use thalweg_proxy::plan::{EndpointSet, PlannedFrontend, ServicePlan};

use crate::addresses::NodeAddresses;

/// Not what NodeLocal DNS or clouds use.
const VIP: Ipv4Addr = Ipv4Addr::new(169, 254, 116, 119);
/// From the prefix of addresses that are discarded (RFC 6666).
const VIP6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0x7468, 0x616c);
const PORT: u16 = 10_256;
/// A namespace that Kubernetes cannot have.
const NAME: (&str, &str) = ("thalweg.internal", "health");
/// A connection on this machine takes far less.
const PATIENCE: i64 = 2;

/// The service that is dialled, and who answers.
pub struct Probe {
    /// What is dialled, and where it leads to.
    served: Vec<(SocketAddr, SocketAddr)>,
    word: [u8; 16],
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
    /// Answers on the loopback from now on, for each family that the node has.
    ///
    /// # Errors
    /// When no port is to be had there.
    pub fn start(node: NodeAddresses) -> Result<Self> {
        let word = word();
        let v4 = node.v4.map(|_| (IpAddr::V4(VIP), IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let v6 = node.v6.map(|_| (IpAddr::V6(VIP6), IpAddr::V6(Ipv6Addr::LOCALHOST)));
        let mut served = Vec::new();
        for (vip, own) in v4.into_iter().chain(v6) {
            let listener = TcpListener::bind((own, 0)).with_context(|| format!("listen on {own}"))?;
            served.push((SocketAddr::new(vip, PORT), listener.local_addr().context("the port of a listener")?));
            let answer = move || {
                for stream in listener.incoming() {
                    // Who has gone meanwhile needs no answer.
                    let _ = stream.and_then(|mut stream| stream.write_all(&word));
                }
            };
            thread::Builder::new().name("tw-probe".into()).spawn(answer).context("start a thread")?;
        }
        Ok(Self { served, word })
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

    /// Dials every family once.
    pub fn dial(&self) -> Dial {
        let (vips, word) = (self.served.iter().map(|(vip, _)| *vip).collect::<Vec<_>>(), self.word);
        Arc::new(move || vips.iter().try_for_each(|vip| ask(*vip, &word)))
    }
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
    let family = if vip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
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
        let probe = Probe::start(NodeAddresses { v6: None, ..both() }).expect("a port of the loopback");
        let plan = probe.plan();
        let [frontend] = &plan.frontends[..] else { panic!("{plan:?}") };
        assert!(frontend.vip == IpAddr::V4(VIP) && frontend.scope == Scope::INTERNAL);
        assert!(plan.sets[frontend.set].endpoints[0].ip().is_loopback());
    }

    #[test]
    fn whoever_answers_must_know_the_word() {
        let probe = Probe::start(NodeAddresses { v6: None, ..both() }).expect("a port of the loopback");
        let own = probe.served[0].1;
        assert_eq!(ask(own, &probe.word), Ok(()));
        assert!(ask(own, &[0; 16]).is_err_and(|said| said.contains("somebody else")));
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        assert!(ask(free, &probe.word).is_err_and(|said| said.contains("connect to")));
    }

    #[test]
    fn a_control_group_that_is_not_there_holds_nobody() {
        assert!(!is_inside(Path::new("/nonexistent")));
    }
}
