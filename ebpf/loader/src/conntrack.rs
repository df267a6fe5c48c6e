//! Expiry of what packets have left behind: flows, clients with a backend of their own, pieces of datagrams. Both
//! directions of a flow are judged together and die together.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use thalweg_abi::{
    CtDirection, CtEntry, CtFlags, CtState, FRAGMENT_SECONDS, Proto, TCP_CLOSED_SECONDS, Tuple,
    flow::{idle, idle_limit},
};

use crate::{Error, Maps, Table};

/// What one sweep found and did. Flows are pairs of entries; strays are single ones.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Swept {
    /// Flows that stay.
    pub kept: usize,
    /// Flows that were idle for too long and are gone.
    pub expired: usize,
    /// Entries without their other direction that are gone.
    pub strays: usize,
    /// Clients that keep no backend any more.
    pub affinity: usize,
    /// Datagrams of which the pieces are forgotten.
    pub fragments: usize,
    /// Fragments that have waited for their first in vain.
    pub held: usize,
}

/// What one look at the whole table says about one flow: as much as is needed to judge it, and no more, because there
/// may be hundreds of thousands.
#[derive(Clone, Copy)]
struct Seen {
    /// Of the fresher direction.
    idle: u32,
    proto: Proto,
    /// Of the further direction.
    state: CtState,
    forward: bool,
    reply: bool,
}

/// What becomes of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Expire,
    /// The other direction was not seen: it is gone, or made while the table was read.
    Question,
}

/// The clock of `CtEntry::last_seen`, and of every other `last_seen`: seconds since boot.
pub fn now() -> u32 {
    let elapsed = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
}

/// Removes flows of both families, remembered clients, and pieces of datagrams that were idle for longer than they may.
/// `now` is [`now()`]. Call it every few seconds: it reads each table once in batches, a second time only when something
/// has expired, and holds a few bytes for each flow. It also brings the counts of [`Maps::pressure`] up to date.
///
/// # Errors
/// [`Error::Table`] when a table cannot be read or written.
pub fn sweep(maps: &mut Maps, now: u32) -> Result<Swept, Error> {
    let mut swept = sweep_flows(&mut maps.conntrack, now)?;
    let flows = swept.kept;
    let swept6 = sweep_flows(&mut maps.conntrack6, now)?;
    swept.kept += swept6.kept;
    swept.expired += swept6.expired;
    swept.strays += swept6.strays;

    let clients;
    (clients, swept.affinity) = sweep_idle(&mut maps.affinity, |known| idle(known.last_seen, now) > known.seconds)?;
    let datagrams;
    (datagrams, swept.fragments) =
        sweep_idle(&mut maps.fragments, |fragment| idle(fragment.last_seen, now) > FRAGMENT_SECONDS)?;
    let waiting;
    (waiting, swept.held) = sweep_idle(&mut maps.held, |held| idle(held.last_seen, now) > FRAGMENT_SECONDS)?;

    maps.keep_counts([flows * 2, swept6.kept * 2, clients, datagrams, waiting]);
    maps.count_next()?;
    Ok(swept)
}

/// The flows of one family, on any table.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_flows<A>(table: &mut impl Table<Tuple<A>, CtEntry<A>>, now: u32) -> Result<Swept, Error>
where
    A: Copy + Eq + Ord + Hash,
{
    let hasher = RandomState::new();
    let mut flows: HashMap<u64, Seen> = HashMap::new();
    table.visit(&mut |key, entry| {
        let is_reply = entry.direction == CtDirection::REPLY;
        let idle = idle(entry.last_seen, now);
        let seen = Seen { idle, proto: key.proto, state: entry.state, forward: !is_reply, reply: is_reply };
        flows.entry(flow_of(&hasher, key, entry)).and_modify(|flow| flow.join(seen)).or_insert(seen);
    })?;
    let mut swept = Swept { kept: flows.values().filter(|flow| flow.is_whole()).count(), ..Swept::default() };
    flows.retain(|_, flow| flow.fate() != Fate::Keep);
    if flows.is_empty() {
        return Ok(swept);
    }
    let (mut doomed, mut questions) = (Vec::new(), Vec::new());
    // Flows of which a packet has come since they were seen, in whichever direction: the other one must stay with it.
    let mut revived = HashSet::new();
    table.visit(&mut |key, entry| {
        let id = flow_of(&hasher, key, entry);
        let Some(flow) = flows.get(&id) else { return };
        match flow.fate() {
            _ if idle(entry.last_seen, now) < flow.idle => _ = revived.insert(id),
            Fate::Keep => {}
            Fate::Expire => doomed.push((id, *key)),
            Fate::Question => questions.push(*key),
        }
    })?;
    let mut doomed: Vec<_> = doomed.into_iter().filter(|(id, _)| !revived.contains(id)).map(|(_, key)| key).collect();
    // A walk without batches may show a key twice.
    doomed.sort_unstable();
    doomed.dedup();
    questions.sort_unstable();
    questions.dedup();
    swept.expired = doomed.len().div_ceil(2);
    swept.kept = swept.kept.saturating_sub(swept.expired);
    for key in questions {
        // The table changes while it is read: ask again before an entry is called a stray.
        if let Some(entry) = table.get(&key)?
            && table.get(&entry.to.reversed())?.is_none()
        {
            doomed.push(key);
            swept.strays += 1;
        }
    }
    table.delete(&doomed)?;
    Ok(swept)
}

