//! Which part of the bitset each array block was, as far as any node still says so.

use std::collections::HashMap;

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;

use super::scan::{Kind, Scan};
use super::tree::Trees;

/// What the leaves of a device say of its array blocks, those of commits long gone among them.
pub(super) struct Claims {
    /// The index that a block has, plus one; zero if no leaf leads to it; [`MANY`] if they differ.
    first: Vec<u32>,
    many: HashMap<BlockNr, Vec<u64>>,
}

const MANY: u32 = u32::MAX;

/// Claims to one block that are kept. A block is not used for more parts of a bitset before the
/// oldest leaf that says so is overwritten, unless somebody made it so.
const LISTED: usize = 256;

impl Claims {
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

    /// Whether no leaf leads to the array block at `at`.
    pub(super) fn is_orphan(&self, at: BlockNr) -> bool {
        self.first.get(at.0 as usize).is_none_or(|&claim| claim == 0)
    }

    /// Whether all leaves that lead to the array block at `at` agree that it has this index.
    pub(super) fn is_sole(&self, at: BlockNr, index: u64) -> bool {
        let claim = self.first.get(at.0 as usize).copied().unwrap_or(0);
        claim != 0 && claim != MANY && u64::from(claim) - 1 == index
    }

    /// The other indexes that leaves give to the array block at `at`.
    pub(super) fn others(&self, at: BlockNr, index: u64) -> impl Iterator<Item = u64> + '_ {
        let sole = match self.first.get(at.0 as usize).copied().unwrap_or(0) {
            0 | MANY => None,
            claim => Some(u64::from(claim) - 1),
        };
        let many = self.many.get(&at).into_iter().flatten().copied();
        sole.into_iter().chain(many).filter(move |&other| other != index)
    }
}
