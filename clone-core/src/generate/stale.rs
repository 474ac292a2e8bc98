//! Older copies of blocks that are in use.
//!
//! A copy that was in a block's place says nothing of that itself. What tells is the parent that
//! it had then, where that is still there, and what changes between two copies and what cannot.

use std::collections::{BTreeSet, HashSet};

use persistent_data::array::ArrayBlockRef;
use persistent_data::block::{self, RawBlock};
use persistent_data::btree::{Parsed, parse};
use persistent_data::device::ReadDevice;
use persistent_data::format::{ArrayBlock, IndexBlock, Node, NodeDisk};
use persistent_data::{BlockNr, Error};
use zerocopy::little_endian as le;

use super::blocks::{Form, scan};
use super::damage::Kind;

/// Where blocks lie that the block `now`, one of `in_use`, can have been before: those that an
/// older parent names for its place, if there are any.
pub(super) fn older_copies<D: ReadDevice>(
    device: &D,
    kind: Kind,
    ordinal: u64,
    in_use: &[BlockNr],
    now: &RawBlock,
) -> Result<Vec<BlockNr>, Error> {
    let in_use: HashSet<BlockNr> = in_use.iter().copied().collect();
    let (mut copies, mut named) = (Vec::new(), BTreeSet::new());
    scan(device, |at, form, block| {
        named.extend(child_named_in(form, block, kind, ordinal));
        let is_copy =
            form == Form::of_kind(kind) && !in_use.contains(&at) && can_have_been(kind, block, now);
        if is_copy {
            copies.push(at);
        }
    })?;
    let surely: Vec<BlockNr> = copies.iter().copied().filter(|at| named.contains(at)).collect();
    Ok(match kind {
        _ if !surely.is_empty() => surely,
        // Any of another bitmap would do else.
        Kind::Bitmap if in_use.len() > 1 => Vec::new(),
        _ => copies,
    })
}

/// The block that `parent` names as number `ordinal` of `kind`, if it can tell.
fn child_named_in(form: Form, parent: &RawBlock, kind: Kind, ordinal: u64) -> Option<BlockNr> {
    match kind {
        Kind::ArrayBlock if form == Form::of_kind(Kind::BitsetLeaf) => {
            match parse::<ArrayBlockRef<le::U64>>(block::view::<Node>(parent)) {
                Ok(Parsed::Leaf(leaf)) => leaf.get(ordinal).map(|child| child.at()),
                _ => None,
            }
        }
        Kind::Bitmap if form == Form::of_kind(Kind::Index) => {
            let entry = block::view::<IndexBlock>(parent).entries.get(ordinal as usize)?;
            Some(BlockNr(entry.blocknr.get()))
        }
        _ => None,
    }
}

/// Whether `then` differs from `now` in no other way than an older copy does.
fn can_have_been(kind: Kind, then: &RawBlock, now: &RawBlock) -> bool {
    match kind {
        Kind::Superblock | Kind::Index | Kind::Bitmap => content(then) != content(now),
        Kind::ArrayBlock => {
            let (then, now) = (block::view::<ArrayBlock>(then), block::view::<ArrayBlock>(now));
            // Bits only ever go from zero to one.
            let mut bytes = then.body.iter().zip(&now.body);
            then.header.nr_entries == now.header.nr_entries
                && then.body != now.body
                && bytes.all(|(then, now)| then & !now == 0)
        }
        Kind::BitsetNode | Kind::BitsetLeaf => {
            let (then, now) = (block::view::<Node>(then), block::view::<Node>(now));
            is_alike(then, now)
                // Values change, keys do not.
                && keys(then) == keys(now)
                && then.body != now.body
        }
        Kind::RefCounts => {
            let (then, now) = (block::view::<Node>(then), block::view::<Node>(now));
            is_alike(then, now) && then.body != now.body
        }
    }
}

/// All of a block but its checksum and its block number, where those lie in the first 16 bytes.
fn content(block: &RawBlock) -> &[u8] {
    &block.bytes()[16..]
}

/// Whether two nodes are of one tree and of one level, as far as they can tell.
fn is_alike(a: &NodeDisk, b: &NodeDisk) -> bool {
    a.header.flags == b.header.flags && a.header.value_size == b.header.value_size
}

fn keys(node: &NodeDisk) -> &[u8] {
    let len = size_of::<u64>().saturating_mul(node.header.nr_entries.get() as usize);
    &node.body[..len.min(node.body.len())]
}
