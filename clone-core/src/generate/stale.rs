//! Finds older copies of used blocks.
//!
//! A copy does not identify the block that it was. Its parent of that time does, if it is still
//! there, and so do the differences that are possible between two copies of one block.

use std::collections::{BTreeSet, HashSet};

use persistent_data::array::ArrayBlockRef;
use persistent_data::block::{self, RawBlock};
use persistent_data::btree::{Parsed, parse};
use persistent_data::device::ReadDevice;
use persistent_data::format::{ArrayBlock, IndexBlock, Node, NodeDisk};
use persistent_data::{BlockNr, Error};
use zerocopy::little_endian as le;

use super::block_role::BlockRole;
use super::blocks::{Form, scan};

/// Returns the blocks that may be older copies of `now`, one of `in_use`: those that an older
/// parent names in its place, if there are any.
pub(super) fn older_copies<D: ReadDevice>(
    device: &D,
    role: BlockRole,
    ordinal: u64,
    in_use: &[BlockNr],
    now: &RawBlock,
) -> Result<Vec<BlockNr>, Error> {
    let in_use: HashSet<BlockNr> = in_use.iter().copied().collect();
    let (mut copies, mut named) = (Vec::new(), BTreeSet::new());
    scan(device, |at, form, block| {
        named.extend(child_named_in(form, block, role, ordinal));
        let is_copy =
            form == Form::of_role(role) && !in_use.contains(&at) && can_have_been(role, block, now);
        if is_copy {
            copies.push(at);
        }
    })?;
    let surely: Vec<BlockNr> = copies.iter().copied().filter(|at| named.contains(at)).collect();
    Ok(match role {
        _ if !surely.is_empty() => surely,
        // Otherwise a copy of another bitmap would be accepted.
        BlockRole::Bitmap if in_use.len() > 1 => Vec::new(),
        _ => copies,
    })
}

/// Returns the block that `parent` names as number `ordinal` of `role`, if it is such a parent.
fn child_named_in(form: Form, parent: &RawBlock, role: BlockRole, ordinal: u64) -> Option<BlockNr> {
    match role {
        BlockRole::ArrayBlock if form == Form::of_role(BlockRole::BitsetLeaf) => {
            match parse::<ArrayBlockRef<le::U64>>(block::view::<Node>(parent)) {
                Ok(Parsed::Leaf(leaf)) => leaf.get(ordinal).map(|child| child.at()),
                _ => None,
            }
        }
        BlockRole::Bitmap if form == Form::of_role(BlockRole::Index) => {
            let entry = block::view::<IndexBlock>(parent).entries.get(ordinal as usize)?;
            Some(BlockNr(entry.blocknr.get()))
        }
        _ => None,
    }
}

/// Returns whether `then` differs from `now` only as an older copy can.
fn can_have_been(role: BlockRole, then: &RawBlock, now: &RawBlock) -> bool {
    match role {
        BlockRole::Superblock | BlockRole::Index | BlockRole::Bitmap => {
            content(then) != content(now)
        }
        BlockRole::ArrayBlock => {
            let (then, now) = (block::view::<ArrayBlock>(then), block::view::<ArrayBlock>(now));
            // Bits only change from zero to one.
            let mut bytes = then.body.iter().zip(&now.body);
            then.header.nr_entries == now.header.nr_entries
                && then.body != now.body
                && bytes.all(|(then, now)| then & !now == 0)
        }
        BlockRole::BitsetNode | BlockRole::BitsetLeaf => {
            let (then, now) = (block::view::<Node>(then), block::view::<Node>(now));
            is_alike(then, now)
                // Values change, keys do not.
                && keys(then) == keys(now)
                && then.body != now.body
        }
        BlockRole::RefCounts => {
            let (then, now) = (block::view::<Node>(then), block::view::<Node>(now));
            is_alike(then, now) && then.body != now.body
        }
    }
}

/// Returns a block without its checksum and block number, if those are in the first 16 bytes.
fn content(block: &RawBlock) -> &[u8] {
    &block.bytes()[16..]
}

/// Returns whether two nodes may be of one tree and one level, by their headers.
fn is_alike(a: &NodeDisk, b: &NodeDisk) -> bool {
    a.header.flags == b.header.flags && a.header.value_size == b.header.value_size
}

fn keys(node: &NodeDisk) -> &[u8] {
    let len = size_of::<u64>().saturating_mul(node.header.nr_entries.get() as usize);
    &node.body[..len.min(node.body.len())]
}
