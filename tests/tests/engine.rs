//! The engine in a simulated world, and the oracles of that world against known faults in
//! behaviour.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use clone_core::engine::{
    Action, ByteRange, Done, Engine, Input, OpId, Opened, Operation, Request, RequestId, Settings,
};
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use clone_tests::assert_seen;
use clone_tests::engine_sim::{
    Bounded, Counts, Delay, Mutant, Oracle, Sight, SlowLine, run, run_beside_large_region,
    run_beside_readers, run_flushes, run_on_slow_line, run_under_load, run_with,
};
use persistent_data::sim::seeds;

/// Number of seeds that a mutant may survive before it counts as undetected.
const SURVIVED_MAX: u64 = 300;

#[test]
fn clients_see_a_plain_copy_of_the_source_whatever_fails_and_whenever_the_power_goes() {
    let name = "clients_see_a_plain_copy_of_the_source_whatever_fails_and_whenever_the_power_goes";
    let (mut all, mut runs) = (Counts::default(), 0);
    for seed in seeds(name, 4000) {
        match run(seed.value()) {
            Ok(counts) => all.add(&counts),
            Err(violation) => panic!("{violation}"),
        }
        runs += 1;
    }
    println!("{} requests in {runs} runs: {all:?}", all.answered);
    for (what, times) in all.named() {
        assert_seen(what, times, runs);
    }
}

#[test]
fn hydration_goes_on_while_users_never_rest() {
    for seed in seeds("hydration_goes_on_while_users_never_rest", 60) {
        let load = run_under_load(seed.value()).unwrap_or_else(|violation| panic!("{violation}"));
        // A pause between two copies takes at most a tenth of a second, and a copy far less.
        let least = load.passed.as_millis() / 150;
        assert!(load.is_complete || u128::from(load.stores) >= least, "{load:?}");
    }
}

/// Returns whether one of `oracles` is the first to detect `mutant` in some run.
fn is_seen(mutant: Mutant, sight: Sight, oracles: &[Oracle]) -> bool {
    (0..SURVIVED_MAX).any(|seed| match run_with(seed, Some(mutant), sight) {
        Ok(_) => false,
        Err(violation) => {
            println!("{mutant:?} is seen in run {seed}: {violation}");
            oracles.contains(&violation.oracle)
        }
    })
}

/// Checks that the oracles made for the mutant detect it, and that users would event it too.
#[track_caller]
fn expect_seen(mutant: Mutant, oracles: &[Oracle]) {
    assert!(is_seen(mutant, Sight::All, oracles), "{mutant:?} survives, but for others");
    let users = [Oracle::Read, Oracle::Durable, Oracle::Bounds];
    assert!(is_seen(mutant, Sight::Users, &users), "{mutant:?} survives what users see");
}

#[test]
fn a_commit_without_a_flush_of_the_destination_is_found_out() {
    expect_seen(Mutant::NoFlush, &[Oracle::Durable]);
}

#[test]
fn a_bit_that_is_set_before_its_data_lands_is_found_out() {
    expect_seen(Mutant::EarlyEnd, &[Oracle::Landing, Oracle::Read, Oracle::Durable]);
}

#[test]
fn a_discard_that_is_rounded_outwards_is_found_out() {
    expect_seen(Mutant::WideDiscard, &[Oracle::Landing, Oracle::Durable]);
}

#[test]
fn a_last_region_that_is_copied_too_long_is_found_out() {
    expect_seen(Mutant::LongLastRegion, &[Oracle::Bounds]);
}

#[test]
fn a_copy_that_overtakes_a_write_is_found_out() {
    expect_seen(Mutant::OvertakenCopy, &[Oracle::Landing, Oracle::Read]);
}

#[test]
fn a_flush_that_is_answered_early_is_found_out() {
    expect_seen(Mutant::EarlyAnswer, &[Oracle::Durable]);
}

#[test]
fn a_failed_commit_that_is_forgotten_is_found_out() {
    expect_seen(Mutant::ForgottenFailure, &[Oracle::Committed, Oracle::Durable]);
}

#[test]
fn a_failed_flush_that_is_forgotten_is_found_out() {
    expect_seen(Mutant::ForgottenFlushFailure, &[Oracle::Durable]);
}

#[test]
fn a_write_that_is_not_laid_over_its_copy_is_found_out() {
    expect_seen(Mutant::LostOverlay, &[Oracle::Read, Oracle::Durable, Oracle::Landing]);
}

#[test]
fn a_commit_that_does_nothing_is_found_out() {
    expect_seen(Mutant::NoCommit, &[Oracle::Committed, Oracle::Durable]);
}

/// Checks that the judge of time made for the mutant detects it, and that no other oracle does,
/// because the delayed action still happens.
#[track_caller]
fn expect_late(mutant: Mutant, oracle: Oracle) {
    assert!(is_seen(mutant, Sight::All, &[oracle]), "{mutant:?} survives");
    for seed in 0..SURVIVED_MAX {
        let without = run_with(seed, Some(mutant), Sight::Without(oracle));
        assert!(without.is_ok(), "others see {mutant:?} in run {seed}: {without:?}");
    }
}

#[test]
fn a_fetch_that_keeps_to_a_rate_while_a_user_waits_is_found_out() {
    expect_late(Mutant::LateFetch, Oracle::Waiting);
}

#[test]
fn a_flush_that_is_overtaken_by_others_is_found_out() {
    expect_late(Mutant::LateFlush, Oracle::Turns);
}

#[test]
fn a_copy_for_a_user_that_is_no_more_urgent_than_others_is_found_out() {
    expect_late(Mutant::NotUrgent, Oracle::Urgency);
}

