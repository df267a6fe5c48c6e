//! Ranges of the flat SLOTS array: best fit, neighbours joined when freed. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Which indices are free.
#[derive(Clone, Debug)]
pub(super) struct Arena {
    /// Start -> length; never empty ranges, never two that touch.
    free: BTreeMap<u32, u32>,
    /// The same as (length, start).
    by_len: BTreeSet<(u32, u32)>,
    /// Indices taken.
    used: u32,
}

// === impl Arena ===

impl Arena {
    pub fn new(capacity: u32) -> Self {
        let mut this = Self { free: BTreeMap::new(), by_len: BTreeSet::new(), used: 0 };
        this.add_hole(0, capacity);
        this
    }

    /// Takes exactly this range; false when any of it is not free.
    pub fn reserve(&mut self, start: u32, len: u32) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        let Some((&hole, &hole_len)) = self.free.range(..=start).next_back() else { return false };
        let hole_end = hole + hole_len;
        if len == 0 || end > hole_end {
            return false;
        }
        self.remove_hole(hole, hole_len);
        self.add_hole(hole, start - hole);
        self.add_hole(end, hole_end - end);
        self.used += len;
        true
    }

    /// Takes a range of this length from the smallest hole that has it, the first of several; `None` when none has.
    pub fn alloc(&mut self, len: u32) -> Option<u32> {
        let (_, start) = *self.by_len.range((len, 0)..).next()?;
        self.reserve(start, len).then_some(start)
    }

    /// Gives a range back that was taken.
    pub fn free(&mut self, start: u32, len: u32) {
        self.used -= len;
        let (mut start, mut end) = (start, start + len);
        if let Some(&next_len) = self.free.get(&end) {
            self.remove_hole(end, next_len);
            end += next_len;
        }
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.remove_hole(before, before_len);
            start = before;
        }
        self.add_hole(start, end - start);
    }

    pub fn used(&self) -> u32 {
        self.used
    }

    fn add_hole(&mut self, start: u32, len: u32) {
        if len > 0 {
            self.free.insert(start, len);
            self.by_len.insert((len, start));
        }
    }

    fn remove_hole(&mut self, start: u32, len: u32) {
        self.free.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script: `a3` allocates three, `r2+3` reserves, `f2+3` frees; `expected` are the results and the holes.
    fn check(capacity: u32, script: &str, expected: &str) {
        let mut arena = Arena::new(capacity);
        let mut results = Vec::new();
        for word in script.split_whitespace() {
            let range = |text: &str| -> (u32, u32) {
                let (start, len) = text.split_once('+').expect("start+len");
                (start.parse().expect("start"), len.parse().expect("len"))
            };
            match word.split_at(1) {
                ("a", len) => {
                    let start = arena.alloc(len.parse().expect("len"));
                    results.push(start.map_or("none".to_owned(), |start| start.to_string()));
                }
                ("r", text) => {
                    let (start, len) = range(text);
                    results.push(arena.reserve(start, len).to_string());
                }
                ("f", text) => {
                    let (start, len) = range(text);
                    arena.free(start, len);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(arena.by_len, arena.free.iter().map(|(start, len)| (*len, *start)).collect());
        assert_eq!(arena.used, capacity - arena.free.values().sum::<u32>());
        let holes: Vec<String> = arena.free.iter().map(|(start, len)| format!("{start}+{len}")).collect();
        assert_eq!(format!("{} | {}", results.join(" "), holes.join(" ")), expected, "{script}");
    }

    #[test]
    fn best_fit_and_joining() {
        check(0, "a1", "none | ");
        check(4, "a4 a1", "0 none | ");
        check(4, "a5 a2 a2", "none 0 2 | ");
        check(10, "a3 a3 a3 f3+3 a2 a2 a1", "0 3 6 3 none 5 | 9+1");
        check(10, "a3 a1 a2 f0+3 f4+2 a2 a2", "0 3 4 0 4 | 2+1 6+4");
        check(10, "a1 a1 a8 f0+1 f2+8 a1 a2", "0 1 2 0 2 | 4+6");
        check(6, "a2 a2 a2 f0+2 f4+2 f2+2", "0 2 4 | 0+6");
        check(6, "a2 a2 a2 f2+2 f0+2", "0 2 4 | 0+4");
        check(6, "a2 a2 a2 f2+2 f4+2", "0 2 4 | 2+4");
    }

    #[test]
    fn reserving() {
        check(10, "r2+3 r4+2 r0+2 r5+5 r9+1", "true false true true false | ");
        check(10, "r0+0 r8+3 r11+1 r4294967295+2", "false false false false | 0+10");
        check(10, "r3+4 a3 a3 a4", "true 0 7 none | ");
    }
}
