//! Sockets whose backend goes while they are connected.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{SockaddrIn, connect};
use thalweg_abi::{Backend, BackendState, Frontend, Proto};
use thalweg_lab::netns::Netns;
use thalweg_loader::{
    Table,
    sockets::{self, Destroyed},
};

use crate::lab::{Lab, address, address6, dial, mapped, vip, vip6};

const WAIT: Duration = Duration::from_secs(5);

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free(lab: &mut Lab, backend: u32) {
    let gone = Backend { state: BackendState::FREE, generation: 2, ..Backend::default() };
    lab.maps.backends.update(&[(backend, gone)]).expect("free the backend");
}

fn connected(ns: &Netns, local: &str, to: SocketAddr) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind(local)).expect("enter").expect("bind");
    socket.connect(to).expect("connect");
    socket.set_read_timeout(Some(WAIT)).expect("a bounded wait");
    socket
}

/// A process enters its namespace some time after it was started.
fn arrives(process: &Process, ns: &Netns) {
    let inode = |path: &Path| fs::metadata(path).map(|found| found.ino()).ok();
    let there = inode(ns.path()).expect("the namespace");
    let end = Instant::now() + WAIT;
    while inode(Path::new(&format!("/proc/{}/ns/net", process.0.id()))) != Some(there) {
        assert!(Instant::now() < end, "the process never came");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The error of a socket that was ended.
fn aborted(result: io::Result<usize>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionAborted)
}

#[expect(unsafe_code, reason = "no library knows this protocol")]
fn mptcp_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

// cilium#28820, cilium#48096, kubernetes#59368: a connected UDP socket is not left with a backend that is gone.
// kubernetes#46753: nor is a TCP connection.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn sockets_of_a_gone_backend_are_ended_and_no_others() {
    let mut lab = Lab::new(true);
    let udp = [(1, SocketAddr::V4(address(1, 5353)))];
    let publish = |lab: &mut Lab, base, backend: (u32, SocketAddr), proto, to| {
        lab.publish(to, proto, Frontend { base, ..Frontend::default() }, &[backend]);
    };
    publish(&mut lab, 0, udp[0], Proto::UDP, vip(53).into());
    publish(&mut lab, 1, (2, address6(1, 5353)), Proto::UDP, vip6(53));
    publish(&mut lab, 2, (3, address(2, 5353).into()), Proto::UDP, vip(54).into());
    publish(&mut lab, 3, (4, address(1, 8080).into()), Proto::TCP, vip(80).into());
    publish(&mut lab, 4, (5, address(2, 8080).into()), Proto::TCP, vip(81).into());
    let listeners: Vec<_> =
        [address(1, 8080), address(2, 8080)].map(|at| lab.inside(|| TcpListener::bind(at)).expect("listen")).into();
    // A second pod, known by its process alone.
    let other = Netns::create("tw-sock2").expect("a namespace");
    other.ip("addr add 10.99.0.1/32 dev lo").expect("an address");
    let sleep = other.command("sleep").arg("60").stdin(Stdio::null()).spawn().expect("a process in it");
    let process = Process(sleep);
    arrives(&process, &other);

    let doomed = [
        connected(&lab.ns, "0.0.0.0:0", vip(53).into()),
        connected(&lab.ns, "[::]:0", mapped(vip(53))),
        connected(&lab.ns, "[::]:0", vip6(53)),
        connected(&other, "0.0.0.0:0", vip(53).into()),
    ];
    let spared = [
        // Another backend, and the same one dialled past the service.
        connected(&lab.ns, "0.0.0.0:0", vip(54).into()),
        connected(&lab.ns, "0.0.0.0:0", address(1, 5353).into()),
    ];
    let mut doomed_stream = lab.inside(|| dial(vip(80))).expect("through the VIP");
    let streams: Vec<TcpStream> = [vip(81), address(1, 8080)].map(|to| lab.inside(|| dial(to)).expect("dial")).into();
    assert_eq!(lab.registered().len(), 7, "all but what was dialled past the services");
    let paths = [lab.ns.path().to_owned()];
    assert_eq!(sockets::destroy_gone(&mut lab.maps, &paths).expect("nothing to do"), Destroyed::default());

    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| doomed[0].recv(&mut [0; 8]));
        let reading = scope.spawn(|| {
            doomed_stream.set_read_timeout(Some(WAIT))?;
            doomed_stream.read(&mut [0; 8])
        });
        for backend in [1, 2, 4] {
            free(&mut lab, backend);
        }
        publish(&mut lab, 10, (3, address(2, 5353).into()), Proto::UDP, vip(53).into());
        let destroyed = sockets::destroy_gone(&mut lab.maps, &paths).expect("end them");
        assert_eq!(destroyed, Destroyed { udp: 4, tcp: 1, ..Destroyed::default() });
        (waiting.join().expect("no panic"), reading.join().expect("no panic"))
    });
    assert!(aborted(waiting.0) && aborted(waiting.1), "who waits is woken");
    for socket in &doomed[1..] {
        assert!(aborted(socket.recv(&mut [0; 8])), "who asks next is told");
    }
    for socket in &spared {
        assert_eq!(socket.take_error().expect("ask").map(|error| error.kind()), None);
        socket.peer_addr().expect("still connected");
    }
    for stream in &streams {
        assert_eq!(stream.take_error().expect("ask").map(|error| error.kind()), None);
        stream.peer_addr().expect("still connected");
    }
    assert_eq!(lab.registered().len(), 2, "those of backends that live");

    doomed[0].connect(vip(53)).expect("it dials again");
    assert_eq!(lab.registered().iter().filter(|socket| socket.backend == 3).count(), 2, "and has another backend");
    assert_eq!(sockets::destroy_gone(&mut lab.maps, &paths).expect("nothing to do"), Destroyed::default());
    drop(listeners);
}

