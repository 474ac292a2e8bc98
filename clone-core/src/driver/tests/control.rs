//! Starting, stopping, suspending, and what is told.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Bench, Clone, REGION, nr_hydrated, source_bytes, wait_for, wait_until_complete};
use crate::driver::buffers::lock;
use crate::driver::{Client, Devices, DriverError, DriverOptions, RunningClone};
use crate::engine::{Command, Device, Happening, Operation, RequestError};
use crate::metadata::Metadata;
use crate::target::Message;

/// Asks for a write of one region, and for its answer.
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
    // Nobody asks for anything from here on: a flush comes only with a commit.
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
    // That it is suspended already does not matter, and a status commits nothing.
    clone.suspend().unwrap();
    assert_eq!(nr_hydrated(&clone.status()), 1);
    assert!(answer.try_recv().is_err());
    assert_eq!(bench.destination.take_log(), []);
    clone.resume();
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
    std::thread::scope(|scope| {
        let suspended = scope.spawn(|| clone.suspend());
        // It does not overtake the suspend, if that came first.
        let resumed = scope.spawn(|| clone.resume());
        assert!(answer.try_recv().is_err());
        bench.destination.let_go();
        assert_eq!(answer.recv(), Ok(Ok(())));
        suspended.join().unwrap().unwrap();
        resumed.join().unwrap();
    });
    bench.stop(clone);
    assert!(bench.is_hydrated(2));
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
    // Next time it is complete from the beginning.
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

/// A clone, and what its listener has heard; `then` is what the listener does besides.
fn started_with_listener(
    bench: &mut Bench,
    then: impl Fn(&Happening) + Send + 'static,
) -> (Clone, Arc<Mutex<Vec<Happening>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let here = heard.clone();
    let listener = Box::new(move |notice: &crate::engine::Notice| {
        lock(&here).push(notice.what.clone());
        then(&notice.what);
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
    clone.resume();
    clone.command(Command::Kernel(Message::HydrationThreshold(16)));
    clone.command(Command::Kernel(Message::EnableHydration));
    wait_until_complete(&clone);
    clone.suspend().unwrap();
    let expected =
        [Happening::Suspended, Happening::Resumed, Happening::Finished, Happening::Suspended];
    let notices = clone.wait_for(0, Duration::ZERO);
    let numbers: Vec<u64> = notices.iter().map(|notice| notice.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(notices.iter().map(|notice| &notice.what).eq(&expected));
    assert_eq!(clone.wait_for(3, Duration::MAX).len(), 1);
    bench.stop(clone);
    assert_eq!(*lock(&heard), expected);
}

#[test]
fn a_listener_that_panics_ends_the_clone_and_hears_of_that_too() {
    let mut bench = Bench::new(16 * REGION);
    let (clone, heard) = started_with_listener(&mut bench, |what| {
        assert!(*what != Happening::Suspended, "on purpose");
    });
    // Whether this comes to its end before the panic does not matter.
    let _ = clone.suspend();
    wait_for(&clone, |what| matches!(what, Happening::Failed(_)));
    let failure = clone.stop().failure.unwrap();
    assert_eq!(failure.reason, "who was told an answer or a notice panicked: on purpose");
    assert_eq!(*lock(&heard), [Happening::Suspended, Happening::Failed(failure)]);
}
