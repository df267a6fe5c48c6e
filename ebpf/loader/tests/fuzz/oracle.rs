//! What must be true of every packet, whatever it is: judged from the frame that went in, the frame that came out, and
//! the tables before and after.

mod answer;
mod shape;

use std::{collections::BTreeMap, net::IpAddr};

use thalweg_abi::{Counter, CtFlags, DropReason, FrontendFlags};

use crate::{
    model::{ADMITTED, BACKEND_PORT, ENDPOINTS, NOBODY, NODE, POD_A, POD_B, SERVICES, WILD},
    script::Way,
    wire::{self, ETH, Flow, Packet, Piece, Reading, SCTP},
    world::{DROP, Entry, PASS, REDIRECT, Run, Snapshot},
};

/// Bytes of extension headers that an answer quotes.
const QUOTED_EXTENSIONS: usize = 64;

/// One packet through one hook.
pub struct Case<'a> {
    pub way: Way,
    pub input: &'a [u8],
    pub run: &'a Run,
    pub before: &'a Snapshot,
    pub after: &'a Snapshot,
    /// Endpoints and flags of each service.
    pub services: &'a [(u8, u32); SERVICES.len()],
    /// Whether services that check their clients admit any.
    pub admits: bool,
}

/// Violated promises, in words.
pub type Complaints = Vec<String>;

/// A promise: adds a complaint when it does not hold.
macro_rules! promise {
    ($complaints:expr, $holds:expr, $($words:tt)+) => {
        if !$holds {
            $complaints.push(format!($($words)+));
        }
    };
}
use promise;

// === impl Case ===

