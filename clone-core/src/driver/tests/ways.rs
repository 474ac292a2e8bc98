//! Paths of the data between users and devices.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use super::disk::{Asked, Disk};
use super::{Bench, REGION, break_engine, source_bytes, wait_for, wait_until_complete};
use crate::block_io::ReadData;
use crate::driver::running::pool_bytes;
use crate::driver::{Client, CloneExtent};
use crate::engine::{EventKind, Operation, RequestError, Settings};
use crate::sync::lock;

#[test]
fn what_is_on_the_destination_is_done_by_the_thread_that_wants_it() {
    let mut bench = Bench::new(8 * REGION);
    let clone = bench.start();
    let client = clone.client();
    assert_eq!(client.try_write(0, &[1; 100]), None);
    client.write(0, &[1; REGION as usize], false).unwrap();
    // All workers that may use the source are blocked.
    bench.source.hold(0..8 * REGION);
    for region in 1..8 {
        let range = region * REGION..(region + 1) * REGION;
        let buffer = vec![0; REGION as usize];
        client.submit(Operation::Read, range, false, buffer, |result, _| result.unwrap());
    }
    bench.source.wait_until_held(bench.workers - 2);
    assert_eq!(client.try_write(10, &[2; 10]), Some(Ok(())));
    let mut bytes = [0; 30];
    assert_eq!(client.try_read(0, &mut bytes), Some(Ok(())));
    assert_eq!(bytes, [[1; 10], [2; 10], [1; 10]].concat()[..]);
    assert_eq!(client.write_zeroes(12..14, true, false), Ok(()));
    client.read(11, &mut bytes[..4]).unwrap();
    assert_eq!(bytes[..4], [2, 0, 0, 2]);
    bench.source.let_go();
    bench.stop(clone);
}

#[test]
fn a_stretch_is_cut_where_hydrated_and_unhydrated_meet_and_at_the_ends_of_holes() {
    let mut bench = Bench::new(8 * REGION + 512);
    bench.source = Arc::new(
        Disk::new(source_bytes(bench.source.size_bytes())).with_holes(vec![0..6 * REGION]),
    );
    let clone = bench.start();
    let client = clone.client();
    client.write(2 * REGION, &[1; 3 * REGION as usize], false).unwrap();
    let stretch = |start, end| {
        let found = client.extent(&(start..end)).unwrap();
        found.map(|CloneExtent { hydrated, zeroes, end }| (hydrated, zeroes, end))
    };
    let end = client.size_bytes();
    assert_eq!(stretch(10, end), Some((false, true, 2 * REGION)));
    assert_eq!(stretch(2 * REGION, end), Some((true, false, 5 * REGION)));
    assert_eq!(stretch(2 * REGION, 3 * REGION + 1), Some((true, false, 4 * REGION)));
    assert_eq!(stretch(5 * REGION, u64::MAX), Some((false, true, 6 * REGION)));
    assert_eq!(stretch(6 * REGION, u64::MAX), Some((false, false, end)));
    assert_eq!((stretch(end, u64::MAX), stretch(7, 7)), (None, None));
    assert_eq!(client.another().hydrated(&(REGION..end)), Some((false, 2 * REGION)));
    client.hydrate(0..end).unwrap();
    client.flush().unwrap();
    assert_eq!(client.hydrated(&(0..end)), Some((true, end)));
    bench.stop(clone);
}

#[test]
fn a_slow_source_keeps_nobody_from_the_destination_and_from_a_flush() {
    let mut bench = Bench::new(64 * REGION);
    let clone = bench.start();
    let client = clone.client();
    bench.source.hold(0..64 * REGION);
    for region in 0..32 {
        let range = region * REGION..(region + 1) * REGION;
        let buffer = vec![0; REGION as usize];
        client.submit(Operation::Read, range, false, buffer, |result, _| result.unwrap());
    }
    bench.source.wait_until_held(bench.workers - 2);
    client.write(40 * REGION, &[7; REGION as usize], true).unwrap();
    client.flush().unwrap();
    assert_eq!(bench.destination.take_log().last(), Some(&Asked::Flush));
    bench.source.let_go();
    bench.stop(clone);
    assert!(bench.is_hydrated(40) && !bench.is_hydrated(0));
}

#[test]
fn a_source_that_hangs_for_hydration_and_for_users_keeps_nobody_else_waiting() {
    for workers in [3, 4, 8] {
        let mut bench = Bench::hydrating(256 * REGION);
        bench.settings.options.hydration_threshold = 128;
        bench.settings.copies = 100;
        bench.workers = workers;
        bench.source.hold(0..256 * REGION);
        let clone = bench.start();
        let client = clone.client();
        bench.source.wait_until_held(workers - 2);
        let (done, answers) = mpsc::channel();
        for region in 128..140 {
            let (done, range) = (done.clone(), region * REGION..(region + 1) * REGION);
            let buffer = vec![0; REGION as usize];
            client.submit(Operation::Read, range, false, buffer, move |result, _| {
                done.send(result).unwrap();
            });
        }
        bench.source.wait_until_held(workers - 1);
        client.flush().unwrap();
        client.write(200 * REGION, &[7; REGION as usize], true).unwrap();
        assert_eq!(client.read(256 * REGION, &mut [0]), Err(RequestError::PastEnd));
        assert!(answers.try_recv().is_err());
        bench.source.let_go();
        (128..140).for_each(|_| assert_eq!(answers.recv(), Ok(Ok(()))));
        wait_until_complete(&clone);
        bench.stop(clone);
        let mut expected = source_bytes(256 * REGION);
        expected[200 * REGION as usize..201 * REGION as usize].fill(7);
        assert!(bench.destination.bytes() == expected);
    }
}