#[test]
fn a_clone_that_is_complete_and_does_not_tell_is_found_out() {
    expect_late(Mutant::LateFinish, Oracle::Completion);
}

#[test]
fn hydration_that_starves_beside_users_is_found_out() {
    expect_late(Mutant::Starved, Oracle::Background);
}

#[test]
fn a_clone_that_goes_on_when_it_is_suspended_is_found_out() {
    expect_late(Mutant::LateSuspend, Oracle::Rest);
}

const MS: u64 = 1_000_000;

/// Returns whether a run kept the promise to users on a slow line, and whether hydration kept its
/// own.
fn is_fast(seed: u64, delay: Option<Delay>) -> (bool, bool, SlowLine) {
    let line = run_on_slow_line(seed, delay);
    let users = line.median <= line.median_max && line.longest <= 1000 * MS;
    (users, line.used_alone >= 0.9, line)
}

#[test]
fn a_user_on_a_slow_line_does_not_wait_for_hydration_and_hydration_uses_all_of_it() {
    let name = "a_user_on_a_slow_line_does_not_wait_for_hydration_and_hydration_uses_all_of_it";
    for seed in seeds(name, 60) {
        let (users, hydration, line) = is_fast(seed.value(), None);
        assert!(users && hydration, "{line:?}");
    }
    let is_seen = |delay| (0..20).map(move |seed| is_fast(seed, Some(delay)));
    assert!(is_seen(Delay::BlindWindow).any(|(users, ..)| !users), "a blind window survives");
    assert!(is_seen(Delay::OneByOne).any(|(_, alone, _)| !alone), "one by one survives");
}

/// Checks that all runs keep their bound, and that some of the deliberately delayed ones do not.
#[track_caller]
fn expect_bounded(name: &'static str, run: impl Fn(u64, Option<Delay>) -> Bounded, delay: Delay) {
    for seed in seeds(name, 200) {
        let bounded = run(seed.value(), None);
        assert!(bounded.is_kept(), "{bounded:?}");
    }
    let is_seen = (0..20).any(|seed| !run(seed, Some(delay)).is_kept());
    assert!(is_seen, "{delay:?} survives");
}

#[test]
fn a_user_never_waits_for_the_rate_of_a_large_region() {
    let name = "a_user_never_waits_for_the_rate_of_a_large_region";
    expect_bounded(name, run_beside_large_region, Delay::KeptRate);
}

#[test]
fn a_clone_is_complete_while_clients_write_and_flush_in_a_loop() {
    let name = "a_clone_is_complete_while_clients_write_and_flush_in_a_loop";
    expect_bounded(name, run_flushes, Delay::LateFinish);
}

#[test]
fn hydration_goes_on_beside_readers_whose_copies_leave_no_gap() {
    let name = "hydration_goes_on_beside_readers_whose_copies_leave_no_gap";
    for seed in seeds(name, 40) {
        let beside = run_beside_readers(seed.value(), None);
        assert!(beside.copies >= beside.least, "{beside:?}");
    }
    let mut starved = (0..20).map(|seed| run_beside_readers(seed, Some(Delay::Starved)));
    assert!(starved.any(|beside| beside.copies < beside.least), "starving survives");
}

/// A clone of 2^24 regions. All are hydrated except the first, whose copy is in flight and never
/// ends.
struct Huge {
    engine: Engine,
    requests: u64,
}

const HUGE: u64 = 1 << 24;
const REGION: u64 = 4096;

impl Huge {
    fn new() -> Self {
        let region_size = RegionSize::new(Sectors(REGION / 512)).unwrap();
        let geometry = Geometry::new(region_size, Sectors(HUGE * REGION / 512)).unwrap();
        let words = (0..HUGE / 64).map(|word| if word == 0 { !1 } else { !0 });
        let opened = Opened { geometry, metadata_used: 1, metadata_total: 2 };
        let mut huge =
            Self { engine: Engine::new(opened, words, Settings::default()), requests: 0 };
        huge.submit(Operation::Write, 0..512);
        huge
    }

    /// Submits a request. Returns the operations that it starts.
    fn submit(&mut self, operation: Operation, range: ByteRange) -> Vec<OpId> {
        self.requests += 1;
        let id = RequestId(self.requests);
        let mut actions = Vec::new();
        let request = Request { id, operation, range, durable: false };
        self.engine.handle(Duration::ZERO, Input::Submit(request), &mut actions);
        let started = |action: &Action| match action {
            Action::Start { op, .. } => Some(*op),
            _ => None,
        };
        actions.iter().filter_map(started).collect()
    }

    /// Returns the number of reads of one region that are done in a tenth of a second of processor
    /// time.
    fn count_reads(&mut self) -> u64 {
        let (mut reads, until) = (0, busy() + 100 * MS);
        while busy() < until {
            for region in 1..=16 {
                let started = self.submit(Operation::Read, region * REGION..(region + 1) * REGION);
                for op in started {
                    let done = Input::Done { op, result: Ok(Done::Plain) };
                    self.engine.handle(Duration::ZERO, done, &mut Vec::new());
                }
                reads += 1;
            }
        }
        reads
    }
}

/// Returns the processor time of this thread in nanoseconds, which does not depend on the load of
/// the machine.
fn busy() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_request_to_hydrate_that_waits_for_its_first_region_is_not_walked_at_each_event() {
    let alone = Huge::new().count_reads();
    let mut beside = Huge::new();
    beside.submit(Operation::Hydrate, 0..HUGE * REGION);
    let beside = beside.count_reads();
    // A read takes some hundreds of times as long if it walks all regions.
    assert!(beside * 10 > alone, "{beside} reads beside it, and {alone} alone");
}
