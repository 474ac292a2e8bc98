//! Start, stop, suspend, and event tests.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{Bench, Clone, REGION, nr_hydrated, source_bytes, wait_for, wait_until_complete};
use crate::dm_target::{Message, Status};
use crate::driver::{Client, Devices, DriverError, DriverOptions, RunningClone};
use crate::engine::{Command, Device, EventKind, Operation, RequestError};
use crate::metadata::Metadata;
use crate::sync::lock;

/// Submits a write of one region, and returns a receiver for its result.
fn write_later(client: &Client, region: u64) -> Receiver<Result<(), RequestError>> {
    let (done, answer) = mpsc::channel();
    let range = region * REGION..(region + 1) * REGION;
    let buffer = vec![7; REGION as usize];
    client.submit(Operation::Write, range, false, buffer, move |result, _| {
        done.send(result).unwrap();
    });
    answer
}

#[test]
fn a_status_is_told_after_a_commit_and_a_status_now_is_not() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    clone.client().write(0, &[1; 3 * REGION as usize], false).unwrap();
    let on_device = || Metadata::open(bench.metadata_device.clone()).unwrap().nr_hydrated();
    assert_eq!((nr_hydrated(&clone.status_now()), on_device()), (3, 0));
    assert_eq!((nr_hydrated(&clone.status()), on_device()), (3, 3));
    bench.stop(clone);
}

#[test]
fn what_changed_is_committed_by_itself_in_time() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], false).unwrap();
    // No request follows: a flush comes only with a commit.
    bench.destination.hold(0..1);
    bench.destination.wait_until_held(1);
    bench.destination.let_go();
    bench.stop(clone);
}

#[test]
fn a_suspended_clone_keeps_requests_until_it_goes_on() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], false).unwrap();
    clone.suspend().unwrap();
    assert_eq!(client.try_read(0, &mut [0; 9]), None);
    bench.destination.take_log();
    let answer = write_later(&client, 5);
    // A second suspend is allowed, and a status commits nothing.
    clone.suspend().unwrap();
    assert_eq!(nr_hydrated(&clone.status()), 1);
    assert!(answer.try_recv().is_err());
    assert_eq!(bench.destination.take_log(), []);
    clone.resume().unwrap();
    assert_eq!(answer.recv(), Ok(Ok(())));
    assert!(client.try_read(5 * REGION, &mut [0; 9]).is_some());
    bench.stop(clone);
}

#[test]
fn a_suspend_waits_for_what_is_under_way_and_commits_it() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    bench.destination.hold(2 * REGION..3 * REGION);
    let answer = write_later(&client, 2);
    bench.destination.wait_until_held(1);
    thread::scope(|scope| {
        let suspended = scope.spawn(|| clone.suspend());
        assert!(answer.try_recv().is_err());
        bench.destination.let_go();
        assert_eq!(answer.recv(), Ok(Ok(())));
        suspended.join().unwrap().unwrap();
    });
    let on_device = Metadata::open(bench.metadata_device.clone()).unwrap();
    assert!(on_device.is_hydrated(2));
    bench.stop(clone);
}

/// Waits until a clone closes the fast path: it is being suspended, or is suspended. Region 0 is
/// hydrated.
fn wait_until_closed(client: &Client) {
    while client.try_read(0, &mut [0; 9]).is_some() {
        thread::yield_now();
    }
}

#[test]
fn a_resume_waits_for_no_device_and_ends_the_wait_of_those_who_suspend() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], false).unwrap();
    bench.destination.hold(2 * REGION..3 * REGION);
    let answer = write_later(&client, 2);
    bench.destination.wait_until_held(1);
    thread::scope(|scope| {
        let suspends: Vec<_> = (0..3).map(|_| scope.spawn(|| clone.suspend())).collect();
        wait_until_closed(&client);
        // A suspend that begins only now suspends it again.
        while suspends.iter().any(|suspend| !suspend.is_finished()) {
            clone.resume().unwrap();
        }
        for suspend in suspends {
            assert!(matches!(suspend.join().unwrap(), Err(DriverError::Resumed)));
        }
        assert!(answer.try_recv().is_err());
    });
    bench.destination.let_go();
    assert_eq!(answer.recv(), Ok(Ok(())));
    wait_for(&clone, |what| *what == EventKind::Resumed);
    client.write(5 * REGION, &[1; 10], true).unwrap();
    bench.stop(clone);
}

