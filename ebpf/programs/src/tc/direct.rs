//! Direct connections to a backend beside translated flows to it.
//!
//! A client's kernel may give the same source port to a connection to a service and to one to a backend of it: to the
//! client the two differ by their destination. Behind the translation they do not, and the backend's answers to both
//! would have the tuple of the flow's reply entry. Direct packets have no entry and must not pay for one, so three
//! rules keep the two apart:
//!
//! - A direct packet that opens a connection looks whether a flow has its reply tuple. If that is over it is removed;
//!   if it lives, the direct connection is tracked too, from another source port ([`beside_a_flow`]).
//! - A flow that begins while the direct connection lives (or is remembered: TIME-WAIT) meets it at the backend, which
//!   answers the SYN with a bare acknowledgement. That is shown to the flow's client once, whose kernel then tries
//!   again at once, and gets another source port; its reset of what it has not asked for ends here. All else that is no
//!   SYN passes untouched to the connection that it belongs to ([`owner`]).
//! - A flow that is over does not catch the answer to a direct SYN ([`owner`]).
//!
//! What is left: a flow whose SYN leaves between a direct SYN from the same port and its answer takes that answer, and
//! both clients try again (telling the two answers apart would need the sequence numbers of both). Of UDP, a
//! datagram that answers a direct one comes with the service's address if a flow from the same port began in
//! between; the next direct datagram then has a port of its own, which the backend sees change. From the wire, direct
//! datagrams are not looked up at all: every answer to a pod's socket would pay.

use thalweg_abi::{
    Counter, CtDirection, CtEntry, CtFlags, CtState, TCP_CLOSED_SECONDS, Tuple,
    flow::{idle, idle_limit, is_anothers},
    header::TcpFlags,
};

use super::{
    flow::{New, set_state},
    packet::Packet,
};
use crate::{count::count, maps::CONNTRACK};

/// The flow that an untracked packet has to become because a live one has its reply tuple.
#[inline(always)]
pub fn beside_a_flow(packet: &Packet, from_wire: bool, now: u32) -> Option<New> {
    let looks = if packet.is_tcp() { packet.tcp.opens() } else { !from_wire };
    if !looks {
        return None;
    }
    let key = packet.tuple.reversed();
    let entry = CONNTRACK.get_ptr(key)?;
    // SAFETY: the entry stays readable for the whole program, see `flow`.
    let seen = unsafe { *entry };
    if seen.direction != CtDirection::REPLY || forget_if_over(key, &seen, now) {
        return None;
    }
    count(Counter::TcPortRealloc);
    Some(New { to: packet.tuple, service: 0, backend: 0, generation: 0, flags: CtFlags::DIRECT, needs_port: true })
}

/// Whose a packet is that has met a reply entry.
pub enum Owner {
    Flow,
    /// An untracked connection's, but the flow's client has to see it. It tells nothing of the flow's state.
    Shown,
    /// An untracked connection's.
    Another,
}

/// Marks the flow when it has met an untracked connection, and removes it when it is over.
#[inline(always)]
pub fn owner(packet: &Packet, entry: *mut CtEntry, seen: &CtEntry) -> Owner {
    if !is_anothers(seen, packet.tuple.proto, packet.tcp) {
        return Owner::Flow;
    }
    if seen.state == CtState::CLOSED {
        forget(packet.tuple, seen);
        return Owner::Another;
    }
    // A connection can do without an acknowledgement, but not without what it carries.
    if seen.flags.has(CtFlags::CONTENDED) || packet.payload != packet.header || packet.tcp.has(TcpFlags::FIN) {
        return Owner::Another;
    }
    let flags = CtFlags(seen.flags.0 | CtFlags::CONTENDED);
    set_state(entry, seen.state, flags);
    if let Some(forward) = CONNTRACK.get_ptr_mut(seen.to.reversed()) {
        set_state(forward, seen.state, flags);
    }
    Owner::Shown
}

/// The forward entry of a reply entry, unless the client's tuple has become another flow's since.
#[inline(always)]
fn forward_of(key: Tuple, reply: &CtEntry) -> Option<CtEntry> {
    let forward = CONNTRACK.get_ptr(reply.to.reversed())?;
    // SAFETY: as above.
    let forward = unsafe { *forward };
    (forward.to == key.reversed()).then_some(forward)
}

/// Removes a flow by its reply entry.
#[inline(always)]
pub fn forget(key: Tuple, reply: &CtEntry) {
    if forward_of(key, reply).is_some() {
        let _ = CONNTRACK.remove(reply.to.reversed());
    }
    let _ = CONNTRACK.remove(key);
}

/// Removes the flow of a reply entry if it is over or has been idle for too long in both directions: as an agent that
/// sweeps would. Says whether it did.
#[inline(always)]
fn forget_if_over(key: Tuple, reply: &CtEntry, now: u32) -> bool {
    let silent = idle(reply.last_seen, now);
    let is_over = reply.state == CtState::CLOSED
        || match forward_of(key, reply) {
            Some(forward) => {
                let limit = idle_limit(key.proto, reply.state);
                silent > limit && idle(forward.last_seen, now) > limit
            }
            // A flow that is being made has its reply entry first.
            None => silent > TCP_CLOSED_SECONDS,
        };
    if is_over {
        forget(key, reply);
    }
    is_over
}
