//! Copies that users wait for, next to hydration.

use std::collections::VecDeque;
use std::time::Duration;

use super::background::hydrating;
use super::world::{REGION, World};
use crate::dm_target::{Message, Status};
use crate::engine::{
    Action, Command, Done, Engine, Input, OpId, Opened, Operation, Request, RequestId, Settings,
};
use crate::geometry::{Geometry, RegionSize, Sectors};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Regions of 1 MiB, copied in chunks of 64 KiB at 64 KiB per second.
fn slow_large_regions(nr_regions: u64) -> World {
    let settings =
        Settings { copy_bytes: 64 << 10, hydration_rate: Some(64 << 10), ..hydrating(1, 1) };
    let mut world = World::large_regions(2048, nr_regions, settings);
    world.run_until(2 * SECOND);
    world
}

#[test]
fn a_copy_that_a_write_waits_for_does_not_keep_to_the_rate() {
    for disabled in [false, true] {
        let mut world = slow_large_regions(2);
        assert_eq!((world.figures().hydrated, world.figures().hydrating), (0, 1));
        let write = world.write(5000..5010, 1);
        if disabled {
            world.command(Command::Kernel(Message::DisableHydration));
        }
        world.run();
        assert_eq!(world.answers[&write], Ok(()));
        assert_eq!((world.now, world.figures().hydrated), (2 * SECOND, 1));
    }
}

#[test]
fn what_is_under_way_for_nobody_is_promoted_when_a_user_waits_for_it() {
    let settings = Settings { hydrate_on_read: true, ..hydrating(2, 2) };
    for operation in [Operation::Write, Operation::Discard, Operation::Hydrate, Operation::Read] {
        let mut world = World::new(8 * 64, 0..0, settings);
        world.event(Input::Tick);
        let waiting = world.submit(operation, 0..REGION, 0);
        world.submit(operation, 0..REGION, 0);
        let log = world.take_log();
        let promoted = log.iter().filter(|line| *line == "promote fetch 0..2").count();
        assert_eq!(promoted, 1, "{operation:?}: {log:?}");
        world.end_first("fetch 0..2");
        world.end_first("store 0..2");
        world.run();
        assert_eq!(world.answers[&waiting], Ok(()), "{operation:?}");
    }
}

#[test]
fn a_request_to_hydrate_does_not_wait_behind_a_copy_that_lacks_rate() {
    let mut world = slow_large_regions(3);
    // Another region, and the one that is being copied.
    for region in [2, 0] {
        let waiting = world.submit(Operation::Hydrate, region << 20..(region << 20) + 4096, 0);
        world.run();
        assert_eq!((world.answers[&waiting], world.now), (Ok(()), 2 * SECOND));
    }
}

#[test]
fn copies_of_readers_leave_one_to_hydration() {
    let settings =
        Settings { hydrate_on_read: true, copy_bytes: 64 << 10, copies: 1, ..hydrating(1, 1) };
    let mut world = World::new(8 * 256, 0..0, settings);
    // At each moment a reader waits for a copy.
    let mut at = 0;
    let mut read = |world: &mut World| {
        at += 1;
        let region = 255 - at % 200;
        world.submit(Operation::Read, region * REGION..(region + 1) * REGION, 0);
    };
    read(&mut world);
    for ms in 1..2000 {
        read(&mut world);
        if let Some(tick) = world.engine.next_tick().filter(|tick| *tick <= ms * MS) {
            world.tick(tick);
        }
        world.now = ms * MS;
        while world.started.len() > 2 {
            world.end(0);
        }
    }
    let log = world.take_log();
    // The background copies begin at the lowest region, where no reader is.
    let copies = (0..50).filter(|region| log.contains(&format!("store {region}..{}", region + 1)));
    assert!(copies.count() >= 20);
}

#[test]
fn a_huge_request_to_hydrate_is_not_looked_at_from_its_start_at_each_event() {
    // With 2^24 regions, each event would otherwise scan all regions between the first one, which
    // is claimed, and the position of the copies.
    let nr_regions = 1 << 24;
    let geometry = Geometry::new(RegionSize::new(Sectors(8)).unwrap(), Sectors(8 * nr_regions));
    let opened = Opened { geometry: geometry.unwrap(), metadata_used: 7, metadata_total: 100 };
    let settings = Settings { copy_bytes: 64 << 10, copies: 1, ..World::quiet() };
    let mut engine = Engine::new(opened, [], settings);
    let mut started = VecDeque::new();
    let request = |id, operation, range| {
        Input::Submit(Request { id: RequestId(id), operation, range, durable: false })
    };
    let mut handle = |event, started: &mut VecDeque<OpId>| {
        let mut actions = Vec::new();
        engine.handle(Duration::ZERO, event, &mut actions);
        for action in actions {
            match action {
                Action::Start { op, .. } => started.push_back(op),
                Action::Answer { request, .. } => panic!("{request:?} is answered"),
                _ => {}
            }
        }
    };
    handle(request(0, Operation::Write, 0..10), &mut started);
    handle(request(1, Operation::Hydrate, 0..nr_regions * REGION), &mut started);
    for _ in 0..100_000 {
        // Not the first one, which the write waits for.
        let op = started.remove(1).unwrap();
        handle(Input::Done { op, result: Ok(Done::Plain) }, &mut started);
    }
    let Status::Running(figures) = engine.status() else { panic!("it runs") };
    assert!(figures.hydrated > 500_000, "{figures:?}");
}
