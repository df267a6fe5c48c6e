//! Oracles that cannot complain are worth nothing: each is shown a packet with its fault, beside a sound one without.

use std::net::IpAddr;

use thalweg_abi::{Counter, CtState, DropReason};

use super::{Case, unpaired};
use crate::{
    compose,
    model::{BACKEND_PORT, CLIENT, NODE, POD_A, POD_B, Party, SERVICES, WILD},
    mutate,
    script::Way,
    wire::{ACK, ETH, Flow, RST, SYN, TCP, UDP},
    world::{DROP, Entry, PASS, REDIRECT, Run, Snapshot},
};

/// A packet, what came out, and what was counted; to be spoilt.
struct Scene {
    way: Way,
    input: Vec<u8>,
    run: Run,
    before: Snapshot,
    after: Snapshot,
}

// === impl Scene ===

impl Scene {
    fn new(way: Way, input: Vec<u8>, verdict: i32, output: Vec<u8>) -> Self {
        let empty = || Snapshot {
            counters: vec![0; Counter::COUNT as usize],
            drops: vec![0; DropReason::COUNT as usize],
            ..Snapshot::default()
        };
        Self { way, input, run: Run { verdict, frame: output }, before: empty(), after: empty() }.counts(Counter::TcPackets)
    }

    fn counts(mut self, counter: Counter) -> Self {
        self.after.counters[counter as usize] += 1;
        self
    }

    fn drops(mut self, reason: DropReason) -> Self {
        self.after.drops[reason as usize] += 1;
        self
    }

    fn complaints(&self) -> String {
        let services = SERVICES.each_ref().map(|service| (service.set, service.flags));
        let Self { way, input, run, before, after } = self;
        Case { way: *way, input, run, before, after, services: &services, admits: true }.judge().join("; ")
    }
}

/// Asserts that the scene is sound, and that `spoil` makes the oracles say `words`.
fn check(scene: fn() -> Scene, words: &str, spoil: impl FnOnce(&mut Scene)) {
    let mut scene = scene();
    assert_eq!(scene.complaints(), "", "before it was spoilt for {words:?}");
    spoil(&mut scene);
    let complaints = scene.complaints();
    assert!(complaints.contains(words), "{words:?} is not among the complaints: {complaints:?}");
}

fn flow(proto: u8, src: (Party, u16), dst: (Party, u16)) -> Flow {
    Flow { src: src.0.v4.into(), dst: dst.0.v4.into(), sport: src.1, dport: dst.1, proto }
}

fn vip() -> Party {
    SERVICES[0].addr
}

fn dialled() -> Flow {
    flow(TCP, (POD_A, 40_000), (vip(), 80))
}

fn served() -> Flow {
    flow(TCP, (POD_A, 40_000), (POD_B, BACKEND_PORT))
}

/// One hop further, with other hardware addresses.
fn forwarded(mut frame: Vec<u8>) -> Vec<u8> {
    frame[0] ^= 8;
    frame[ETH + 8] -= 1;
    mutate::repair(&mut frame);
    frame
}

fn pair(forward: Flow, to: Flow) -> [(Flow, Entry); 2] {
    let entry = Entry { to, is_reply: false, state: CtState::NEW, flags: 0, owner: (0, 1, 1) };
    [(forward, entry), (to.reversed(), Entry { to: forward.reversed(), is_reply: true, ..entry })]
}

/// A pod dials a service and its flow begins.
fn translated() -> Scene {
    let output = forwarded(compose::minimal(served(), SYN));
    let mut scene = Scene::new(Way::FromPodA, compose::minimal(dialled(), SYN), REDIRECT, output).counts(Counter::TcToPod);
    scene.after.flows.extend(pair(dialled(), served()));
    scene
}

/// A pod sends what is no service's.
fn passed() -> Scene {
    let frame = compose::minimal(flow(UDP, (POD_A, 40_000), (CLIENT, 53)), 0);
    Scene::new(Way::FromPodA, frame.clone(), PASS, frame)
}

