//! Metadata that a real kernel wrote is read correctly in every detail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use clone_core::geometry::RegionRange;
use clone_core::metadata::check::read;
use clone_tests::{fixtures, log_writes};
use persistent_data::device::MemoryDevice;

#[test]
fn every_kernel_image_checks_clean_and_holds_what_the_kernel_said() {
    for name in fixtures::IMAGES {
        let (device, expected) = fixtures::load(name);
        let report = read(&device, &());
        assert!(report.damage.is_empty(), "{name}: {:?}", report.damage);

        let geometry = report.header().expect("a usable superblock").geometry;
        assert_eq!(geometry.region_size().sectors().0, expected.region_size, "{name}");
        assert_eq!(geometry.target_size().0, expected.target_size, "{name}");
        assert_eq!(geometry.nr_regions(), expected.nr_regions, "{name}");

        let regions = report.regions.expect("the scope has the bitset in it");
        assert_eq!(regions.runs().collect::<Vec<RegionRange>>(), expected.runs(), "{name}");
        assert_eq!(report.hydrated, Some(expected.hydrated), "{name}");

        let blocks = report.metadata_blocks.expect("the scope has the space map in it");
        let status = ((blocks.used, blocks.total), (regions.hydrated(), regions.nr_regions()));
        assert_eq!(status, expected.status_figures(), "{name}");
        assert_eq!(blocks.leaked, Some(0), "{name}");
    }
}

/// Content of a state of the crash log, read by hand at the offsets of the format.
struct ByHand {
    runs: Vec<RegionRange>,
    used: u64,
    total: u64,
}

fn le64(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

fn le32(image: &[u8], at: usize) -> usize {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize
}

fn read_by_hand(image: &[u8]) -> ByHand {
    let nr_regions = le64(image, 180).div_ceil(le64(image, 172));
    let root = le64(image, 188) as usize * 4096;
    assert_eq!(le32(image, root + 4), 2, "one level, so the root is a leaf");
    let mut hydrated = Vec::new();
    for entry in 0..le32(image, root + 16) {
        let values = root + 32 + 8 * le32(image, root + 20);
        let block = le64(image, values + 8 * entry) as usize * 4096;
        for word in 0..le32(image, block + 8) {
            let bits = le64(image, block + 24 + 8 * word);
            let first = (entry * 509 + word) as u64 * 64;
            hydrated.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| first + bit));
        }
    }
    assert!(hydrated.iter().all(|&region| region < nr_regions));
    let runs = hydrated.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[run.len() - 1] + 1);
    ByHand { runs: runs.collect(), used: le64(image, 52), total: le64(image, 44) }
}

/// Replays the kernel's writes of 260 commits: after each flush, the device holds complete metadata
/// with the regions that the log itself shows.
#[test]
fn every_state_that_the_crash_log_can_leave_checks_clean_and_holds_what_was_written() {
    let mut image = vec![0; 8 << 20];
    let (mut flushes, mut commits, mut hydrated_before) = (0, 0, 0);
    let log = fixtures::decompressed("crash-log.zst");
    for entry in log_writes::parse(&log) {
        // A flush covers everything before it; its own data, if any, comes after it.
        if entry.is_flush() && image[..4096].iter().any(|&byte| byte != 0) {
            flushes += 1;
            hydrated_before = check_state(&image, hydrated_before);
        }
        let at = entry.sector as usize * log_writes::UNIT;
        image[at..at + entry.data.len()].copy_from_slice(&entry.data);
        if at == 0 && !entry.data.is_empty() {
            commits += 1;
            hydrated_before = check_state(&image, hydrated_before);
        }
    }
    assert!(commits >= 260, "{commits} commits");
    assert!(flushes >= commits - 1, "{flushes} flushes");
}

/// Checks one state, in which no fewer regions may be hydrated than before. Returns the number of
/// hydrated regions.
fn check_state(image: &[u8], hydrated_before: u64) -> u64 {
    let by_hand = read_by_hand(image);
    let report = read(&MemoryDevice::from_bytes(image), &());
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    let regions = report.regions.unwrap();
    assert_eq!(regions.runs().collect::<Vec<_>>(), by_hand.runs);
    let blocks = report.metadata_blocks.unwrap();
    assert_eq!((blocks.used, blocks.total), (by_hand.used, by_hand.total));
    assert!(regions.hydrated() >= hydrated_before, "a bit went back to zero");
    regions.hydrated()
}
