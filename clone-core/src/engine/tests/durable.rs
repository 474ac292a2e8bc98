//! Commit rounds, modes and suspending.

use std::time::Duration;

use super::world::{REGION, World};
use crate::dm_target::{Message, Mode, Status};
use crate::engine::{Command, Device, EventKind, Input, Operation, RequestError, Settings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_flush_is_answered_by_a_round_that_began_after_it() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    world.write(0..4096, 1);
    world.run();
    let first = world.flush();
    let write = world.write(4096..8192, 2);
    world.end_first("write");
    assert_eq!(world.answers[&write], Ok(()));
    let second = world.flush();
    world.end_first("flush");
    world.end_first("commit");
    assert_eq!(world.answers[&first], Ok(()));
    assert!(!world.answers.contains_key(&second));
    world.run();
    assert_eq!(world.answers[&second], Ok(()));
    // The first commit does not contain data written after the flush of the destination.
    let log = world.take_log();
    assert_eq!(
        log[1..],
        ["flush", "write 1..2", "commit [0..1]", "flush", "commit [1..2]"].map(String::from)
    );
}

#[test]
fn flushes_that_wait_together_share_a_round_and_one_without_changes_commits_nothing() {
    let mut world = World::new(8 * 8, 0..4, World::quiet());
    world.write(0..4096, 1);
    world.run();
    world.take_log();
    let flushes = [world.flush(), world.flush(), world.flush()];
    world.run();
    assert!(flushes.iter().all(|flush| world.answers[flush].is_ok()));
    assert_eq!(world.take_log(), ["flush", "flush"]);
    // A status has nothing to commit, and does not touch the destination.
    let commit = world.submit(Operation::Commit, 0..0, 0);
    assert!(world.answers[&commit].is_ok() && world.take_log().is_empty());
}

#[test]
fn a_durable_write_is_answered_when_its_region_is_committed() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    let write = world.submit_as(Operation::Write, 0..100, 1, true);
    world.end_first("fetch");
    world.end_first("store");
    assert!(!world.answers.contains_key(&write));
    world.end_first("flush");
    assert!(!world.answers.contains_key(&write));
    world.end_first("commit");
    assert_eq!(world.answers[&write], Ok(()));
    assert!(world.committed.contains(0));
}

#[test]
fn what_changed_is_committed_after_a_second() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    world.now = 5 * SECOND;
    world.write(0..4096, 1);
    world.run();
    assert_eq!(world.engine.next_tick(), Some(6 * SECOND));
    world.tick(Duration::from_millis(5999));
    assert!(world.started.is_empty());
    world.run_until(6 * SECOND);
    assert!(world.committed.contains(0));
    assert_eq!(world.engine.next_tick(), None);
}

#[test]
fn after_a_failed_commit_only_what_was_committed_counts() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    world.write(0..4096, 1);
    world.run();
    world.flush();
    world.run();
    world.write(0..2 * 4096, 2);
    world.run();
    world.fails = Some("commit");
    let flush = world.flush();
    let waiting = world.submit_as(Operation::Write, 2 * 4096..3 * 4096, 3, true);
    world.run();
    assert_eq!(world.answers[&flush], Err(RequestError::Device(Device::Metadata)));
    assert_eq!(world.answers[&waiting], Err(RequestError::ReadOnly));
    assert!(matches!(world.told[..], [EventKind::ReadOnly(_)]));
    assert_eq!(world.log.last().unwrap(), "abort");
    let figures = world.figures();
    assert_eq!((figures.hydrated, figures.mode), (1, Mode::ReadOnly));
    // The first region keeps its committed data; the second one belongs to the source again.
    assert!(world.read(0..2 * 4096).unwrap() == [[2; 4096], [2; 4096]].concat());
    assert_eq!(world.take_log().last().unwrap(), "source 1..2");
    let (hydrated, other) = (world.write(5..10, 4), world.write(4096..4100, 4));
    let zeroes = world.submit(Operation::WriteZeroes { deallocate: true }, 0..2 * 4096, 0);
    let discard = world.submit(Operation::Discard, 0..2 * 4096, 0);
    let later = world.flush();
    world.command(Command::Kernel(Message::EnableHydration));
    world.command(Command::Hydrate(0..8 * REGION));
    let wanted = world.submit(Operation::Hydrate, 4096..8192, 0);
    world.run_until(100 * SECOND);
    assert_eq!((world.answers[&hydrated], world.answers[&discard]), (Ok(()), Ok(())));
    for refused in [other, zeroes, later, wanted] {
        assert_eq!(world.answers[&refused], Err(RequestError::ReadOnly));
    }
    assert_eq!(world.take_log(), ["write 0.001220703125..0.00244140625"]);
    assert_eq!(world.told.len(), 1);
}

