//! User requests.

use super::world::{REGION, World};
use crate::engine::{Discards, Input, Operation, RequestError, Settings};

fn regions(start: u64, end: u64) -> std::ops::Range<u64> {
    start * REGION..end * REGION
}

#[test]
fn a_request_is_cut_only_where_hydrated_and_other_regions_meet() {
    let mut world = World::new(8 * 64, 10..20, World::quiet());
    let data = world.read(regions(0, 64)).unwrap();
    assert!(data == world.source);
    assert_eq!(world.take_log(), ["source 0..10", "destination 10..20", "source 20..64"]);
    // The write overwrites whole regions: there is nothing to copy and nothing to split.
    let write = world.write(regions(5, 40), 7);
    assert_eq!(world.take_log(), ["write 5..40"]);
    assert_eq!(world.figures().hydrated, 10);
    world.run();
    assert_eq!(world.answers[&write], Ok(()));
    assert_eq!(world.figures().hydrated, 35);
    assert!(world.read(regions(5, 40)).unwrap() == vec![7; 35 * 4096]);
}

#[test]
fn a_write_to_parts_of_regions_reads_the_source_once_and_writes_once() {
    let mut world = World::new(8 * 64, 0..0, World::quiet());
    let write = world.write(4096 + 100..4 * 4096 + 5, 0xaa);
    assert_eq!(world.take_log(), ["fetch 1..2", "write 2..4", "fetch 4..5"]);
    // Another write to the same region is laid over the copy in flight.
    let other = world.write(4096..4096 + 50, 0xab);
    world.run();
    assert_eq!(world.take_log(), ["store 1..2", "store 4..5"]);
    assert_eq!((world.answers[&write], world.answers[&other]), (Ok(()), Ok(())));
    assert_eq!(world.figures().hydrated, 4);
    let data = &world.destination;
    assert!(data[4096..4146] == [0xab; 50]);
    assert!(data[4146..4196] == [2; 50]);
    assert!(data[4196..4 * 4096 + 5] == [0xaa; 3 * 4096 - 95]);
    assert!(data[4 * 4096 + 5..5 * 4096] == [5; 4091]);
    assert!(data[..4096].iter().chain(&data[5 * 4096..]).all(|&byte| byte == 0xdd));
}

#[test]
fn a_write_to_what_is_being_stored_waits_and_does_not_copy_again() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    let first = world.write(100..200, 1);
    world.end_first("fetch");
    let second = world.write(150..250, 2);
    let third = world.write(0..4096, 3);
    assert_eq!(world.take_log(), ["fetch 0..1", "store 0..1"]);
    world.end_first("store");
    assert!(world.answers.contains_key(&first) && !world.answers.contains_key(&second));
    world.end_first("write 0.03");
    world.run();
    assert_eq!(world.take_log(), ["write 0.03662109375..0.06103515625", "write 0..1"]);
    assert_eq!((world.answers[&second], world.answers[&third]), (Ok(()), Ok(())));
    assert!(world.destination[..4096] == [3; 4096]);
}

#[test]
fn what_is_read_before_a_write_has_landed_is_all_old() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    let write = world.write(regions(2, 4), 9);
    assert!(world.started.len() == 1);
    let read = world.submit(Operation::Read, regions(1, 5), 0);
    world.end_first("source 1..5");
    assert!(world.answers.contains_key(&read) && !world.answers.contains_key(&write));
    world.run();
    assert!(world.read(regions(2, 4)).unwrap() == vec![9; 8192]);
}

#[test]
fn a_failed_copy_fails_the_write_that_needs_it_and_no_other() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    world.bad.push(4096..8192);
    let partial = world.write(4096..5000, 1);
    world.run();
    assert!(matches!(world.answers[&partial], Err(RequestError::Device(_))));
    assert_eq!(world.figures().hydrated, 0);
    let whole = world.write(4096..8192, 2);
    let beside = world.write(8192..9000, 3);
    world.run();
    assert_eq!((world.answers[&whole], world.answers[&beside]), (Ok(()), Ok(())));
    assert!(world.read(4096..8192).unwrap() == vec![2; 4096]);
}

