use std::collections::BTreeSet;
use std::io;

use rand::RngExt;

use super::{Counts, SimDisk};
use crate::block::RawBlock;
use crate::device::{Device, ReadDevice};
use crate::number::BlockNr;
use crate::sim::image::{Image, SECTOR_SIZE};
use crate::sim::{Died, Fault, Injected, OperationKind, Seed, Which, seeds};

/// Number of seeds that is enough for each of 256 subsets to occur.
const MANY: u64 = 30_000;

fn filled(byte: u8) -> RawBlock {
    let mut block = RawBlock::ZERO;
    block.bytes_mut().fill(byte);
    block
}

/// Returns the first byte of each sector of the block at `at`. Panics if a sector's bytes differ.
fn sectors(image: &Image, at: u64) -> [u8; 8] {
    let (sectors, _) = image.block(BlockNr(at)).bytes().as_chunks::<SECTOR_SIZE>();
    std::array::from_fn(|sector| {
        assert!(sectors[sector].iter().all(|&byte| byte == sectors[sector][0]), "a torn sector");
        sectors[sector][0]
    })
}

fn read(disk: &SimDisk, at: u64) -> io::Result<RawBlock> {
    let mut block = [filled(0xee)];
    disk.read(BlockNr(at), &mut block)?;
    let [block] = block;
    Ok(block)
}

#[test]
fn reads_see_every_write_and_the_medium_only_what_was_flushed() {
    let disk = SimDisk::from_blocks([filled(1), filled(2), filled(3)]);
    disk.write(BlockNr(1), &[filled(4), filled(5)]).unwrap();
    assert_eq!(read(&disk, 1).unwrap(), filled(4));
    assert_eq!(disk.durable_image(), [filled(1), filled(2), filled(3)].into_iter().collect());
    disk.flush().unwrap();
    assert_eq!(disk.durable_image(), [filled(1), filled(4), filled(5)].into_iter().collect());
    assert_eq!(disk.durable_image(), disk.live_image());
}

