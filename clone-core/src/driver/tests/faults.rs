//! Failing devices, and panicking threads.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::disk::{Asked, Disk, eio};
use super::{
    Bench, REGION, break_engine, nr_hydrated, source_bytes, wait_for, wait_until_complete,
};
use crate::block_io::SourceChanged;
use crate::dm_target::{Message, Status};
use crate::driver::DriverError;
use crate::engine::{Command, Device, EventKind, Failure, Operation, RequestError};
use crate::metadata::Metadata;

fn region(region: u64) -> std::ops::Range<u64> {
    region * REGION..(region + 1) * REGION
}

/// Makes reads of these regions fail.
fn damage(disk: &Disk, bad: std::ops::Range<u64>) {
    let bad = bad.start * REGION..bad.end * REGION;
    disk.rule(move |asked| match asked {
        Asked::Read(at) if at.start < bad.end && bad.start < at.end => Err(eio()),
        _ => Ok(()),
    });
}

#[test]
fn regions_that_cannot_be_read_cost_nobody_but_those_who_read_them() {
    let mut bench = Bench::hydrating(256 * REGION);
    bench.settings.max_failures = 3;
    damage(&bench.source, 100..104);
    let clone = bench.start();
    let client = clone.client();
    let failed = Err(RequestError::Device(Device::Source));
    assert_eq!(client.read(100 * REGION, &mut [0; 10]), failed);
    assert_eq!(client.write(102 * REGION + 10, &[1; 10], false), failed);
    assert_eq!(client.write(region(103).start, &[1; REGION as usize], false), Ok(()));
    wait_for(&clone, |what| match what {
        EventKind::HydrationStopped { range, failure, .. } => {
            // The copy of region 103 may have failed before the write.
            assert!(100 * REGION <= range.end && range.start < 104 * REGION, "{range:?}");
            assert_eq!(failure.device, Device::Source);
            assert!(failure.reason.contains("a bad sector"), "{failure}");
            true
        }
        _ => false,
    });
    let mut bytes = vec![0; 50 * REGION as usize];
    client.read(150 * REGION, &mut bytes).unwrap();
    assert!(bytes == source_bytes(256 * REGION)[150 * REGION as usize..200 * REGION as usize]);
    // The source works again.
    damage(&bench.source, 0..0);
    clone.command(Command::Kernel(Message::EnableHydration));
    wait_until_complete(&clone);
    bench.stop(clone);
    let mut expected = source_bytes(256 * REGION);
    expected[103 * REGION as usize..104 * REGION as usize].fill(1);
    assert!(bench.destination.bytes() == expected);
}

#[test]
fn a_source_that_has_changed_is_told_and_nothing_more_is_copied() {
    let mut bench = Bench::hydrating(64 * REGION);
    bench.source.rule(|asked| match asked {
        Asked::Read(at) if at.start >= 32 * REGION => {
            Err(SourceChanged("another size".into()).into())
        }
        _ => Ok(()),
    });
    let clone = bench.start();
    wait_for(&clone, |what| match what {
        EventKind::SourceChanged { reason } => reason == "another size",
        _ => false,
    });
    assert!(!clone.settings().options.hydration);
    let failed = Err(RequestError::Device(Device::Source));
    assert_eq!(clone.client().read(40 * REGION, &mut [0; 10]), failed);
    bench.stop(clone);
    assert!(!bench.is_hydrated(32));
}

#[test]
fn after_a_flush_that_failed_nothing_more_becomes_hydrated_and_that_is_told() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], true).unwrap();
    bench.destination.rule(|asked| if *asked == Asked::Flush { Err(eio()) } else { Ok(()) });
    client.write(REGION, &[2; REGION as usize], false).unwrap();
    assert_eq!(client.flush(), Err(RequestError::Device(Device::Destination)));
    let expected =
        Failure { device: Device::Destination, reason: "a bad sector".into(), is_full: false };
    wait_for(&clone, |what| *what == EventKind::ReadOnly(expected.clone()));
    assert_eq!(client.write(2 * REGION, &[3; 10], false), Err(RequestError::ReadOnly));
    assert_eq!(client.write(10, &[4; 10], false), Ok(()));
    assert!(client.flush().is_err());
    client.read(5 * REGION, &mut [0; 10]).unwrap();
    clone.suspend().unwrap();
    clone.resume().unwrap();
    let stopped = clone.stop();
    assert_eq!(stopped.failure, Some(expected));
    assert_eq!(stopped.metadata.map(|metadata| metadata.nr_hydrated()), Some(1));
}

