//! Hydration.

use std::time::Duration;

use super::world::{REGION, World};
use crate::dm_target::Message;
use crate::engine::Trace;
use crate::engine::{Command, EventKind, FailedRegion, Input, Operation, RequestError, Settings};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn hydrating(threshold: u32, batch_size: u32) -> Settings {
    let mut settings = Settings::default();
    settings.options.hydration_threshold = threshold;
    settings.options.hydration_batch_size = batch_size;
    settings
}

#[test]
fn copies_stay_within_threshold_and_batch_size() {
    let mut world = World::new(8 * 64, 10..20, hydrating(8, 3));
    world.event(Input::Tick);
    assert_eq!(world.take_log(), ["fetch 0..3", "fetch 3..6", "fetch 6..8"]);
    assert_eq!(world.figures().hydrating, 8);
    world.end_first("fetch 3..6");
    world.end_first("store 3..6");
    assert_eq!(world.take_log(), ["store 3..6", "fetch 8..10", "fetch 20..21"]);
    world.command(Command::Kernel(Message::HydrationThreshold(0)));
    world.run();
    assert_eq!(world.figures().hydrated, 10 + 11);
    world.command(Command::Kernel(Message::HydrationThreshold(2)));
    assert_eq!(world.started.len(), 1);
    world.command(Command::Kernel(Message::DisableHydration));
    world.run();
    assert_eq!(world.figures().hydrated, 10 + 13);
    world.command(Command::Kernel(Message::EnableHydration));
    world.run();
    assert_eq!(world.told, [EventKind::Finished]);
    assert!(world.destination == world.source);
    assert_eq!(world.committed.len(), 54);
}

#[test]
fn it_wraps_around_at_the_end() {
    let mut world = World::new(8 * 8, 0..0, hydrating(1, 1));
    world.bad.push(0..1);
    world.run_until(SECOND / 2);
    assert_eq!(world.figures().hydrated, 7);
    world.bad.clear();
    world.run_until(2 * SECOND);
    assert_eq!(world.told, [EventKind::Finished]);
    assert!(world.destination == world.source);
}

#[test]
fn no_copy_begins_while_users_are_at_work_but_some_progress_is_made() {
    let mut world = World::new(8 * 64, 0..1, hydrating(8, 4));
    world.write(0..10, 1);
    let begun = world.take_log();
    // Initially nothing is paced, and one copy is in flight.
    assert_eq!(begun, ["write 0..0.00244140625", "fetch 1..5"]);
    world.now = 10 * MS;
    world.end_first("fetch");
    world.end_first("store");
    assert_eq!(world.take_log(), ["store 1..5"]);
    // The copy took 10 ms, so the next one has to wait for 90 ms.
    let mut ticks = 0;
    while world.log.is_empty() {
        let next = world.engine.next_tick().unwrap();
        assert!(next > world.now && next <= world.now + 5 * MS);
        world.tick(next);
        ticks += 1;
    }
    assert_eq!((world.now, ticks), (100 * MS, 18));
    assert_eq!(world.take_log(), ["fetch 5..9"]);
    world.end_first("write");
    assert_eq!(world.take_log(), ["fetch 9..13"]);
    world.run();
    assert_eq!(world.figures().hydrated, 64);
}

#[test]
fn those_who_pass_the_engine_by_are_users_too() {
    let mut world = World::new(8 * 64, 0..1, hydrating(8, 4));
    let lane = world.engine.fast_path().lane();
    let pass = lane.pass(&(0..10));
    world.event(Input::Tick);
    world.now = 50 * MS;
    world.end_first("fetch");
    world.end_first("store");
    assert!(world.started.is_empty());
    drop(pass);
    let next = world.engine.next_tick().unwrap();
    world.tick(next);
    assert_eq!(next, 55 * MS);
    assert_eq!(world.started.len(), 2);
}

#[test]
fn the_rate_is_kept() {
    let settings = Settings { hydration_rate: Some(10 * REGION), ..hydrating(4, 4) };
    let mut world = World::new(8 * 64, 0..0, settings);
    for second in 1..=5u64 {
        world.run_until(Duration::from_secs(second));
        let copied = world.figures().hydrated;
        // A copy may begin as soon as the previous one is paid for, after an initial burst.
        assert!((10 * second..=10 * second + 5).contains(&copied), "{copied} in {second} s");
    }
    world.command(Command::HydrationRate(None));
    world.run();
    assert_eq!(world.figures().hydrated, 64);
}

