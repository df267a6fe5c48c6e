//! Maps of version 1, as its release made them, taken over by this build. IPv4 addresses were 32 bits wide then, and
//! frontends and pods had fewer fields.

use std::{fs, net::Ipv4Addr, os::fd::AsFd, path::PathBuf};

use thalweg_abi::{
    Affinity, AffinityKey, Backend, BackendState, Be16, Be32, Be128, CtEntry, CtState, Frontend, FrontendFlags, FrontendKey,
    Proto, Scope, ServiceName, Slot, SockBackend, StateKey, Tuple,
};

use super::{Handover, Pass};
use crate::{
    Datapath, Error, Maps, Options, Sizes, Start, Table, bpffs,
    btf::tests::Writer,
    cleanup,
    raw_map::RawMap,
    sys::{self, MapShape},
};

/// Kinds of maps by their number in the kernel.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const SK_STORAGE: u32 = 24;
const NO_PREALLOC: u32 = 1;

/// A folder of pins on a bpffs of its own; removed with everything in it when dropped.
struct Pins(PathBuf);

/// The maps of version 1.
struct Old {
    folder: PathBuf,
    btf: Vec<u8>,
    types: Types,
    flow_size: u32,
}

/// Types by their number in BTF.
struct Types {
    word: u32,
    frontend_key: u32,
    frontend: u32,
    slot: u32,
    backend: u32,
    tuple: u32,
    flow: u32,
    /// As it would be without its last field.
    short_flow: u32,
    name: u32,
    sock_nat: u32,
    int: u32,
}

// === impl Pins ===

impl Pins {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/run/tw-test-{name}-{}", std::process::id()));
        cleanup(&path).expect("remove stale pins");
        bpffs::prepare(&path).expect("a bpffs");
        Self(path)
    }

    fn options(&self) -> Options {
        Options {
            pin_root: self.0.clone(),
            cgroup: PathBuf::new(),
            node_addr: Some(Ipv4Addr::new(172, 30, 0, 11)),
            node_addr6: None,
            sizes: Sizes::uniform(256),
            socket_lb: true,
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = cleanup(&self.0) {
            eprintln!("pins at {} stay behind: {error}", self.0.display());
        }
    }
}

// === impl Old ===

impl Old {
    fn new(pins: &Pins) -> Self {
        let mut btf = Writer::new();
        let (byte, half, word, long) =
            (btf.integer("u8", 1), btf.integer("u16", 2), btf.integer("u32", 4), btf.integer("u64", 8));
        let int = btf.integer("i32", 4);
        let be16 = btf.record("Be16", 2, &[("__0", half, 0)]);
        let be32 = btf.record("Be32", 4, &[("__0", word, 0)]);
        let proto = btf.record("Proto", 1, &[("__0", byte, 0)]);
        let three = btf.array(byte, word, 3);
        let text = btf.array(byte, word, 128);
        let key = [("vip", be32, 0), ("port", be16, 4), ("proto", proto, 6), ("scope", byte, 7)];
        let frontend_key = btf.record("FrontendKey", 8, &key);
        let words = ["service", "generation", "base", "count", "flags", "affinity_seconds"];
        let members: Vec<_> = words.iter().zip(0..).map(|(name, at)| (*name, word, at * 4)).collect();
        let frontend = btf.record("Frontend", 24, &members);
        let slot = [("addr", be32, 0), ("port", be16, 4), ("flags", half, 6), ("backend", word, 8), ("generation", word, 12)];
        let slot = btf.record("Slot", 16, &slot);
        let members = [
            ("addr", be32, 0),
            ("port", be16, 4),
            ("state", byte, 6),
            ("flags", byte, 7),
            ("generation", word, 8),
            ("zone", half, 12),
            ("weight", half, 14),
        ];
        let backend = btf.record("Backend", 16, &members);
        let members = [
            ("src", be32, 0),
            ("dst", be32, 4),
            ("sport", be16, 8),
            ("dport", be16, 10),
            ("proto", proto, 12),
            ("pad", three, 13),
        ];
        let tuple = btf.record("Tuple", 16, &members);
        let members = [
            ("to", tuple, 0),
            ("service", word, 16),
            ("backend", word, 20),
            ("generation", word, 24),
            ("last_seen", word, 28),
            ("direction", byte, 32),
            ("state", byte, 33),
            ("flags", half, 34),
            ("packets", word, 36),
            ("bytes", long, 40),
        ];
        let flow = btf.record("CtEntry", 48, &members);
        let short_flow = btf.record("CtEntry", 40, &members[..9]);
        let name = btf.record("ServiceName", 128, &[("bytes", text, 0)]);
        let sock_nat = btf.record("SockNat", 8, &[("vip", be32, 0), ("backend", word, 4)]);
        let types = Types { word, frontend_key, frontend, slot, backend, tuple, flow, short_flow, name, sock_nat, int };
        let folder = pins.0.join("v1");
        fs::create_dir(&folder).expect("the folder of version 1");
        Self { folder, btf: btf.finish(), types, flow_size: 48 }
    }

