//! Tables over real kernel maps: batches and single operations do the same.

mod kit;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use thalweg_abi::{
    Affinity, AffinityKey, Backend, Be16, Be32, Be128, Counter, CtDirection, CtEntry, CtState, DropReason, FRAGMENT_SECONDS,
    Fragment, FragmentKey, Frontend, FrontendKey, HELD_BYTES, Held, HeldKey, Proto, Scope, ServiceName, Slot, SourceRange,
    SourceRangeKey, StateKey, Tuple,
};
use thalweg_lab::netns::Netns;
use thalweg_loader::{
    Datapath, Error, HashTable, Maps, Pressure, Sizes, Start, Table,
    conntrack::{self, Swept},
    netns,
};

fn key(number: u32) -> FrontendKey {
    let port = Be16::from_host(u16::try_from(number % 50_000).expect("fits") + 1);
    FrontendKey { vip: Be32::from_host(0x0a60_0000 + number / 7), port, proto: Proto::TCP, scope: Scope::INTERNAL }
}

fn value(number: u32) -> Frontend {
    Frontend { service: number, base: number * 3, count: 3, ..Frontend::default() }
}

fn check_hash(table: &mut HashTable<FrontendKey, Frontend>, what: &str) {
    // More than one batch, and not a multiple of one.
    let entries: Vec<_> = (0..9_001).map(|number| (key(number), value(number))).collect();
    table.update(&entries).expect(what);
    assert_eq!(table.get(&key(4_711)).expect(what), Some(value(4_711)), "{what}");
    assert_eq!(table.get(&key(9_001)).expect(what), None, "{what}: a key that was not written");
    let expected: BTreeMap<_, _> = entries.iter().copied().collect();
    assert_eq!(table.entries().expect(what).into_iter().collect::<BTreeMap<_, _>>(), expected, "{what}: all entries");

    table.update(&[(key(0), value(77))]).expect(what);
    assert_eq!(table.get(&key(0)).expect(what), Some(value(77)), "{what}: replaced");

    // Missing keys at the beginning, in the middle and at the end of what is deleted.
    let doomed: Vec<_> =
        [20_000, 20_001].into_iter().chain(0..4_500).chain([20_002]).chain(4_500..9_001).chain([20_003]).collect();
    table.delete(&doomed.iter().map(|number| key(*number)).collect::<Vec<_>>()).expect(what);
    assert_eq!(table.entries().expect(what), [], "{what}: nothing left");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn hashes_and_arrays_hold_what_is_written() {
    let pins = kit::Pins::new("tables");
    let datapath = Datapath::open(&pins.options()).expect("open");
    let mut maps = datapath.maps().expect("maps");
    assert_eq!((maps.frontends.capacity(), maps.slots.capacity()), (20_000, 10_000), "sizes of the options");

    check_hash(&mut maps.frontends, "batches");
    maps.frontends = maps.frontends.without_batches();
    check_hash(&mut maps.frontends, "single operations");

    let slots: Vec<_> = (0..10_000).map(|at| (at, Slot { backend: at + 1, ..Slot::default() })).collect();
    maps.slots.update(&slots).expect("write all slots");
    assert_eq!(maps.slots.entries().expect("slots"), slots);
    maps.slots.delete(&[0, 9_999]).expect("clear two slots");
    assert_eq!(maps.slots.get(&9_999).expect("slot"), Some(Slot::default()), "an array's index always exists");
    assert_eq!(maps.slots.entries().expect("slots").len(), 9_998, "defaults are not entries");
    assert_eq!(maps.slots.get(&10_000).expect("slot"), None, "outside the array");

    maps.services.update(&[(7, ServiceName::new("default/web"))]).expect("write a name");
    assert_eq!(maps.services.get(&7).expect("name").map(|name| name.as_str().to_owned()), Some("default/web".to_owned()));

    let pod = Be32::from(Ipv4Addr::new(10, 244, 0, 2));
    maps.local_pods.delete(&[pod]).expect("deleting what is not there");
    maps.set_state(StateKey::Applies, 3).expect("write state");
    assert_eq!(maps.state(StateKey::Applies).expect("state"), 3);
    assert_eq!(maps.counters().expect("counters").len(), Counter::ALL.len());
    assert!(maps.drops().expect("drops").iter().all(|(_, count)| *count == 0));
    assert_eq!(maps.drops().expect("drops").len(), DropReason::ALL.len());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_map_says_which_and_how_big() {
    let pins = kit::Pins::new("full");
    let datapath = Datapath::open(&pins.options()).expect("open");
    let mut maps = datapath.maps().expect("maps");
    let names: Vec<_> = (0..300).map(|number| (number, ServiceName::new("default/web"))).collect();
    let error = maps.services.update(&names).expect_err("256 fit");
    assert!(matches!(error, Error::TableFull { table: "SERVICES", capacity: 256 }), "{error}");
    assert_eq!(maps.services.entries().expect("names").len(), 256, "a prefix was written");
    let error =
        maps.backends.update(&[(999, Backend::default()), (1_000, Backend::default())]).expect_err("index 1000 of 1000");
    assert!(matches!(error, Error::TableFull { table: "BACKENDS", capacity: 1_000 }), "{error}");
}

/// The kernel continues a walk over a trie by its last key, not by a number.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_trie_of_more_than_one_batch_is_walked_to_its_end() {
    const RANGES: u32 = 5_000;
    let pins = kit::Pins::new("trie");
    let mut options = pins.options();
    options.sizes.source_ranges = RANGES;
    let datapath = Datapath::open(&options).expect("open");
    let mut maps = datapath.maps().expect("maps");
    // Every bit of a range down to a /24 of IPv4 counts.
    let key = |number: u32| SourceRangeKey {
        prefix: 32 + 96 + 24,
        range: SourceRange { service: number % 7, addr: Be128::mapped(Be32::from_host(number << 8)) },
    };
    let ranges: BTreeMap<_, _> = (0..RANGES).map(|number| (key(number), number)).collect();
    let entries: Vec<_> = ranges.iter().map(|(key, value)| (*key, *value)).collect();
    maps.source_ranges.update(&entries).expect("write all");

    for what in ["batches", "single operations"] {
        let found = maps.source_ranges.entries().expect(what);
        assert_eq!(found.len(), ranges.len(), "{what}: none is shown twice");
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), ranges, "{what}: all are shown");
        assert_eq!(maps.source_ranges.count().expect(what), RANGES, "{what}");
        maps.source_ranges = maps.source_ranges.without_batches();
    }
    drop((datapath, maps));

    // A copy into a larger map walks over bytes, not over types.
    options.sizes.source_ranges = RANGES + 1;
    let datapath = Datapath::open(&options).expect("open with more room");
    assert_eq!(*datapath.start(), Start::Resized { maps: vec!["SOURCE_RANGES"] });
    let mut maps = datapath.maps().expect("maps");
    assert_eq!(
        maps.source_ranges.entries().expect("entries").into_iter().collect::<BTreeMap<_, _>>(),
        ranges,
        "all are copied"
    );
    maps.source_ranges.delete(&ranges.into_keys().collect::<Vec<_>>()).expect("delete all");
    assert_eq!(maps.source_ranges.entries().expect("entries"), []);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn sizes_by_memory_do_not_shrink_what_is_pinned() {
    let pins = kit::Pins::new("no-smaller");
    let options = pins.options();
    let maps = Datapath::open(&options).expect("open").maps().expect("maps");
    let wanted = Sizes { slots: 50_000, ..Sizes::uniform(16) }.no_smaller_than(&maps);
    assert_eq!(wanted, Sizes { slots: 50_000, ..options.sizes });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_namespace_is_known_by_its_cookie_from_outside() {
    let ns = Netns::create("tw-cookie").expect("a namespace");
    ns.ip("link set lo down").expect("as a pod's before it is set up");
    let inside = ns.enter(netns::own_cookie).expect("enter").expect("its own");
    assert_eq!(netns::cookie_at(ns.path()).expect("by path"), inside);
    assert_eq!(netns::cookie_of(std::fs::File::open(ns.path()).expect("open")).expect("by descriptor"), inside);
    let ours = netns::own_cookie().expect("ours");
    assert_ne!(ours, inside);
    let error = netns::cookie_at(std::path::Path::new("/run/netns/tw-none")).expect_err("no such namespace");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn views_open_the_maps_without_an_agent() {
    let pins = kit::Pins::new("views");
    let error = Maps::open_pinned(pins.path()).expect_err("nothing is pinned yet");
    assert!(matches!(error, Error::NoMaps { .. }), "{error}");
    drop(Datapath::open(&pins.options()).expect("open"));
    let maps = Maps::open_pinned(pins.path()).expect("maps outlive the agent");
    assert_eq!(maps.frontends.entries().expect("frontends"), []);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn idle_flows_leave_the_kernels_table_in_pairs() {
    let pins = kit::Pins::new("sweep");
    let datapath = Datapath::open(&pins.options()).expect("open");
    let mut maps = datapath.maps().expect("maps");
    // A moment that is late enough for every idle time below, whenever this machine was started.
    let now = conntrack::now() + 1_000;
    let mut entries = Vec::new();
    for number in 0..2_000_u16 {
        let dialled =
            Tuple { sport: Be16::from_host(number), dport: Be16::from_host(53), proto: Proto::UDP, ..Tuple::default() };
        let translated = Tuple { dst: Be32::from(Ipv4Addr::new(10, 244, 1, 7)), ..dialled };
        let last_seen = if number % 4 == 0 { now } else { now - 500 };
        let entry = CtEntry { to: translated, last_seen, state: CtState::ESTABLISHED, ..CtEntry::default() };
        entries.push((dialled, entry));
        entries.push((translated.reversed(), CtEntry { to: dialled.reversed(), direction: CtDirection::REPLY, ..entry }));
    }
    maps.conntrack.update(&entries).expect("fill the table");
    let swept = conntrack::sweep(&mut maps, now).expect("sweep");
    assert_eq!(swept, Swept { kept: 500, expired: 1_500, ..Swept::default() });
    assert_eq!(maps.conntrack.entries().expect("entries").len(), 1_000);
    assert_eq!(conntrack::sweep(&mut maps, now).expect("sweep again"), Swept { kept: 500, ..Swept::default() });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_sweep_covers_both_families_clients_and_fragments_and_counts_what_is_left() {
    let pins = kit::Pins::new("sweep-all");
    let datapath = Datapath::open(&pins.options()).expect("open");
    let mut maps = datapath.maps().expect("maps");
    let now = conntrack::now() + 1_000;

    let addr = |last| Be128::from(Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, last));
    for (port, last_seen) in [(1, now), (2, now - 500), (3, now - 20)] {
        let dialled = Tuple { src: addr(1), dst: addr(2), sport: Be16(port), proto: Proto::UDP, ..Tuple::default() };
        let translated = Tuple { dst: addr(3), ..dialled };
        let entry = CtEntry { to: translated, last_seen, state: CtState::ESTABLISHED, ..CtEntry::default() };
        let reply = CtEntry { to: dialled.reversed(), direction: CtDirection::REPLY, ..entry };
        // The third has lost its reply.
        let whole = [(dialled, entry), (translated.reversed(), reply)];
        maps.conntrack6.update(if port == 3 { &whole[..1] } else { &whole }).expect("fill the table");
    }
    for (service, last_seen, seconds) in [(1, now - 10, 10), (2, now - 11, 10), (3, now - 10_000, 10_800)] {
        let key = AffinityKey { service, ..AffinityKey::default() };
        maps.affinity.update(&[(key, Affinity { last_seen, seconds, ..Affinity::default() })]).expect("a client");
    }
    for (id, last_seen) in [(1, now - FRAGMENT_SECONDS), (2, now - FRAGMENT_SECONDS - 1)] {
        let datagram = FragmentKey { id, ..FragmentKey::default() };
        maps.fragments.update(&[(datagram, Fragment { last_seen, ..Fragment::default() })]).expect("a datagram");
        let held = Held { len: 1, last_seen, bytes: [0; HELD_BYTES] };
        maps.held.update(&[(HeldKey { datagram, index: 0 }, held)]).expect("a fragment");
    }
    maps.services.update(&[(1, ServiceName::new("default/web")), (2, ServiceName::new("default/db"))]).expect("names");
    maps.slots.update(&[(7, Slot { backend: 1, ..Slot::default() })]).expect("a slot");

    assert!(maps.pressure().iter().all(|map| map.entries.is_none()), "nothing has been counted");
    let swept = conntrack::sweep(&mut maps, now).expect("sweep");
    assert_eq!(swept, Swept { kept: 1, expired: 1, strays: 1, affinity: 1, fragments: 1, held: 1 });
    let entries = |maps: &Maps, table| maps.pressure().iter().find(|map| map.table == table).expect(table).entries;
    for (table, count) in [("CONNTRACK", 0), ("CONNTRACK6", 2), ("AFFINITY", 2), ("FRAGMENTS", 1), ("HELD", 1)] {
        assert_eq!(entries(&maps, table), Some(count), "{table}: the sweep has walked over it");
    }
    for _ in 1..10 {
        conntrack::sweep(&mut maps, now).expect("sweep");
    }
    for (table, count) in [("SERVICES", 2), ("SLOTS", 1), ("FRONTENDS", 0), ("SOCK_BACKENDS", 0)] {
        assert_eq!(entries(&maps, table), Some(count), "{table}: within ten sweeps");
    }
    maps.services.delete(&[1]).expect("delete");
    assert_eq!(entries(&maps, "SERVICES"), Some(2), "as it was counted last");
    assert!(maps.measure().expect("count").contains(&Pressure { table: "SERVICES", entries: Some(1), capacity: 256 }));
}