fn back(input: &[u8], mut answer: Vec<u8>) -> Vec<u8> {
    answer[..6].copy_from_slice(&input[6..12]);
    answer[6..12].copy_from_slice(&input[..6]);
    answer
}

/// A SYN to a port that nobody serves is reset.
fn refused() -> Scene {
    let input = compose::minimal(flow(TCP, (CLIENT, 40_000), (WILD, 81)), SYN);
    let mut answer = compose::minimal(flow(TCP, (WILD, 81), (CLIENT, 40_000)), RST | ACK);
    answer[ETH + 20 + 8..ETH + 20 + 12].copy_from_slice(&1_u32.to_be_bytes());
    mutate::repair(&mut answer);
    let output = back(&input, answer);
    Scene::new(Way::FromWire, input, REDIRECT, output).counts(Counter::TcRefused)
}

/// A message about `input` to its sender.
fn message(input: &[u8], src: Party, kind: u8, code: u8, rest: [u8; 4]) -> Vec<u8> {
    let quote = &input[ETH..input.len().min(ETH + 28)];
    let mut frame = compose::minimal(flow(UDP, (src, 1), (CLIENT, 1)), 0);
    frame.truncate(ETH + 20);
    frame[ETH + 9] = 1;
    frame.extend([&[kind, code, 0, 0], &rest[..], quote].concat());
    frame[ETH + 3] = (frame.len() - ETH) as u8;
    mutate::repair(&mut frame);
    back(input, frame)
}

/// A datagram to a port that nobody serves, and one that has lived too long.
fn unreachable() -> Scene {
    let input = compose::minimal(flow(UDP, (CLIENT, 40_000), (WILD, 81)), 0);
    let output = message(&input, WILD, 3, 3, [0; 4]);
    Scene::new(Way::FromWire, input, REDIRECT, output).counts(Counter::TcRefused)
}

fn too_big() -> Scene {
    let input = compose::minimal(flow(UDP, (CLIENT, 40_000), (vip(), 53)), 0);
    let output = message(&input, NODE, 3, 4, [0, 0, 2, 88]);
    Scene::new(Way::FromWire, input, REDIRECT, output).counts(Counter::TcAnswered)
}

fn malformed() -> Scene {
    let mut frame = compose::minimal(dialled(), SYN);
    frame[ETH] = 0x44;
    Scene::new(Way::FromPodA, frame.clone(), DROP, frame).drops(DropReason::Malformed)
}

fn foreign() -> Scene {
    let mut frame = compose::minimal(dialled(), SYN);
    frame[12..ETH].copy_from_slice(&[8, 6]);
    let mut scene = Scene::new(Way::FromPodA, frame.clone(), PASS, frame);
    scene.after.counters[Counter::TcPackets as usize] = 0;
    scene
}

#[test]
fn verdicts_and_counts_are_watched() {
    check(passed, "verdict 5", |scene| scene.run.verdict = 5);
    check(passed, "verdict -1", |scene| scene.run.verdict = -1);
    check(passed, "dropped, and counted 0", |scene| scene.run.verdict = DROP);
    check(passed, "not dropped, and counted 1", |scene| scene.after.drops[0] += 1);
    check(passed, "an index outside", |scene| scene.after.drops[DropReason::BadSlot as usize] += 1);
    check(passed, "counted 2 times", |scene| scene.after.counters[Counter::TcPackets as usize] += 1);
    check(passed, "could not be written", |scene| scene.after.drops[DropReason::RewriteFailed as usize] += 1);
    check(passed, "dropped as a fragment", |scene| scene.after.drops[DropReason::Fragment as usize] += 1);
    check(passed, "held as a fragment", |scene| scene.after.counters[Counter::TcFragmentHeld as usize] += 1);
    check(translated, "sent on 2 times", |scene| scene.after.counters[Counter::TcToWire as usize] += 1);
    check(translated, "sent on 0 times", |scene| scene.after.counters[Counter::TcToPod as usize] = 0);
}

