//! Shared code of the tests across the workspace.

pub mod arguments;
pub mod audited;
pub mod client;
pub mod crash;
pub mod damage;
pub mod engine_sim;
pub mod faults;
pub mod fixtures;
pub mod growing;
pub mod history;
pub mod hydration;
pub mod laws;
pub mod log_writes;
pub mod mutants;
pub mod nbd;
pub mod recovery;
pub mod runs;
pub mod surgery;
pub mod watch;
pub mod writer_at_work;

/// Fewer runs than this may miss events that many runs see, for example when a single seed is
/// replayed.
const MANY_RUNS: u64 = 100;

/// Checks that a random test has met the event that it is for.
///
/// # Panics
/// If `times` is zero after many runs: then the test proves less than it seems to.
pub fn assert_seen(what: &str, times: u64, runs: u64) {
    assert!(times > 0 || runs < MANY_RUNS, "in {runs} runs, never: {what}");
}
