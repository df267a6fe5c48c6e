//! Maps that fill up, said once: when one passes 90 %, and again when it is below 80 %.

use std::collections::BTreeSet;

/// From this fill level on a map is said to be full soon, in percent.
const HIGH: u64 = 90;
/// Below this one it is well again.
const LOW: u64 = 80;

/// Which maps have been said to be full soon.
#[derive(Default, Debug)]
pub struct Alarm(BTreeSet<&'static str>);

/// What is worth a line in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Nearly full, with the percentage.
    High(&'static str, u64),
    /// Well again.
    Low(&'static str, u64),
}

// === impl Alarm ===

impl Alarm {
    /// `maps`: name, entries in use, entries that fit.
    pub fn look(&mut self, maps: impl IntoIterator<Item = (&'static str, u64, u64)>) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (map, used, capacity) in maps {
            let percent = used * 100 / capacity.max(1);
            if percent >= HIGH && self.0.insert(map) {
                turns.push(Turn::High(map, percent));
            } else if percent < LOW && self.0.remove(map) {
                turns.push(Turn::Low(map, percent));
            }
        }
        turns
    }
}

// === impl Turn ===

impl Turn {
    pub fn log(self) {
        match self {
            Self::High(map, percent) => {
                tracing::warn!(map, percent, "a map is nearly full: raise its size (--map-size {map}=N)");
            }
            Self::Low(map, percent) => tracing::info!(map, percent, "a map has room again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // cilium#28726
    #[test]
    fn a_map_is_spoken_of_when_it_fills_up_and_when_it_has_room_again() {
        let mut alarm = Alarm::default();
        let mut check = |used: u64, expected: &[Turn]| assert_eq!(alarm.look([("SLOTS", used, 1_000)]), expected, "{used}");
        check(0, &[]);
        check(899, &[]);
        check(900, &[Turn::High("SLOTS", 90)]);
        check(1_000, &[]);
        check(850, &[]);
        check(905, &[]);
        check(799, &[Turn::Low("SLOTS", 79)]);
        check(799, &[]);
        check(950, &[Turn::High("SLOTS", 95)]);
    }

    #[test]
    fn each_map_is_judged_by_itself() {
        let mut alarm = Alarm::default();
        let turns = alarm.look([("SLOTS", 99, 100), ("BACKENDS", 1, 100), ("HELD", 10, 10)]);
        assert_eq!(turns, [Turn::High("SLOTS", 99), Turn::High("HELD", 100)]);
        // A map that is not there has no room for anything, and is not full.
        assert_eq!(alarm.look([("NETNS", 0, 0)]), []);
    }
}
