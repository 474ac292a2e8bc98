//! Finds the blocks of a device by kind, both all valid ones and those that the metadata reaches.

use std::ops::Range;

use persistent_data::array::ArrayBlockRef;
use persistent_data::block::{self, BlockError, BlockKind, RawBlock};
use persistent_data::btree::{NodeDamage, NodeView, Value, WalkVisitor, walk};
use persistent_data::device::ReadDevice;
use persistent_data::format::{
    ArrayBlock, Bitmap, ENTRIES_PER_BITMAP, IndexBlock, Node, SpaceMapRoot,
};
use persistent_data::space_map::metadata::mapped_blocks;
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::{BlockNr, Error};
use zerocopy::little_endian as le;

use super::block_role::BlockRole;
use super::damage_error::DamageError;
use crate::metadata::format;
use crate::metadata::superblock::Superblock;

/// Number of blocks in one read.
const BATCH: usize = 256;

/// Checks and seals blocks of one kind.
#[derive(Clone, Copy)]
pub(super) struct Form {
    salt: u32,
    check: fn(&RawBlock, BlockNr) -> Result<(), BlockError>,
    name: &'static str,
    /// Stores block number and checksum.
    pub(super) seal: fn(&mut RawBlock, BlockNr),
}

impl Form {
    const fn of<K: BlockKind>() -> Self {
        Self {
            salt: K::CSUM_SALT,
            check: |block, at| block::check::<K>(block, at).map(|_| ()),
            name: K::NAME,
            seal: block::seal::<K>,
        }
    }

    const ALL: [Self; 5] = [
        Self::of::<format::Superblock>(),
        Self::of::<Node>(),
        Self::of::<ArrayBlock>(),
        Self::of::<IndexBlock>(),
        Self::of::<Bitmap>(),
    ];

    /// Returns the form of blocks of `role`.
    pub(super) fn of_role(role: BlockRole) -> Self {
        match role {
            BlockRole::Superblock => Self::of::<format::Superblock>(),
            BlockRole::BitsetNode | BlockRole::BitsetLeaf | BlockRole::RefCounts => {
                Self::of::<Node>()
            }
            BlockRole::ArrayBlock => Self::of::<ArrayBlock>(),
            BlockRole::Index => Self::of::<IndexBlock>(),
            BlockRole::Bitmap => Self::of::<Bitmap>(),
        }
    }

    /// Returns whether `block`, read from `at`, is valid and in its place.
    pub(super) fn is_valid(&self, block: &RawBlock, at: BlockNr) -> bool {
        (self.check)(block, at).is_ok()
    }

    /// Like [`is_valid`](Self::is_valid), with the error.
    pub(super) fn check(&self, block: &RawBlock, at: BlockNr) -> Result<(), Error> {
        (self.check)(block, at).map_err(|source| Error::Block { kind: self.name, at, source })
    }
}

impl PartialEq for Form {
    fn eq(&self, other: &Self) -> bool {
        self.salt == other.salt
    }
}

/// Reads the block at `at`, unchecked.
pub(super) fn read_raw<D: ReadDevice>(device: &D, at: BlockNr) -> Result<RawBlock, Error> {
    let nr_blocks = device.nr_blocks();
    if at.0 >= nr_blocks {
        return Err(Error::OutOfRange { at, nr_blocks });
    }
    let mut block = RawBlock::ZERO;
    let read = device.read(at, std::slice::from_mut(&mut block));
    read.map_err(|source| Error::Read { at, source })?;
    Ok(block)
}