    /// Makes and pins a map.
    fn map(&self, name: &'static str, map_type: u32, flags: u32, key: (u32, u32), value: (u32, u32), entries: u32) -> RawMap {
        let btf = sys::btf_load(&self.btf).expect("load BTF");
        let shape = MapShape {
            id: 0,
            map_type,
            flags,
            key_size: key.1,
            value_size: value.1,
            max_entries: entries,
            btf: 0,
            key_type: key.0,
            value_type: value.0,
        };
        let map = sys::map_create(&shape, name, btf.as_fd()).expect(name);
        sys::object_pin(map.as_fd(), &self.folder.join(name)).expect("pin");
        RawMap::open(&self.folder, name).expect(name).expect("it is pinned")
    }

    fn narrow<'a>(&self, entry: &'a CtEntry) -> &'a [u8] {
        &sys::as_bytes(entry)[..self.flow_size as usize]
    }

    /// One service with two backends, and one flow.
    fn fill(&self) {
        let Types { word, frontend_key, frontend, slot, backend, tuple, flow, name, sock_nat, int, .. } = self.types;
        let (vip, port) = ([10, 96, 0, 1], 80_u16.to_be_bytes());
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();

        let frontends = self.map("FRONTENDS", HASH, NO_PREALLOC, (frontend_key, 8), (frontend, 24), 128);
        let key = [&vip[..], &port, &[6, 0]].concat();
        frontends.write(&key, &words(&[7, 3, 5, 2, FrontendFlags::AFFINITY, 600])).expect("a frontend");
        let slots = self.map("SLOTS", ARRAY, 0, (word, 4), (slot, 16), 128);
        let backends = self.map("BACKENDS", ARRAY, 0, (word, 4), (backend, 16), 128);
        for (at, last) in [(5, 3), (6, 4)] {
            let address = [&[10, 244, 0, last][..], &8080_u16.to_be_bytes()].concat();
            slots.write(&words(&[at]), &[&address[..], &[0, 0], &words(&[at - 4, 9])].concat()).expect("a slot");
            let state = [BackendState::READY.0, 0];
            backends.write(&words(&[at - 4]), &[&address[..], &state, &words(&[9, 0])].concat()).expect("a backend");
        }
        let services = self.map("SERVICES", HASH, NO_PREALLOC, (word, 4), (name, 128), 128);
        services.write(&words(&[7]), &ServiceName::new("default/web").bytes).expect("a name");

        let flows = self.map("CONNTRACK", HASH, 0, (tuple, 16), (flow, self.flow_size), 128);
        let (key, entry) = established();
        flows.write(sys::as_bytes(&key), self.narrow(&entry)).expect("a flow");
        self.map("SOCK_NAT", SK_STORAGE, NO_PREALLOC, (int, 4), (sock_nat, 8), 0);
        let state = self.map("STATE", ARRAY, 0, (word, 4), (self.types.word, 4), 5);
        state.write(&words(&[StateKey::Abi as u32]), &words(&[1])).expect("its version");
    }
}

