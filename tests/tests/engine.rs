//! The engine in a simulated world, and the oracles of that world against known bad behaviour.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use clone_tests::assert_seen;
use clone_tests::engine_sim::{Figures, Mutant, Oracle, Sight, run, run_under_load, run_with};
use persistent_data::sim::seeds;

/// Seeds that a mutant may survive, before it is taken for one that nobody sees.
const SURVIVED_MAX: u64 = 300;

#[test]
fn clients_see_a_plain_copy_of_the_source_whatever_fails_and_whenever_the_power_goes() {
    let name = "clients_see_a_plain_copy_of_the_source_whatever_fails_and_whenever_the_power_goes";
    let (mut all, mut runs) = (Figures::default(), 0);
    for seed in seeds(name, 4000) {
        match run(seed.value()) {
            Ok(figures) => all.add(&figures),
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
        // A rest between two copies is a tenth of a second at most, and a copy far shorter.
        let least = load.passed.as_millis() / 150;
        assert!(load.is_complete || u128::from(load.stores) >= least, "{load:?}");
    }
}

/// Whether one of `oracles` is the first to see `mutant` in some run.
fn is_seen(mutant: Mutant, sight: Sight, oracles: &[Oracle]) -> bool {
    (0..SURVIVED_MAX).any(|seed| match run_with(seed, Some(mutant), sight) {
        Ok(_) => false,
        Err(violation) => {
            println!("{mutant:?} is seen in run {seed}: {violation}");
            oracles.contains(&violation.oracle)
        }
    })
}

/// The oracles that are there for it see it, and users would see it too.
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
