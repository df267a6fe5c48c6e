//! Frames as they are known from elsewhere, and what holds of every frame.

use super::*;

fn at(addr: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(addr.into(), port)
}

/// A SYN as a real stack sent it, without its TCP options.
#[test]
fn a_known_frame() {
    let packet = Packet::tcp(at([10, 0, 0, 1], 40_000), at([10, 0, 0, 2], 80), SYN).numbers(1, 0).window(1024);
    let frame = packet.bytes();
    assert_eq!(frame.len(), 54);
    assert_eq!(frame[12..24], [8, 0, 0x45, 0, 0, 40, 0x12, 0x34, 0, 0, 64, 6]);
    // Worked out by hand: 0x4500 + 0x0028 + 0x1234 + 0x4006 + 0x0a00 + 0x0001 + 0x0a00 + 0x0002, complemented.
    assert_eq!(frame[24..26], 0x549a_u16.to_be_bytes());
    // 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20 + 40000 + 80 + 1 + 0x5002 + 1024, complemented.
    assert_eq!(frame[50..52], 0xfb4e_u16.to_be_bytes());
}

/// One that a real stack sent: `ping -6`, without its payload.
#[test]
fn a_known_frame_of_ipv6() {
    let (src, dst): (IpAddr, IpAddr) = ("fe80::1".parse().expect("address"), "ff02::2".parse().expect("address"));
    // A router solicitation.
    let frame = Packet::icmp(src, dst, 133, 0, [0; 4], b"").ttl(255).bytes();
    assert_eq!(frame[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255]);
    // 0xfe80 + 1 + 0xff02 + 2 + 8 + 58 + 0x8500, complemented.
    assert_eq!(frame[54..58], [133, 0, 0x7d, 0x36]);
}

#[test]
fn every_checksum_closes() {
    let v4 = (at([10, 0, 0, 1], 1), at([10, 0, 0, 2], 2));
    let v6 = (at([0xfd00, 0, 0, 0, 0, 0, 0, 1], 1), at([0xfd00, 0, 0, 0, 0, 0, 0, 2], 2));
    for ((a, b), payload) in [v4, v6].into_iter().flat_map(|ends| [&b""[..], b"x", b"xy", b"odd"].map(|text| (ends, text))) {
        let frames = [
            Packet::tcp(a, b, ACK).payload(payload),
            Packet::udp(a, b, payload),
            Packet::udp(a, b, payload).quoted_by(b.ip(), 3, 3, [0; 4], 8),
        ];
        for packet in frames {
            let packet = if a.is_ipv4() { packet.options(&[1; 8]) } else { packet.extension(60, 16) };
            let frame = packet.bytes();
            let transport = packet.transport();
            if a.is_ipv4() {
                assert_eq!(checksum(&frame[14..transport]), 0, "{packet:?}");
            }
            let body = &frame[transport..];
            let head = match packet.body {
                Body::Icmp(_) if a.is_ipv4() => Vec::new(),
                _ => pseudo(packet.src, packet.dst, packet.proto(), body.len()),
            };
            assert_eq!(checksum(&[head, body.to_vec()].concat()), 0, "{packet:?}");
        }
    }
}

#[test]
fn pieces_are_the_whole_in_order() {
    let payload: Vec<u8> = (0..60).collect();
    for (a, b, header) in [(at([10, 0, 0, 1], 1), at([10, 0, 0, 2], 2), 34), (at([0xfd; 16], 1), at([0xfe; 16], 2), 62)] {
        let whole = Packet::udp(a, b, &payload);
        let pieces = whole.pieces(&[16, 24]);
        assert_eq!(pieces.iter().map(|frame| frame.len() - header).collect::<Vec<_>>(), [16, 24, 28]);
        let body = pieces.iter().flat_map(|frame| frame[header..].to_vec()).collect::<Vec<_>>();
        assert_eq!(body, whole.bytes()[whole.transport()..]);
    }
}

#[test]
fn a_known_packet_of_sctp() {
    // RFC 3720, B.4: 32 bytes of zeros; here 12 of them are the header, whose checksum is put in afterwards.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let packet = Packet::sctp(at([10, 0, 0, 1], 0), at([10, 0, 0, 2], 0), 0, b"").bytes();
    assert_eq!(packet[23], PROTO_SCTP);
    // A DATA chunk without data.
    assert_eq!(packet[46..50], [0, 0, 0, 4]);
    let mut without = packet[34..].to_vec();
    without[8..12].fill(0);
    assert_eq!(packet[42..46], crc32c(&without).to_le_bytes());
}
