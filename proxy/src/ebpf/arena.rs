//! Ranges of the flat SLOTS array: first fit, neighbours joined when freed. Pure.

use std::collections::BTreeMap;

/// Which indices are free.
#[derive(Clone, Debug)]
pub(super) struct Arena {
    /// Start -> length; never empty ranges, never two that touch.
    free: BTreeMap<u32, u32>,
}

// === impl Arena ===

impl Arena {
    pub fn new(capacity: u32) -> Self {
        let mut free = BTreeMap::new();
        if capacity > 0 {
            free.insert(0, capacity);
        }
        Self { free }
    }

    /// Takes exactly this range; false when any of it is not free.
    pub fn reserve(&mut self, start: u32, len: u32) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        let Some((&hole, &hole_len)) = self.free.range(..=start).next_back() else { return false };
        let hole_end = hole + hole_len;
        if len == 0 || end > hole_end {
            return false;
        }
        self.free.remove(&hole);
        if hole < start {
            self.free.insert(hole, start - hole);
        }
        if end < hole_end {
            self.free.insert(end, hole_end - end);
        }
        true
    }

    /// Takes the first range of this length; `None` when there is none.
    pub fn alloc(&mut self, len: u32) -> Option<u32> {
        let start = self.free.iter().find(|(_, hole)| **hole >= len).map(|(start, _)| *start)?;
        self.reserve(start, len).then_some(start)
    }

    /// Gives a range back that was taken.
    pub fn free(&mut self, start: u32, len: u32) {
        let mut start = start;
        let mut end = start + len;
        if let Some(next_len) = self.free.remove(&end) {
            end += next_len;
        }
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            start = before;
        }
        self.free.insert(start, end - start);
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
        let holes: Vec<String> = arena.free.iter().map(|(start, len)| format!("{start}+{len}")).collect();
        assert_eq!(format!("{} | {}", results.join(" "), holes.join(" ")), expected, "{script}");
    }

    #[test]
    fn first_fit_and_joining() {
        check(0, "a1", "none | ");
        check(4, "a4 a1", "0 none | ");
        check(4, "a5 a2 a2", "none 0 2 | ");
        check(10, "a3 a3 a3 f3+3 a2 a2 a1", "0 3 6 3 none 5 | 9+1");
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
