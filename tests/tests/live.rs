//! Reads of metadata that a clone is committing to return one of its commits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use clone_core::geometry::RegionRange;
use clone_core::metadata::check::{Report, Scope};
use clone_core::metadata::live::{NeverAtRest, PASSES_MAX, check_live, read_live};
use clone_core::metadata::metadata_size::MetadataSize;
use clone_tests::assert_seen;
use clone_tests::hydration::header;
use clone_tests::writer_at_work::{AtRead, Busy, WriterAtWork};
use persistent_data::sim::seeds;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Creates a clone of random size with a history of commits, on a device with few spare blocks, so
/// that blocks are soon reused.
fn at_work(rng: &mut StdRng) -> WriterAtWork {
    let nr_regions = [64, 3000, 70_000, 130_000][rng.random_range(0..4)];
    let header = header(nr_regions);
    let nr_blocks = MetadataSize::of(header.geometry).least_blocks() + rng.random_range(4..8);
    let mut writer = WriterAtWork::new(nr_blocks as usize, header);
    for _ in 0..rng.random_range(0..5) {
        writer.commit(rng);
    }
    writer
}

fn runs(report: &Report) -> Vec<RegionRange> {
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    report.regions.as_ref().unwrap().runs().collect()
}

/// Commits now and then during a number of reads, and stops afterwards.
fn now_and_then(mut rng: StdRng) -> Box<AtRead> {
    let until = rng.random_range(0..200);
    let every = rng.random_range(1..25);
    let mut next = rng.random_range(0..every);
    Box::new(move |writer, read| {
        if read != next || read >= until {
            return;
        }
        next += rng.random_range(1..=every);
        match rng.random_range(0..4) {
            0 => writer.prepare(&mut rng),
            1 => (0..rng.random_range(1..4)).for_each(|_| writer.commit(&mut rng)),
            _ => writer.commit(&mut rng),
        }
    })
}

#[test]
fn what_is_read_while_a_clone_commits_is_one_of_its_commits() {
    let (mut commits, mut runs_done) = (0, 0);
    for seed in seeds("what_is_read_while_a_clone_commits_is_one_of_its_commits", 1500) {
        let mut rng = seed.rng();
        let writer = at_work(&mut rng);
        let first = writer.committed.len() - 1;
        let busy = Busy::new(writer, now_and_then(StdRng::seed_from_u64(rng.random())));
        let report = read_live(&busy, &());
        let writer = busy.into_writer();
        runs_done += 1;
        commits += (writer.committed.len() - first - 1) as u64;
        match report {
            Ok(report) => {
                let found = runs(&report);
                assert!(writer.committed[first..].contains(&found), "{found:?}");
            }
            Err(NeverAtRest) => panic!("it came to rest after 200 reads at most"),
        }
    }
    assert_seen("a commit meanwhile", commits, runs_done);
}

#[test]
fn a_check_while_a_clone_commits_finds_no_damage_that_is_not_there() {
    for seed in seeds("a_check_while_a_clone_commits_finds_no_damage_that_is_not_there", 600) {
        let mut rng = seed.rng();
        let writer = at_work(&mut rng);
        let scopes = [Scope::Superblock, Scope::WithoutSpaceMap, Scope::Everything];
        let busy = Busy::new(writer, now_and_then(StdRng::seed_from_u64(rng.random())));
        let scope = scopes[rng.random_range(0..3)];
        match check_live(&busy, scope, &()) {
            Ok(report) => assert!(report.damage.is_empty(), "{:?}", report.damage),
            // In this scope a pass is a single read, and every pass may overlap with a commit.
            Err(NeverAtRest) => assert_eq!(scope, Scope::Superblock),
        }
    }
}

#[test]
fn a_clone_that_commits_at_every_read_is_given_up_after_a_bounded_number_of_passes() {
    let mut rng = StdRng::seed_from_u64(0);
    let writer = WriterAtWork::new(64, header(40_000));
    let at_read: Box<AtRead> = Box::new(move |writer, _| writer.commit(&mut rng));
    let busy = Busy::new(writer, at_read);
    assert_eq!(read_live(&busy, &()).err(), Some(NeverAtRest));
    // The superblock, the index, a bitmap, a node each of two trees, and the array blocks.
    let a_pass = 5 + 2 * 2;
    assert!(busy.reads() <= u64::from(PASSES_MAX) * a_pass, "{} reads", busy.reads());
    assert!(busy.reads() >= u64::from(PASSES_MAX), "{} reads", busy.reads());
}

/// With one array block, commits alternate between the same blocks, and a superblock comes back
/// byte by byte with other regions below it.
#[test]
fn a_superblock_that_comes_back_with_other_content_below_is_not_taken_for_rest() {
    let test = "a_superblock_that_comes_back_with_other_content_below_is_not_taken_for_rest";
    let (mut came_back, mut runs_done) = (0, 0);
    for seed in seeds(test, 300) {
        let mut rng = seed.rng();
        let header = header(2000);
        let nr_blocks = MetadataSize::of(header.geometry).least_blocks() as usize;
        let mut writer = WriterAtWork::new(nr_blocks, header);
        let (lead, period) = (rng.random_range(0..4), rng.random_range(1..12));
        (0..lead).for_each(|_| writer.commit(&mut rng));
        let first = writer.committed.len() - 1;
        let until = rng.random_range(1..100);
        let mut writer_rng = StdRng::seed_from_u64(rng.random());
        // Two commits in a row bring the superblock back.
        let busy = Busy::new(
            writer,
            Box::new(move |writer, read| {
                if read < until && read % period == 0 {
                    writer.commit(&mut writer_rng);
                    writer.commit(&mut writer_rng);
                }
            }),
        );
        let report = read_live(&busy, &()).unwrap();
        let writer = busy.into_writer();
        assert!(writer.committed[first..].contains(&runs(&report)));
        let distinct: HashSet<&[u8]> =
            writer.superblocks.iter().map(|block| &block.bytes()[..]).collect();
        runs_done += 1;
        came_back += u64::from(distinct.len() < writer.superblocks.len());
    }
    assert_seen("a superblock that came back", came_back, runs_done);
}

#[test]
fn what_is_read_beside_a_thread_that_commits_is_one_of_its_commits() {
    for seed in seeds("what_is_read_beside_a_thread_that_commits_is_one_of_its_commits", 20) {
        let mut rng = seed.rng();
        let header = header(100_000);
        let writer = WriterAtWork::new(64, header);
        let device = writer.device();
        let writer = Arc::new(Mutex::new(writer));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (writer, stop) = (Arc::clone(&writer), Arc::clone(&stop));
            let mut rng = StdRng::seed_from_u64(rng.random());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    writer.lock().unwrap().commit(&mut rng);
                    // The speed varies, so that some passes find the metadata unchanged.
                    for _ in 0..rng.random_range(0..20_000) {
                        std::hint::spin_loop();
                    }
                    thread::yield_now();
                }
            })
        };
        let mut reports = Vec::new();
        for _ in 0..10 {
            let first = writer.lock().unwrap().committed.len() - 1;
            let report = read_live(&device, &());
            let end = writer.lock().unwrap().committed.len();
            reports.extend(report.ok().map(|report| (first..end, report)));
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        let last = read_live(&device, &()).unwrap();
        let writer = writer.lock().unwrap();
        for (between, report) in &reports {
            assert!(writer.committed[between.clone()].contains(&runs(report)));
        }
        assert_eq!(Some(&runs(&last)), writer.committed.last());
    }
}
