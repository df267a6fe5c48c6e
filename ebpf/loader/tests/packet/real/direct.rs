//! A pod that dials a service and its backend at the same time, and from the same port.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use thalweg_abi::{CtState, DropReason, FrontendFlags, Proto, SNAT_PORT_MIN};
use thalweg_lab::netns::Netns;
use thalweg_loader::Table;

use super::{
    PORT, TARGET, assert_no_drops, both,
    lab::Lab,
    publish, serve,
    sockets::{PATIENCE, any, ask_on, connect_from},
};
use crate::{node::at, tables::served};

const SAME: u16 = 45_000;
/// Before the first SYN is repeated.
const AT_ONCE: Duration = Duration::from_millis(700);

/// Sends a line on an open connection and reads it back.
fn echo(mut stream: &TcpStream, text: &str) -> Result<()> {
    stream.write_all(text.as_bytes())?;
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).with_context(|| format!("the echo of {text:?}"))?;
    ensure!(got == text.as_bytes(), "{:?} for {text:?}", String::from_utf8_lossy(&got));
    Ok(())
}

/// Opens a connection, and returns it with what the server said first: its name and the port that it sees.
fn open(from: &Netns, to: SocketAddr) -> Result<(TcpStream, u16)> {
    let mut stream = connect_from(from, SAME, to).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    while !line.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).with_context(|| format!("banner of {to} after {line:?}"))?;
        line.push(byte[0].into());
    }
    let (_, port) = line.trim().rsplit_once(':').context("no port in the banner")?;
    Ok((stream, port.parse()?))
}

/// Waits until no flow lives.
fn wait_until_closed(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut entries = Vec::new();
        for node in &lab.nodes {
            let maps = &node.tables.maps;
            entries.extend(maps.conntrack.entries()?.into_iter().map(|(_, entry)| entry.state));
            entries.extend(maps.conntrack6.entries()?.into_iter().map(|(_, entry)| entry.state));
        }
        if entries.iter().all(|state| *state == CtState::CLOSED) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a closed flow lives on: {entries:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The client's pod and the backend of the only service, on the same node and on different ones.
fn places(lab: &Lab) -> [(&Netns, SocketAddr); 2] {
    let backend = at(lab.nodes[1].pods[0].addr, TARGET);
    [(&lab.nodes[1].pods[1].netns, backend), (&lab.nodes[0].pods[0].netns, backend)]
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_dials_a_backend_directly_from_the_port_of_a_live_connection_to_its_service() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(1, 0)])?;
        let vip = lab.vip();
        lab.complete_checksums()?;
        for (pod, backend) in places(&lab) {
            let (by_service, port) = open(pod, at(vip, PORT))?;
            assert_eq!(port, SAME);
            let start = Instant::now();
            let (direct, port) = open(pod, backend)?;
            assert!(port >= SNAT_PORT_MIN, "{port}");
            assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
            for round in 0..3 {
                echo(&by_service, &format!("by service {round}"))?;
                echo(&direct, &format!("direct {round}"))?;
            }
            // Each ends without the other.
            drop(by_service);
            echo(&direct, "still there")?;
        }
        assert_no_drops(&lab)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_dials_a_backend_directly_from_the_port_of_a_closed_connection_to_its_service() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(1, 0)])?;
        let vip = lab.vip();
        for (pod, backend) in places(&lab) {
            for (port, reset) in [(SAME, false), (SAME + 1, true)] {
                let by_service = connect_from(pod, port, at(vip, PORT))?;
                if reset {
                    // Closed before it is read: the kernel says so with a reset.
                    by_service.set_read_timeout(Some(PATIENCE))?;
                    by_service.peek(&mut [0])?;
                } else {
                    ask_on(&by_service, at(vip, PORT), 1000)?;
                }
                drop(by_service);
                // The reset may be overtaken by a SYN that another CPU sends.
                wait_until_closed(&lab)?;
                let start = Instant::now();
                let direct = connect_from(pod, port, backend).context("direct")?;
                assert_eq!(ask_on(&direct, backend, 1000)?.seen.port(), port);
                assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
            }
        }
        assert_no_drops(&lab)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_dials_a_service_from_the_port_of_a_live_direct_connection_to_its_backend() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(1, 0)])?;
        let vip = lab.vip();
        for (pod, backend) in places(&lab) {
            let (direct, port) = open(pod, backend)?;
            assert_eq!(port, SAME);
            echo(&direct, "before")?;
            // Its first SYN meets the other connection at the backend; the second follows soon and takes another port.
            let start = Instant::now();
            let (by_service, port) = open(pod, at(vip, PORT))?;
            assert!(port >= SNAT_PORT_MIN, "{port}");
            assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
            for round in 0..3 {
                echo(&direct, &format!("direct {round}"))?;
                echo(&by_service, &format!("by service {round}"))?;
            }
        }
        // The first SYNs' resets of what answered them.
        for node in &lab.nodes {
            let drops = node.tables.drops()?;
            assert!(matches!(drops[..], [(DropReason::NoFlow, 1)]), "{drops:?}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn one_socket_asks_a_service_and_its_backend() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(1, 0)])?;
        let vip = lab.vip();
        for (pod, backend) in places(&lab) {
            for order in [[at(vip, PORT), backend], [backend, at(vip, PORT)]] {
                let socket = pod.enter(|| UdpSocket::bind((any(at(vip, 0)), 0)))??;
                socket.set_read_timeout(Some(PATIENCE))?;
                for to in [order, order].concat() {
                    socket.send_to(b"who?", to)?;
                    let (_, from) = socket.recv_from(&mut [0; 100]).with_context(|| format!("from {to}"))?;
                    assert_eq!(from, to);
                }
            }
        }
        assert_no_drops(&lab)
    })
}