impl Case<'_> {
    pub fn counted(&self, counter: Counter) -> u64 {
        grown(&self.before.counters, &self.after.counters, counter as usize)
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        grown(&self.before.drops, &self.after.drops, reason as usize)
    }

    fn drops(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.dropped(*reason)).sum()
    }

    /// Whether what came out is a packet of our own.
    pub fn is_answered(&self) -> bool {
        self.counted(Counter::TcRefused) + self.counted(Counter::TcAnswered) != 0
    }

    /// Whether the packet waits for another, or lives on as one that has been sent in again.
    fn is_consumed(&self) -> bool {
        self.counted(Counter::TcFragmentHeld) + self.counted(Counter::TcFragmentReleased) != 0
    }

    /// Everything that is wrong.
    pub fn judge(&self) -> Complaints {
        let mut complaints = Complaints::new();
        self.verdict(&mut complaints);
        self.tables(&mut complaints);
        if self.is_for_another_machine() {
            promise!(complaints, self.run.verdict == PASS, "for another machine, and verdict {}", self.run.verdict);
            self.nothing_happened("a frame for another machine", &mut complaints);
            return complaints;
        }
        match wire::read_frame(self.input) {
            Reading::Foreign => self.foreign(&mut complaints),
            Reading::Malformed => self.malformed(&mut complaints),
            Reading::Packet(packet) => {
                self.accounts(&packet, &mut complaints);
                self.owners(&mut complaints);
                self.spoofed(&packet, &mut complaints);
                if self.is_answered() {
                    answer::judge(self, &packet, &mut complaints);
                } else if self.run.verdict != DROP {
                    shape::judge(self, &packet, &mut complaints);
                    self.escaped(&packet, &mut complaints);
                }
            }
        }
        complaints
    }

    /// Whether the uplink's hardware address is not the frame's, nor a group's.
    fn is_for_another_machine(&self) -> bool {
        self.way == Way::FromWire && self.input[0] & 1 == 0 && self.input[..6] != [2, 0, 0, 0, 0, 2]
    }

    fn verdict(&self, complaints: &mut Complaints) {
        let verdict = self.run.verdict;
        let known: &[i32] = if self.way.is_ingress() { &[PASS, DROP, REDIRECT] } else { &[PASS, DROP] };
        promise!(complaints, known.contains(&verdict), "verdict {verdict} at {}", self.way);
        if verdict == DROP {
            // One whose backend is gone, and that must not be answered, is counted for both.
            let gone = self.dropped(DropReason::BackendGone) == 1 && self.dropped(DropReason::NoFlow) == 1;
            let counted = self.drops() == 1 + u64::from(gone) || self.is_consumed();
            promise!(complaints, counted, "dropped, and counted {} times", self.drops());
        } else {
            // The one that is refused because its backend is gone is counted for both.
            let gone = self.dropped(DropReason::BackendGone) == 1 && self.is_answered();
            promise!(complaints, self.drops() == u64::from(gone), "not dropped, and counted {} times", self.drops());
        }
        let sent = [Counter::TcToPod, Counter::TcToWire, Counter::TcRefused, Counter::TcAnswered];
        let sent: u64 = sent.into_iter().map(|counter| self.counted(counter)).sum();
        promise!(complaints, sent == u64::from(verdict == REDIRECT), "sent on {sent} times by verdict {verdict}");
        promise!(complaints, self.dropped(DropReason::BadSlot) == 0, "an index outside its array");
    }

    /// Flows come in pairs, and nothing grows by more than one packet's worth.
    fn tables(&self, complaints: &mut Complaints) {
        complaints.extend(unpaired(&self.after.flows));
        let (before, after) = (self.before, self.after);
        let grown = [
            ("CONNTRACK", before.flows.len(), after.flows.len(), 2),
            ("AFFINITY", before.clients as usize, after.clients as usize, 1),
            ("FRAGMENTS", before.fragments as usize, after.fragments as usize, 1),
            ("HELD", before.held as usize, after.held as usize, 1),
        ];
        for (table, was, is, most) in grown {
            promise!(complaints, is <= was + most, "{table} has grown from {was} to {is} entries by one packet");
        }
    }

    /// Untouched, uncounted, unremembered.
    fn nothing_happened(&self, what: &str, complaints: &mut Complaints) {
        promise!(complaints, self.run.frame == self.input, "{what} was changed");
        self.nothing_remembered(what, complaints);
    }

    fn nothing_remembered(&self, what: &str, complaints: &mut Complaints) {
        let tables = |snapshot: &Snapshot| (snapshot.clients, snapshot.fragments, snapshot.held);
        let same = self.before.flows == self.after.flows && tables(self.before) == tables(self.after);
        promise!(complaints, same, "{what} has left something in the tables");
    }

    fn foreign(&self, complaints: &mut Complaints) {
        promise!(complaints, self.run.verdict == PASS, "no IP packet, and verdict {}", self.run.verdict);
        promise!(complaints, self.counted(Counter::TcPackets) == 0, "no IP packet, and counted as one");
        self.nothing_happened("no IP packet", complaints);
    }

    fn malformed(&self, complaints: &mut Complaints) {
        self.nothing_remembered("a malformed packet", complaints);
        promise!(complaints, !self.is_answered(), "a malformed packet was answered");
        if self.way.is_ingress() {
            promise!(complaints, self.run.verdict == DROP, "malformed, and verdict {}", self.run.verdict);
            promise!(complaints, self.dropped(DropReason::Malformed) == 1, "malformed, and not counted as such");
        } else {
            promise!(complaints, self.run.verdict == PASS, "malformed, and verdict {}", self.run.verdict);
            self.nothing_happened("a malformed packet that leaves", complaints);
        }
    }

    fn accounts(&self, packet: &Packet, complaints: &mut Complaints) {
        let (packets, malformed) = (self.counted(Counter::TcPackets), self.dropped(DropReason::Malformed));
        promise!(complaints, packets == 1, "one packet, counted {packets} times");
        promise!(complaints, malformed == 0, "well-formed ({:?}), and counted as malformed", packet.flow);
        // A longer chain of extension headers is not quoted in an answer, and a checksum of SCTP that covers bytes of other
        // pieces cannot be patched.
        let is_known = packet.transport - ETH <= 40 + QUOTED_EXTENSIONS;
        if is_known && (packet.flow.proto != SCTP || packet.piece != Piece::First) {
            promise!(complaints, self.dropped(DropReason::RewriteFailed) == 0, "well-formed, and could not be written");
        }
        if packet.piece == Piece::Whole {
            promise!(complaints, self.dropped(DropReason::Fragment) == 0, "whole, and dropped as a fragment");
        }
        if packet.has_ports() && packet.piece == Piece::Whole {
            promise!(complaints, !self.is_consumed(), "whole, and held as a fragment");
        }
    }

    /// Flows that begin lead to an endpoint of a service that was dialled.
    fn owners(&self, complaints: &mut Complaints) {
        let begun = self.after.flows.iter().filter(|(key, entry)| {
            let is_new = self.before.flows.get(key).is_none_or(|was| was.owner != entry.owner);
            is_new && !entry.is_reply && entry.flags & CtFlags::DIRECT == 0
        });
        for (key, entry) in begun {
            let serves = |(service, (set, flags)): (usize, &(u8, u32))| {
                let about = &SERVICES[service];
                let dialled = about.addr.is(key.dst) && about.port == key.dport && about.proto == key.proto;
                let stands = |endpoint: usize| set & (1 << endpoint) != 0 && ENDPOINTS[endpoint].is(entry.to.dst);
                let checked = flags & FrontendFlags::CHECK_SOURCE != 0;
                let admitted = !checked || (self.admits && ADMITTED.iter().any(|party| party.is(key.src)));
                dialled && admitted && (0..ENDPOINTS.len()).any(stands) && entry.to.dport == BACKEND_PORT
            };
            let any = self.services.iter().enumerate().any(serves);
            promise!(complaints, any, "a flow to nobody's endpoint, or from whom is not admitted: {key:?} {:?}", entry.to);
        }
    }

    /// A pod speaks from its own address alone, but for what stays on its link.
    fn spoofed(&self, packet: &Packet, complaints: &mut Complaints) {
        let own = match self.way {
            Way::FromPodA => POD_A,
            Way::FromPodB => POD_B,
            _ => return,
        };
        if own.is(packet.flow.src) {
            return;
        }
        let passes = is_of_the_link(packet.flow.src) && self.run.verdict == PASS;
        promise!(complaints, self.run.verdict == DROP || passes, "a pod spoke from {}", packet.flow.src);
        self.nothing_remembered("a forged packet", complaints);
    }

    /// What is sent to a service's address never goes on as it is: nobody but us has that address, and it would go round
    /// and round.
    fn escaped(&self, packet: &Packet, complaints: &mut Complaints) {
        let services = SERVICES.iter().map(|service| service.addr).chain([WILD, NOBODY]);
        let is_services = services.into_iter().any(|addr| addr != NODE && addr.is(packet.flow.dst));
        let of_the_link = is_of_the_link(packet.flow.src)
            || (packet.is_v6 && packet.icmp(self.input).is_some_and(|(kind, _)| matches!(kind, 130..=137 | 141..=143)));
        if !is_services || of_the_link || self.way == Way::Forwarded || self.way == Way::ToPodA {
            return;
        }
        let stays = matches!(wire::read_frame(&self.run.frame), Reading::Packet(out) if out.flow == packet.flow);
        promise!(complaints, !stays, "a packet to a service's address goes on as it is");
    }
}

/// Whether an address of IPv6 is meant for one link, or for nobody yet.
fn is_of_the_link(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local() || addr.is_unspecified())
}

/// Entries whose other direction is missing or says something else.
pub fn unpaired(flows: &BTreeMap<Flow, Entry>) -> Complaints {
    let mut complaints = Complaints::new();
    for (key, entry) in flows {
        let Some(other) = flows.get(&entry.to.reversed()) else {
            complaints.push(format!("an entry without its other direction: {key:?} {entry:?}"));
            continue;
        };
        let same = (entry.state, entry.flags, entry.owner) == (other.state, other.flags, other.owner);
        let paired = other.to.reversed() == *key && other.is_reply != entry.is_reply && same;
        promise!(complaints, paired, "entries that contradict each other: {key:?} {entry:?}, {other:?}");
    }
    complaints
}

fn grown(before: &[u64], after: &[u64], index: usize) -> u64 {
    after[index].wrapping_sub(before[index])
}

#[cfg(test)]
mod tests;