#[test]
fn a_packet_that_goes_on_is_watched() {
    check(translated, "checksum of the transport was Right and is Wrong", |scene| scene.run.frame[ETH + 20 + 17] ^= 1);
    check(translated, "checksum of the IP header was Right and is Wrong", |scene| scene.run.frame[ETH + 11] ^= 1);
    check(translated, "byte 40 was changed", |scene| scene.run.frame[40] ^= 1);
    check(translated, "became a malformed one", |scene| scene.run.frame[ETH] = 0x4f);
    check(translated, "bytes became", |scene| scene.run.frame.push(0));
    check(translated, "time to live was 64 and is 64", |scene| scene.run.frame[ETH + 8] = 64);
    check(translated, "became Flow", |scene| scene.run.frame = forwarded(compose::minimal(served().reversed(), SYN)));
    check(translated, "without an entry", |scene| scene.after.flows.clear());
    check(passed, "without an entry", |scene| {
        scene.run.frame = compose::minimal(flow(UDP, (POD_A, 40_000), (POD_B, 53)), 0);
    });
    check(passed, "hardware addresses", |scene| scene.run.frame[0] ^= 8);
    // What came in wrong must not go out right.
    check(translated, "checksum of the transport was Wrong and is Right", |scene| scene.input[ETH + 20 + 17] ^= 1);
}

#[test]
fn who_sends_and_where_to_is_watched() {
    check(passed, "a pod spoke from", |scene| {
        scene.input = compose::minimal(flow(UDP, (POD_B, 40_000), (CLIENT, 53)), 0);
        scene.run.frame = scene.input.clone();
    });
    check(translated, "a forged packet has left something", |scene| scene.way = Way::FromPodB);
    check(passed, "goes on as it is", |scene| {
        scene.input = compose::minimal(flow(UDP, (POD_A, 40_000), (vip(), 54)), 0);
        scene.run.frame = scene.input.clone();
    });
    check(translated, "not admitted", |scene| {
        let begun = flow(UDP, (WILD, 40_000), (SERVICES[5].addr, 53));
        let to = Flow { dst: POD_B.v4.into(), dport: BACKEND_PORT, ..begun };
        scene.after.flows = pair(begun, to).into();
    });
}

#[test]
fn tables_are_watched() {
    check(translated, "without its other direction", |scene| _ = scene.after.flows.remove(&served().reversed()));
    check(translated, "contradict each other", |scene| {
        let reply = scene.after.flows.get_mut(&served().reversed()).expect("a reply entry");
        reply.state = CtState::ESTABLISHED;
    });
    check(translated, "to nobody's endpoint", |scene| {
        let to = Flow { dst: CLIENT.v4.into(), ..served() };
        scene.after.flows = pair(dialled(), to).into();
    });
    check(passed, "CONNTRACK has grown from 0 to 4", |scene| {
        let other = |port| flow(TCP, (POD_A, port), (vip(), 80));
        let to = |port| Flow { sport: port, ..served() };
        scene.after.flows.extend([pair(other(1), to(1)), pair(other(2), to(2))].concat());
    });
    check(passed, "AFFINITY has grown", |scene| scene.after.clients += 2);
    check(passed, "FRAGMENTS has grown", |scene| scene.after.fragments += 2);
    check(passed, "HELD has grown", |scene| scene.after.held += 2);
    assert_eq!(unpaired(&pair(dialled(), served()).into()), Vec::<String>::new());
}