/// IPv4 flows look today as they did then.
fn established() -> (Tuple, CtEntry) {
    let (vip, client) = (Be32::from_octets([10, 96, 0, 1]), Be32::from_octets([10, 244, 0, 2]));
    let (sport, dport) = (Be16::from_host(40_000), Be16::from_host(80));
    let key = Tuple { src: client, dst: vip, sport, dport, proto: Proto::TCP, pad: [0; 3] };
    let to = Tuple { dst: Be32::from_octets([10, 244, 0, 4]), dport: Be16::from_host(8080), ..key };
    let entry =
        CtEntry { to, service: 7, backend: 2, generation: 9, state: CtState::ESTABLISHED, packets: 5, ..CtEntry::default() };
    (key, entry)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn version_1_is_taken_over_field_by_field() {
    let pins = Pins::new("v1");
    let old = Old::new(&pins);
    old.fill();
    let mut datapath = Datapath::open(&pins.options()).expect("open");
    assert_eq!(*datapath.start(), Start::Migrated { from: "v1".to_owned() });
    let mut maps = datapath.maps().expect("maps");

    let port = Be16::from_host(80);
    let key = FrontendKey { vip: Be32::from_octets([10, 96, 0, 1]), port, proto: Proto::TCP, scope: Scope::INTERNAL };
    let flags = FrontendFlags(FrontendFlags::AFFINITY);
    let frontend =
        Frontend { service: 7, generation: 3, base: 5, count: 2, flags, affinity_seconds: 600, ..Frontend::default() };
    assert_eq!(maps.frontends.entries().expect("frontends"), [(key, frontend)]);
    let port = Be16::from_host(8080);
    let at = |last| Be128::mapped(Be32::from_octets([10, 244, 0, last]));
    let slot = |id, last| Slot { addr: at(last), port, backend: id, generation: 9, ..Slot::default() };
    assert_eq!(maps.slots.entries().expect("slots"), [(5, slot(1, 3)), (6, slot(2, 4))]);
    let backend = |last| Backend { addr: at(last), port, state: BackendState::READY, generation: 9, ..Backend::default() };
    assert_eq!(maps.backends.entries().expect("backends"), [(1, backend(3)), (2, backend(4))]);
    assert_eq!(maps.services.get(&7).expect("name"), Some(ServiceName::new("default/web")));
    let (key, entry) = established();
    assert_eq!(maps.conntrack.entries().expect("flows"), [], "of the same layout: copied when nothing is written there");
    assert_eq!(maps.state(StateKey::Abi).expect("state"), 0, "not signed before it is in use");

    // While it is filled, version 1 goes on: what comes there until the switch is taken over too, and counts more than what
    // the new programs picked up; what they began themselves stays.
    let flows = RawMap::open(&old.folder, "CONNTRACK").expect("open").expect("it is pinned");
    let late = |sport| (Tuple { sport: Be16::from_host(sport), ..key }, CtEntry { packets: 1, ..entry });
    for sport in [40_001, 40_002] {
        let (key, entry) = late(sport);
        flows.write(sys::as_bytes(&key), sys::as_bytes(&entry)).expect("a later flow");
    }
    let own = CtEntry { packets: 77, ..entry };
    maps.conntrack.update(&[(late(40_003).0, own)]).expect("a flow of ours");
    datapath.go_live().expect("go live");
    let mut found = maps.conntrack.entries().expect("flows");
    found.sort_by_key(|(key, _)| *key);
    assert_eq!(found, [(key, entry), late(40_001), late(40_002), (late(40_003).0, own)]);
    assert_eq!(maps.state(StateKey::Abi).expect("state"), u64::from(thalweg_abi::ABI_VERSION));
    assert!(!old.folder.exists(), "version 1 is gone");
    drop(datapath);
    assert_eq!(*Datapath::open(&pins.options()).expect("the next agent").start(), Start::Adopted);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flows_of_another_layout_come_before_the_switch_and_after() {
    let pins = Pins::new("v1-flows");
    let mut old = Old::new(&pins);
    (old.types.flow, old.flow_size) = (old.types.short_flow, 40);
    old.fill();
    let mut datapath = Datapath::open(&pins.options()).expect("open");
    let maps = datapath.maps().expect("maps");
    let (key, entry) = established();
    assert_eq!(maps.conntrack.entries().expect("flows"), [(key, entry)]);
    let flows = RawMap::open(&old.folder, "CONNTRACK").expect("open").expect("it is pinned");
    let late = Tuple { sport: Be16::from_host(40_001), ..key };
    flows.write(sys::as_bytes(&late), old.narrow(&entry)).expect("a later flow");
    datapath.go_live().expect("go live");
    let mut found = maps.conntrack.entries().expect("flows");
    found.sort_by_key(|(key, _)| *key);
    assert_eq!(found, [(key, entry), (late, entry)]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flows_of_backends_that_cannot_be_read_are_not_taken_over() {
    let pins = Pins::new("v1-other");
    let mut old = Old::new(&pins);
    // Backends have become something else altogether.
    old.types.backend = old.types.tuple;
    old.fill();
    let mut datapath = Datapath::open(&pins.options()).expect("open");
    let maps = datapath.maps().expect("maps");
    assert_eq!(maps.frontends.entries().expect("frontends"), []);
    assert_eq!(maps.conntrack.entries().expect("flows"), [], "their numbers of backends would mean others");
    datapath.go_live().expect("go live all the same");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_map_that_is_too_small_says_what_it_needs() {
    let pins = Pins::new("v1-small");
    Old::new(&pins).fill();
    let options = Options { sizes: Sizes { slots: 6, ..Sizes::uniform(256) }, ..pins.options() };
    let error = Datapath::open(&options).expect_err("the range ends at 7");
    assert!(matches!(error, Error::TooSmall { table: "SLOTS", wanted: 6, used: 7 }), "{error}");
    let start = Datapath::open(&pins.options()).expect("with room").start().clone();
    assert_eq!(start, Start::Migrated { from: "v1".to_owned() }, "nothing was changed");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flow_that_was_picked_up_gives_way_to_what_it_was() {
    let pins = Pins::new("v1-picked");
    let old = Old::new(&pins);
    old.fill();
    let datapath = Datapath::open(&pins.options()).expect("open");
    let mut maps = datapath.maps().expect("maps");
    let flows = RawMap::open(&old.folder, "CONNTRACK").expect("open").expect("it is pinned");
    let (key, entry) = established();
    let key = Tuple { sport: Be16::from_host(40_001), ..key };
    flows.write(sys::as_bytes(&key), sys::as_bytes(&entry)).expect("a flow of the last moment");
    // The new programs met its next packet first, and gave it another backend.
    let mut handover = Handover::between(&old.folder, &bpffs::staged_dir(&pins.0)).expect("both are there");
    let elsewhere = Tuple { dst: Be32::from_octets([10, 244, 0, 3]), ..entry.to };
    let flags = thalweg_abi::CtFlags(thalweg_abi::CtFlags::PICKED_UP);
    let picked = CtEntry { to: elsewhere, flags, ..entry };
    let reply = CtEntry { to: key.reversed(), flags, ..entry };
    maps.conntrack.update(&[(key, picked), (elsewhere.reversed(), reply)]).expect("a flow that was picked up");
    handover.carry(Pass::Behind).expect("the last pass");
    assert_eq!(maps.conntrack.get(&key).expect("get"), Some(entry));
    assert_eq!(maps.conntrack.get(&elsewhere.reversed()).expect("get"), None, "its other direction is gone");
}

/// Two sets of maps of this version, the second with other sizes.
fn two(name: &str, sizes: Sizes) -> ([Pins; 2], [Maps; 2], Handover) {
    let pins = [Pins::new(&format!("{name}-from")), Pins::new(&format!("{name}-to"))];
    let options = [pins[0].options(), Options { sizes, ..pins[1].options() }];
    let maps = options.map(|options| Datapath::open(&options).expect("open").maps().expect("maps"));
    let folder = |pins: &Pins| bpffs::maps_dir(&pins.0);
    let handover = Handover::between(&folder(&pins[0]), &folder(&pins[1])).expect("both are there");
    (pins, maps, handover)
}

fn socket(backend: u32) -> SockBackend {
    SockBackend { backend, generation: 1, proto: Proto::TCP, ..SockBackend::default() }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_changes_after_the_first_copy_is_copied_again() {
    let (_pins, [mut from, mut to], mut handover) = two("changed", Sizes::uniform(128));
    let client = |service| AffinityKey { service, ..AffinityKey::default() };
    let stays = |backend| Affinity { backend, ..Affinity::default() };
    from.sock_backends.update(&[(1, socket(1)), (2, socket(1)), (3, socket(1))]).expect("sockets");
    from.affinity.update(&[(client(1), stays(1)), (client(2), stays(1))]).expect("clients");
    handover.carry(Pass::Ahead).expect("the first pass");
    assert_eq!(to.sock_backends.count().expect("count"), 3);

    // Sockets dial again, and a client gets another backend, while the old programs run.
    from.sock_backends.update(&[(1, socket(2)), (3, socket(2))]).expect("sockets");
    from.affinity.update(&[(client(1), stays(2))]).expect("a client");
    handover.carry(Pass::Ahead).expect("the second pass");
    assert_eq!(to.sock_backends.get(&1).expect("get"), Some(socket(2)));
    assert_eq!(to.affinity.get(&client(1)).expect("get"), Some(stays(2)));

    // Once more until the last moment; the third then dials by the new programs.
    from.sock_backends.update(&[(1, socket(3)), (3, socket(3))]).expect("sockets");
    from.affinity.update(&[(client(1), stays(3))]).expect("a client");
    to.sock_backends.update(&[(3, socket(9))]).expect("a later connection");
    handover.carry(Pass::Behind).expect("the last pass");
    let mut found = to.sock_backends.entries().expect("sockets");
    found.sort_by_key(|(cookie, _)| *cookie);
    assert_eq!(found, [(1, socket(3)), (2, socket(1)), (3, socket(9))]);
    assert_eq!(to.affinity.get(&client(1)).expect("get"), Some(stays(3)));
    assert_eq!(to.affinity.get(&client(2)).expect("get"), Some(stays(1)));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_could_not_be_written_is_tried_again() {
    let sizes = Sizes { services: 4, sock_backends: 4, ..Sizes::uniform(256) };
    let (_pins, [mut from, mut to], mut handover) = two("again", sizes);
    let name = ServiceName::new("default/web");
    for number in 1..=3 {
        from.services.update(&[(number, name)]).expect("a name");
        from.sock_backends.update(&[(u64::from(number), socket(1))]).expect("a socket");
        to.services.update(&[(number + 10, name)]).expect("in the way");
        to.sock_backends.update(&[(u64::from(number) + 10, socket(1))]).expect("in the way");
    }
    let error = handover.carry(Pass::Ahead).expect_err("there is room for one name");
    assert!(matches!(error, Error::TableFull { table: "SERVICES", capacity: 4 }), "{error}");
    to.services.delete(&[11, 12, 13]).expect("make room");
    handover.carry(Pass::Ahead).expect("what packets fill is refused as it would be from a packet");
    assert_eq!(to.services.count().expect("count"), 3);
    assert_eq!(to.sock_backends.count().expect("count"), 4);
    to.sock_backends.delete(&[11, 12, 13]).expect("make room");
    handover.carry(Pass::Behind).expect("the last pass");
    assert_eq!(to.sock_backends.count().expect("count"), 3, "all of the old ones");

    // What only the agent writes is not copied over what it has written since.
    to.services.delete(&[1]).expect("the agent removes a service");
    handover.carry(Pass::Ahead).expect("one more pass");
    assert_eq!(to.services.count().expect("count"), 2);
}
