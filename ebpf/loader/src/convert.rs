//! From an older layout to a newer one, field by field: names decide, not positions.
//!
//! A field that only the new layout has is zero, one that only the old one had is left out. A number may become wider. An
//! IPv4 address becomes a mapped one where the new layout serves both families, and back.

use thalweg_abi::{Be32, Be128};

use crate::btf::{Field, Kind, Layout};

/// How a key or a value is turned into its newer form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converter {
    moves: Vec<Move>,
    from: usize,
    to: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Move {
    from: Field,
    to: Field,
}

/// What a converter is for: keys must stay distinct, so they may not lose a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Key,
    Value,
}

// === impl Converter ===

impl Converter {
    /// `None` when a field would lose what it says, or nothing is left.
    pub fn new(from: &Layout, to: &Layout, role: Role) -> Option<Self> {
        if role == Role::Key && from.fields.keys().any(|path| !to.fields.contains_key(path)) {
            return None;
        }
        let shared = to.fields.iter().filter_map(|(path, to)| Some(Move { from: *from.fields.get(path)?, to: *to }));
        let moves: Vec<Move> = shared.collect();
        (!moves.is_empty() && moves.iter().all(Move::is_possible)).then_some(Self { moves, from: from.size, to: to.size })
    }

    /// Appends the newer form.
    pub fn convert(&self, from: &[u8], to: &mut Vec<u8>) {
        debug_assert_eq!(from.len(), self.from);
        let start = to.len();
        to.resize(start + self.to, 0);
        for Move { from: source, to: target } in &self.moves {
            let bytes = &from[source.offset..source.offset + source.size];
            let target_bytes = &mut to[start + target.offset..][..target.size];
            match (source.kind, target.kind) {
                (Kind::Be32, Kind::Be128) => target_bytes.copy_from_slice(&widened(bytes)),
                (Kind::Be128, Kind::Be32) => target_bytes.copy_from_slice(&bytes[12..]),
                // The kernel side is little-endian; a wider number ends in zeros.
                _ => target_bytes[..source.size].copy_from_slice(bytes),
            }
        }
    }
}

// === impl Move ===

impl Move {
    fn is_possible(&self) -> bool {
        match (self.from.kind, self.to.kind) {
            (Kind::Be32, Kind::Be128) | (Kind::Be128, Kind::Be32) => true,
            (Kind::Integer, Kind::Integer) => self.from.size <= self.to.size,
            (from, to) => from == to && self.from.size == self.to.size,
        }
    }
}

/// No address stays no address.
fn widened(bytes: &[u8]) -> [u8; 16] {
    let mut octets = [0; 4];
    octets.copy_from_slice(bytes);
    match Be32::from_octets(octets) {
        Be32::ZERO => [0; 16],
        addr => Be128::mapped(addr).octets(),
    }
}

#[cfg(test)]
mod tests;