#[test]
fn a_panic_of_a_device_ends_the_clone_and_leaves_nobody_waiting() {
    for at_fault in [Device::Source, Device::Destination] {
        let mut bench = Bench::new(64 * REGION);
        // Three of them may use the source.
        bench.workers = 5;
        let clone = bench.start();
        let client = Arc::new(clone.client());
        client.write(63 * REGION, &[1; REGION as usize], false).unwrap();
        bench.source.hold(region(20));
        let (done, answers) = mpsc::channel();
        let read = |at: u64| {
            let (done, buffer) = (done.clone(), vec![0; REGION as usize]);
            client.submit(Operation::Read, region(at), false, buffer, move |result, _| {
                done.send(result).unwrap();
            });
        };
        (0..2).for_each(|_| read(20));
        bench.source.wait_until_held(2);
        let panics = |asked: &Asked| match asked {
            Asked::Read(at) if *at == region(30) || *at == region(63) => panic!("on purpose"),
            _ => Ok(()),
        };
        if at_fault == Device::Source {
            bench.source.rule(panics);
            assert_eq!(client.read(region(30).start, &mut [0; 4096]), Err(RequestError::Failed));
        } else {
            bench.destination.rule(panics);
            // The read is split in two.
            let result = client.read(region(62).start, &mut [0; 8192]);
            assert_eq!(result, Err(RequestError::Failed));
        }
        wait_for(&clone, |what| match what {
            EventKind::Failed(failure) => {
                assert_eq!(failure.device, at_fault);
                assert_eq!(failure.reason, "what drives it panicked: on purpose");
                true
            }
            _ => false,
        });
        assert_eq!(clone.status(), Status::Fail);
        assert_eq!(client.try_read(region(63).start, &mut [0; 10]), None);
        assert_eq!(client.flush(), Err(RequestError::Failed));
        assert!(clone.suspend().is_err());
        clone.resume().unwrap();
        bench.source.let_go();
        (0..2).for_each(|_| assert_eq!(answers.recv(), Ok(Err(RequestError::Failed))));
        let stopped = clone.stop();
        assert_eq!(stopped.failure.map(|failure| failure.device), Some(at_fault));
    }
}

#[test]
fn a_callback_that_panics_costs_its_own_answer_and_nothing_else() {
    let mut bench = Bench::new(64 * REGION);
    let clone = bench.start();
    let client = clone.client();
    bench.source.hold(region(20));
    let (done, answer) = mpsc::channel();
    let buffer = vec![0; REGION as usize];
    client.submit(Operation::Read, region(20), false, buffer, move |result, _| {
        done.send(result).unwrap();
    });
    bench.source.wait_until_held(1);
    // More than there are workers, to show that none is lost.
    for _ in 0..10 {
        let (called, is_called) = mpsc::channel();
        client.submit(Operation::Flush, 0..0, false, Vec::new(), move |_, _| {
            called.send(()).unwrap();
            panic!("on purpose");
        });
        is_called.recv().unwrap();
    }
    client.write(0, &[1; REGION as usize], true).unwrap();
    bench.source.let_go();
    assert_eq!(answer.recv(), Ok(Ok(())));
    while clone.caught_panics() < 10 {
        thread::yield_now();
    }
    bench.stop(clone);
    assert!(bench.is_hydrated(0));
}

