//! A query answered to its end, whatever that takes: what streams do for each, and UDP for those that rules rewrite.

use std::sync::Arc;

use crate::answer::{Outcome, respond, servfail};
use crate::counters::Counters;
use crate::forward::{Forwarder, Pending, Place};
use crate::names::Rewritten;
use crate::query::{Query, Transport};
use crate::server::Shared;
use crate::zone::Zone;

/// How far a query comes without asking others.
pub enum Begun {
    /// To its end: the whole reply; `None` when there is none.
    Done(Option<Vec<u8>>),
    Forward(Forwarded),
}

/// A query that upstreams are to be asked about.
pub struct Forwarded {
    forwarder: Arc<Forwarder>,
    pending: Pending,
    rewritten: Option<Rewritten>,
}

/// Does everything for a query that takes no time.
pub fn begin(shared: &Shared, packet: &[u8], transport: Transport, rotation: u32, counters: &Counters) -> Begun {
    let names = shared.names.load();
    let parse = |packet| (!names.is_empty()).then(|| Query::parse(packet, transport).ok()).flatten();
    let rewritten = parse(packet).and_then(|query| names.rewrite(&query));
    let packet = rewritten.as_ref().map_or(packet, |rewritten| &rewritten.packet);
    let mut bytes = Vec::new();
    if parse(packet).is_some_and(|query| names.answer(&query, &mut bytes)) {
        counters.count(Outcome::Answer);
        return Begun::Done(restored(rewritten.as_ref(), Some(bytes)));
    }
    let zone = shared.zone.load();
    let outcome = respond(packet, transport, rotation, &zone, &mut bytes);
    counters.count(outcome);
    if !matches!(outcome, Outcome::Forward | Outcome::ForwardTarget) {
        return Begun::Done(restored(rewritten.as_ref(), Some(bytes).filter(|bytes| !bytes.is_empty())));
    }
    let forwarder = shared.forwarder.load_full();
    // What is known needs no place among those who wait.
    if outcome == Outcome::Forward
        && let (Some(forwarder), Ok(query)) = (&forwarder, Query::parse(packet, transport))
        && forwarder.answer_at_once(&query, &mut bytes)
    {
        return Begun::Done(restored(rewritten.as_ref(), Some(bytes)));
    }
    let partial = (outcome == Outcome::ForwardTarget).then_some(bytes);
    let pending = Pending { packet: packet.to_vec(), partial, transport };
    match forwarder {
        Some(forwarder) => Begun::Forward(Forwarded { forwarder, pending, rewritten }),
        // The configuration changed in between.
        None => Begun::Done(restored(rewritten.as_ref(), unasked(pending, &zone))),
    }
}

// === impl Forwarded ===

impl Forwarded {
    pub async fn finish(self, place: Place) -> Option<Vec<u8>> {
        let reply = self.forwarder.complete(&self.pending, place).await;
        restored(self.rewritten.as_ref(), reply)
    }

    /// The reply when nobody can be asked.
    pub fn give_up(self, zone: &Zone) -> Option<Vec<u8>> {
        restored(self.rewritten.as_ref(), unasked(self.pending, zone))
    }
}

/// The alias alone, which is still an answer, or SERVFAIL.
fn unasked(pending: Pending, zone: &Zone) -> Option<Vec<u8>> {
    if pending.partial.is_some() {
        return pending.partial;
    }
    let mut bytes = Vec::new();
    servfail(&Query::parse(&pending.packet, pending.transport).ok()?, zone, &mut bytes);
    Some(bytes)
}

/// A reply as the client is told it.
fn restored(rewritten: Option<&Rewritten>, reply: Option<Vec<u8>>) -> Option<Vec<u8>> {
    match rewritten {
        None => reply,
        Some(rewritten) => rewritten.restore(&reply?),
    }
}
