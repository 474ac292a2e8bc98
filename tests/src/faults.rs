//! Fault injection: fails each operation of a disk in turn.

use std::fmt::Debug;

use persistent_data::sim::{Fault, Image, OperationKind, Order, SimDisk, Which};
use persistent_data::transaction::SUPERBLOCK;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Number of crashes that are tried on each disk.
const CRASHES: u64 = 6;

/// Runs `attempt` repeatedly on a disk that holds `image`. In the first run the first read fails,
/// in the next run the second, and so on until no read is left to fail; the same for writes, for
/// flushes, and for all operations. Each run is done with a single failure and with failures from
/// then on. Returns the number of runs.
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

/// Returns whether the disk has seen a write of the superblock after the first `changes_before`
/// writes and flushes. If that write or a later flush failed, either superblock may be on the disk.
pub fn superblock_in_doubt(disk: &SimDisk, changes_before: u64) -> bool {
    let disk = disk.clone();
    let log = disk.take_log();
    let changes = log.iter().filter(|operation| operation.kind != OperationKind::Read);
    let since: Vec<_> = changes.skip(changes_before as usize).collect();
    since.iter().any(|change| change.kind == OperationKind::Write && change.covers(SUPERBLOCK))
}

/// Returns whether a write or a flush has failed.
pub fn change_failed(disk: &SimDisk) -> bool {
    let log = disk.clone().take_log();
    log.iter().any(|operation| operation.kind != OperationKind::Read && !operation.succeeded)
}

/// Checks that the content of `disk`, now and after crashes, is one of `allowed`.
///
/// # Panics
/// If it is not.
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