/// Calls `look` for every block that is valid and in its place, ascending, used or not.
pub(super) fn scan<D: ReadDevice>(
    device: &D,
    mut look: impl FnMut(BlockNr, Form, &RawBlock),
) -> Result<(), Error> {
    let nr_blocks = mapped_blocks(device.nr_blocks());
    let mut buffer = vec![RawBlock::ZERO; BATCH];
    let mut next = device.skip_hole(BlockNr(0));
    while next.0 < nr_blocks {
        let batch = &mut buffer[..BATCH.min((nr_blocks - next.0) as usize)];
        device.read(next, batch).map_err(|source| Error::Read { at: next, source })?;
        for (block, at) in batch.iter().zip((next.0..).map(BlockNr)) {
            let salt = block::checksum(block, 0) ^ block::stored_checksum(block);
            let form = Form::ALL.into_iter().find(|form| form.salt == salt);
            if let Some(form) = form.filter(|form| form.is_valid(block, at)) {
                look(at, form, block);
            }
        }
        next = device.skip_hole(next.plus(batch.len() as u64));
    }
    Ok(())
}

/// Returns the blocks with one role, by ordinal.
pub(super) fn blocks_of<D: ReadDevice>(
    device: &D,
    role: BlockRole,
) -> Result<Vec<BlockNr>, DamageError> {
    let superblock = || Superblock::read(device);
    let map_root = || superblock().map(|found| SpaceMapRoot::from_area(&found.space_map_root));
    let bitset = || -> Result<Tree, DamageError> {
        Tree::read::<ArrayBlockRef<le::U64>, _>(device, superblock()?.bitset_root, |array_block| {
            Some(array_block.at())
        })
    };
    Ok(match role {
        BlockRole::Superblock => vec![persistent_data::transaction::SUPERBLOCK],
        BlockRole::BitsetNode => bitset()?.internal,
        BlockRole::BitsetLeaf => bitset()?.leaves,
        BlockRole::ArrayBlock => bitset()?.below,
        BlockRole::Index => vec![BlockNr(map_root()?.bitmap_root.get())],
        BlockRole::Bitmap => {
            let root = map_root()?;
            let index = DeviceReader(device).read::<IndexBlock>(BlockNr(root.bitmap_root.get()))?;
            let nr_bitmaps = root.nr_blocks.get().div_ceil(ENTRIES_PER_BITMAP as u64) as usize;
            index
                .entries
                .iter()
                .take(nr_bitmaps)
                .map(|entry| BlockNr(entry.blocknr.get()))
                .collect()
        }
        BlockRole::RefCounts => {
            let root = BlockNr(map_root()?.ref_count_root.get());
            let tree = Tree::read::<le::U32, _>(device, root, |_| None)?;
            [tree.internal, tree.leaves].concat()
        }
    })
}

/// The block numbers of the parts of a btree.
#[derive(Default)]
struct Tree {
    /// Internal nodes, each before its children.
    internal: Vec<BlockNr>,
    /// Leaves, by ascending keys.
    leaves: Vec<BlockNr>,
    /// Blocks that the values refer to, by ascending keys.
    below: Vec<BlockNr>,
}

impl Tree {
    fn read<V: Value, D: ReadDevice>(
        device: &D,
        root: BlockNr,
        refers_to: fn(V) -> Option<BlockNr>,
    ) -> Result<Self, DamageError> {
        let mut visitor = TreeVisitor { tree: Self::default(), refers_to, damage: None };
        walk(&DeviceReader(device), root, &mut visitor);
        match visitor.damage {
            Some(error) => Err(error.into()),
            None => Ok(visitor.tree),
        }
    }
}

struct TreeVisitor<V> {
    tree: Tree,
    refers_to: fn(V) -> Option<BlockNr>,
    /// The first damage that the walk found.
    damage: Option<Error>,
}

impl<V: Value> WalkVisitor<V> for TreeVisitor<V> {
    fn node(&mut self, at: BlockNr, _: &Range<u64>) -> bool {
        self.tree.internal.push(at);
        true
    }

    fn leaf(&mut self, at: BlockNr, _: &Range<u64>, leaf: &NodeView<'_, V>) {
        // The last visited node was this leaf.
        self.tree.internal.pop();
        self.tree.leaves.push(at);
        self.tree.below.extend(leaf.entries().filter_map(|(_, value)| (self.refers_to)(value)));
    }

    fn damage(&mut self, damage: NodeDamage) {
        self.damage.get_or_insert(damage.error);
    }
}