#[test]
fn a_failed_copy_in_the_background_lets_a_write_that_it_took_along_try_alone() {
    let mut settings = World::quiet();
    settings.options.hydration = true;
    (settings.options.hydration_threshold, settings.options.hydration_batch_size) = (8, 8);
    let mut world = World::new(8 * 8, 0..0, settings);
    world.bad.push(4096..8192);
    world.event(Input::Tick);
    assert_eq!(world.take_log(), ["fetch 0..8"]);
    let healthy = world.write(100..200, 1);
    let bad = world.write(5000..6000, 2);
    world.run();
    assert_eq!(world.answers[&healthy], Ok(()));
    assert!(matches!(world.answers[&bad], Err(RequestError::Device(_))));
}

#[test]
fn a_discard_counts_where_it_covers_regions() {
    let mut world = World::new(8 * 8 - 3, 4..5, World::quiet());
    let small = world.submit(Operation::Discard, 100..8191, 0);
    assert!(world.started.is_empty() && world.answers[&small].is_ok());
    // The short last region is covered, too.
    let discard = world.submit(Operation::Discard, 8000..8 * 4096 - 3 * 512, 0);
    assert_eq!(world.take_log(), ["zero 2..7.625"]);
    world.run();
    assert_eq!(world.answers[&discard], Ok(()));
    assert_eq!(world.figures().hydrated, 6);
    assert!(world.read(8192..16384).unwrap() == vec![0; 8192]);
    assert!(world.read(8000..8192).unwrap() == vec![2; 192]);
    world.submit(Operation::Discard, regions(2, 4), 0);
    assert_eq!(world.started.len(), 1);
    assert_eq!(world.take_log().last().unwrap(), "discard 2..4");
}

#[test]
fn a_discard_that_is_not_passed_down_leaves_hydrated_regions_alone() {
    let mut settings = World::quiet();
    settings.options.discard_passdown = false;
    let mut world = World::new(8 * 8, 2..4, settings);
    world.submit(Operation::Discard, regions(0, 8), 0);
    assert_eq!(world.take_log(), ["zero 0..2", "zero 4..8"]);
    world.run();
    assert!(world.read(regions(2, 4)).unwrap() == world.source[2 * 4096..4 * 4096]);
    let again = world.submit(Operation::Discard, regions(0, 8), 0);
    assert!(world.started.is_empty() && world.answers[&again].is_ok());
}

#[test]
fn a_discard_as_in_the_kernel_hydrates_without_writing() {
    let settings = Settings { discards: Discards::AsKernel, ..World::quiet() };
    let mut world = World::new(8 * 8 - 3, 0..0, settings);
    let discard = world.submit(Operation::Discard, 0..8 * 4096 - 3 * 512, 0);
    assert_eq!(world.take_log(), ["discard 0..7"]);
    assert_eq!(world.figures().hydrated, 7);
    world.run();
    assert_eq!(world.answers[&discard], Ok(()));
}

#[test]
fn a_discard_waits_for_what_is_being_copied() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    world.write(4096..4100, 1);
    let discard = world.submit(Operation::Discard, regions(0, 4), 0);
    assert_eq!(world.take_log(), ["fetch 1..2", "zero 0..1", "zero 2..4"]);
    world.run();
    assert_eq!(world.take_log(), ["store 1..2", "discard 1..2"]);
    assert_eq!(world.answers[&discard], Ok(()));
    assert_eq!(world.figures().hydrated, 4);
}

#[test]
fn zeroes_are_written_wherever_they_are_asked_for() {
    let mut world = World::new(8 * 8, 3..4, World::quiet());
    let zeroes = Operation::WriteZeroes { deallocate: false };
    let request = world.submit(zeroes, 4096 + 7..6 * 4096 + 9, 0xff);
    world.run();
    assert_eq!(
        world.take_log(),
        ["fetch 1..2", "zero 2..6", "fetch 6..7", "store 1..2", "store 6..7"]
    );
    assert_eq!(world.answers[&request], Ok(()));
    let data = world.read(regions(1, 7)).unwrap();
    assert!(data[..7] == [2; 7] && data[5 * 4096 + 9..] == [7; 4087]);
    assert!(data[7..5 * 4096 + 9].iter().all(|&byte| byte == 0));
}

