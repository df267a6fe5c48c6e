//! Random numbers that are the same in every run: xorshift64* over a seed that is spread by splitmix64.

pub struct Rng(u64);

// === impl Rng ===

impl Rng {
    /// Neighbouring seeds give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ (z >> 31)) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

#[test]
fn a_seed_is_a_sequence_and_choices_reach_everything() {
    let sequence = |seed| {
        let mut rng = Rng::new(seed);
        [rng.next(), rng.next(), rng.next()]
    };
    assert_eq!(sequence(7), sequence(7));
    assert_ne!(sequence(7), sequence(8));
    let mut rng = Rng::new(1);
    let mut seen = [false; 10];
    for _ in 0..1_000 {
        seen[rng.below(10)] = true;
    }
    assert_eq!(seen, [true; 10]);
    assert_eq!(rng.below(0), 0);
}