#[test]
fn a_clone_that_failed_is_not_stopped_before_its_users_have_ended_what_they_write() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], false).unwrap();
    bench.destination.hold(100..200);
    thread::scope(|scope| {
        let written = scope.spawn(|| client.try_write(100, &[2; 100]));
        bench.destination.wait_until_held(1);
        break_engine(&clone);
        wait_for(&clone, |what| matches!(what, EventKind::Failed(_)));
        let (done, stopped) = mpsc::channel();
        scope.spawn(move || done.send(clone.stop().failure).unwrap());
        // Stop waits, however long: a write may still be in flight.
        let early = stopped.recv_timeout(Duration::from_millis(100));
        bench.destination.let_go();
        assert_eq!(early, Err(RecvTimeoutError::Timeout));
        assert_eq!(written.join().unwrap(), Some(Ok(())));
        assert!(stopped.recv().unwrap().is_some());
    });
}

#[test]
fn a_write_that_fails_leaves_its_region_to_the_source_and_can_be_tried_again() {
    let mut bench = Bench::new(16 * REGION);
    bench.destination.rule(|asked| match asked {
        Asked::Write(at) if at.start >= 8 * REGION => Err(eio()),
        _ => Ok(()),
    });
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], true).unwrap();
    for write in [&[1; 10][..], &[1; REGION as usize]] {
        let failed = Err(RequestError::Device(Device::Destination));
        assert_eq!(client.write(8 * REGION, write, false), failed);
        let mut bytes = [0; REGION as usize];
        client.read(8 * REGION, &mut bytes).unwrap();
        assert!(bytes == source_bytes(9 * REGION)[8 * REGION as usize..]);
    }
    assert_eq!(nr_hydrated(&clone.status()), 1);
    bench.destination.rule(|_| Ok(()));
    client.write(8 * REGION, &[1; 10], true).unwrap();
    bench.stop(clone);
    assert!(bench.is_hydrated(0) && bench.is_hydrated(8));
}

#[test]
fn after_a_commit_that_failed_the_last_one_counts() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], true).unwrap();
    bench.metadata_device.fails_writes.store(true, Ordering::SeqCst);
    client.write(REGION, &[2; REGION as usize], false).unwrap();
    let failed = Err(RequestError::Device(Device::Metadata));
    assert_eq!(client.write(2 * REGION, &[2; REGION as usize], true), failed);
    wait_for(&clone, |what| match what {
        EventKind::ReadOnly(failure) => {
            assert_eq!(failure.device, Device::Metadata);
            assert!(failure.reason.ends_with("a bad sector"), "{failure}");
            true
        }
        _ => false,
    });
    clone.suspend().unwrap();
    assert_eq!(nr_hydrated(&clone.status_now()), 1);
    assert!(clone.stop().failure.is_some());
    bench.metadata_device.fails_writes.store(false, Ordering::SeqCst);
    let metadata = Metadata::open(bench.metadata_device.clone()).unwrap();
    assert_eq!(metadata.nr_hydrated(), 1);
}

#[test]
fn metadata_that_cannot_be_read_back_ends_the_clone() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    // The bitset has not been read for writing yet.
    bench.metadata_device.fails_reads.store(true, Ordering::SeqCst);
    client.write(REGION, &[2; REGION as usize], false).unwrap();
    assert!(client.flush().is_err());
    wait_for(&clone, |what| matches!(what, EventKind::Failed(_)));
    assert_eq!(clone.status(), Status::Fail);
    assert_eq!(client.read(0, &mut [0; 10]), Err(RequestError::Failed));
    assert!(clone.suspend().is_err());
    assert!(clone.stop().failure.is_some());
}

#[test]
fn a_complete_clone_whose_destination_cannot_be_flushed_says_so_and_goes_on() {
    let mut bench = Bench::hydrating(16 * REGION);
    let clone = bench.start();
    wait_until_complete(&clone);
    let client = clone.client();
    bench.destination.rule(|asked| if *asked == Asked::Flush { Err(eio()) } else { Ok(()) });
    client.write(0, &[1; 10], false).unwrap();
    for _ in 0..2 {
        assert!(client.flush().is_err());
        assert!(client.write(10, &[1; 10], true).is_err());
        assert_eq!(client.read(0, &mut [0; 100]), Ok(()));
    }
    let failure = clone.stop().failure;
    assert_eq!(failure.map(|failure| failure.device), Some(Device::Destination));
}

