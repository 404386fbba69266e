//! Choices that are random and yet the same in every run.

/// Set to have the choices of a run that failed, or others.
pub(crate) const VARIABLE: &str = "TANDEM_TEST_SEED";

/// What a run begins with; a test prints it, so that a failure shows it.
pub(crate) fn seed() -> u64 {
    match std::env::var(VARIABLE) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => 1,
    }
}

/// A sequence of choices (xorshift64, Marsaglia 2003).
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Seeded {
        // Neighbouring seeds are to have nothing in common, and none may be 0.
        let mut seeded = Seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        seeded.next();
        seeded
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn is_one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}