#[test]
fn a_clone_that_ends_lets_go_of_all_who_wait_for_it_and_is_never_resumed() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], false).unwrap();
    bench.destination.hold(2 * REGION..3 * REGION);
    let answer = write_later(&client, 2);
    bench.destination.wait_until_held(1);
    let enable = || Command::Kernel(Message::EnableHydration);
    thread::scope(|scope| {
        let suspend = scope.spawn(|| clone.suspend());
        wait_until_closed(&client);
        let status = scope.spawn(|| clone.status());
        let ended = scope.spawn(|| clone.end());
        assert!(matches!(suspend.join().unwrap(), Err(DriverError::Ending)));
        assert!(matches!(status.join().unwrap(), Status::Running(_)));
        // The device does not respond yet; only the end of the clone waits for it.
        assert!(matches!(clone.resume(), Err(DriverError::Ending)));
        assert!(matches!(clone.suspend(), Err(DriverError::Ending)));
        assert!(matches!(clone.try_command(enable()), Err(DriverError::Ending)));
        assert!(matches!(clone.status(), Status::Running(_)));
        assert!(!ended.is_finished() && answer.try_recv().is_err());
        bench.destination.let_go();
        assert_eq!(answer.recv(), Ok(Ok(())));
        assert_eq!(ended.join().unwrap(), None);
    });
    assert!(matches!(clone.resume(), Err(DriverError::Ending)));
    assert!(Metadata::open(bench.metadata_device.clone()).unwrap().is_hydrated(2));
}

#[test]
fn a_clone_that_is_about_to_end_serves_its_users_and_nobody_else() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    clone.begin_end();
    assert!(matches!(clone.suspend(), Err(DriverError::Ending)));
    clone.client().write(REGION, &[1; 10], true).unwrap();
    bench.stop(clone);
    assert!(bench.is_hydrated(1));
}

#[test]
fn whoever_waits_is_told_that_the_clone_was_stopped_and_so_is_whoever_comes_later() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    clone.suspend().unwrap();
    let answers: Vec<_> = (0..10).map(|region| write_later(&client, region)).collect();
    bench.stop(clone);
    for answer in answers {
        assert_eq!(answer.recv(), Ok(Err(RequestError::Stopped)));
    }
    assert_eq!(client.write(0, &[1], false), Err(RequestError::Stopped));
    assert_eq!(client.read(0, &mut [1]), Err(RequestError::Stopped));
    assert_eq!(client.flush(), Err(RequestError::Stopped));
    assert!(bench.destination.bytes().iter().all(|&byte| byte == 0xee));
}

#[test]
fn a_clone_that_is_dropped_at_work_ends_what_it_is_doing_and_commits_it() {
    for _ in 0..20 {
        let mut bench = Bench::hydrating(512 * REGION);
        let clone = bench.start();
        let answer = write_later(&clone.client(), 300);
        drop(clone);
        let metadata = Metadata::open(bench.metadata_device.clone()).unwrap();
        if answer.recv() == Ok(Ok(())) {
            assert!(metadata.is_hydrated(300));
        }
        let (source, destination) = (bench.source.bytes(), bench.destination.bytes());
        for region in (0..512).filter(|&region| region != 300 && metadata.is_hydrated(region)) {
            let place = (region * REGION) as usize..((region + 1) * REGION) as usize;
            assert!(source[place.clone()] == destination[place]);
        }
    }
}

#[test]
fn a_clone_that_was_dropped_leaves_its_metadata_device_whoever_still_uses_it() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], false).unwrap();
    drop(clone);
    assert_eq!(Arc::strong_count(&bench.metadata_device), 1);
    assert!(Metadata::open(bench.metadata_device.clone()).unwrap().is_hydrated(0));
    assert_eq!(client.flush(), Err(RequestError::Stopped));
}

