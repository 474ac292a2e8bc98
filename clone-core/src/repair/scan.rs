//! A scan that identifies every block of a device by its own content.

use persistent_data::array::array_values;
use persistent_data::block::{self, BlockKind, RawBlock};
use persistent_data::btree::{Parsed, parse};
use persistent_data::device::ReadDevice;
use persistent_data::format::{ArrayBlock, Bitmap, IndexBlock, Node};
use persistent_data::space_map::metadata::mapped_blocks;
use persistent_data::transaction::SUPERBLOCK;
use persistent_data::{BLOCK_SIZE, BlockNr};
use zerocopy::little_endian as le;

use super::block_set::BlockSet;
use crate::progress::Progress;

/// Number of blocks in one read.
const BATCH: usize = 256;

/// Minimum number of blocks after the last sound one in which damage may come from a commit.
const LEAST_REACH: usize = 64;

/// Kind of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All zeroes: never written, or wiped.
    Blank,
    /// Not a valid block of any kind, misplaced, or unreadable.
    Damaged,
    /// An internal node of the bitset's btree.
    Internal,
    /// A leaf of the bitset's btree.
    Leaf,
    /// A node of the tree of large counts.
    RefCounts,
    /// An index of a space map.
    Index,
    /// A bitmap of a space map.
    Bitmap,
    /// An array block of a bitset.
    Array,
}

/// Scan result of a block.
#[derive(Clone, Copy, Debug)]
struct ScannedBlock {
    kind: Kind,
    /// Number of words of an array block.
    words: u16,
    /// Number of set bits of an array block.
    hydrated: u16,
}

const _: () = assert!(BLOCK_SIZE * 8 <= 1 << 15, "the set bits of a block fit");

/// Scan result of a whole device, in six bytes per block.
#[derive(Debug)]
pub(super) struct Scan {
    blocks: Vec<ScannedBlock>,
    /// Blocks without readable content that were written once.
    damaged: BlockSet,
    top: Option<BlockNr>,
}

impl Scan {
    /// Reads the part of `device` that a space map can cover.
    pub(super) fn of<D: ReadDevice + ?Sized>(device: &D, progress: &dyn Progress) -> Self {
        let nr_blocks = mapped_blocks(device.nr_blocks());
        let blank = ScannedBlock { kind: Kind::Blank, words: 0, hydrated: 0 };
        let mut blocks = vec![blank; nr_blocks as usize];
        progress.set_total(nr_blocks);
        let mut buffer = vec![RawBlock::ZERO; BATCH];
        let (mut next, mut told) = (device.skip_hole(BlockNr(0)).0, 0);
        while next < nr_blocks {
            let batch = &mut buffer[..BATCH.min((nr_blocks - next) as usize)];
            let end = next + batch.len() as u64;
            look_at(device, next, batch, &mut blocks[next as usize..end as usize]);
            progress.advance(end - told);
            told = end;
            next = device.skip_hole(BlockNr(end)).0;
        }
        let is_sound = |seen: &ScannedBlock| !matches!(seen.kind, Kind::Blank | Kind::Damaged);
        let top = blocks.iter().rposition(is_sound);
        let nr_sound = blocks.iter().filter(|seen| is_sound(seen)).count();
        // A commit writes at most as many blocks as are in use. Blocks further up are from
        // elsewhere, such as the second copy of a partition table.
        let end = top.map_or(0, |top| top.saturating_add(nr_sound.max(LEAST_REACH)));
        let in_reach = &blocks[..end.min(blocks.len())];
        let last_written = in_reach.iter().rposition(|seen| seen.kind != Kind::Blank);
        let damaged = BlockSet::none_of(nr_blocks);
        let mut scan = Self { blocks, damaged, top: top.map(|top| BlockNr(top as u64)) };
        scan.were_written_up_to(BlockNr(last_written.unwrap_or(0) as u64));
        scan
    }

    /// Records that every block up to `last` was written once: a kernel allocates new blocks in
    /// ascending order. Blank blocks among them were wiped.
    pub(super) fn were_written_up_to(&mut self, last: BlockNr) {
        let up_to = self.blocks.iter().take(usize::try_from(last.0).map_or(0, |last| last + 1));
        for (at, seen) in up_to.enumerate().skip(1) {
            if matches!(seen.kind, Kind::Blank | Kind::Damaged) {
                self.damaged.insert(BlockNr(at as u64));
            }
        }
    }

