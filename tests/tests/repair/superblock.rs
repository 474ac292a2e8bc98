//! The superblock is lost, and nothing else.

use clone_core::repair::{Origin, Recovery, RepairError, recover};
use clone_tests::damage::ImageEditor;
use clone_tests::history::History;
use clone_tests::recovery::{Truth, told};
use persistent_data::sim::seeds;
use persistent_data::transaction::SUPERBLOCK;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::images::{self, by_a_kernel};

/// The damage to block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// As by `wipefs`, or `dd` from `/dev/zero`.
    Zeroes,
    Garbage,
    /// The first sector is a partition table, as by `fdisk` on the wrong device.
    PartitionTable,
    /// Only the checksum is wrong.
    Checksum,
}

const ALL: [Loss; 4] = [Loss::Zeroes, Loss::Garbage, Loss::PartitionTable, Loss::Checksum];

fn lose(image: &ImageEditor, loss: Loss, rng: &mut StdRng) -> ImageEditor {
    let mut damaged = image.clone();
    damaged.bytes(SUPERBLOCK, |bytes| match loss {
        Loss::Zeroes => bytes.fill(0),
        Loss::Garbage => rng.fill_bytes(bytes),
        Loss::PartitionTable => {
            bytes[..512].fill(0);
            bytes[446..462]
                .copy_from_slice(&[0, 0, 2, 0, 0xee, 255, 255, 255, 1, 0, 0, 0, 255, 255, 0, 0]);
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            bytes[512..520].copy_from_slice(b"EFI PART");
        }
        Loss::Checksum => bytes[rng.random_range(0..4)] ^= rng.random_range(1..=u8::MAX),
    });
    damaged
}

/// Recovers the metadata without the superblock, and checks the result against the law.
fn recovered(history: &History, loss: Loss, rng: &mut StdRng) -> Result<Recovery, String> {
    let damaged = lose(&history.last().image, loss, rng);
    let nr_regions = history.header.geometry.nr_regions();
    match recover(&damaged, None, &()) {
        Err(RepairError::SizesUnknown { fits, .. })
            if fits.iter().any(|fit| fit.nr_regions.contains(&nr_regions)) => {}
        result => return Err(format!("without sizes: {result:?}")),
    }
    let recovery = recover(&damaged, Some(history.header.geometry), &());
    let recovery = recovery.map_err(|error| error.to_string())?;
    Truth::new(history.header, &history.last().truth).judge(&recovery)?;
    let root = history.last().image.layout().root();
    match recovery.origin {
        Origin::Scan { is_newest: false, .. } => Ok(recovery),
        Origin::Scan { root: found, .. } if found == root && recovery.regions.is_whole() => {
            Ok(recovery)
        }
        _ => Err(format!("the root is block {root}; {}", told(&recovery))),
    }
}

#[test]
fn without_its_superblock_an_image_of_a_kernel_is_all_there() {
    for named in by_a_kernel() {
        for loss in ALL {
            let recovery = recovered(&named.history, loss, &mut StdRng::seed_from_u64(1));
            let recovery =
                recovery.unwrap_or_else(|error| panic!("{}, {loss:?}: {error}", named.name));
            assert!(recovery.regions.is_whole(), "{}, {loss:?}: {}", named.name, told(&recovery));
        }
    }
}

/// If a newer commit may have been lost, the repair says so. This is rare.
#[test]
fn without_its_superblock_a_clone_is_all_there_or_the_doubt_is_told() {
    let test = "without_its_superblock_a_clone_is_all_there_or_the_doubt_is_told";
    let (mut exact, mut runs) = (0, 0);
    for seed in seeds(test, 200) {
        let mut rng = seed.rng();
        let history = images::random(&mut rng);
        for loss in ALL {
            let recovery = recovered(&history, loss, &mut rng);
            let recovery =
                recovery.unwrap_or_else(|error| panic!("{:?}, {loss:?}: {error}", history.header));
            runs += 1;
            exact += u64::from(recovery.regions.is_whole());
        }
    }
    println!("{exact} of {runs} are exact");
    assert!(100 * exact >= 95 * runs, "{exact} of {runs}");
}
