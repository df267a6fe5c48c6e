//! A packet that goes on: only what a translation changes has changed, and what was right is right.

use super::{Case, Complaints, promise};
use crate::{
    wire::{self, ETH, Flow, Packet, Piece, Reading, Sum, UDP, be16},
    world::{PASS, REDIRECT},
};

pub fn judge(case: &Case<'_>, packet: &Packet, complaints: &mut Complaints) {
    let (input, output) = (case.input, &case.run.frame[..]);
    promise!(complaints, input.len() == output.len(), "{} bytes became {}", input.len(), output.len());
    let Reading::Packet(out) = wire::read_frame(output) else {
        complaints.push("a well-formed packet became a malformed one".to_owned());
        return;
    };
    if input.len() != output.len() {
        return;
    }
    let may_change = alterable(packet, input);
    for at in 0..input.len() {
        promise!(complaints, input[at] == output[at] || may_change[at], "byte {at} was changed");
    }
    time_to_live(case, packet, &out, complaints);
    let sums = [
        ("IP header", packet.header_sum(input), out.header_sum(output)),
        ("transport", packet.transport_sum(input), out.transport_sum(output)),
        ("quoted IP header", quoted_sum(packet, input), quoted_sum(&out, output)),
    ];
    for (which, was, is) in sums {
        promise!(complaints, was == is, "checksum of the {which} was {was:?} and is {is:?}");
    }
    if case.run.verdict == PASS || !case.way.is_ingress() {
        promise!(complaints, input[..ETH] == output[..ETH], "hardware addresses of a packet that passes were changed");
    }
    translation(case, packet, &out, complaints);
}

fn time_to_live(case: &Case<'_>, packet: &Packet, out: &Packet, complaints: &mut Complaints) {
    let hops = u8::from(case.run.verdict == REDIRECT);
    promise!(complaints, packet.ttl.checked_sub(hops) == Some(out.ttl), "time to live was {} and is {}", packet.ttl, out.ttl);
    promise!(complaints, hops == 0 || out.ttl > 0, "forwarded without any time to live");
}

/// Whose addresses and ports have changed, and by which right.
fn translation(case: &Case<'_>, packet: &Packet, out: &Packet, complaints: &mut Complaints) {
    let (was, is) = (packet.flow, out.flow);
    if let (Some(quoted), true) = (packet.quoted(case.input), packet.is_icmp_error(case.input)) {
        let now = out.quoted(&case.run.frame).map_or(quoted.flow, |quoted| quoted.flow);
        if now == quoted.flow {
            promise!(complaints, was == is, "a message about an untranslated packet was changed: {was:?} became {is:?}");
            return;
        }
        let entry = case.before.flows.get(&quoted.flow.reversed());
        let known = entry.is_some_and(|entry| entry.to.reversed() == now);
        promise!(complaints, known, "quoted {:?} became {now:?} without an entry", quoted.flow);
        promise!(complaints, is.dst == now.src, "a message to {:?} about a packet of {:?}", is.dst, now.src);
        return;
    }
    if was == is {
        return;
    }
    let by_entry = if packet.piece == Piece::Later {
        let same = |a: &Flow, b: &Flow| (a.src, a.dst, a.proto) == (b.src, b.dst, b.proto);
        case.before.flows.iter().any(|(key, entry)| same(key, &was) && same(&entry.to, &is))
    } else {
        case.after.flows.get(&was).is_some_and(|entry| entry.to == is)
    };
    promise!(complaints, by_entry, "{was:?} became {is:?} without an entry");
}

/// Which bytes of the frame a translation, or a hop, may change.
fn alterable(packet: &Packet, frame: &[u8]) -> Vec<bool> {
    let mut may_change = vec![false; frame.len()];
    let mut allow = |range: std::ops::Range<usize>| {
        for at in range {
            if let Some(byte) = may_change.get_mut(at) {
                *byte = true;
            }
        }
    };
    let header = |packet: &Packet| if packet.is_v6 { 0..0 } else { packet.start + 10..packet.start + 12 };
    allow(0..12);
    allow(packet.ttl_at()..packet.ttl_at() + 1);
    allow(header(packet));
    allow(packet.addresses());
    if packet.has_ports() && packet.piece != Piece::Later {
        allow(packet.transport..packet.transport + 4);
        packet.sum_at().into_iter().for_each(&mut allow);
    }
    if let Some(quoted) = packet.quoted(frame) {
        packet.sum_at().into_iter().for_each(&mut allow);
        allow(header(&quoted));
        allow(quoted.addresses());
        if quoted.has_ports() {
            allow(quoted.transport..quoted.transport + 4);
        }
        if quoted.flow.proto == UDP {
            quoted.sum_at().into_iter().for_each(&mut allow);
        }
    }
    may_change
}

fn quoted_sum(packet: &Packet, frame: &[u8]) -> Sum {
    match packet.quoted(frame) {
        // A quote that is there in full.
        Some(quoted) if !quoted.is_v6 && quoted.start + usize::from(be16(frame, quoted.start + 2)) <= packet.end => {
            quoted.header_sum(frame)
        }
        _ => Sum::Unknown,
    }
}