#[test]
fn what_is_no_sound_packet_leaves_no_trace() {
    check(malformed, "malformed, and verdict 0", |scene| scene.run.verdict = PASS);
    check(malformed, "not counted as such", |scene| scene.after.drops[DropReason::Malformed as usize] = 0);
    check(malformed, "a malformed packet has left something", |scene| scene.after.flows.extend(pair(dialled(), served())));
    check(malformed, "a malformed packet has left something", |scene| scene.after.clients += 1);
    check(malformed, "a malformed packet was answered", |scene| scene.after.counters[Counter::TcRefused as usize] += 1);
    check(malformed, "that leaves was changed", |scene| {
        scene.way = Way::ToWire;
        scene.run.frame[40] ^= 1;
    });
    check(foreign, "no IP packet, and verdict 2", |scene| scene.run.verdict = DROP);
    check(foreign, "no IP packet, and counted", |scene| scene.after.counters[Counter::TcPackets as usize] += 1);
    check(foreign, "no IP packet was changed", |scene| scene.run.frame[30] ^= 1);
    check(passed, "counted as malformed", |scene| scene.after.drops[DropReason::Malformed as usize] += 1);
}

#[test]
fn answers_are_watched() {
    check(refused, "the answer is malformed", |scene| scene.run.frame[ETH] = 0);
    check(refused, "not one whole packet", |scene| scene.run.frame.push(0));
    check(refused, "wrong checksum", |scene| scene.run.frame[ETH + 10] ^= 1);
    check(refused, "checksum is Wrong", |scene| scene.run.frame[ETH + 20 + 16] ^= 1);
    check(refused, "does not go back", |scene| scene.run.frame[5] ^= 1);
    check(refused, "the answer goes to", |scene| scene.run.frame[ETH + 19] ^= 1);
    check(refused, "the refusal comes from", |scene| scene.run.frame[ETH + 15] ^= 1);
    check(refused, "of another connection", |scene| scene.run.frame[ETH + 21] ^= 1);
    check(refused, "the reset has", |scene| scene.run.frame[ETH + 20 + 11] ^= 1);
    check(refused, "may live for 1 hops", |scene| scene.run.frame[ETH + 8] = 1);
    check(unreachable, "type and code", |scene| scene.run.frame[ETH + 21] = 0);
    check(unreachable, "quotes something else", |scene| scene.run.frame[ETH + 40] ^= 1);
    check(unreachable, "quotes 24 bytes", |scene| {
        scene.run.frame.truncate(ETH + 52);
        scene.run.frame[ETH + 3] = 52;
        mutate::repair(&mut scene.run.frame);
    });
    check(too_big, "67 bytes fit", |scene| scene.run.frame[ETH + 26..ETH + 28].copy_from_slice(&[0, 67]));
    check(too_big, "the answer comes from", |scene| scene.run.frame[ETH + 15] ^= 1);
}

#[test]
fn what_must_not_be_answered_is_known() {
    check(refused, "a reset was answered", |scene| scene.input[ETH + 33] |= RST);
    check(unreachable, "from its own receiver", |scene| scene.input.copy_within(ETH + 16..ETH + 20, ETH + 12));
    check(unreachable, "in a broadcast frame", |scene| scene.input[..6].fill(0xff));
    check(unreachable, "a later fragment was answered", |scene| scene.input[ETH + 7] = 1);
    check(unreachable, "an ICMP error was answered", |scene| {
        scene.input[ETH + 9] = 1;
        scene.input[ETH + 20] = 3;
    });
    for (octets, from) in
        [([224, 0, 0, 5], "224.0.0.5"), ([255; 4], "255.255.255.255"), ([0; 4], "0.0.0.0"), ([127, 0, 0, 1], "127.0.0.1")]
    {
        check(unreachable, &format!("a packet from {from} was answered"), |scene| {
            scene.input[ETH + 12..ETH + 16].copy_from_slice(&octets);
        });
    }
    assert!(!super::answer::is_one_host(IpAddr::V6("ff02::1".parse().expect("an address"))));
    assert!(super::answer::is_one_host(CLIENT.v6.into()));
}