#[test]
fn slow_copies_in_the_background_keep_nobody_from_the_source() {
    let mut bench = Bench::hydrating(256 * REGION);
    bench.settings.options.hydration_threshold = 128;
    bench.settings.copies = 100;
    bench.source.hold(0..128 * REGION);
    let clone = bench.start();
    bench.source.wait_until_held(bench.workers - 2);
    let mut bytes = [0; 100];
    clone.client().read(200 * REGION, &mut bytes).unwrap();
    assert_eq!(bytes[..], source_bytes(256 * REGION)[200 * REGION as usize..][..100]);
    bench.source.let_go();
    wait_until_complete(&clone);
    bench.stop(clone);
}

#[test]
fn a_write_of_a_part_of_a_region_reads_the_source_once_and_writes_once() {
    let mut bench = Bench::new(8 * REGION);
    let clone = bench.start();
    clone.client().write(2 * REGION + 100, &[9; 50], false).unwrap();
    let region = 2 * REGION..3 * REGION;
    assert_eq!(bench.source.take_log(), [Asked::Read(region.clone())]);
    let log = bench.destination.take_log();
    assert_eq!(log.into_iter().find(|asked| *asked != Asked::Flush), Some(Asked::Write(region)));
    let mut expected = source_bytes(8 * REGION);
    expected[2 * REGION as usize + 100..][..50].fill(9);
    let mut bytes = vec![0; 8 * REGION as usize];
    // This read combines data of both devices.
    clone.client().read(0, &mut bytes).unwrap();
    assert!(bytes == expected);
    bench.stop(clone);
}

#[test]
fn what_the_source_knows_to_be_zeroes_is_neither_read_nor_written() {
    let mut bench = Bench::hydrating(1024 * REGION);
    let size = 1024 * REGION;
    let mut bytes = source_bytes(size);
    // Additional zeroes that the source does not know about.
    bytes[900 * REGION as usize..932 * REGION as usize].fill(0);
    let mut holes = vec![16 * REGION..700 * REGION, 800 * REGION..800 * REGION + 100];
    // In the middle of a chunk, whose buffer was used before.
    holes.push(720 * REGION..724 * REGION);
    bench.source = Arc::new(Disk::new(bytes).with_holes(holes.clone()));
    bench.settings.options.hydration_batch_size = 64;
    bench.settings.options.hydration_threshold = 256;
    let clone = bench.start();
    wait_until_complete(&clone);
    let progress = clone.progress();
    bench.stop(clone);
    assert!(bench.destination.bytes() == bench.source.bytes());
    for asked in bench.source.take_log() {
        let Asked::Read(range) = asked else { panic!("{asked:?}") };
        assert!(range.end <= holes[0].start || range.start >= holes[0].end, "{range:?}");
    }
    for asked in bench.destination.take_log() {
        if let Asked::Write(range) = asked {
            assert!(range.end <= holes[0].start || range.start >= holes[0].end, "{range:?}");
            assert!(range.end <= 900 * REGION || range.start >= 932 * REGION, "{range:?}");
        }
    }
    assert_eq!((progress.hydrated, progress.regions), (1024, 1024));
    assert_eq!(progress.copied_bytes + progress.zeroed_bytes, size);
    assert_eq!(progress.zeroed_bytes, (700 - 16 + 32 + 4) * REGION);
    assert_eq!(progress.fetched_bytes, size - (700 - 16 + 4) * REGION);
}

#[test]
fn a_write_into_a_hole_of_the_source_has_zeroes_around_it() {
    let mut bench = Bench::new(64 * REGION);
    let source = Disk::new(source_bytes(64 * REGION)).with_holes(vec![0..64 * REGION]);
    bench.source = Arc::new(source);
    let clone = bench.start();
    clone.client().write(5 * REGION + 10, &[3; 5], true).unwrap();
    bench.stop(clone);
    let mut expected = vec![0; REGION as usize];
    expected[10..15].fill(3);
    assert!(bench.destination.bytes()[5 * REGION as usize..][..REGION as usize] == expected);
    assert!(bench.source.take_log().is_empty());
}

