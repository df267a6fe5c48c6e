//! What is not a packet, not from who it says, not whole, or not for us.

use anyhow::Result;
use thalweg_abi::{Counter, DropReason, Proto};
use thalweg_lab::packet::{Packet, SYN, checksum};

use super::{
    node::{CLIENT, DROP, NEXT, Node, PASS, POD_A, POD_B, REDIRECT, REMOTE, VIP, at},
    tables::served,
};

const IP: usize = 14;
const TRANSPORT: usize = 34;

/// A frame with some bytes changed and its IP checksum right again: only the fault itself may be noticed.
fn with(packet: &Packet, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = packet.bytes();
    for (at, byte) in changes {
        frame[*at] = *byte;
    }
    frame[IP + 10..IP + 12].fill(0);
    let sum = checksum(&frame[IP..TRANSPORT]);
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn malformed_packets_are_dropped_from_pods_and_from_the_wire() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    let tcp = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), SYN);
    let udp = Packet::udp(at(POD_A, 40_000), at(VIP, 80), b"12345678");
    let icmp = Packet::icmp(POD_A, VIP, 8, 0, [0; 4], b"");
    let mut longer = with(&tcp, &[(IP + 3, 60)]);
    longer.truncate(54);
    // Shorter than an IP header is refused by the test run itself; `real` sends such frames.
    let cases: &[(&str, Vec<u8>)] = &[
        ("version 6", with(&tcp, &[(IP, 0x65)])),
        ("header of 16 bytes", with(&tcp, &[(IP, 0x44)])),
        ("header longer than the packet", with(&tcp, &[(IP, 0x4f)])),
        ("total length below the header", with(&tcp, &[(IP + 3, 19)])),
        ("total length 0", with(&tcp, &[(IP + 3, 0)])),
        ("total length above the frame", longer),
        ("TCP header cut off", with(&tcp, &[(IP + 3, 39)])),
        ("TCP offset below 20", with(&tcp, &[(TRANSPORT + 12, 0x40)])),
        ("TCP offset above the packet", with(&tcp, &[(TRANSPORT + 12, 0x60)])),
        ("UDP header cut off", with(&udp, &[(IP + 3, 27)])),
        ("UDP length below 8", with(&udp, &[(TRANSPORT + 5, 7)])),
        ("UDP length above the packet", with(&udp, &[(TRANSPORT + 5, 17)])),
        ("ICMP header cut off", with(&icmp, &[(IP + 3, 27)])),
        ("first fragment too short for TCP", with(&tcp, &[(IP + 3, 36), (IP + 6, 0x20)])),
    ];
    are_dropped(&node, "", cases)
}

/// Whoever sends these frames, nothing comes of them; what the node's own stack sends is not judged. `suffix`: of the
/// family's programs.
pub fn are_dropped(node: &Node, suffix: &str, cases: &[(&str, Vec<u8>)]) -> Result<()> {
    for (what, frame) in cases {
        for (program, ifindex) in [("tc_from_pod", node.pod_a), ("tc_from_wire", node.uplink)] {
            let program = format!("{program}{suffix}");
            assert_eq!(node.run(&program, ifindex, frame)?.verdict, DROP, "{program}: {what}");
        }
        for (program, ifindex) in [("tc_to_pod", node.pod_a), ("tc_to_wire", node.uplink)] {
            let program = format!("{program}{suffix}");
            let out = node.run(&program, ifindex, frame)?;
            assert_eq!((out.verdict, &out.packet), (PASS, frame), "{program}: {what}");
        }
    }
    assert_eq!(node.drops()?, [(DropReason::Malformed, 2 * cases.len() as u64)]);
    assert_eq!(node.tracked()?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn padding_behind_a_short_packet_is_no_fault() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(REMOTE, 53)])?;
    let packet = Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"x");
    let padded = |packet: &Packet| [packet.bytes(), vec![0; 17]].concat();
    let out = node.run("tc_from_pod", node.pod_a, &padded(&packet))?;
    assert_eq!(out.verdict, REDIRECT);
    assert_eq!(out.packet, padded(&packet.to(at(REMOTE, 53)).ttl(63)));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_speaks_only_from_its_own_address_on_its_own_link() -> Result<()> {
    let node = Node::new()?;
    for src in [POD_B, REMOTE, CLIENT, VIP, [0, 0, 0, 0].into()] {
        let packet = Packet::udp(at(src, 40_000), at(POD_B, 80), b"x");
        assert_eq!(node.run("tc_from_pod", node.pod_a, &packet.bytes())?.verdict, DROP, "{src}");
    }
    let own = Packet::udp(at(POD_A, 40_000), at(POD_B, 80), b"x");
    assert_eq!(node.run("tc_from_pod", node.pod_b, &own.bytes())?.verdict, DROP);
    assert_eq!(node.run("tc_from_pod", node.pod_a, &own.bytes())?.verdict, REDIRECT);
    assert_eq!(node.drops()?, [(DropReason::Spoofed, 6)]);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn other_protocols_of_the_link_pass_everywhere() -> Result<()> {
    let node = Node::new()?;
    // Malformed in both families: a length of 0 and a version of neither.
    let mut frame = Packet::udp(at(POD_B, 1), at(VIP, 80), &[6; 40]).bytes();
    frame[14] = 0x15;
    // The programs for IPv4 come first. They keep what is neither's, as what passes them, from programs of others behind
    // ours; each leaves the other family to the other.
    for (ether_type, first, second) in
        [([0x08, 0x06], PASS, NEXT), ([0x88, 0xcc], PASS, NEXT), ([0x86, 0xdd], NEXT, DROP), ([0x08, 0x00], DROP, NEXT)]
    {
        let mut frame = frame.clone();
        frame[12..14].copy_from_slice(&ether_type);
        for (program, ifindex) in [("tc_from_pod", node.pod_a), ("tc_from_wire", node.uplink)] {
            for (program, verdict) in [(program.to_owned(), first), (format!("{program}6"), second)] {
                let out = node.run(&program, ifindex, &frame)?;
                assert_eq!((out.verdict, &out.packet), (verdict, &frame), "{program} {ether_type:x?}");
            }
        }
        for (program, ifindex) in [("tc_to_pod", node.pod_a), ("tc_to_wire", node.uplink)] {
            for (program, verdict) in [(program.to_owned(), first), (format!("{program}6"), second)] {
                // The node's own stack is not judged.
                let verdict = if verdict == DROP { PASS } else { verdict };
                let out = node.run(&program, ifindex, &frame)?;
                assert_eq!((out.verdict, &out.packet), (verdict, &frame), "{program} {ether_type:x?}");
            }
        }
    }
    // Of the others, nothing is looked at.
    assert_eq!(node.counter(Counter::TcPackets)?, 8);
    assert_eq!(node.drops()?, [(DropReason::Malformed, 4)]);
    Ok(())
}
