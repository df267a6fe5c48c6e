//! Flows that are no service's though their client's address and port are a frontend's: what answers them looks like a
//! question to the service, and must reach who has asked (cilium#44348).
//!
//! Two kinds of clients ask from such a place: a pod whose address the host's stack has replaced by the node's (masquerading
//! keeps the port where it can, and that may be the port of a NodePort or of the pod's own host port), and a process of the
//! node whose socket is older than the frontend. What they send is met on its way out of the node's stack ([`leaves`]), and
//! leaves a pair of entries by which each direction becomes what it is: so the answer finds its flow, as every answer
//! does, before any frontend is asked.
//!
//! What it costs: one look-up for each datagram that the stack sends, or sends on with the node's own address, and for each
//! packet that so opens a connection. A connection that is older than the frontend of its own port is not recognised, nor are answers
//! that come between the frontend and the next question.
//!
//! A machine outside that has an address of services is not among these clients. What is sent to such an address never
//! leaves as it is, or it would go round and round between the node and whoever routes that address to the node, and
//! anybody could start that with a forged source. So a pod that answers such a machine asks the service.

use aya_ebpf::{bindings::BPF_ANY, programs::TcContext};
use thalweg_abi::{CtDirection, CtFlags, CtState, FrontendFlags, FrontendKey, Proto, Scope};

use super::{
    family::Family,
    flow,
    packet::{Packet, is_forwarded},
    work::Work,
};
use crate::policy::now;

/// For what leaves this node's stack, to the wire or into a pod, and is no answer of a service.
#[inline(always)]
pub fn leaves<F: Family>(ctx: &TcContext, work: &mut Work<F>) {
    if !may_ask(&work.packet) {
        return;
    }
    let tuple = &work.packet.tuple;
    let (forwarded, is_node) = (is_forwarded(ctx), tuple.src == F::node_addr());
    // Of what has come in somewhere, only what the stack has given the node's address.
    if forwarded && !is_node {
        return;
    }
    let key = FrontendKey { vip: tuple.src, port: tuple.sport, proto: tuple.proto, scope: Scope::INTERNAL };
    // Ports of nodes are at all of the node's addresses.
    let is_frontends = F::frontend(&key).is_some_and(|found| is_node || found.flags.has(FrontendFlags::NODE_PORT));
    if is_frontends {
        remember(ctx, work, !forwarded);
    }
}

/// Whether a packet may be a question, and not an answer or the middle of a connection.
#[inline(always)]
fn may_ask<F: Family>(packet: &Packet<F>) -> bool {
    !packet.is_later_fragment() && (packet.tuple.proto == Proto::UDP || packet.tcp.opens())
}

/// Makes the pair, or counts the packet on it. A full table makes none, and nothing is lost that there was before.
///
/// Where a client of the frontend has the very tuple of the answers, a packet that came in somewhere may be the answer to
/// that client; one `of_the_node` cannot, for it has been looked up as such.
///
/// A function of its own: rare.
#[inline(never)]
fn remember<F: Family>(ctx: &TcContext, work: &mut Work<F>, of_the_node: bool) {
    let now = now();
    work.key = work.packet.tuple.reversed();
    // To itself: there is but one direction.
    if work.key == work.packet.tuple {
        return;
    }
    if let Some(answers) = F::find_flow(&work.key) {
        // SAFETY: as in `flow::track`.
        let (direction, to) = unsafe { ((*answers).direction, (*answers).to) };
        if direction == CtDirection::FORWARD {
            if !of_the_node {
                return;
            }
            F::remove_flow(&to.reversed());
        } else if to != work.key {
            return;
        } else if !work.packet.tcp.opens()
            && let Some(entry) = F::find_flow(&work.packet.tuple)
        {
            flow::note(ctx, work, entry, now);
            return;
        }
    }
    let entry = &mut work.entry;
    entry.to = work.key;
    entry.service = 0;
    entry.backend = 0;
    entry.generation = 0;
    entry.last_seen = now;
    entry.direction = CtDirection::REPLY;
    entry.state = CtState::NEW;
    entry.flags = CtFlags(CtFlags::DIRECT);
    entry.packets = 0;
    entry.bytes = 0;
    if F::insert_flow(&work.key, &work.entry, u64::from(BPF_ANY)).is_err() {
        return;
    }
    work.entry.to = work.packet.tuple;
    work.entry.direction = CtDirection::FORWARD;
    work.entry.packets = 1;
    work.entry.bytes = u64::from(ctx.len());
    if F::insert_flow(&work.packet.tuple, &work.entry, u64::from(BPF_ANY)).is_err() {
        F::remove_flow(&work.key);
    }
}
