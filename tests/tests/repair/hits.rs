//! Damage to several blocks at once, as disks and users cause it.

use std::collections::BTreeSet;
use std::fmt;

use clone_tests::damage::ImageEditor;
use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use persistent_data::transaction::SUPERBLOCK;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

/// Maximum number of blocks that are hit at once.
const MOST: usize = 8;

/// The kind of damage to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Zeroes,
    Garbage,
    BitFlip,
}

const ALL: [How; 3] = [How::Zeroes, How::Garbage, How::BitFlip];

/// Damaged blocks, and the kind of damage.
#[derive(Clone, Debug)]
pub(crate) struct Hits(Vec<(BlockNr, How)>);

impl fmt::Display for Hits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hits: Vec<String> = self.0.iter().map(|(at, how)| format!("{at} {how:?}")).collect();
        write!(f, "damaged blocks: {}", hits.join(", "))
    }
}

/// The image to damage, and its preferred blocks.
pub(crate) struct Aims<'a> {
    pub(crate) image: &'a ImageEditor,
    /// Blocks that the last commit wrote.
    pub(crate) written: &'a BTreeSet<BlockNr>,
}

impl Hits {
    /// Draws hits on up to eight blocks, including block 0 if `superblock` is set: mostly blocks in
    /// use, often those of the last commit, sometimes several adjacent ones.
    pub(crate) fn draw(rng: &mut StdRng, aims: &Aims<'_>, superblock: bool) -> Self {
        let nr_blocks = aims.image.nr_blocks();
        let len = [1, 1, 2, 3, 5, MOST][rng.random_range(0..6)] - usize::from(superblock);
        let used: Vec<BlockNr> = aims.image.layout().used().into_iter().map(|(at, _)| at).collect();
        let written: Vec<BlockNr> = aims.written.iter().copied().collect();
        let top = aims.image.to_bytes().len() as u64 / 4096;
        let mut at: BTreeSet<BlockNr> = match rng.random_range(0..10) {
            // As by `dd`, from the start of the device or from elsewhere.
            0 | 1 => {
                let start = if superblock && rng.random() { 1 } else { rng.random_range(1..top) };
                (start..start + len as u64).map(BlockNr).collect()
            }
            // All blocks of one commit, or as many as allowed.
            2 | 3 => written.sample(rng, len.max(MOST - 2)).copied().collect(),
            _ => {
                let one = |rng: &mut StdRng| match rng.random_range(0..20) {
                    0..14 => *used.choose(rng).expect("some are always in use"),
                    14..19 => BlockNr(rng.random_range(1..top)),
                    _ => BlockNr(rng.random_range(1..nr_blocks)),
                };
                (0..len).map(|_| one(rng)).collect()
            }
        };
        at.retain(|&at| at != SUPERBLOCK && at.0 < nr_blocks);
        at.extend(superblock.then_some(SUPERBLOCK));
        let same = rng.random_bool(0.6).then(|| ALL[rng.random_range(0..2)]);
        let mut how = |_| same.unwrap_or_else(|| ALL[rng.random_range(0..ALL.len())]);
        Self(at.into_iter().map(|at| (at, how(at))).collect())
    }

    /// Returns a damaged copy of `image`.
    pub(crate) fn on(&self, image: &ImageEditor, rng: &mut StdRng) -> ImageEditor {
        let mut damaged = image.clone();
        for &(at, how) in &self.0 {
            damaged.bytes(at, |bytes| match how {
                How::Zeroes => bytes.fill(0),
                How::Garbage => rng.fill_bytes(bytes),
                How::BitFlip => {
                    bytes[rng.random_range(0..bytes.len())] ^= 1 << rng.random_range(0..8);
                }
            });
        }
        damaged
    }

    /// Returns the damaged blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockNr> + '_ {
        self.0.iter().map(|&(at, _)| at)
    }
}