#[test]
fn a_complete_clone_needs_neither_metadata_nor_source() {
    let mut bench = Bench::hydrating(100 * REGION + 512);
    let clone = bench.start();
    wait_until_complete(&clone);
    let client = clone.client();
    client.flush().unwrap();
    assert_eq!(nr_hydrated(&clone.status()), 101);
    let stopped = clone.stop();
    assert!(stopped.metadata.is_none() && stopped.failure.is_none());
    assert_eq!(Arc::strong_count(&bench.metadata_device), 1);
    // The next time it is complete from the start.
    bench.metadata = Some(Metadata::open(bench.metadata_device.clone()).unwrap());
    bench.source.take_log();
    let clone = bench.start();
    wait_until_complete(&clone);
    let client = clone.client();
    let mut bytes = vec![0; 100 * REGION as usize + 512];
    assert_eq!(client.try_read(0, &mut bytes), Some(Ok(())));
    assert!(bytes == source_bytes(100 * REGION + 512));
    client.write(50, &[1; 10], true).unwrap();
    client.discard(0..10 * REGION, true).unwrap();
    bench.stop(clone);
    assert_eq!(bench.source.take_log(), []);
}

#[test]
fn devices_that_end_before_the_clone_are_refused() {
    let mut bench = Bench::new(16 * REGION);
    let short = Arc::new(super::Disk::new(vec![0; 16 * REGION as usize - 1]));
    for device in [Device::Source, Device::Destination] {
        let metadata = Metadata::open(bench.metadata_device.clone()).unwrap();
        let mut devices = Devices {
            metadata,
            source: bench.source.clone(),
            destination: bench.destination.clone(),
        };
        match device {
            Device::Source => devices.source = short.clone(),
            _ => devices.destination = short.clone(),
        }
        let started = RunningClone::start(devices, bench.settings, DriverOptions::default());
        let Err(DriverError::TooSmall { device: told, has, needed }) = started else {
            panic!("it runs");
        };
        assert_eq!((told, has, needed), (device, 16 * REGION - 1, 16 * REGION));
    }
    let clone = bench.start();
    bench.stop(clone);
}

/// A started clone, and the events of its listener; `then` is an additional action of the listener.
fn started_with_listener(
    bench: &mut Bench,
    then: impl Fn(&EventKind) + Send + 'static,
) -> (Clone, Arc<Mutex<Vec<EventKind>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let here = heard.clone();
    let listener = Box::new(move |event: &crate::engine::Event| {
        lock(&here).push(event.kind.clone());
        then(&event.kind);
    });
    let options = DriverOptions { workers: 3, listener: Some(listener) };
    let devices = Devices {
        metadata: bench.metadata.take().unwrap(),
        source: bench.source.clone(),
        destination: bench.destination.clone(),
    };
    (RunningClone::start(devices, bench.settings, options).unwrap(), heard)
}

#[test]
fn notices_are_numbered_and_kept_and_told_to_the_listener_in_their_order() {
    let mut bench = Bench::new(64 * REGION);
    let (clone, heard) = started_with_listener(&mut bench, |_| {});
    assert!(clone.wait_for(0, Duration::ZERO).is_empty());
    clone.suspend().unwrap();
    clone.resume().unwrap();
    clone.command(Command::Kernel(Message::HydrationThreshold(16)));
    clone.command(Command::Kernel(Message::EnableHydration));
    wait_until_complete(&clone);
    clone.suspend().unwrap();
    let expected =
        [EventKind::Suspended, EventKind::Resumed, EventKind::Finished, EventKind::Suspended];
    let events = clone.wait_for(0, Duration::ZERO);
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(events.iter().map(|event| &event.kind).eq(&expected));
    assert_eq!(clone.wait_for(3, Duration::MAX).len(), 1);
    bench.stop(clone);
    assert_eq!(*lock(&heard), expected);
}

#[test]
fn a_listener_that_panics_does_the_clone_no_harm_and_hears_what_comes_next() {
    let mut bench = Bench::new(16 * REGION);
    let (clone, heard) = started_with_listener(&mut bench, |what| {
        assert!(*what != EventKind::Suspended, "on purpose");
    });
    let client = clone.client();
    for _ in 0..5 {
        clone.suspend().unwrap();
        clone.resume().unwrap();
        client.write(REGION, &[1; 10], true).unwrap();
    }
    let pool = clone.pool.clone();
    bench.stop(clone);
    // The last suspend is that of the end.
    assert_eq!(pool.events.panics(), 6);
    let both = [EventKind::Suspended, EventKind::Resumed];
    let expected: Vec<EventKind> = both.into_iter().cycle().take(11).collect();
    assert_eq!(*lock(&heard), expected);
}