#[test]
fn callbacks_run_without_a_lock_and_never_before_submit_returns_if_they_want_one_of_its_locks() {
    let mut bench = Bench::new(8 * REGION);
    let clone = bench.start();
    let client = Arc::new(clone.client());
    let (told, heard) = mpsc::channel();
    let book = Arc::new(Mutex::new(0));
    for offset in [0, 8 * REGION, u64::MAX - 10] {
        let (book_there, told, again) = (book.clone(), told.clone(), client.clone());
        // Held during the submit, as by a server that records its requests.
        let noted = lock(&book);
        client.submit(
            Operation::Read,
            offset..offset + 1,
            false,
            vec![0],
            move |result, buffer| {
                *lock(&book_there) += 1;
                // A callback may submit another request.
                again.submit(Operation::Flush, 0..0, false, buffer, move |flushed, buffer| {
                    told.send((result, flushed, buffer)).unwrap();
                });
            },
        );
        drop(noted);
        let expected = if offset == 0 { Ok(()) } else { Err(RequestError::PastEnd) };
        let buffer = vec![u8::from(offset == 0)];
        assert_eq!(heard.recv().unwrap(), (expected, Ok(()), buffer));
    }
    assert_eq!(*lock(&book), 3);
    bench.stop(clone);
}

/// Submits a request that is refused. Returns the result, and true if a worker answered it.
fn refused(client: &Client) -> (Result<(), RequestError>, bool) {
    let (done, answer) = mpsc::channel();
    client.submit(Operation::Flush, 0..0, false, Vec::new(), move |result, _| {
        let is_worker = thread::current().name() == Some("clone-worker");
        done.send((result, is_worker)).unwrap();
    });
    answer.recv().unwrap()
}

#[test]
fn refusals_too_come_from_workers_of_a_clone_that_failed_and_of_one_that_was_stopped() {
    let mut bench = Bench::new(8 * REGION);
    let clone = bench.start();
    let (client, pool) = (clone.client(), clone.pool.clone());
    let wait_until_gone = || {
        while pool.lock().workers > 0 {
            thread::yield_now();
        }
    };
    bench.source.hold(0..REGION);
    client.submit(Operation::Read, 0..1, false, vec![0], |_, _| {});
    bench.source.wait_until_held(1);
    break_engine(&clone);
    wait_for(&clone, |what| matches!(what, EventKind::Failed(_)));
    let mut told = vec![refused(&client)];
    thread::scope(|scope| {
        let stopped = scope.spawn(|| clone.stop());
        while !pool.lock().is_ending {
            thread::yield_now();
        }
        // One worker is blocked in the source, and the others may have exited.
        let late = scope.spawn(|| refused(&client));
        bench.source.let_go();
        told.push(late.join().unwrap());
        assert!(stopped.join().unwrap().failure.is_some());
    });
    wait_until_gone();
    told.extend((0..3).map(|_| refused(&client)));
    assert_eq!(told, [(Err(RequestError::Failed), true); 5]);
    // The new worker exits, too.
    wait_until_gone();
}

#[test]
fn past_the_end_there_is_nothing() {
    let mut bench = Bench::new(8 * REGION);
    let clone = bench.start();
    let client = clone.client();
    let past_end = Err(RequestError::PastEnd);
    for offset in [8 * REGION, 8 * REGION - 9, u64::MAX, u64::MAX - 10] {
        assert_eq!(client.read(offset, &mut [0; 10]), past_end);
        assert_eq!(client.write(offset, &[0; 10], true), past_end);
        let range = offset..offset.saturating_add(10);
        assert_eq!(client.write_zeroes(range.clone(), true, false), past_end);
        assert_eq!(client.discard(range.clone(), false), past_end);
        assert_eq!(client.hydrate(range), past_end);
    }
    assert_eq!(client.read(8 * REGION, &mut []), Ok(()));
    assert_eq!(client.read(8 * REGION - 10, &mut [0; 10]), Ok(()));
    bench.stop(clone);
}

#[test]
fn copies_take_no_more_memory_than_allowed_however_many_writes_wait_for_them() {
    assert!(pool_bytes(&Settings::default()) < 64 << 20);
    let mut bench = Bench::new(256 * REGION);
    bench.settings.copy_bytes = 64 << 10;
    bench.settings.copies = 2;
    bench.workers = 60;
    let allowed = pool_bytes(&bench.settings) as usize;
    assert!(allowed < 256 * REGION as usize / 2);
    let clone = bench.start();
    let client = clone.client();
    bench.destination.hold(0..256 * REGION);
    let (done, answers) = mpsc::channel();
    for region in 0..256 {
        let (done, at) = (done.clone(), region * REGION + 10);
        client.submit(Operation::Write, at..at + 1, false, vec![1], move |result, _| {
            done.send(result).unwrap();
        });
    }
    bench.destination.wait_until_held(20);
    let used = clone.pool.backends.buffers.used_bytes();
    assert!((20 * REGION as usize..=allowed).contains(&used), "{used}");
    bench.destination.let_go();
    (0..256).for_each(|_| assert_eq!(answers.recv(), Ok(Ok(()))));
    bench.stop(clone);
}