#[test]
fn what_turns_out_to_be_a_hole_counts_for_no_rate_and_no_limit() {
    let settings = Settings { hydration_rate: Some(10 * REGION), ..hydrating(4, 4) };
    let mut world = World::new(8 * 64, 0..0, settings);
    world.source[4 * 4096..60 * 4096].fill(0);
    world.holes.push(4 * 4096..60 * 4096);
    world.command(Command::HydrationLimit(Some(6 * REGION)));
    world.run_until(SECOND);
    // The copy was extended into the hole at once, and four regions cost 0.4 s.
    assert_eq!(world.told, [EventKind::LimitReached]);
    assert!(!world.figures().options.hydration);
    assert_eq!(world.take_log().iter().filter(|line| line.starts_with("store")).count(), 2);
    assert_eq!(world.figures().hydrated, 62);
    world.command(Command::Kernel(Message::EnableHydration));
    world.run_until(2 * SECOND);
    assert_eq!(world.told.last(), Some(&EventKind::Finished));
}

#[test]
fn a_limit_is_never_exceeded_and_keeps_no_user_waiting() {
    let mut world = World::new(8 * 64, 0..0, World::quiet());
    world.command(Command::HydrationLimit(Some(11 * REGION - 1)));
    world.command(Command::Hydrate(40 * REGION..44 * REGION));
    world.command(Command::Kernel(Message::EnableHydration));
    world.command(Command::Kernel(Message::HydrationThreshold(4)));
    world.command(Command::Kernel(Message::HydrationBatchSize(4)));
    world.run();
    assert_eq!((world.figures().hydrated, &world.told[..]), (10, &[EventKind::LimitReached][..]));
    // If the limit is too small for one region, only user requests cause copies.
    world.command(Command::HydrationLimit(Some(REGION - 1)));
    let waiting = world.submit(Operation::Hydrate, 50 * REGION..52 * REGION, 0);
    world.command(Command::Kernel(Message::EnableHydration));
    world.run();
    assert_eq!((world.answers[&waiting], world.figures().hydrated), (Ok(()), 12));
    assert_eq!(world.told, [EventKind::LimitReached, EventKind::LimitReached]);
}

#[test]
fn a_bad_region_is_put_off_and_the_others_go_on() {
    let mut world = World::new(8 * 64, 0..0, hydrating(16, 16));
    world.bad.push(20 * REGION..20 * REGION + 512);
    world.run_until(SECOND / 2);
    assert_eq!(world.figures().hydrated, 63);
    assert!(world.told.is_empty());
    assert_eq!(world.take_log().iter().filter(|line| *line == "fetch 20..21").count(), 1);
    // It is retried at growing intervals.
    world.run_until(16 * SECOND);
    let retries = world.take_log().iter().filter(|line| *line == "fetch 20..21").count();
    assert_eq!(retries, 4);
    let failed: Vec<FailedRegion> = world.engine.failed_regions().collect();
    let [FailedRegion { regions, tries, failure }] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((regions.clone(), *tries), (20..21, 5));
    assert_eq!(failure.to_string(), "source: a bad sector");
    // A user can still overwrite it.
    world.write(20 * REGION..21 * REGION, 1);
    world.run_until(200 * SECOND);
    assert_eq!(world.told, [EventKind::Finished]);
}

#[test]
fn after_too_many_failures_in_a_row_it_stops_and_says_why() {
    let mut world = World::new(8 * 64, 0..0, Settings { max_failures: 3, ..hydrating(1, 1) });
    world.bad.push(5 * REGION..60 * REGION);
    world.run_until(1000 * SECOND);
    let [EventKind::HydrationStopped { failures, range, failure }] = &world.told[..] else {
        panic!("{:?}", world.told);
    };
    assert_eq!((*failures, range.clone()), (3, 7 * REGION..8 * REGION));
    assert_eq!(failure.to_string(), "source: a bad sector");
    let stopped = world.figures();
    assert_eq!((stopped.hydrated, stopped.options.hydration), (5, false));
    let healthy = world.write(62 * REGION..62 * REGION + 1, 1);
    world.run();
    assert_eq!(world.answers[&healthy], Ok(()));
    world.bad.clear();
    world.command(Command::Kernel(Message::EnableHydration));
    world.run_until(1001 * SECOND);
    assert_eq!(world.told.last(), Some(&EventKind::Finished));
}

#[test]
fn a_source_that_has_changed_stops_hydration_and_is_told_once() {
    let mut world = World::new(8 * 64, 0..8, hydrating(1, 1));
    let changed = || Input::SourceChanged { reason: "another ETag".into() };
    world.event(changed());
    world.event(changed());
    world.run_until(10 * SECOND);
    let told = EventKind::SourceChanged { reason: "another ETag".into() };
    assert_eq!(world.told, std::slice::from_ref(&told));
    assert!(!world.figures().options.hydration);
    assert!(world.figures().hydrated < 64);
    // Regions that are on the destination are not affected.
    let healthy = world.write(0..REGION, 1);
    world.run_until(11 * SECOND);
    assert_eq!(world.answers[&healthy], Ok(()));
    world.command(Command::Kernel(Message::EnableHydration));
    world.event(changed());
    assert_eq!(world.told, [told.clone(), told]);
}

