//! Ranges of SLOTS in use: what each holds, how many frontends point at it, and the rest after the last one left.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::GRACE;
use super::arena::Arena;

/// One range.
#[derive(Debug)]
pub(super) struct Block {
    pub len: u32,
    /// Frontends in the kernel that point here.
    pub refs: u32,
    /// The slots are those of `members`, in order. False for a range that was adopted and makes no sense.
    pub sound: bool,
    /// Backend ids, each counted once per block.
    pub members: Box<[u32]>,
}

#[derive(Debug)]
pub(super) struct Blocks {
    arena: Arena,
    /// By first index.
    blocks: HashMap<u32, Block>,
    /// Ranges without a frontend that a program may still be reading.
    grace: VecDeque<(Instant, u32, u32)>,
}

// === impl Blocks ===

impl Blocks {
    pub fn new(capacity: u32) -> Self {
        Self { arena: Arena::new(capacity), blocks: HashMap::new(), grace: VecDeque::new() }
    }

    pub fn get(&self, base: u32) -> Option<&Block> {
        self.blocks.get(&base)
    }

    /// Slots that cannot be given to a new range now.
    pub fn used(&self) -> u32 {
        self.arena.used()
    }

    /// Takes a range that the kernel already uses; false when it is not free.
    pub fn adopt(&mut self, base: u32, block: Block) -> bool {
        if !self.arena.reserve(base, block.len) {
            return false;
        }
        self.blocks.insert(base, block);
        true
    }

    /// A fresh range, to be written before any frontend points at it; the members again when there is no room.
    pub fn create(&mut self, members: Vec<u32>) -> Result<u32, Vec<u32>> {
        let Some((base, len)) = u32::try_from(members.len()).ok().and_then(|len| Some((self.arena.alloc(len)?, len))) else {
            return Err(members);
        };
        self.blocks.insert(base, Block { len, refs: 0, sound: true, members: members.into_boxed_slice() });
        Ok(base)
    }

    pub fn reference(&mut self, base: u32) {
        if let Some(block) = self.blocks.get_mut(&base) {
            block.refs += 1;
        }
    }

    /// Returns the members when that was the last frontend; the range rests before it is used again.
    pub fn unreference(&mut self, base: u32, now: Instant) -> Box<[u32]> {
        let Some(block) = self.blocks.get_mut(&base) else { return Box::default() };
        block.refs = block.refs.saturating_sub(1);
        if block.refs > 0 {
            return Box::default();
        }
        let Some(block) = self.blocks.remove(&base) else { return Box::default() };
        self.grace.push_back((now + GRACE, base, block.len));
        block.members
    }

    /// Gives back a range that no frontend ever pointed at; returns its members.
    pub fn discard(&mut self, base: u32) -> Box<[u32]> {
        match self.blocks.get(&base) {
            Some(block) if block.refs == 0 => {}
            _ => return Box::default(),
        }
        let Some(block) = self.blocks.remove(&base) else { return Box::default() };
        self.arena.free(base, block.len);
        block.members
    }

    /// Ranges that have rested become free.
    pub fn expire(&mut self, now: Instant) {
        while let Some((_, base, len)) = self.grace.pop_front_if(|(until, _, _)| *until <= now) {
            self.arena.free(base, len);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.grace.front().map(|(until, _, _)| *until)
    }
}