#[test]
fn a_panic_of_the_engine_ends_the_clone_and_not_whoever_called_it() {
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    let client = clone.client();
    client.write(0, &[1; REGION as usize], true).unwrap();
    bench.source.hold(0..16 * REGION);
    let (done, answer) = mpsc::channel();
    let buffer = vec![0; 2 * REGION as usize];
    client.submit(Operation::Read, 0..2 * REGION, false, buffer, move |result, buffer| {
        done.send((result, buffer.len())).unwrap();
    });
    bench.source.wait_until_held(1);
    break_engine(&clone);
    assert_eq!(client.flush(), Err(RequestError::Failed));
    assert_eq!(client.try_read(0, &mut [0; 10]), None);
    assert_eq!(clone.status(), Status::Fail);
    bench.source.let_go();
    let failed = (Err(RequestError::Failed), 2 * REGION as usize);
    assert_eq!(answer.recv(), Ok(failed));
    assert!(clone.stop().failure.is_some());
}

#[test]
fn what_was_written_past_the_engine_is_flushed_at_the_end_or_the_end_says_that_it_is_not() {
    for fails in [false, true] {
        let mut bench = Bench::new(16 * REGION);
        let clone = bench.start();
        let client = clone.client();
        client.write(0, &[1; REGION as usize], true).unwrap();
        bench.destination.take_log();
        assert_eq!(client.try_write(100, &[2; 10]), Some(Ok(())));
        if fails {
            bench
                .destination
                .rule(|asked| if *asked == Asked::Flush { Err(eio()) } else { Ok(()) });
        }
        let failure = clone.end();
        assert_eq!(bench.destination.take_log(), [Asked::Write(100..110), Asked::Flush]);
        assert_eq!(failure.map(|failure| failure.reason), fails.then(|| "a bad sector".to_owned()));
    }
}

#[test]
fn what_cannot_be_hydrated_any_more_is_refused_with_the_reason() {
    let enable = || Command::Kernel(Message::EnableHydration);
    let asks = || [enable(), Command::Hydrate(0..REGION)];
    let settings = Command::Kernel(Message::HydrationThreshold(4));
    let mut bench = Bench::new(16 * REGION);
    let clone = bench.start();
    bench.destination.rule(|asked| if *asked == Asked::Flush { Err(eio()) } else { Ok(()) });
    clone.client().flush().unwrap_err();
    wait_for(&clone, |what| matches!(what, EventKind::ReadOnly(_)));
    for ask in asks() {
        let refused = clone.try_command(ask);
        assert!(matches!(refused, Err(DriverError::ReadOnly(_))), "{refused:?}");
    }
    assert!(!clone.settings().options.hydration);
    clone.try_command(settings.clone()).unwrap();
    clone.end();
    assert!(matches!(clone.try_command(settings.clone()), Err(DriverError::Ending)));

    let mut bench = Bench::new(16 * REGION);
    bench.source.rule(|_| Err(SourceChanged("another size".into()).into()));
    let clone = bench.start();
    clone.client().read(0, &mut [0; 10]).unwrap_err();
    wait_for(&clone, |what| matches!(what, EventKind::SourceChanged { .. }));
    for ask in asks() {
        let refused = clone.try_command(ask);
        assert!(matches!(refused, Err(DriverError::SourceChanged(_))), "{refused:?}");
    }
    clone.try_command(settings.clone()).unwrap();
    // Once everything is written, the source is not needed.
    clone.client().write(0, &[1; 16 * REGION as usize], true).unwrap();
    wait_until_complete(&clone);
    clone.try_command(enable()).unwrap();
    break_engine(&clone);
    assert!(matches!(clone.try_command(settings), Err(DriverError::Failed(_))));
    assert!(clone.stop().failure.is_some());
}
