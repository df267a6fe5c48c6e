//! SCTP, made by hand: this kernel is built without its sockets (CONFIG_IP_SCTP), but tracks and translates it.

use std::net::{IpAddr, SocketAddr};

use super::raw::{Raw, SCTP, crc32c};
use super::*;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A packet with one chunk that opens an association. `tag`: 0 in an INIT.
fn packet(from: u16, to: u16, tag: u32, kind: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    // The chunk: kind, flags, length; tag, window, streams out and in, first sequence number.
    bytes.extend([kind, 0, 0, 20]);
    bytes.extend(0x1234_5678_u32.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
    let crc = crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&crc);
    bytes
}

fn sound(bytes: &[u8]) -> bool {
    let mut plain = bytes.to_vec();
    plain[8..12].fill(0);
    crc32c(&plain).to_le_bytes() == bytes[8..12]
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn sctp_is_a_protocol_like_the_others() {
    for_all("x", |wire, backend, variant, family| {
        let case = |what: &str| format!("{variant:?} {family:?}: {what}");
        let v6 = family == Family::V6;
        let ip = |text: &str| of(family, text).parse::<IpAddr>().expect("an address");
        backend.set(service(
            family,
            "shop/sigtran",
            &[
                "10.96.0.7:2905/sctp -> 10.244.0.5:7000",
                "172.30.0.11:32905/sctp ext -> 10.244.0.5:7000",
                "10.96.0.7:2905/tcp -> 10.244.0.6:8080",
                "ours 10.96.0.7",
            ],
        ));
        apply(wire, backend);
        let ways = [
            (&wire.b, "10.96.0.7", 2905, "10.244.0.6"),
            (&wire.client, "172.30.0.11", 32905, "172.30.0.11"),
            (&wire.node, "10.96.0.7", 2905, "172.30.0.11"),
        ];
        for (index, (from, vip, port, seen_as)) in ways.into_iter().enumerate() {
            let mine = 4000 + index as u16;
            let (client, endpoint) = (Raw::open(from, SCTP, v6), Raw::open(&wire.a, SCTP, v6));
            client.send(ip(vip), &packet(mine, port, 0, INIT));
            let seen = endpoint.wait(|seen| seen.bytes[12] == INIT).unwrap_or_else(|| panic!("{}", case("an INIT")));
            assert_eq!((seen.from.ip(), seen.to_port), (ip(seen_as), 7000), "{}", case(from.name()));
            assert!(sound(&seen.bytes), "{}", case("the checksum is the translated packet's"));
            endpoint.send(seen.from.ip(), &packet(7000, seen.from.port(), 0x1234_5678, INIT_ACK));
            let answer = client.wait(|seen| seen.bytes[12] == INIT_ACK && seen.from.port() == port);
            let answer = answer.unwrap_or_else(|| panic!("{}", case("an INIT ACK")));
            assert_eq!((answer.from, answer.to_port), (SocketAddr::new(ip(vip), port), mine), "{}", case(from.name()));
            assert!(sound(&answer.bytes), "{}", case("the answer's checksum"));
        }
        // The port is TCP's too, with another endpoint.
        assert_eq!(wire.dial(&wire.a, &of(family, "10.96.0.7:2905")), of(family, "b saw 10.244.0.5"), "{}", case("TCP"));

        // The endpoint moves: an association from the same port is the new one's.
        let (client, endpoint) = (Raw::open(&wire.client, SCTP, v6), Raw::open(&wire.b, SCTP, v6));
        backend.set(service(family, "shop/sigtran", &["172.30.0.11:32905/sctp ext -> 10.244.0.6:7000"]));
        apply(wire, backend);
        client.send(ip("172.30.0.11"), &packet(4001, 32905, 0, INIT));
        let moved = endpoint.wait(|seen| seen.to_port == 7000);
        assert!(moved.is_some(), "{}", case("the endpoint that is left"));
    });
}