#[test]
fn holes_are_followed_and_not_read() {
    let mut world = World::new(8 * 64, 40..41, hydrating(2, 2));
    world.source[4 * 4096..50 * 4096].fill(0);
    world.destination[40 * 4096..41 * 4096].fill(0xab);
    world.holes.push(4 * 4096..49 * 4096 + 1);
    world.run_until(SECOND);
    let log = world.take_log();
    assert_eq!(log[4..6], ["fetch 4..6", "zero 4..40"]);
    assert_eq!(log[6..8], ["fetch 41..43", "zero 41..49"]);
    assert_eq!(log[8..10], ["fetch 49..51", "store 49..51"]);
    world.source[40 * 4096..41 * 4096].fill(0xab);
    assert!(world.source == world.destination);
}

#[test]
fn a_hole_that_is_written_to_while_it_is_looked_at_is_stored_with_the_write() {
    let mut world = World::new(8 * 8, 0..0, hydrating(2, 2));
    world.source.fill(0);
    world.holes.push(0..8 * 4096);
    world.event(Input::Tick);
    world.write(100..200, 1);
    world.run();
    assert_eq!(world.take_log()[..3], ["fetch 0..2", "promote fetch 0..2", "store 0..2"]);
    assert!(world.destination[100..200] == [1; 100] && world.destination[200..] == [0; 32568]);
}

#[test]
fn a_write_behind_what_was_fetched_of_a_hole_waits_until_the_hole_is_made() {
    let mut world = World::new(8 * 64, 0..0, hydrating(2, 2));
    world.source.fill(0);
    world.holes.push(0..64 * 4096);
    world.event(Input::Tick);
    world.end_first("fetch");
    assert_eq!(world.take_log(), ["fetch 0..2", "zero 0..64"]);
    let write = world.write(10 * 4096 + 1..10 * 4096 + 9, 1);
    world.end_first("zero");
    assert!(!world.answers.contains_key(&write));
    world.run();
    assert_eq!(world.answers[&write], Ok(()));
    assert!(world.destination[10 * 4096 + 1..10 * 4096 + 9] == [1; 8]);
}

#[test]
fn what_users_want_next_goes_first_and_even_if_hydration_is_off() {
    let mut world = World::new(8 * 64, 0..0, World::quiet());
    world.command(Command::Hydrate(30 * REGION + 5..32 * REGION));
    world.command(Command::Hydrate(10 * REGION..11 * REGION));
    world.command(Command::Hydrate(63 * REGION..u64::MAX));
    assert_eq!(world.take_log(), ["fetch 30..32", "fetch 10..11", "fetch 63..64"]);
    let waiting = world.submit(Operation::Hydrate, 9 * REGION..33 * REGION, 0);
    world.run();
    assert_eq!(world.answers[&waiting], Ok(()));
    assert_eq!(world.figures().hydrated, 25);
    world.bad.push(0..1);
    let bad = world.submit(Operation::Hydrate, 0..REGION, 0);
    world.run();
    assert_eq!(world.answers[&bad], Err(RequestError::NotCopied));
    assert!(world.told.is_empty());
}

#[test]
fn what_was_read_is_recorded_also_where_it_was_hydrated() {
    let mut world = World::new(8 * 64, 4..8, World::quiet());
    let lane = world.engine.fast_path().lane();
    world.command(Command::Record(true));
    assert!(lane.pass(&(4 * REGION..5 * REGION)).is_none());
    for range in [5 * REGION..6 * REGION, 63 * REGION..64 * REGION, 6 * REGION..7 * REGION] {
        world.read(range).unwrap();
    }
    world.command(Command::Record(false));
    assert!(lane.pass(&(4 * REGION..5 * REGION)).is_some());
    let text = world.engine.trace().unwrap().to_text();
    let trace = Trace::parse(&text).unwrap();
    assert_eq!(
        trace.ranges(),
        [5 * REGION..6 * REGION, 63 * REGION..64 * REGION, 6 * REGION..7 * REGION]
    );
}

