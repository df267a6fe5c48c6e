//! A packet that the data path has made itself: whole, right, back to the sender, and never to what must not be answered.

use std::net::IpAddr;

use thalweg_abi::Counter;

use super::{Case, Complaints, promise};
use crate::{
    model::NODE,
    wire::{self, ACK, ETH, FIN, Packet, Piece, RST, Reading, SCTP, SYN, Sum, TCP},
};

pub fn judge(case: &Case<'_>, packet: &Packet, complaints: &mut Complaints) {
    let (input, output) = (case.input, &case.run.frame[..]);
    may_be_answered(packet, input, complaints);
    let Reading::Packet(answer) = wire::read_frame(output) else {
        complaints.push("the answer is malformed".to_owned());
        return;
    };
    promise!(complaints, answer.piece == Piece::Whole && answer.end == output.len(), "the answer is not one whole packet");
    promise!(complaints, answer.header_sum(output) != Sum::Wrong, "the answer's IP header has a wrong checksum");
    // The sum of what is quoted is known by its header's own checksum.
    if packet.header_sum(input) != Sum::Wrong || answer.flow.proto == TCP {
        let sum = answer.transport_sum(output);
        promise!(complaints, sum == Sum::Right, "the answer's checksum is {sum:?}");
    }
    promise!(complaints, answer.flow.dst == packet.flow.src, "the answer goes to {:?}", answer.flow.dst);
    promise!(complaints, answer.ttl >= 32, "the answer may live for {} hops", answer.ttl);
    let back = output[..6] == input[6..12] && output[6..12] == input[..6] && output[12..ETH] == input[12..ETH];
    promise!(complaints, back, "the answer does not go back to the hardware address that the packet came from");
    if case.counted(Counter::TcRefused) == 0 {
        let node = NODE.of(packet.is_v6);
        promise!(complaints, answer.flow.src == node, "the answer comes from {:?}", answer.flow.src);
        message(packet, &answer, input, output, complaints);
        return;
    }
    promise!(complaints, answer.flow.src == packet.flow.dst, "the refusal comes from {:?}", answer.flow.src);
    match packet.flow.proto {
        TCP => reset(packet, &answer, input, output, complaints),
        // An association may also be refused by its own protocol.
        SCTP if answer.flow.proto == SCTP => {
            promise!(complaints, answer.flow == packet.flow.reversed(), "an ABORT of another association");
        }
        _ => message(packet, &answer, input, output, complaints),
    }
}

/// RFC 1122, 3.2.2, RFC 4443, 2.4 (e), and RFC 9293, 3.10.7.
fn may_be_answered(packet: &Packet, input: &[u8], complaints: &mut Complaints) {
    promise!(complaints, packet.tcp_flags & RST == 0, "a reset was answered");
    promise!(complaints, !packet.is_icmp_error(input), "an ICMP error was answered");
    promise!(complaints, packet.piece != Piece::Later, "a later fragment was answered");
    promise!(complaints, is_one_host(packet.flow.src), "a packet from {} was answered", packet.flow.src);
    promise!(complaints, packet.flow.src != packet.flow.dst, "a packet from its own receiver was answered");
    promise!(complaints, input[0] & 1 == 0, "a packet in a broadcast frame was answered");
}

pub(super) fn is_one_host(addr: IpAddr) -> bool {
    let many = match addr {
        IpAddr::V4(addr) => addr.octets()[0] >= 224 || addr.octets()[0] == 0,
        IpAddr::V6(addr) => addr.is_multicast(),
    };
    !(many || addr.is_unspecified() || addr.is_loopback())
}

fn reset(packet: &Packet, answer: &Packet, input: &[u8], output: &[u8], complaints: &mut Complaints) {
    promise!(complaints, answer.flow == packet.flow.reversed(), "a reset of another connection: {:?}", answer.flow);
    if answer.flow.proto != TCP {
        return;
    }
    let (segment, reset) = (&input[packet.transport..packet.end], &output[answer.transport..]);
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let flag = |which: u8| u32::from(packet.tcp_flags & which != 0);
    let expected = if packet.tcp_flags & ACK != 0 {
        (word(segment, 8), 0, RST)
    } else {
        let occupied = (segment.len() - packet.header) as u32 + flag(SYN) + flag(FIN);
        (0, word(segment, 4).wrapping_add(occupied), RST | ACK)
    };
    let is = (word(reset, 4), word(reset, 8), answer.tcp_flags);
    promise!(complaints, is == expected, "the reset has (sequence, acknowledgement, flags) {is:?}, not {expected:?}");
}

/// An ICMP error, with the beginning of the packet in it.
fn message(packet: &Packet, answer: &Packet, input: &[u8], output: &[u8], complaints: &mut Complaints) {
    let Some(kind) = answer.icmp(output) else {
        complaints.push(format!("an answer of protocol {}", answer.flow.proto));
        return;
    };
    let known: &[(u8, u8)] = if packet.is_v6 { &[(1, 4), (2, 0), (3, 0)] } else { &[(3, 2), (3, 3), (3, 4), (11, 0)] };
    promise!(complaints, known.contains(&kind), "a message of type and code {kind:?}");
    let rest = &output[answer.transport + 4..answer.transport + 8];
    let (mtu, least) = match (packet.is_v6, kind) {
        (false, (3, 4)) => (u32::from(wire::be16(rest, 2)), 68),
        (true, (2, 0)) => (u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]), 1280),
        _ => (0, 0),
    };
    promise!(complaints, mtu >= least, "a message that says that {mtu} bytes fit");
    let quote = &output[answer.transport + 8..];
    let offered = &input[ETH..packet.end];
    promise!(complaints, offered.starts_with(quote), "the message quotes something else than the packet");
    let enough = (packet.transport - ETH + 8).min(offered.len());
    promise!(complaints, quote.len() >= enough, "the message quotes {} bytes of {}", quote.len(), offered.len());
}
