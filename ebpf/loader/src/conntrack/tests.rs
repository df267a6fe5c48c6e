//! Sweeps over a table in memory.

use std::{cell::Cell, collections::HashSet};

use thalweg_abi::{Be16, Be32, CtDirection, CtEntry, CtFlags, CtState, Proto, Tuple};

use super::{Swept, forget_flows, sweep_flows};
use crate::{Error, MemoryTable, Table};

const NOW: u32 = 100_000;

fn tuple(proto: Proto, client_port: u16) -> Tuple {
    Tuple {
        src: Be32::from_octets([10, 244, 0, 2]),
        dst: Be32::from_octets([10, 96, 0, 1]),
        sport: Be16::from_host(client_port),
        dport: Be16::from_host(80),
        proto,
        pad: [0; 3],
    }
}

/// Both entries of a flow from a pod through a VIP to a backend, (state, idle seconds) by direction.
fn flow(proto: Proto, client_port: u16, forward: (CtState, u32), reply: (CtState, u32)) -> [(Tuple, CtEntry); 2] {
    let dialled = tuple(proto, client_port);
    let translated = Tuple { dst: Be32::from_octets([10, 244, 1, 7]), dport: Be16::from_host(8080), ..dialled };
    let entry = |to, direction, (state, idle): (CtState, u32)| CtEntry {
        to,
        direction,
        state,
        last_seen: NOW - idle,
        ..CtEntry::default()
    };
    [
        (dialled, entry(translated, CtDirection::FORWARD, forward)),
        (translated.reversed(), entry(dialled.reversed(), CtDirection::REPLY, reply)),
    ]
}

fn check(what: &str, entries: &[(Tuple, CtEntry)], expected: Swept, left: usize) {
    let mut table = MemoryTable::new("CONNTRACK", 1000);
    table.update(entries).expect("room for the entries");
    let swept = sweep_flows(&mut table, NOW).expect("a sweep");
    assert_eq!(swept, expected, "{what}");
    assert_eq!(table.entries().expect("entries").len(), left, "{what}: entries left");
}

fn check_flow(what: &str, proto: Proto, forward: (CtState, u32), reply: (CtState, u32), stays: bool) {
    let expected = if stays { Swept { kept: 1, ..Swept::default() } } else { Swept { expired: 1, ..Swept::default() } };
    check(what, &flow(proto, 40_000, forward, reply), expected, if stays { 2 } else { 0 });
}

#[test]
fn flows_live_as_long_as_their_state_allows() {
    use CtState as S;
    check_flow("fresh udp", Proto::UDP, (S::NEW, 0), (S::NEW, 0), true);
    check_flow("udp unanswered, at the limit", Proto::UDP, (S::NEW, 30), (S::NEW, 30), true);
    check_flow("udp unanswered, past it", Proto::UDP, (S::NEW, 31), (S::NEW, 31), false);
    check_flow("udp stream", Proto::UDP, (S::ESTABLISHED, 180), (S::ESTABLISHED, 900), true);
    check_flow("udp stream, idle", Proto::UDP, (S::ESTABLISHED, 181), (S::ESTABLISHED, 181), false);
    check_flow("tcp unanswered", Proto::TCP, (S::NEW, 61), (S::NEW, 61), false);
    check_flow("tcp established for hours", Proto::TCP, (S::ESTABLISHED, 80_000), (S::ESTABLISHED, 80_000), true);
    check_flow("tcp established for a day", Proto::TCP, (S::ESTABLISHED, 86_401), (S::ESTABLISHED, 86_401), false);
    check_flow("tcp closing", Proto::TCP, (S::CLOSING, 119), (S::CLOSING, 119), true);
    check_flow("tcp closed", Proto::TCP, (S::CLOSED, 11), (S::CLOSED, 11), false);
}

#[test]
fn both_directions_are_judged_together() {
    use CtState as S;
    check_flow("one direction is fresh", Proto::UDP, (S::ESTABLISHED, 900), (S::ESTABLISHED, 1), true);
    check_flow("one direction is further", Proto::TCP, (S::NEW, 300), (S::ESTABLISHED, 300), true);
    check_flow("one direction is closed", Proto::TCP, (S::ESTABLISHED, 20), (S::CLOSED, 20), false);
}

#[test]
fn an_entry_without_its_other_direction_goes() {
    let [forward, reply] = flow(Proto::TCP, 40_000, (CtState::ESTABLISHED, 60), (CtState::ESTABLISHED, 60));
    let gone = Swept { strays: 1, ..Swept::default() };
    check("forward alone", &[forward], gone, 0);
    check("reply alone", &[reply], gone, 0);
    let [young, _] = flow(Proto::TCP, 40_000, (CtState::NEW, 1), (CtState::NEW, 1));
    check("a flow that is being made", &[young], Swept::default(), 1);
}

#[test]
fn a_clock_that_is_behind_expires_nothing() {
    let mut entries = flow(Proto::UDP, 40_000, (CtState::NEW, 0), (CtState::NEW, 0));
    for (_, entry) in &mut entries {
        entry.last_seen = NOW + 5;
    }
    check("packets from the future", &entries, Swept { kept: 1, ..Swept::default() }, 2);
}