#[test]
fn a_failed_flush_of_the_destination_commits_nothing() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    world.write(0..4096, 1);
    world.run();
    world.fails = Some("flush");
    let flush = world.flush();
    world.run();
    assert_eq!(world.answers[&flush], Err(RequestError::Device(Device::Destination)));
    assert!(world.committed.is_empty() && world.figures().hydrated == 0);
    assert_eq!(world.take_log()[1..], ["flush", "abort"].map(String::from));
}

#[test]
fn copies_under_way_when_the_clone_becomes_read_only_hydrate_nothing() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    world.write(0..4096, 1);
    world.run();
    let partial = world.write(4096..4100, 2);
    let whole = world.write(8192..3 * 4096, 2);
    let read = world.submit(Operation::Read, 4096..8192, 0);
    world.fails = Some("flush");
    world.flush();
    world.end_first("flush");
    world.run();
    assert_eq!(world.answers[&partial], Err(RequestError::ReadOnly));
    assert_eq!(world.answers[&whole], Err(RequestError::ReadOnly));
    assert_eq!(world.answers[&read], Ok(()));
    let figures = world.figures();
    assert_eq!((figures.hydrated, figures.hydrating), (0, 0));
}

#[test]
fn if_not_even_the_last_commit_can_be_read_all_fails() {
    let mut world = World::new(8 * 8, 0..4, World::quiet());
    let lane = world.engine.fast_path().lane();
    world.write(4 * 4096..5 * 4096, 1);
    world.run();
    world.fails = Some("flush");
    world.flush();
    world.end_first("flush");
    world.fails = Some("abort");
    world.run();
    assert!(matches!(world.told[..], [EventKind::ReadOnly(_), EventKind::Failed(_)]));
    assert_eq!(world.engine.status(), Status::Fail);
    assert_eq!(world.read(0..5), Err(RequestError::Failed));
    let (write, flush) = (world.write(0..5, 1), world.flush());
    assert_eq!(world.answers[&write], Err(RequestError::Failed));
    assert_eq!(world.answers[&flush], Err(RequestError::Failed));
    assert!(lane.pass(&(0..5)).is_none());
}

#[test]
fn a_suspended_clone_has_committed_all_and_holds_what_comes() {
    let mut settings = World::quiet();
    settings.options.hydration = true;
    let mut world = World::new(8 * 8, 0..0, settings);
    world.event(Input::Tick);
    let write = world.write(4 * 4096..5 * 4096, 1);
    let lane = world.engine.fast_path().lane();
    world.event(Input::Suspend);
    let held = world.write(0..10, 2);
    let status = world.submit(Operation::Commit, 0..0, 0);
    world.run();
    assert_eq!(world.told, [EventKind::Suspended]);
    assert_eq!((world.answers[&write], world.answers[&status]), (Ok(()), Ok(())));
    assert!(!world.answers.contains_key(&held) && lane.pass(&(4 * 4096..4 * 4096 + 1)).is_none());
    assert!(world.committed.contains(0) && world.committed.contains(4));
    assert_eq!((world.committed.len(), world.engine.next_tick()), (2, None));
    world.event(Input::Resume);
    world.run_until(10 * SECOND);
    assert_eq!(world.told, [EventKind::Suspended, EventKind::Resumed, EventKind::Finished]);
    assert_eq!(world.answers[&held], Ok(()));
}

#[test]
fn a_clone_is_not_at_rest_before_the_last_pass_is_back() {
    let mut world = World::new(8 * 8, 0..4, World::quiet());
    let lane = world.engine.fast_path().lane();
    let pass = lane.pass(&(0..1));
    world.event(Input::Suspend);
    let tick = world.engine.next_tick().unwrap();
    world.tick(tick);
    assert!(world.told.is_empty() && world.engine.next_tick().unwrap() > tick);
    drop(pass);
    let tick = world.engine.next_tick().unwrap();
    world.tick(tick);
    assert_eq!(world.told, [EventKind::Suspended]);
}

#[test]
fn a_clone_that_is_told_to_go_on_while_it_comes_to_rest_does_both() {
    let mut world = World::new(8 * 8, 0..4, World::quiet());
    world.write(0..4096, 1);
    world.event(Input::Suspend);
    world.event(Input::Resume);
    let flush = world.flush();
    world.run();
    assert_eq!(world.told, [EventKind::Suspended, EventKind::Resumed]);
    assert_eq!(world.answers[&flush], Ok(()));
}