/// Ends UDP flows between a service and a backend that has left it while another service still has that backend, so that
/// nothing else ends them: their next datagram is given another backend. `left` names numbers of services and ids of
/// backends. Returns how many entries went. A walk over both tables: call it when there is something to forget. Sockets that
/// were connected to the backend by the socket load balancer have no flow here: [`crate::sockets::destroy`] is for them.
///
/// # Errors
/// [`Error::Table`] when a table cannot be read or written.
pub fn forget(maps: &mut Maps, left: &HashSet<(u32, u32)>) -> Result<usize, Error> {
    if left.is_empty() {
        return Ok(0);
    }
    Ok(forget_flows(&mut maps.conntrack, left)? + forget_flows(&mut maps.conntrack6, left)?)
}

/// As [`forget`], for one family.
fn forget_flows<A>(table: &mut impl Table<Tuple<A>, CtEntry<A>>, left: &HashSet<(u32, u32)>) -> Result<usize, Error>
where
    A: Copy + Ord,
{
    let mut doomed = Vec::new();
    table.visit(&mut |key, entry| {
        let is_services = !entry.flags.has(CtFlags::DIRECT);
        if key.proto == Proto::UDP && is_services && left.contains(&(entry.service, entry.backend)) {
            // Both directions, or what is left of one would be picked up again.
            doomed.extend([*key, entry.to.reversed()]);
        }
    })?;
    doomed.sort_unstable();
    doomed.dedup();
    table.delete(&doomed)?;
    Ok(doomed.len())
}

/// Removes the entries of which `is_over` is true; returns how many stay and how many went.
fn sweep_idle<K: Copy, V>(table: &mut impl Table<K, V>, is_over: impl Fn(&V) -> bool) -> Result<(usize, usize), Error> {
    let (mut kept, mut doomed) = (0, Vec::new());
    table.visit(&mut |key, value| if is_over(value) { doomed.push(*key) } else { kept += 1 })?;
    table.delete(&doomed)?;
    Ok((kept, doomed.len()))
}

/// The same number for both directions of a flow, and, in all likelihood, for no other flow.
fn flow_of<A: Copy + Ord + Hash>(hasher: &RandomState, key: &Tuple<A>, entry: &CtEntry<A>) -> u64 {
    let other = entry.to.reversed();
    hasher.hash_one(if *key < other { (key, &other) } else { (&other, key) })
}

// === impl Seen ===

impl Seen {
    fn join(&mut self, other: Self) {
        self.idle = self.idle.min(other.idle);
        self.state = self.state.max(other.state);
        self.forward |= other.forward;
        self.reply |= other.reply;
    }

    fn is_whole(&self) -> bool {
        self.forward && self.reply
    }

    fn fate(&self) -> Fate {
        if self.is_whole() {
            if self.idle > idle_limit(self.proto, self.state) { Fate::Expire } else { Fate::Keep }
        } else if self.idle > TCP_CLOSED_SECONDS {
            Fate::Question
        } else {
            // Two directions are written one after the other: a fresh single entry is a flow that is being made.
            Fate::Keep
        }
    }
}

#[cfg(test)]
mod tests;
