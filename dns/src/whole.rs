//! A query answered to its end, whatever that takes: what streams do for each, and UDP for those that rules rewrite.

use crate::answer::{Outcome, respond, servfail};
use crate::counters::Counters;
use crate::forward::Pending;
use crate::query::{Query, Transport};
use crate::server::Shared;

/// The whole reply; `None` when there is none.
pub async fn answer(
    shared: &Shared,
    packet: &[u8],
    transport: Transport,
    rotation: u32,
    counters: &Counters,
) -> Option<Vec<u8>> {
    // In a block of its own, as below: guards and borrowed queries do not outlive it.
    let rewritten = {
        let names = shared.names.load();
        let query = (!names.is_empty()).then(|| Query::parse(packet, transport).ok()).flatten();
        query.and_then(|query| names.rewrite(&query))
    };
    match rewritten {
        None => answer_as_is(shared, packet, transport, rotation, counters).await,
        Some(rewritten) => {
            let reply = answer_as_is(shared, &rewritten.packet, transport, rotation, counters).await?;
            rewritten.restore(&reply)
        }
    }
}

/// The same without looking at the rules.
async fn answer_as_is(
    shared: &Shared,
    packet: &[u8],
    transport: Transport,
    rotation: u32,
    counters: &Counters,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let told = {
        let names = shared.names.load();
        let query = (!names.is_empty()).then(|| Query::parse(packet, transport).ok()).flatten();
        query.is_some_and(|query| names.answer(&query, &mut bytes))
    };
    if told {
        counters.count(Outcome::Answer);
        return Some(bytes);
    }
    let outcome = { respond(packet, transport, rotation, &shared.zone.load(), &mut bytes) };
    counters.count(outcome);
    let forwarder = shared.forwarder.load_full();
    match (outcome, forwarder) {
        (Outcome::Forward | Outcome::ForwardTarget, Some(forwarder)) => {
            let partial = (outcome == Outcome::ForwardTarget).then_some(bytes);
            forwarder.complete(&Pending { packet: packet.to_vec(), partial, transport }).await
        }
        (Outcome::Forward, None) => {
            // The configuration changed in between.
            servfail(&Query::parse(packet, transport).ok()?, &shared.zone.load(), &mut bytes);
            Some(bytes)
        }
        _ => Some(bytes).filter(|bytes| !bytes.is_empty()),
    }
}
