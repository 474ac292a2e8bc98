//! Seeds of random tests, and the command that repeats a test with the seed that failed.

use std::env::{self, VarError};
use std::thread;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Environment variable with a single seed to run.
const SEED: &str = "TEST_SEED";
/// Environment variable with the number of seeds to run.
const SEED_COUNT: &str = "TEST_SEED_COUNT";

/// Returns the seeds for the test with the name `test`: `0..default_count`.
///
/// The environment variable `TEST_SEED` replaces them with a single seed, and `TEST_SEED_COUNT`
/// replaces their number.
///
/// # Panics
/// If one of the variables is set and not a number, or if the number of seeds is 0.
pub fn seeds(test: &'static str, default_count: u64) -> impl Iterator<Item = Seed> {
    let values = match number_in(SEED) {
        Some(seed) => seed..=seed,
        None => match number_in(SEED_COUNT).unwrap_or(default_count).checked_sub(1) {
            Some(last) => 0..=last,
            None => panic!("{test} runs with no seed at all and proves nothing"),
        },
    };
    values.map(move |value| Seed { test, value })
}

fn number_in(variable: &str) -> Option<u64> {
    match env::var(variable) {
        Ok(text) => match text.parse() {
            Ok(number) => Some(number),
            Err(error) => panic!("{variable} is not a number: {text:?}: {error}"),
        },
        Err(VarError::NotPresent) => None,
        Err(error) => panic!("{variable}: {error}"),
    }
}

/// The seed of one run of a random test. It must live as long as the run: if a panic drops it, it
/// prints the command that repeats the run.
#[derive(Debug)]
pub struct Seed {
    test: &'static str,
    value: u64,
}

impl Seed {
    /// Returns the number.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Returns a generator that starts from the seed.
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.value)
    }

    fn replay(&self) -> String {
        let Self { test, value } = self;
        format!("seed={value} ; replay: {SEED}={value} cargo test {test}")
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.replay());
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::Seed;

    #[test]
    fn a_seed_gives_the_same_numbers_each_time_and_others_than_its_neighbour() {
        let numbers = |value| -> Vec<u64> {
            let mut rng = Seed { test: "", value }.rng();
            (0..4).map(|_| rng.random()).collect()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
    }

    #[test]
    fn the_message_is_a_command_line() {
        let seed = Seed { test: "crash", value: 17 };
        assert_eq!(seed.replay(), "seed=17 ; replay: TEST_SEED=17 cargo test crash");
    }
}