#[test]
fn a_region_larger_than_a_buffer_is_copied_in_pieces_that_find_room() {
    let settings = Settings { copy_bytes: 64 << 10, copies: 2, ..hydrating(1, 1) };
    let mut world = World::large_regions(512, 2, settings);
    world.event(Input::Tick);
    assert_eq!(world.take_log(), ["fetch 0..16", "fetch 16..32"]);
    // A write to a chunk not yet fetched is laid over it; a write to a chunk being stored waits.
    world.end_first("fetch 0..16");
    let along = world.write(200_000..200_100, 0xaa);
    let waits = world.write(50..60, 0xbb);
    world.run();
    assert_eq!((world.answers[&along], world.answers[&waits]), (Ok(()), Ok(())));
    assert!(world.destination[200_000..200_100] == [0xaa; 100]);
    assert!(world.destination[50..60] == [0xbb; 10]);
    world.destination[200_000..200_100].copy_from_slice(&world.source[200_000..200_100]);
    world.destination[50..60].copy_from_slice(&world.source[50..60]);
    assert!(world.destination == world.source);
}

#[test]
fn a_large_region_keeps_the_rate_too_and_is_given_up_for_a_suspension() {
    let settings =
        Settings { copy_bytes: 64 << 10, hydration_rate: Some(64 << 10), ..hydrating(1, 1) };
    let mut world = World::large_regions(2048, 2, settings);
    world.run_until(5 * SECOND);
    let fetched = world.take_log().iter().filter(|line| line.starts_with("fetch")).count();
    assert!((5..=7).contains(&fetched), "{fetched} pieces in 5 s");
    // The chunk in flight ends, and no more of the region is read.
    world.event(Input::Suspend);
    world.run();
    assert_eq!(world.told, [EventKind::Suspended]);
    let more = world.take_log().iter().filter(|line| line.starts_with("fetch")).count();
    assert_eq!((more, world.figures().hydrated, world.figures().hydrating), (0, 0, 0));
    world.event(Input::Resume);
    world.command(Command::HydrationRate(None));
    world.run_until(6 * SECOND);
    assert_eq!(world.told.last(), Some(&EventKind::Finished));
    assert!(world.destination == world.source);
}

#[test]
fn a_request_to_hydrate_has_as_many_copies_as_there_is_room_for() {
    let settings = Settings { copy_bytes: 64 << 10, copies: 3, ..World::quiet() };
    let mut world = World::new(8 * 128, 8..10, settings);
    let waiting = world.submit(Operation::Hydrate, 0..128 * REGION, 0);
    let later = world.submit(Operation::Hydrate, 100 * REGION..101 * REGION, 0);
    assert_eq!(world.take_log(), ["fetch 0..8", "fetch 10..26", "fetch 26..42", "fetch 42..50"]);
    world.end_first("fetch 10..26");
    world.end_first("store 10..26");
    assert_eq!(world.take_log(), ["store 10..26", "fetch 50..66"]);
    world.run();
    assert_eq!((world.answers[&waiting], world.answers[&later]), (Ok(()), Ok(())));
    assert_eq!(world.figures().hydrated, 128);
}

#[test]
fn what_is_left_of_a_place_that_users_wrote_to_is_tried_again() {
    let settings = Settings { max_failures: 1, ..hydrating(4, 4) };
    let mut world = World::new(8 * 16, 0..8, settings);
    world.bad.push(8 * REGION..16 * REGION);
    world.event(Input::Tick);
    world.run();
    assert!(matches!(world.told[..], [EventKind::HydrationStopped { .. }]));
    world.write(8 * REGION..9 * REGION, 1);
    world.write(10 * REGION..11 * REGION, 1);
    world.write(12 * REGION..16 * REGION, 1);
    world.run_until(SECOND);
    let places: Vec<_> = world.engine.failed_regions().map(|place| place.regions).collect();
    assert_eq!(places, [9..10, 11..12]);
    world.bad.clear();
    world.command(Command::Kernel(Message::EnableHydration));
    assert_eq!(world.started.len(), 2);
    world.run();
    assert_eq!(world.told.last(), Some(&EventKind::Finished));
}

#[test]
fn one_bad_region_of_a_large_copy_counts_twice_and_not_once_for_each_half() {
    let settings = Settings { max_failures: 3, ..hydrating(1024, 1024) };
    let mut world = World::new(8 * 1024, 0..0, settings);
    world.bad.push(0..1);
    world.run_until(SECOND / 2);
    assert_eq!(world.figures().hydrated, 1023);
    assert!(world.told.is_empty());
}

#[test]
fn a_demand_that_failed_is_tried_by_hydration_too() {
    let mut world = World::new(8 * 8, 1..8, hydrating(1, 1));
    world.bad.push(0..1);
    world.run_until(SECOND / 2);
    world.take_log();
    let write = world.write(5..6, 1);
    world.run();
    assert!(world.answers[&write].is_err());
    assert_eq!(world.take_log()[..1], ["fetch 0..1"]);
    world.bad.clear();
    world.run_until(100 * SECOND);
    assert_eq!(world.told, [EventKind::Finished]);
}