/// Nobody outside may learn of services' addresses, whoever on the node dials them.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn host_process_that_dials_a_service_past_socket_lb_is_not_heard_outside() -> Result<()> {
    both(|family| {
        let (mut lab, _servers) = serve(family, &[(1, 0)])?;
        let vip = lab.vip();
        lab.nodes[0].tables.serve(served(Proto::UDP, vip, 81).flags(FrontendFlags::DROP_WHEN_EMPTY), &[])?;
        let socket = lab.host(0).enter(|| UdpSocket::bind((any(at(vip, 0)), 0)))??;
        for port in [PORT, 81] {
            // Whether the sender is told is the kernel's affair.
            let _ = socket.send_to(b"anybody?", at(vip, port));
        }
        assert_eq!(lab.nodes[0].tables.drops()?, [(DropReason::NoLocalEndpoint, 1), (DropReason::NoFlow, 1)]);
        Ok(())
    })
}

/// A backend that closes first remembers the connection, and may answer the next SYN of its tuple with what that knew.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn backend_that_remembers_a_connection_is_reached_again_at_once() -> Result<()> {
    both(|family| {
        let mut lab = Lab::build(family)?;
        let vip = lab.vip();
        let addr = lab.nodes[1].pods[0].addr;
        let backend = at(addr, TARGET);
        let listener = lab.nodes[1].pods[0].netns.enter(|| TcpListener::bind((addr, TARGET)))??;
        // Ends with the test process.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        publish(&mut lab, &[backend])?;
        for node in &mut lab.nodes {
            node.tables.serve(served(Proto::TCP, vip, 81), &[backend])?;
        }
        let pod = &lab.nodes[0].pods[0].netns;
        let (one, other) = (at(vip, PORT), at(vip, 81));
        let pairs = [(one, backend), (one, other), (backend, one)];
        for (port, (first, then)) in (SAME..SAME + 18).zip(pairs.into_iter().cycle()) {
            let mut stream = connect_from(pod, port, first)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ensure!(stream.read(&mut [0])? == 0, "{first} said something");
            drop(stream);
            let start = Instant::now();
            connect_from(pod, port, then).with_context(|| format!("{then} after {first}"))?;
            assert!(start.elapsed() < AT_ONCE, "{then} after {first}: {:?}", start.elapsed());
        }
        let drops = lab.nodes[0].tables.drops()?;
        assert!(matches!(drops[..], [] | [(DropReason::NoFlow, _)]), "{drops:?}");
        Ok(())
    })
}
