//! Which cases there are: everything that is chosen at random, from one sequence of numbers.

use thalweg_abi::BackendState;

use crate::{
    compose,
    model::{BACKEND_PORT, CLIENT, ENDPOINTS, FLAGS, POD_A, POD_B, REMOTE, SERVICES, State},
    mutate::{self, Mutation},
    rng::Rng,
    script::{Frame, Step, Way},
    seeds::Seed,
    wire::{ACK, FIN, Flow, RST, SYN},
};

/// The steps of one case, which are the same whenever it is asked for.
pub fn case(rng: &mut Rng, seeds: &[Seed]) -> Vec<Step> {
    let mut steps = Vec::new();
    // Frames of one case are often of one kind, so that they meet each other's flows.
    let home = rng.below(seeds.len());
    for _ in 0..2 + rng.below(10) {
        if rng.chance(30) {
            steps.push(Step::State(state(rng)));
        }
        let mut ways = Way::ALL.to_vec();
        let turn = rng.below(ways.len());
        ways.rotate_left(turn);
        let (seed, mutations) = packet(rng, seeds, home, &steps);
        steps.push(Step::Frame(Frame { seed, mutations, ways, answered: rng.chance(50) }));
    }
    steps
}

/// A new packet, or one that has been there already with little changed: the next of its flow, or its neighbour.
fn packet(rng: &mut Rng, seeds: &[Seed], home: usize, before: &[Step]) -> (Vec<u8>, Vec<Mutation>) {
    let frames: Vec<_> =
        before.iter().filter_map(|step| if let Step::Frame(frame) = step { Some(frame) } else { None }).collect();
    if !frames.is_empty() && rng.chance(35) {
        let known = rng.pick(&frames);
        let mut mutations = known.mutations.clone();
        if rng.chance(70) {
            mutations.extend([mutate::field(rng), Mutation::Repair]);
        }
        return (known.seed.clone(), mutations);
    }
    if rng.chance(35) {
        let mutations = if rng.chance(20) { vec![mutate::field(rng), Mutation::Repair] } else { Vec::new() };
        return (said(rng), mutations);
    }
    let near = (home + rng.below(12)).min(seeds.len() - 1);
    let seed = if rng.chance(60) { near } else { rng.below(seeds.len()) };
    (seeds[seed].frame.clone(), mutate::choose(rng, seeds.len()))
}

/// A sound packet of a conversation: to a service, to an endpoint directly, or an endpoint's answer. There are few clients
/// and ports, so that conversations meet.
fn said(rng: &mut Rng) -> Vec<u8> {
    let is_v6 = rng.chance(40);
    let client = rng.pick(&[POD_A, POD_A, POD_B, CLIENT, REMOTE]).of(is_v6);
    let service = rng.pick(&SERVICES);
    let endpoint = rng.pick(&ENDPOINTS).of(is_v6);
    let sport = 40_000 + rng.below(3) as u16;
    let proto = service.proto;
    let direct = Flow { src: client, dst: endpoint, sport, dport: BACKEND_PORT, proto };
    let flow = match rng.below(5) {
        0..3 => Flow { dst: service.addr.of(is_v6), dport: service.port, ..direct },
        3 => direct,
        _ => direct.reversed(),
    };
    let flags = *rng.pick(&[SYN, SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK]);
    compose::minimal(flow, flags)
}

fn state(rng: &mut Rng) -> State {
    match rng.below(12) {
        0..4 => {
            let service = rng.below(SERVICES.len());
            let flags = if rng.chance(50) { SERVICES[service].flags } else { *rng.pick(&FLAGS) };
            State::Service { service, set: *rng.pick(&[0, 1, 2, 3, 4, 8, 16, 31]), flags }
        }
        4..7 => {
            let state = *rng.pick(&[BackendState::READY, BackendState::DRAINING, BackendState::FREE]);
            State::Backend { endpoint: rng.below(ENDPOINTS.len()), state, generation: 1 + rng.below(2) as u32 }
        }
        7 => State::Pod { endpoint: rng.below(2), present: rng.chance(50) },
        8 => State::Admit { any: rng.chance(50) },
        9 => State::Fill { free: rng.below(6) },
        10 => State::Age { seconds: *rng.pick(&[5, 11, 31, 61, 181, 90_000]) },
        _ => State::Sweep,
    }
}
