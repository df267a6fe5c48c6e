//! Service numbers: stable while a service lives, found again by name after a restart.

use std::collections::HashSet;

use super::full;

#[derive(Debug)]
pub(super) struct Numbers {
    used: HashSet<u32>,
    next: u32,
    capacity: u32,
}

// === impl Numbers ===

impl Numbers {
    /// `capacity`: of the map that holds the names.
    pub fn new(used: HashSet<u32>, capacity: u32) -> Self {
        let next = used.iter().max().map_or(1, |last| last.wrapping_add(1));
        Self { used, next, capacity }
    }

    /// A number that was not used for as long as possible: old flows still carry theirs. Never 0.
    pub fn take(&mut self) -> Result<u32, thalweg_loader::Error> {
        if self.used.len() >= self.capacity as usize {
            return Err(full("SERVICES", self.capacity));
        }
        loop {
            let number = self.next;
            self.next = self.next.wrapping_add(1);
            if number != 0 && self.used.insert(number) {
                return Ok(number);
            }
        }
    }

    pub fn give_back(&mut self, number: u32) {
        self.used.remove(&number);
    }
}