    /// Returns the number of scanned blocks.
    pub(super) fn nr_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Returns the kind of the block at `at`; [`Kind::Damaged`] past the end.
    pub(super) fn kind(&self, at: BlockNr) -> Kind {
        self.seen(at).map_or(Kind::Damaged, |seen| seen.kind)
    }

    /// Returns the number of words of the array block at `at`; 0 for other blocks.
    pub(super) fn words(&self, at: BlockNr) -> usize {
        self.seen(at).map_or(0, |seen| usize::from(seen.words))
    }

    /// Returns the number of set bits of the array block at `at`; 0 for other blocks.
    pub(super) fn hydrated(&self, at: BlockNr) -> u64 {
        self.seen(at).map_or(0, |seen| u64::from(seen.hydrated))
    }

    /// Returns whether the content of the block at `at` is lost; true past the end.
    pub(super) fn is_damaged(&self, at: BlockNr) -> bool {
        at != SUPERBLOCK
            && (at.0 >= self.nr_blocks() || matches!(self.kind(at), Kind::Blank | Kind::Damaged))
    }

    /// Returns the blocks whose content was lost, except the superblock.
    pub(super) fn damaged(&self) -> &BlockSet {
        &self.damaged
    }

    /// Returns the last sound block.
    pub(super) fn top(&self) -> Option<BlockNr> {
        self.top
    }

    /// Returns the blocks of one kind, ascending.
    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = BlockNr> + '_ {
        let of_kind = move |(_, seen): &(usize, &ScannedBlock)| seen.kind == kind;
        self.blocks.iter().enumerate().filter(of_kind).map(|(at, _)| BlockNr(at as u64))
    }

    fn seen(&self, at: BlockNr) -> Option<&ScannedBlock> {
        usize::try_from(at.0).ok().and_then(|at| self.blocks.get(at))
    }
}

/// Identifies the blocks from `first` on. Reads them one by one if they cannot be read together.
fn look_at<D: ReadDevice + ?Sized>(
    device: &D,
    first: u64,
    batch: &mut [RawBlock],
    seen: &mut [ScannedBlock],
) {
    let together = device.read(BlockNr(first), batch).is_ok();
    for ((block, seen), at) in batch.iter_mut().zip(seen).zip(first..) {
        let read = together || device.read(BlockNr(at), std::slice::from_mut(block)).is_ok();
        if !read {
            seen.kind = Kind::Damaged;
        } else if *block != RawBlock::ZERO {
            *seen = identify(block, BlockNr(at));
        }
    }
}

fn identify(block: &RawBlock, at: BlockNr) -> ScannedBlock {
    let mut seen = ScannedBlock { kind: Kind::Damaged, words: 0, hydrated: 0 };
    // If the checksum is correct for a kind of block, this is the salt of that kind.
    match block::checksum(block, 0) ^ block::stored_checksum(block) {
        Node::CSUM_SALT if is_at::<Node>(block, at) => {
            let node = block::view::<Node>(block);
            seen.kind = match parse::<le::U64>(node) {
                Ok(Parsed::Internal(_)) => Kind::Internal,
                Ok(Parsed::Leaf(_)) => Kind::Leaf,
                Err(_) if parse::<le::U32>(node).is_ok() => Kind::RefCounts,
                Err(_) => Kind::Damaged,
            };
        }
        IndexBlock::CSUM_SALT if is_at::<IndexBlock>(block, at) => seen.kind = Kind::Index,
        Bitmap::CSUM_SALT if is_at::<Bitmap>(block, at) => seen.kind = Kind::Bitmap,
        ArrayBlock::CSUM_SALT if is_at::<ArrayBlock>(block, at) => {
            if let Ok(words) = array_values::<le::U64>(block::view::<ArrayBlock>(block)) {
                let ones: u32 = words.iter().map(|word| word.get().count_ones()).sum();
                seen.kind = Kind::Array;
                (seen.words, seen.hydrated) = (words.len() as u16, ones as u16);
            }
        }
        _ => {}
    }
    seen
}

/// Returns whether the block number that is stored in a block is its own.
fn is_at<K: BlockKind>(block: &RawBlock, at: BlockNr) -> bool {
    K::location(block::view::<K>(block)) == at
}