#[test]
fn expired_flows_leave_the_others_alone() {
    let mut entries = Vec::new();
    for port in 0..100 {
        let idle = if port % 2 == 0 { 5 } else { 500 };
        entries.extend(flow(Proto::UDP, 40_000 + port, (CtState::ESTABLISHED, idle), (CtState::ESTABLISHED, idle)));
    }
    check("half of a hundred", &entries, Swept { kept: 50, expired: 50, ..Swept::default() }, 100);
}

/// Shows everything twice, as a walk without batches may do when a key that it stands at is deleted.
struct Stuttering(MemoryTable<Tuple, CtEntry>);

impl Table<Tuple, CtEntry> for Stuttering {
    fn get(&self, key: &Tuple) -> Result<Option<CtEntry>, Error> {
        self.0.get(key)
    }

    fn update(&mut self, entries: &[(Tuple, CtEntry)]) -> Result<(), Error> {
        self.0.update(entries)
    }

    fn delete(&mut self, keys: &[Tuple]) -> Result<(), Error> {
        self.0.delete(keys)
    }

    fn entries(&self) -> Result<Vec<(Tuple, CtEntry)>, Error> {
        let entries = self.0.entries()?;
        Ok([entries.clone(), entries].concat())
    }

    fn capacity(&self) -> u32 {
        self.0.capacity()
    }
}

#[test]
fn what_is_shown_twice_counts_once() {
    let mut table = Stuttering(MemoryTable::new("CONNTRACK", 1000));
    let idle = (CtState::ESTABLISHED, 500);
    table.update(&flow(Proto::UDP, 40_000, idle, idle)).expect("a flow");
    table.update(&flow(Proto::TCP, 40_001, idle, idle)[..1]).expect("half a flow");
    let swept = sweep_flows(&mut table, NOW).expect("a sweep");
    assert_eq!(swept, Swept { expired: 1, strays: 1, ..Swept::default() });
    assert_eq!(table.entries().expect("entries"), []);
}

/// A packet comes between two walks.
struct Busy {
    table: MemoryTable<Tuple, CtEntry>,
    /// Whose.
    key: Tuple,
    walks: Cell<u32>,
}

impl Table<Tuple, CtEntry> for Busy {
    fn get(&self, key: &Tuple) -> Result<Option<CtEntry>, Error> {
        self.table.get(key)
    }

    fn update(&mut self, entries: &[(Tuple, CtEntry)]) -> Result<(), Error> {
        self.table.update(entries)
    }

    fn delete(&mut self, keys: &[Tuple]) -> Result<(), Error> {
        self.table.delete(keys)
    }

    fn entries(&self) -> Result<Vec<(Tuple, CtEntry)>, Error> {
        let is_first = self.walks.replace(self.walks.get() + 1) == 0;
        let seen = |(key, entry): (Tuple, CtEntry)| {
            let last_seen = if key == self.key && !is_first { NOW } else { entry.last_seen };
            (key, CtEntry { last_seen, ..entry })
        };
        Ok(self.table.entries()?.into_iter().map(seen).collect())
    }

    fn capacity(&self) -> u32 {
        self.table.capacity()
    }
}

// cilium#31643, #42870: without its other direction, a flow that lives is a flow that hangs.
#[test]
fn a_flow_that_wakes_while_it_is_swept_keeps_both_directions() {
    let idle = (CtState::ESTABLISHED, 500);
    let wakes = flow(Proto::UDP, 40_000, idle, idle);
    for (key, _) in wakes {
        let mut table = Busy { table: MemoryTable::new("CONNTRACK", 1000), key, walks: Cell::new(0) };
        table.update(&[wakes, flow(Proto::UDP, 40_001, idle, idle)].concat()).expect("two flows");
        assert_eq!(sweep_flows(&mut table, NOW).expect("a sweep"), Swept { kept: 1, expired: 1, ..Swept::default() });
        let left: Vec<_> = table.entries().expect("entries").into_iter().map(|(key, _)| key).collect();
        assert!(left.len() == 2 && wakes.iter().all(|(key, _)| left.contains(key)), "{left:?}");
    }
}

// kubernetes#59368
#[test]
fn datagrams_to_who_has_left_a_service_are_forgotten_in_both_directions() {
    let fresh = (CtState::ESTABLISHED, 0);
    let bound = |proto, port, service, backend, flags| {
        flow(proto, port, fresh, fresh).map(|(key, entry)| (key, CtEntry { service, backend, flags: CtFlags(flags), ..entry }))
    };
    let mut table = MemoryTable::new("CONNTRACK", 1000);
    let spared = [
        bound(Proto::TCP, 1, 7, 3, 0),
        bound(Proto::UDP, 2, 7, 4, 0),
        bound(Proto::UDP, 3, 8, 3, 0),
        bound(Proto::UDP, 4, 7, 3, CtFlags::DIRECT),
    ];
    table.update(&spared.concat()).expect("flows that stay");
    let doomed = [bound(Proto::UDP, 5, 7, 3, 0), bound(Proto::UDP, 6, 9, 1, CtFlags::SNAT)];
    table.update(&doomed.concat()).expect("flows that go");
    assert_eq!(forget_flows(&mut table, &HashSet::from([(7, 3), (9, 1), (5, 5)])).expect("forget"), 4);
    let left = table.entries().expect("entries");
    assert_eq!(left.len(), 8);
    assert!(spared.concat().iter().all(|entry| left.contains(entry)));
}