#[test]
fn past_the_end_nothing_is_done_counted_or_recorded() {
    let disk = SimDisk::new(2);
    for first in [1, 2, u64::MAX] {
        let at = BlockNr(first);
        let read = disk.read(at, &mut [filled(0), filled(0)]).unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::UnexpectedEof);
        let write = disk.write(at, &[filled(1), filled(1)]).unwrap_err();
        assert_eq!(write.kind(), io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(disk.live_image(), Image::new(2));
    assert_eq!(disk.counts(), Counts::default());
    assert!(disk.take_log().is_empty());
}

#[test]
fn every_subset_of_the_sectors_of_a_write_survives_some_crash() {
    let disk = SimDisk::new(1);
    disk.write(BlockNr(0), &[filled(1)]).unwrap();
    let survivals: BTreeSet<[u8; 8]> =
        (0..MANY).map(|seed| sectors(&crashed(&disk, seed), 0)).collect();
    assert_eq!(survivals.len(), 256);
}

#[test]
fn every_subset_of_three_writes_survives_some_crash_whole() {
    let disk = SimDisk::new(3);
    for at in 0..3 {
        disk.write(BlockNr(at), &[filled(1)]).unwrap();
    }
    let wanted: BTreeSet<[bool; 3]> =
        (0..8_u8).map(|bits| [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0]).collect();
    let mut whole = BTreeSet::new();
    for seed in 0..1000 {
        let image = crashed(&disk, seed);
        let blocks = [0, 1, 2].map(|at| image.block(BlockNr(at)));
        if blocks.iter().all(|block| block.is_zero() || **block == filled(1)) {
            whole.insert(blocks.map(|block| !block.is_zero()));
        }
    }
    assert_eq!(whole, wanted);
}

#[test]
fn any_version_of_a_sector_or_the_old_content_survives() {
    let disk = SimDisk::from_blocks([filled(1)]);
    for version in 2..=4 {
        disk.write(BlockNr(0), &[filled(version)]).unwrap();
    }
    let mut pairs = BTreeSet::new();
    for seed in 0..4000 {
        let sectors = sectors(&crashed(&disk, seed), 0);
        pairs.insert((sectors[0], sectors[7]));
    }
    let expected = (1..=4).flat_map(|a| (1..=4).map(move |b| (a, b))).collect();
    assert_eq!(pairs, expected);
}

#[test]
fn a_crash_leaves_the_disk_itself_alone_and_depends_on_nothing_but_the_seed() {
    let disk = SimDisk::new(4);
    disk.write(BlockNr(0), &[filled(1), filled(2), filled(3)]).unwrap();
    for seed in 0..50 {
        assert_eq!(crashed(&disk, seed), crashed(&disk.clone(), seed));
    }
    assert_eq!(disk.nr_pending(), 1);
    assert_eq!(disk.durable_image(), Image::new(4));
}

/// Returns the content of the medium after a crash with `seed`.
fn crashed(disk: &SimDisk, seed: u64) -> Image {
    let crashed = disk.crash(&mut rng(seed));
    assert_eq!(crashed.durable_image(), crashed.live_image());
    crashed.durable_image()
}

fn rng(seed: u64) -> impl rand::Rng {
    use rand::SeedableRng;
    rand::rngs::StdRng::seed_from_u64(seed)
}

/// Writes and flushes at random, with faults. Returns for each block the contents that it may have:
/// its content at the last successful flush, and everything that was written since.
fn random_run(seed: &Seed, disk: &SimDisk) -> Vec<BTreeSet<u8>> {
    let mut rng = seed.rng();
    let mut possible = vec![BTreeSet::from([0]); 6];
    let mut newest = [0; 6];
    for version in 1..40 {
        if rng.random_bool(0.25) {
            disk.flush().unwrap();
            possible = newest.iter().map(|&version| BTreeSet::from([version])).collect();
        } else {
            let first = rng.random_range(0..6);
            let len = rng.random_range(1..=6 - first);
            disk.write(BlockNr(first as u64), &vec![filled(version); len]).unwrap();
            for at in first..first + len {
                possible[at].insert(version);
                newest[at] = version;
            }
        }
    }
    possible
}

#[test]
fn nothing_flushed_is_ever_lost_and_nothing_appears_that_was_not_written() {
    for seed in seeds("nothing_flushed_is_ever_lost_and_nothing_appears_that_was_not_written", 300)
    {
        let disk = SimDisk::new(6);
        let possible = random_run(&seed, &disk);
        for crash in 0..20 {
            let image = crashed(&disk, crash);
            for (at, possible) in possible.iter().enumerate() {
                for sector in sectors(&image, at as u64) {
                    assert!(possible.contains(&sector), "block {at} holds {sector}");
                }
            }
        }
    }
}

#[test]
fn every_crash_gives_each_subset_of_the_writes_with_the_later_one_on_top() {
    let disk = SimDisk::new(2);
    disk.write(BlockNr(0), &[filled(1), filled(1)]).unwrap();
    disk.write(BlockNr(1), &[filled(2)]).unwrap();
    let found: Vec<[u8; 2]> = disk
        .every_crash()
        .unwrap()
        .map(|disk| [0, 1].map(|at| sectors(&disk.durable_image(), at)[0]))
        .collect();
    assert_eq!(found, [[0, 0], [1, 1], [0, 2], [1, 2]]);

    disk.flush().unwrap();
    assert_eq!(disk.every_crash().unwrap().count(), 1);
    for _ in 0..12 {
        disk.write(BlockNr(0), &[filled(3)]).unwrap();
    }
    assert_eq!(disk.every_crash().unwrap().count(), 4096);
    disk.write(BlockNr(0), &[filled(3)]).unwrap();
    assert!(disk.every_crash().is_none());
}

#[test]
fn a_failed_write_has_written_any_subset_of_its_sectors() {
    let mut survivals = BTreeSet::new();
    for seed in 0..MANY {
        let disk = SimDisk::new(1);
        disk.set_seed(seed);
        disk.inject(Fault::fail_once(Which::Write, 0));
        let error = disk.write(BlockNr(0), &[filled(1)]).unwrap_err();
        assert!(Injected::caused(&error));
        assert_eq!(disk.durable_image(), Image::new(1));
        let seen = sectors(&disk.live_image(), 0);
        disk.flush().unwrap();
        assert_eq!(sectors(&disk.durable_image(), 0), seen);
        survivals.insert(seen);
    }
    assert_eq!(survivals.len(), 256);
}

#[test]
fn a_failed_flush_stores_some_sectors_and_the_next_one_does_not_store_the_others() {
    let mut survivals = BTreeSet::new();
    for seed in 0..MANY {
        let disk = SimDisk::new(1);
        disk.set_seed(seed);
        disk.write(BlockNr(0), &[filled(1)]).unwrap();
        disk.inject(Fault::fail_once(Which::Flush, 0));
        assert!(Injected::caused(&disk.flush().unwrap_err()));
        let stored = disk.durable_image();
        assert_eq!(read(&disk, 0).unwrap(), filled(1));
        disk.flush().unwrap();
        assert_eq!(disk.durable_image(), stored);
        assert_eq!(crashed(&disk, seed), stored);
        survivals.insert(sectors(&stored, 0));
    }
    assert_eq!(survivals.len(), 256);
}

#[test]
fn a_failed_read_leaves_nothing_of_use() {
    let disk = SimDisk::new(1);
    disk.inject(Fault::fail_once(Which::Read, 1));
    assert_eq!(read(&disk, 0).unwrap(), RawBlock::ZERO);
    let mut block = [RawBlock::ZERO];
    assert!(Injected::caused(&disk.read(BlockNr(0), &mut block).unwrap_err()));
    assert_eq!(block, [filled(super::GARBAGE)]);
    assert_eq!(read(&disk, 0).unwrap(), RawBlock::ZERO);
}

#[test]
fn a_dead_disk_does_nothing_until_the_power_returns() {
    let disk = SimDisk::new(2);
    disk.write(BlockNr(0), &[filled(1)]).unwrap();
    disk.inject(Fault::die_at(Which::Flush, 0));
    assert!(!disk.is_dead());
    assert!(Died::caused(&disk.flush().unwrap_err()));
    assert!(disk.is_dead());
    disk.clear_faults();
    assert!(Died::caused(&read(&disk, 0).unwrap_err()));
    assert!(Died::caused(&disk.write(BlockNr(1), &[filled(2)]).unwrap_err()));
    assert!(Died::caused(&disk.flush().unwrap_err()));
    assert_eq!(disk.durable_image(), Image::new(2));
    assert_eq!(disk.counts().total(), 2);

    let disk = disk.crash(&mut rng(0));
    assert!(!disk.is_dead());
    disk.write(BlockNr(1), &[filled(2)]).unwrap();
    disk.flush().unwrap();
    assert_eq!(read(&disk, 1).unwrap(), filled(2));
}

#[test]
fn the_write_that_is_cut_off_by_death_may_be_torn_in_every_way() {
    let mut survivals = BTreeSet::new();
    for seed in 0..MANY {
        let disk = SimDisk::new(1);
        disk.set_seed(seed);
        disk.inject(Fault::die_at(Which::Any, 0));
        assert!(Died::caused(&disk.write(BlockNr(0), &[filled(1)]).unwrap_err()));
        survivals.insert(sectors(&disk.live_image(), 0));
    }
    assert_eq!(survivals.len(), 256);
}

#[test]
fn operations_are_counted_and_recorded_in_order() {
    let disk = SimDisk::new(4);
    disk.write(BlockNr(1), &[filled(1), filled(1), filled(1)]).unwrap();
    disk.inject(Fault::fail_once(Which::Any, 1));
    read(&disk, 3).unwrap();
    disk.flush().unwrap_err();
    let counts = Counts { reads: 1, blocks_read: 1, writes: 1, blocks_written: 3, flushes: 1 };
    assert_eq!(disk.counts(), counts);
    assert_eq!((counts.total(), counts.changes()), (3, 2));

    let log = disk.take_log();
    let fields: Vec<_> = log
        .iter()
        .map(|found| (found.index, found.kind, found.first.0, found.nr_blocks, found.succeeded))
        .collect();
    assert_eq!(
        fields,
        [
            (0, OperationKind::Write, 1, 3, true),
            (1, OperationKind::Read, 3, 1, true),
            (2, OperationKind::Flush, 0, 0, false),
        ]
    );
    disk.flush().unwrap();
    assert_eq!(disk.take_log().iter().map(|found| found.index).collect::<Vec<_>>(), [3]);
    assert!(disk.take_log().is_empty());
}
