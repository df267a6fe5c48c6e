//! How many results in a row it takes to change a verdict.

#[derive(Debug)]
pub struct Threshold {
    failures: u32,
    successes: u32,
    verdict: bool,
    /// The latest result, and how often in a row it came.
    run: (bool, u32),
}

// === impl Threshold ===

impl Threshold {
    pub fn new(failures: i32, successes: i32, initial: bool) -> Self {
        let count = |n: i32| u32::try_from(n).unwrap_or(1).max(1);
        Self { failures: count(failures), successes: count(successes), verdict: initial, run: (initial, 0) }
    }

    /// Takes a result. Gives the verdict when it changes, and a negative one also when it is the first: a startup probe
    /// begins unhealthy, and still has to tell that it gave up.
    pub fn note(&mut self, ok: bool) -> Option<bool> {
        self.run = if self.run.0 == ok { (ok, self.run.1 + 1) } else { (ok, 1) };
        let needed = if ok { self.successes } else { self.failures };
        if self.run.1 < needed || (ok && self.verdict) {
            return None;
        }
        let told = !ok && !self.verdict && self.run.1 > needed;
        self.verdict = ok;
        (!told).then_some(ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results as + and -, verdicts as they come: `.` for none.
    fn check(failures: i32, successes: i32, initial: bool, results: &str, expected: &str) {
        let mut threshold = Threshold::new(failures, successes, initial);
        let verdicts: String = results
            .chars()
            .map(|c| match threshold.note(c == '+') {
                None => '.',
                Some(true) => '+',
                Some(false) => '-',
            })
            .collect();
        assert_eq!(verdicts, expected, "{failures}/{successes} {initial} {results}");
    }

    #[test]
    fn verdicts() {
        check(3, 1, true, "+--+---+-", "......-+.");
        check(1, 1, false, "++-+", "+.-+");
        check(3, 2, false, "++-+---++", ".+....-.+");
        check(2, 1, true, "-----", ".-...");
        check(0, -1, false, "+-", "+-");
    }
}
