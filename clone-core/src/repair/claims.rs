//! The index that each array block has in a bitset, according to the leaves that are left.

use std::collections::HashMap;

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;

use super::scan::{Kind, Scan};
use super::tree::Trees;

/// The claims of a device's leaves, including those of old commits, on its array blocks.
pub(super) struct LeafClaims {
    /// Index of each block plus one; zero if no leaf leads to it; [`MANY`] if the leaves differ.
    first: Vec<u32>,
    many: HashMap<BlockNr, Vec<u64>>,
}

const MANY: u32 = u32::MAX;

/// Maximum number of claims to one block that are kept. In a regular history, the oldest leaf that
/// claims a block is overwritten before the block has so many different uses.
const LISTED: usize = 256;

impl LeafClaims {
    pub(super) fn of<D: ReadDevice + ?Sized>(trees: &Trees<'_, D>, scan: &Scan) -> Self {
        let first = vec![0; scan.nr_blocks() as usize];
        let mut claims = Self { first, many: HashMap::new() };
        for leaf in scan.all(Kind::Leaf).filter_map(|at| trees.node(at)) {
            for (index, at) in leaf.entries {
                if scan.kind(at) == Kind::Array {
                    claims.add(index, at);
                }
            }
        }
        claims
    }

    fn add(&mut self, index: u64, at: BlockNr) {
        let claim = &mut self.first[at.0 as usize];
        let new = u32::try_from(index).ok().and_then(|index| index.checked_add(1));
        match (*claim, new.filter(|&new| new != MANY)) {
            (0, Some(new)) => *claim = new,
            (old, Some(new)) if old == new => {}
            (old, _) => {
                let many = self.many.entry(at).or_default();
                if old != 0 && old != MANY {
                    many.push(u64::from(old) - 1);
                }
                if many.len() < LISTED && !many.contains(&index) {
                    many.push(index);
                }
                *claim = MANY;
            }
        }
    }

    /// Returns whether no leaf leads to the array block at `at`.
    pub(super) fn is_orphan(&self, at: BlockNr) -> bool {
        self.first.get(at.0 as usize).is_none_or(|&claim| claim == 0)
    }

    /// Returns whether all leaves that lead to the array block at `at` give it this index.
    pub(super) fn is_sole(&self, at: BlockNr, index: u64) -> bool {
        let claim = self.first.get(at.0 as usize).copied().unwrap_or(0);
        claim != 0 && claim != MANY && u64::from(claim) - 1 == index
    }

    /// Returns the other indexes that leaves give to the array block at `at`.
    pub(super) fn others(&self, at: BlockNr, index: u64) -> impl Iterator<Item = u64> + '_ {
        let sole = match self.first.get(at.0 as usize).copied().unwrap_or(0) {
            0 | MANY => None,
            claim => Some(u64::from(claim) - 1),
        };
        let many = self.many.get(&at).into_iter().flatten().copied();
        sole.into_iter().chain(many).filter(move |&other| other != index)
    }
}