#[test]
fn a_request_past_the_end_is_refused_and_an_empty_one_is_done() {
    let mut world = World::new(8 * 8, 0..0, World::quiet());
    for operation in [Operation::Read, Operation::Write, Operation::Discard, Operation::Hydrate] {
        for range in [regions(8, 9), 7 * REGION..8 * REGION + 1, u64::MAX..u64::MAX] {
            // No buffer has this length.
            let id = crate::engine::RequestId(1000);
            let request = crate::engine::Request { id, operation, range, durable: false };
            world.event(Input::Submit(request));
            assert_eq!(world.answers.remove(&1000), Some(Err(RequestError::PastEnd)));
        }
        let empty = world.submit(operation, 5..5, 0);
        assert_eq!(world.answers[&empty], Ok(()));
    }
    assert!(world.started.is_empty());
}

#[test]
fn only_requests_to_hydrated_regions_pass_the_engine_by() {
    let mut world = World::new(8 * 64 - 1, 10..20, World::quiet());
    let lane = world.engine.fast_path().lane();
    assert!(lane.pass(&regions(10, 20)).is_some());
    for outside in [9 * REGION + 4095..regions(10, 11).end, 20 * REGION - 1..20 * REGION + 1] {
        assert!(lane.pass(&outside).is_none());
    }
    assert!(lane.pass(&(0..0)).is_none() && lane.pass(&(u64::MAX - 1..u64::MAX)).is_none());
    let pass = lane.pass(&(10 * REGION + 1..10 * REGION + 2));
    assert_eq!(world.engine.fast_path().passes(), 1);
    drop(pass);
    world.write(regions(0, 64).start..64 * REGION - 512, 1);
    assert!(lane.pass(&(64 * REGION - 513..64 * REGION - 512)).is_none());
    world.run();
    assert!(lane.pass(&(64 * REGION - 513..64 * REGION - 512)).is_some());
    assert!(lane.pass(&(64 * REGION - 513..64 * REGION - 511)).is_none());
}

#[test]
fn reads_hydrate_what_they_read_if_they_are_told_to() {
    let settings = Settings { hydrate_on_read: true, ..World::quiet() };
    let mut world = World::new(8 * 256, 0..0, settings);
    let first = world.submit(Operation::Read, 4096 + 5..3 * 4096 - 5, 0);
    let second = world.submit(Operation::Read, 4096..8192, 0);
    assert_eq!(world.take_log(), ["fetch 1..3"]);
    world.end_first("fetch");
    assert_eq!((world.answers[&first], world.answers[&second]), (Ok(()), Ok(())));
    world.run();
    assert_eq!(world.take_log(), ["store 1..3"]);
    assert_eq!(world.figures().hydrated, 2);
    // This read continues the first one, so the data after it is fetched, too.
    assert!(world.read(3 * 4096 - 5..5 * 4096).unwrap()[5..] == world.source[3 * 4096..5 * 4096]);
    assert_eq!(
        world.take_log(),
        ["destination 2.998779296875..3", "fetch 3..5", "fetch 5..37", "store 3..5", "store 5..37"]
    );
}

#[test]
fn a_read_whose_copy_fails_reads_what_it_can() {
    let settings = Settings { hydrate_on_read: true, ..World::quiet() };
    let mut world = World::new(8 * 8, 0..0, settings);
    world.bad.push(4095..4096);
    assert!(world.read(0..4095).unwrap() == vec![1; 4095]);
    assert!(matches!(world.read(4090..4097), Err(RequestError::Device(_))));
    assert_eq!(world.take_log()[..2], ["fetch 0..1", "source 0..0.999755859375"]);
}

#[test]
fn a_discard_in_very_many_pieces_goes_on_when_the_first_of_them_are_done() {
    let mut settings = World::quiet();
    settings.options.discard_passdown = false;
    let mut world = World::new(8 * 8192, 0..0, settings);
    for region in (0..8192).step_by(2) {
        world.write(regions(region, region + 1), 1);
    }
    world.run();
    world.take_log();
    let discard = world.submit(Operation::Discard, regions(0, 8192), 0);
    assert!(world.started.len() <= 1024);
    world.run();
    assert_eq!(world.answers[&discard], Ok(()));
    assert_eq!(world.take_log().iter().filter(|line| line.starts_with("zero")).count(), 4096);
    assert!(world.destination[2 * 4096..3 * 4096] == [1; 4096]);
    assert!(world.destination[4096..2 * 4096] == [0; 4096]);
}
