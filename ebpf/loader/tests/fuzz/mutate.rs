//! How a seed becomes a case: by fields, whose places are known, and by bytes. Every mutation can be applied to every
//! frame, so that one can be left out of a list and the others still mean something.

use crate::{
    model::PARTIES,
    rng::Rng,
    seeds::Seed,
    wire::{self, ETH, FRAGMENT, Packet, Reading, be16},
};

/// The longest frame that the kernel takes.
const LONGEST: usize = 3_000;

/// Places are taken modulo the frame's length.
#[derive(Clone, Copy, Debug)]
pub enum Mutation {
    Field {
        field: usize,
        value: u64,
    },
    Flip {
        bit: usize,
    },
    Byte {
        at: usize,
        value: u8,
    },
    Cut {
        at: usize,
    },
    Grow {
        by: usize,
        value: u8,
    },
    /// The rest from another seed.
    Splice {
        other: usize,
        at: usize,
    },
    /// Words of options behind the IPv4 header.
    Options {
        words: usize,
        value: u8,
    },
    /// Sender and receiver change places.
    Turn,
    /// The IP header's length becomes the frame's.
    Measure,
    /// Checksums become right.
    Repair,
}

/// From where a field's offset counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Frame,
    /// The IP header of either family alone.
    V4,
    V6,
    /// What follows the fixed header of IPv6.
    Extension,
    Transport,
    Quote4,
    Quote6,
    QuotedTransport,
}

struct Field {
    base: Base,
    offset: usize,
    width: usize,
    values: &'static [u64],
}

const fn at(base: Base, offset: usize, width: usize, values: &'static [u64]) -> Field {
    Field { base, offset, width, values }
}

const LENGTHS: &[u64] = &[0, 1, 7, 8, 19, 20, 27, 28, 39, 40, 41, 60, 512, 1500, 0xffff];
const PROTOCOLS: &[u64] = &[0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 253, 255];
const FRAGMENTS: &[u64] = &[0, 0x2000, 0x4000, 0x6000, 0x8000, 1, 0x2001, 64, 0x2040, 0x1fff, 0x3fff];
const PORTS: &[u64] = &[0, 1, 53, 54, 80, 81, 443, 3868, 8080, 30053, 30080, 40000, 40001, 61000, 65535];
const KINDS: &[u64] = &[0, 1, 2, 3, 4, 5, 8, 9, 11, 12, 13, 128, 129, 133, 135, 136, 137, 143, 200, 255];
/// An address of [`PARTIES`].
const ADDRESS: &[u64] = &[];