#[test]
fn a_complete_clone_needs_neither_map_nor_metadata() {
    let mut world = World::new(8 * 8, 0..7, World::quiet());
    let lane = world.engine.fast_path().lane();
    world.write(7 * 4096..8 * 4096, 1);
    world.end_first("write");
    assert!(!world.engine.fast_path().is_complete());
    world.run();
    assert!(world.engine.fast_path().is_complete() && world.is_retired);
    assert_eq!(world.told, [EventKind::Finished]);
    assert!(lane.pass(&(0..8 * 4096)).is_some());
    world.take_log();
    let (write, discard) = (world.write(0..5, 1), world.submit(Operation::Discard, 0..4096, 0));
    let flush = world.flush();
    world.run();
    assert!([write, discard, flush].iter().all(|id| world.answers[id].is_ok()));
    assert_eq!(world.take_log(), ["write 0..0.001220703125", "discard 0..1", "flush"]);
    // A failed flush leaves nothing to abort, but no later flush can be trusted.
    world.fails = Some("flush");
    let flush = world.flush();
    world.run();
    world.fails = None;
    let later = world.flush();
    assert!(world.answers[&flush].is_err() && world.answers[&later].is_err());
    // There was nothing to commit.
    assert_eq!((world.figures().hydrated, world.figures().mode), (8, Mode::ReadWrite));
    assert!(matches!(world.told[..], [EventKind::Finished, EventKind::FlushFailed(_)]));
    let write = world.write(0..5, 1);
    world.run();
    assert_eq!(world.answers[&write], Ok(()));
}

/// Back-to-back flushes must not prevent completion.
#[test]
fn a_clone_is_complete_though_there_is_always_a_flush_under_way() {
    let mut world = World::new(8 * 8, 0..7, World::quiet());
    let first = world.flush();
    world.write(7 * 4096..8 * 4096, 1);
    world.end_first("write");
    // It waits for the next round.
    let second = world.flush();
    world.end_first("flush");
    world.end_first("flush");
    let third = world.flush();
    world.end_first("commit");
    assert_eq!(world.take_log().last().unwrap(), "flush");
    assert_eq!(world.told, [EventKind::Finished]);
    assert!(world.is_retired && !world.answers.contains_key(&third));
    world.end_first("flush");
    assert!([first, second, third].iter().all(|flush| world.answers[flush].is_ok()));
}

#[test]
fn a_clone_that_was_complete_says_so_at_once() {
    let mut world = World::new(8 * 8, 0..8, World::quiet());
    world.event(Input::Tick);
    assert_eq!(world.told, [EventKind::Finished]);
    assert!(world.is_retired && world.started.is_empty());
}

#[test]
fn a_write_that_ends_after_its_region_was_taken_back_is_not_called_done() {
    let mut world = World::new(8 * 8, 0..1, World::quiet());
    world.write(4096..8192, 1);
    world.run();
    let (lost, kept) = (world.write(4096..4100, 2), world.write(0..4, 2));
    world.fails = Some("flush");
    world.flush();
    world.end_first("flush");
    world.run();
    assert_eq!(world.answers[&lost], Err(RequestError::ReadOnly));
    assert_eq!(world.answers[&kept], Ok(()));
}

#[test]
fn who_asked_for_regions_that_are_committed_is_not_refused_by_a_later_failure() {
    let settings = Settings { copies: 1, copy_bytes: 64 << 10, ..World::quiet() };
    let mut world = World::new(8 * 64, 0..0, settings);
    let asked: Vec<u64> = [0..16, 16..32]
        .map(|regions: std::ops::Range<u64>| {
            world.submit(Operation::Hydrate, regions.start * REGION..regions.end * REGION, 0)
        })
        .into();
    // Meanwhile a user overwrites another range and has it committed.
    world.write(16 * REGION..32 * REGION, 1);
    world.end_first("write");
    world.flush();
    world.end_first("flush");
    world.end_first("commit");
    world.write(40 * REGION..41 * REGION, 1);
    world.end_first("write");
    world.fails = Some("flush");
    world.flush();
    world.end_first("flush");
    world.run();
    assert_eq!(world.answers[&asked[0]], Err(RequestError::ReadOnly));
    assert_eq!(world.answers[&asked[1]], Ok(()));
}

#[test]
fn a_clone_that_fails_on_its_way_to_rest_lets_nobody_wait() {
    let mut world = World::new(8 * 8, 0..1, World::quiet());
    world.write(4096..8192, 1);
    world.event(Input::Suspend);
    let held = world.write(0..5, 1);
    world.fails = Some("commit");
    world.end_first("write");
    world.end_first("flush");
    world.end_first("commit");
    world.fails = Some("abort");
    world.run();
    let later = world.write(0..5, 1);
    assert_eq!(world.engine.status(), Status::Fail);
    assert_eq!(world.answers[&held], Err(RequestError::Failed));
    assert_eq!(world.answers[&later], Err(RequestError::Failed));
}