// cilium#28820, cilium#48096, calico#4509: one that has left the service only is as good as gone to who dialled the service.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn datagram_sockets_of_a_service_that_has_lost_their_backend_are_ended_though_it_lives() {
    let mut lab = Lab::new(true);
    let shared = [(1, address(1, 5353).into())];
    let shared6 = [(2, address6(1, 5353))];
    let frontend = |service, base| Frontend { service, base, ..Frontend::default() };
    for (service, port) in [(7, 53), (8, 54), (9, 55)] {
        lab.publish(vip(port).into(), Proto::UDP, frontend(service, 0), &shared);
        lab.publish(vip6(port), Proto::UDP, frontend(service, 1), &shared6);
    }
    lab.publish(vip(53).into(), Proto::TCP, frontend(7, 2), &[(3, address(1, 8080).into())]);
    lab.tcp_server(address(1, 8080));
    let connect_to = |lab: &Lab, port: u16| {
        let dialled = [("0.0.0.0:0", vip(port).into()), ("[::]:0", mapped(vip(port))), ("[::]:0", vip6(port))];
        dialled.map(|(local, to)| connected(&lab.ns, local, to))
    };
    let (leaves, stays, removed) = (connect_to(&lab, 53), connect_to(&lab, 54), connect_to(&lab, 55));
    let stream = lab.inside(|| dial(vip(53))).expect("through the VIP");
    let paths = [lab.ns.path().to_owned()];
    let end = |lab: &mut Lab, left: &[(u32, u32)]| {
        let left = left.iter().copied().collect();
        sockets::destroy(&mut lab.maps, &left, &paths).expect("end them")
    };
    assert_eq!(end(&mut lab, &[(7, 4), (8, 3), (6, 5)]), Destroyed::default(), "of others");

    // The service's next backend is another; TCP may finish what it has begun.
    lab.publish(vip(53).into(), Proto::UDP, frontend(7, 3), &[(4, address(2, 5353).into())]);
    assert_eq!(end(&mut lab, &[(7, 1), (7, 2), (7, 3)]), Destroyed { udp: 3, ..Destroyed::default() });
    assert!(leaves.iter().all(|socket| aborted(socket.recv(&mut [0; 8]))));
    for socket in stays.iter().chain(&removed) {
        socket.peer_addr().expect("still connected");
    }
    stream.peer_addr().expect("still connected");

    // A service that is gone has lost them all, whoever has its address by now.
    lab.publish(vip6(55), Proto::UDP, frontend(10, 4), &[(5, address6(2, 5353))]);
    assert_eq!(end(&mut lab, &[(9, 2)]), Destroyed { udp: 1, ..Destroyed::default() });
    assert!(aborted(removed[2].recv(&mut [0; 8])));
    assert_eq!(lab.registered().len(), 3 + 2 + 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_draining_backend_keeps_its_sockets() {
    let mut lab = Lab::new(true);
    lab.publish(vip(53).into(), Proto::UDP, Frontend::default(), &[(1, address(1, 5353).into())]);
    let socket = connected(&lab.ns, "0.0.0.0:0", vip(53).into());
    let draining = Backend { state: BackendState::DRAINING, generation: 1, ..Backend::default() };
    lab.maps.backends.update(&[(1, draining)]).expect("drain");
    let paths = [lab.ns.path().to_owned()];
    assert_eq!(sockets::destroy_gone(&mut lab.maps, &paths).expect("nothing to do"), Destroyed::default());
    socket.peer_addr().expect("still connected");
}

/// A namespace that cannot be looked at may hold what was found nowhere else.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn sockets_where_nobody_can_look_are_not_forgotten() {
    let mut lab = Lab::new(true);
    lab.publish(vip(53).into(), Proto::UDP, Frontend::default(), &[(1, address(1, 5353).into())]);
    let socket = connected(&lab.ns, "0.0.0.0:0", vip(53).into());
    free(&mut lab, 1);
    let missing = ["/run/netns/tw-there-is-none".into()];
    let destroyed = sockets::destroy_gone(&mut lab.maps, &missing).expect("look elsewhere");
    // A machine may have processes besides that not even root may look at.
    assert!(destroyed.unseen > 0 && Destroyed { unseen: 0, ..destroyed } == Destroyed::default(), "{destroyed:?}");
    assert_eq!(lab.registered().len(), 1, "kept for the next time");
    let [missing] = missing;
    let paths = [missing, lab.ns.path().to_owned()];
    let destroyed = sockets::destroy_gone(&mut lab.maps, &paths).expect("end it");
    assert_eq!(destroyed, Destroyed { udp: 1, ..Destroyed::default() }, "all were found: what is unseen does not matter");
    assert!(aborted(socket.recv(&mut [0; 8])));
    assert_eq!(lab.registered().len(), 0);
}

/// Programs see its first subflow, which is what sock_diag shows too.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_mptcp_connection_ends_with_its_backend() {
    let mut lab = Lab::new(true);
    lab.publish(vip(80).into(), Proto::TCP, Frontend::default(), &[(1, address(1, 8080).into())]);
    lab.tcp_server(address(1, 8080));
    let mut stream = lab.inside(|| {
        let stream = mptcp_socket().expect("a kernel with MPTCP");
        connect(stream.as_raw_fd(), &SockaddrIn::from(vip(80))).expect("through the VIP");
        TcpStream::from(stream)
    });
    stream.set_read_timeout(Some(WAIT)).expect("a bounded wait");
    assert_eq!(lab.registered().len(), 1);
    free(&mut lab, 1);
    let paths = [lab.ns.path().to_owned()];
    let destroyed = sockets::destroy_gone(&mut lab.maps, &paths).expect("end it");
    assert_eq!(destroyed, Destroyed { tcp: 1, ..Destroyed::default() });
    assert!(aborted(stream.read(&mut [0; 8])));
    assert_eq!(lab.registered(), []);
}
