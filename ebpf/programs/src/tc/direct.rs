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
    Counter, CtDirection, CtEntry, CtFlags, CtState, Proto, TCP_CLOSED_SECONDS, Tuple,
    flow::{idle, idle_limit, is_anothers},
    header::TcpFlags,
};

use super::{
    family::Family,
    flow::set_both,
    work::{New, Work},
};
use crate::count::count;

/// Whether an untracked packet has to become a flow, because a live one has its reply tuple. `work.new` is then that flow.
#[inline(always)]
pub fn beside_a_flow<F: Family>(work: &mut Work<F>, from_wire: bool, now: u32) -> bool {
    let packet = &work.packet;
    let looks = if packet.tuple.proto == Proto::UDP { !from_wire } else { packet.tcp.opens() };
    if !looks {
        return false;
    }
    let key = packet.tuple.reversed();
    let Some(entry) = F::find_flow(&key) else { return false };
    // SAFETY: the entry stays readable for the whole program, see `flow`.
    let seen = unsafe { &*entry };
    if seen.direction != CtDirection::REPLY || forget_if_over::<F>(&key, seen, now) {
        return false;
    }
    count(Counter::TcPortRealloc);
    work.to = work.packet.tuple;
    work.new = New { service: 0, backend: 0, generation: 0, flags: CtFlags::DIRECT, needs_port: true };
    true
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
pub fn owner<F: Family>(work: &Work<F>, entry: *mut CtEntry<F::Addr>) -> Owner {
    let packet = &work.packet;
    // SAFETY: as above.
    let seen = unsafe { &*entry };
    if !is_anothers(seen, packet.tuple.proto, packet.tcp) {
        return Owner::Flow;
    }
    if seen.state == CtState::CLOSED {
        forget::<F>(&packet.tuple, seen);
        return Owner::Another;
    }
    // A connection can do without an acknowledgement, but not without what it carries.
    if seen.flags.has(CtFlags::CONTENDED) || packet.payload != packet.header || packet.tcp.has(TcpFlags::FIN) {
        return Owner::Another;
    }
    set_both::<F>(entry, seen.state, CtFlags(seen.flags.0 | CtFlags::CONTENDED));
    Owner::Shown
}

/// The forward entry of a reply entry, unless the client's tuple has become another flow's since.
#[inline(always)]
fn forward_of<F: Family>(key: &Tuple<F::Addr>, reply: &CtEntry<F::Addr>) -> Option<&'static CtEntry<F::Addr>> {
    let forward = F::find_flow(&reply.to.reversed())?;
    // SAFETY: as above.
    let forward = unsafe { &*forward };
    (forward.to == key.reversed()).then_some(forward)
}

/// Removes a flow by its reply entry.
#[inline(always)]
fn forget<F: Family>(key: &Tuple<F::Addr>, reply: &CtEntry<F::Addr>) {
    if forward_of::<F>(key, reply).is_some() {
        F::remove_flow(&reply.to.reversed());
    }
    F::remove_flow(key);
}

/// Removes the flow of a reply entry if it is over or has been idle for too long in both directions: as an agent that
/// sweeps would. Says whether it did.
#[inline(always)]
pub fn forget_if_over<F: Family>(key: &Tuple<F::Addr>, reply: &CtEntry<F::Addr>, now: u32) -> bool {
    let silent = idle(reply.last_seen, now);
    let is_over = reply.state == CtState::CLOSED
        || match forward_of::<F>(key, reply) {
            Some(forward) => {
                let limit = idle_limit(key.proto, reply.state);
                silent > limit && idle(forward.last_seen, now) > limit
            }
            // A flow that is being made has its reply entry first.
            None => silent > TCP_CLOSED_SECONDS,
        };
    if is_over {
        forget::<F>(key, reply);
    }
    is_over
}