const FIELDS: &[Field] = &[
    at(Base::Frame, 0, 1, &[0, 2, 1, 0x33, 0xff]),
    at(Base::Frame, 12, 2, &[0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8847, 0, 0xffff]),
    at(Base::V4, 0, 1, &[0x45, 0x46, 0x4f, 0x44, 0x40, 0x55, 0x65, 0x05]),
    at(Base::V4, 1, 1, &[0, 3, 0xb8, 0xff]),
    at(Base::V4, 2, 2, LENGTHS),
    at(Base::V4, 4, 2, &[0, 0x77, 0x1234, 0xffff]),
    at(Base::V4, 6, 2, FRAGMENTS),
    at(Base::V4, 8, 1, &[0, 1, 2, 64, 255]),
    at(Base::V4, 9, 1, PROTOCOLS),
    at(Base::V4, 10, 2, &[0, 0xffff]),
    at(Base::V4, 12, 4, ADDRESS),
    at(Base::V4, 16, 4, ADDRESS),
    at(Base::V6, 0, 4, &[0x6000_0000, 0x6ff1_2345, 0x4500_0000, 0]),
    at(Base::V6, 4, 2, LENGTHS),
    at(Base::V6, 6, 1, PROTOCOLS),
    at(Base::V6, 7, 1, &[0, 1, 2, 64, 255]),
    at(Base::V6, 8, 16, ADDRESS),
    at(Base::V6, 24, 16, ADDRESS),
    at(Base::Extension, 0, 1, PROTOCOLS),
    at(Base::Extension, 1, 1, &[0, 1, 2, 7, 255]),
    at(Base::Extension, 2, 2, &[0, 1, 6, 8, 9, 0x0201, 0x0400, 0xfff8, 0xfff9]),
    at(Base::Extension, 8, 1, PROTOCOLS),
    at(Base::Transport, 0, 2, PORTS),
    at(Base::Transport, 2, 2, PORTS),
    at(Base::Transport, 0, 1, KINDS),
    at(Base::Transport, 1, 1, &[0, 1, 2, 3, 4, 5, 13, 15, 255]),
    at(Base::Transport, 4, 2, LENGTHS),
    at(Base::Transport, 6, 2, &[0, 68, 576, 1280, 0xffff]),
    at(Base::Transport, 12, 1, &[0x00, 0x40, 0x50, 0x60, 0xf0]),
    at(Base::Transport, 13, 1, &[0, 1, 2, 3, 4, 6, 0x10, 0x11, 0x12, 0x14, 0x18, 0x3f, 0xff]),
    at(Base::Transport, 16, 2, &[0, 0xffff]),
    at(Base::Quote4, 0, 1, &[0x45, 0x46, 0x4f, 0x43, 0x40, 0x65]),
    at(Base::Quote4, 2, 2, LENGTHS),
    at(Base::Quote4, 6, 2, FRAGMENTS),
    at(Base::Quote4, 9, 1, PROTOCOLS),
    at(Base::Quote4, 12, 4, ADDRESS),
    at(Base::Quote4, 16, 4, ADDRESS),
    at(Base::Quote6, 0, 1, &[0x60, 0x45, 0]),
    at(Base::Quote6, 4, 2, LENGTHS),
    at(Base::Quote6, 6, 1, PROTOCOLS),
    at(Base::Quote6, 8, 16, ADDRESS),
    at(Base::Quote6, 24, 16, ADDRESS),
    at(Base::QuotedTransport, 0, 2, PORTS),
    at(Base::QuotedTransport, 2, 2, PORTS),
    at(Base::QuotedTransport, 6, 2, &[0, 0xffff]),
];

/// A seed with its mutations.
pub fn mutated(seed: &[u8], mutations: &[Mutation], seeds: &[Seed]) -> Vec<u8> {
    let mut frame = seed.to_vec();
    for mutation in mutations {
        mutation.apply(&mut frame, seeds);
        frame.truncate(LONGEST);
        if frame.len() < ETH {
            frame.resize(ETH, 0);
        }
    }
    frame
}

/// Mutations of one frame: most cases are a small step from a seed and have right checksums, so that they get far.
pub fn choose(rng: &mut Rng, seeds: usize) -> Vec<Mutation> {
    let many = *rng.pick(&[0, 0, 0, 1, 1, 2, 2, 3, 5, 8]);
    let mut mutations: Vec<_> = (0..many).map(|_| one(rng, seeds)).collect();
    if rng.chance(40) {
        mutations.push(Mutation::Measure);
    }
    if rng.chance(80) {
        mutations.push(Mutation::Repair);
    }
    mutations
}

fn one(rng: &mut Rng, seeds: usize) -> Mutation {
    let at = rng.below(1 << 16);
    let value = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, (at & 0xff) as u8]);
    match rng.below(20) {
        0 => Mutation::Flip { bit: rng.below(1 << 20) },
        1 => Mutation::Byte { at, value },
        2 => Mutation::Cut { at },
        3 => Mutation::Grow { by: *rng.pick(&[1, 2, 7, 46, 600, 1500]), value },
        4 => Mutation::Splice { other: rng.below(seeds), at },
        5 => Mutation::Options { words: 1 + rng.below(10), value },
        6 | 7 => Mutation::Turn,
        _ => field(rng),
    }
}

