//! Damage to several blocks at once, as disks and people do it.

use std::collections::BTreeSet;
use std::fmt;

use clone_tests::damage::ImageEditor;
use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use persistent_data::transaction::SUPERBLOCK;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

/// The most blocks that are hit at once.
const MOST: usize = 8;

/// What happens to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Zeroes,
    Garbage,
    BitFlip,
}

const ALL: [How; 3] = [How::Zeroes, How::Garbage, How::BitFlip];

/// Blocks that are hit, and how.
#[derive(Clone, Debug)]
pub(crate) struct Hits(Vec<(BlockNr, How)>);

impl fmt::Display for Hits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hits: Vec<String> = self.0.iter().map(|(at, how)| format!("{at} {how:?}")).collect();
        write!(f, "damaged blocks: {}", hits.join(", "))
    }
}

/// Where blocks are hit.
pub(crate) struct Aims<'a> {
    pub(crate) image: &'a ImageEditor,
    /// What the last commit wrote.
    pub(crate) written: &'a BTreeSet<BlockNr>,
}

impl Hits {
    /// Hits up to eight blocks, block 0 among them if `superblock` says so: mostly blocks in use,
    /// often those that the last commit wrote, sometimes several beside each other.
    pub(crate) fn draw(rng: &mut StdRng, aims: &Aims<'_>, superblock: bool) -> Self {
        let nr_blocks = aims.image.nr_blocks();
        let len = [1, 1, 2, 3, 5, MOST][rng.random_range(0..6)] - usize::from(superblock);
        let used: Vec<BlockNr> = aims.image.layout().used().into_iter().map(|(at, _)| at).collect();
        let written: Vec<BlockNr> = aims.written.iter().copied().collect();
        let top = aims.image.to_bytes().len() as u64 / 4096;
        let mut at: BTreeSet<BlockNr> = match rng.random_range(0..10) {
            // As of `dd`, from the start of the device or somewhere else.
            0 | 1 => {
                let start = if superblock && rng.random() { 1 } else { rng.random_range(1..top) };
                (start..start + len as u64).map(BlockNr).collect()
            }
            // All that one commit wrote, or what there is space for.
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

    /// A copy of `image` with the damage done.
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

    /// The blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockNr> + '_ {
        self.0.iter().map(|&(at, _)| at)
    }
}
