//! Failing each operation in turn.

use std::fmt::Debug;

use persistent_data::sim::{Fault, Image, OperationKind, Order, SimDisk, Which};
use persistent_data::transaction::SUPERBLOCK;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Crashes that are tried after each run.
const CRASHES: u64 = 6;

/// Runs `attempt` again and again on a disk with `image` on it, on which number 0 of all reads
/// fails, or of all writes or flushes, then number 1, and so on, once and from then on, until
/// nothing is left to fail. Gives how many runs there were.
///
/// # Panics
/// If the device is written to or flushed after a failed write or flush, and if `attempt` panics.
pub fn fail_each(image: &Image, mut attempt: impl FnMut(&SimDisk)) -> u64 {
    let mut runs = 0;
    for which in [Which::Read, Which::Write, Which::Flush, Which::Any] {
        for fault in [Fault::fail_once, Fault::fail_from] {
            for nth in 0.. {
                let disk = SimDisk::from_image(image.clone());
                disk.set_seed(nth);
                disk.inject(fault(which, nth));
                attempt(&disk);
                let log = disk.take_log();
                Order::new().observe(&log).unwrap_or_else(|error| panic!("{error}"));
                runs += 1;
                if log.iter().all(|operation| operation.succeeded) {
                    break;
                }
            }
        }
    }
    runs
}

/// Whether the write of a superblock is among what the disk has seen, and the write or a flush
/// after it failed: then nobody knows which superblock is there.
pub fn superblock_in_doubt(disk: &SimDisk, changes_before: u64) -> bool {
    let disk = disk.clone();
    let log = disk.take_log();
    let changes = log.iter().filter(|operation| operation.kind != OperationKind::Read);
    let since: Vec<_> = changes.skip(changes_before as usize).collect();
    since.iter().any(|change| change.kind == OperationKind::Write && change.covers(SUPERBLOCK))
}

/// Whether a write or a flush has failed.
pub fn change_failed(disk: &SimDisk) -> bool {
    let log = disk.clone().take_log();
    log.iter().any(|operation| operation.kind != OperationKind::Read && !operation.succeeded)
}

/// Holds what `disk` has, now and after crashes, against what it may have.
///
/// # Panics
/// If it has something else.
pub fn expect<S: Debug + PartialEq>(
    disk: &SimDisk,
    recover: fn(&SimDisk) -> Result<S, String>,
    allowed: &[&S],
) {
    let crashes = (0..CRASHES).map(|seed| disk.crash(&mut StdRng::seed_from_u64(seed)));
    for disk in crashes.chain([disk.clone()]) {
        let found = recover(&disk).unwrap_or_else(|damage| panic!("{damage}"));
        assert!(allowed.contains(&&found), "{found:?}, allowed are {allowed:?}");
    }
}