/// Another value in one field.
pub fn field(rng: &mut Rng) -> Mutation {
    let field = rng.below(FIELDS.len());
    let value = match FIELDS[field].values {
        _ if rng.chance(10) => rng.next(),
        [] => rng.below(PARTIES.len()) as u64,
        values => *rng.pick(values),
    };
    Mutation::Field { field, value }
}

// === impl Mutation ===

impl Mutation {
    fn apply(self, frame: &mut Vec<u8>, seeds: &[Seed]) {
        let len = frame.len();
        match self {
            Self::Field { field, value } => FIELDS[field].write(frame, value),
            Self::Flip { bit } => frame[bit / 8 % len] ^= 1 << (bit % 8),
            Self::Byte { at, value } => frame[at % len] = value,
            Self::Cut { at } => frame.truncate(at % len),
            Self::Grow { by, value } => frame.resize(len + by, value),
            Self::Splice { other, at } => {
                let other = &seeds[other].frame;
                let at = at % len.min(other.len());
                frame.truncate(at);
                frame.extend(&other[at..]);
            }
            Self::Options { words, value } => {
                if is_v4(frame) && len >= ETH + 20 {
                    let words = words.min(15 - usize::from(frame[ETH] & 15).min(15));
                    frame[ETH] += words as u8;
                    frame.splice(ETH + 20..ETH + 20, std::iter::repeat_n(value, words * 4));
                }
            }
            Self::Turn => turn(frame),
            Self::Measure => measure(frame),
            Self::Repair => repair(frame),
        }
    }
}

// === impl Field ===

impl Field {
    fn write(&self, frame: &mut [u8], value: u64) {
        let Some(base) = self.base.offset(frame) else { return };
        let at = base + self.offset;
        let Some(place) = frame.get_mut(at..at + self.width) else { return };
        if !self.values.is_empty() {
            place.copy_from_slice(&value.to_be_bytes()[8 - self.width..]);
            return;
        }
        let party = &PARTIES[value as usize % PARTIES.len()];
        if self.width == 4 {
            place.copy_from_slice(&party.v4.octets());
        } else {
            place.copy_from_slice(&party.v6.octets());
        }
    }
}

// === impl Base ===

impl Base {
    /// As far as it can be told, whatever the frame says of itself.
    fn offset(self, frame: &[u8]) -> Option<usize> {
        let (is_v6, transport) = (!is_v4(frame), transport(frame)?);
        match self {
            Self::Frame => Some(0),
            Self::V4 => (!is_v6).then_some(ETH),
            Self::V6 => is_v6.then_some(ETH),
            Self::Extension => is_v6.then_some(ETH + 40),
            Self::Transport => Some(transport),
            Self::Quote4 => (!is_v6).then_some(transport + 8),
            Self::Quote6 => is_v6.then_some(transport + 8),
            Self::QuotedTransport if is_v6 => Some(transport + 48),
            Self::QuotedTransport => Some(transport + 8 + usize::from(frame.get(transport + 8)? & 15) * 4),
        }
    }
}

fn is_v4(frame: &[u8]) -> bool {
    be16(frame, 12) == 0x0800
}

fn transport(frame: &[u8]) -> Option<usize> {
    if is_v4(frame) {
        return Some(ETH + usize::from(frame.get(ETH)? & 15) * 4);
    }
    let (mut next, mut at) = (*frame.get(ETH + 6)?, ETH + 40);
    while let (0 | 43 | FRAGMENT | 51 | 60, Some([following, len])) = (next, frame.get(at..at + 2)) {
        at += if next == FRAGMENT { 8 } else { (usize::from(*len) + 1) * 8 };
        next = *following;
    }
    Some(at)
}

fn turn(frame: &mut [u8]) {
    let swap = |frame: &mut [u8], at: usize, width: usize| {
        if frame.len() >= at + 2 * width {
            let (a, b) = frame[at..at + 2 * width].split_at_mut(width);
            a.swap_with_slice(b);
        }
    };
    if is_v4(frame) {
        swap(frame, ETH + 12, 4);
    } else {
        swap(frame, ETH + 8, 16);
    }
    if let Reading::Packet(Packet { transport, .. }) = wire::read_frame(frame) {
        swap(frame, transport, 2);
    }
}

fn measure(frame: &mut [u8]) {
    let (at, less) = if is_v4(frame) { (ETH + 2, ETH) } else { (ETH + 4, ETH + 40) };
    if let Some(len) = frame.len().checked_sub(less)
        && let Some(place) = frame.get_mut(at..at + 2)
    {
        place.copy_from_slice(&(len as u16).to_be_bytes());
    }
}

/// Makes the checksums of an IP packet right, as far as it is one.
pub fn repair(frame: &mut [u8]) {
    let Reading::Packet(packet) = wire::read_frame(frame) else { return };
    if !packet.is_v6 {
        let end = ETH + usize::from(frame[ETH] & 15) * 4;
        frame[ETH + 10..ETH + 12].fill(0);
        let sum = !wire::sum(&frame[ETH..end], 0);
        frame[ETH + 10..ETH + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let Some(place) = packet.sum_at() else { return };
    if packet.transport_sum(frame) != wire::Sum::Wrong {
        return;
    }
    frame[place.clone()].fill(0);
    let covered = &frame[packet.transport..packet.end];
    let sum = match packet.flow.proto {
        wire::SCTP => wire::crc32c(covered).to_le_bytes().to_vec(),
        wire::ICMP => (!wire::sum(covered, 0)).to_be_bytes().to_vec(),
        wire::UDP => {
            let len = usize::from(be16(covered, 4));
            match !wire::sum(&covered[..len], packet.pseudo_header(len)) {
                0 => vec![0xff; 2],
                sum => sum.to_be_bytes().to_vec(),
            }
        }
        _ => (!wire::sum(covered, packet.pseudo_header(covered.len()))).to_be_bytes().to_vec(),
    };
    frame[place].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        seeds,
        wire::{Sum, read_frame},
    };

    #[test]
    fn every_mutation_can_be_applied_to_every_seed() {
        let seeds = seeds::load().expect("the corpus");
        let mut rng = Rng::new(1);
        for seed in &seeds {
            for _ in 0..50 {
                let mutations = choose(&mut rng, seeds.len());
                let frame = mutated(&seed.frame, &mutations, &seeds);
                assert!((ETH..=LONGEST).contains(&frame.len()), "{}: {mutations:?}", seed.what);
                read_frame(&frame);
            }
        }
    }

    #[test]
    fn a_repaired_packet_is_right() {
        let seeds = seeds::load().expect("the corpus");
        let mut checked = 0;
        for seed in &seeds {
            let mut frame = seed.frame.clone();
            repair(&mut frame);
            let Reading::Packet(packet) = read_frame(&frame) else { continue };
            assert_ne!(packet.header_sum(&frame), Sum::Wrong, "{}", seed.what);
            assert_ne!(packet.transport_sum(&frame), Sum::Wrong, "{}", seed.what);
            checked += usize::from(packet.transport_sum(&frame) == Sum::Right);
        }
        assert!(checked > 150, "{checked}");
    }

    #[test]
    fn most_seeds_are_as_their_checksums_say() {
        // Two independent makers of checksums: the corpus was written by another program.
        let seeds = seeds::load().expect("the corpus");
        for seed in &seeds {
            let Reading::Packet(packet) = read_frame(&seed.frame) else { continue };
            let odd = ["wrong", "checksum", "version", "IHL", "length", "lying", "cut", "routing", "behind", "header"];
            if !odd.iter().any(|word| seed.what.contains(word)) {
                assert_ne!(packet.header_sum(&seed.frame), Sum::Wrong, "{}", seed.what);
                assert_ne!(packet.transport_sum(&seed.frame), Sum::Wrong, "{}", seed.what);
            }
        }
    }
}
