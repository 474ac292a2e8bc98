//! Rules for what reaches a device while transactions are running.

use std::collections::BTreeSet;

use persistent_data::BlockNr;
use persistent_data::sim::{Order, SimDisk, written};
use persistent_data::transaction::SUPERBLOCK;

/// Looks at a device after every step of whoever uses it. `S` is what a device may hold.
pub trait Watch<S> {
    /// Something has been done since the last look, of which a crash may leave any of `allowed`.
    ///
    /// # Errors
    /// The rule that is broken.
    fn look(&mut self, allowed: &[&S]) -> Result<(), String>;

    /// A commit has succeeded, which reaches the blocks in `reachable`.
    ///
    /// # Errors
    /// The rule that is broken.
    fn committed(&mut self, _reachable: &BTreeSet<BlockNr>) -> Result<(), String> {
        Ok(())
    }
}

/// Nobody looks.
impl<S> Watch<S> for () {
    fn look(&mut self, _: &[&S]) -> Result<(), String> {
        Ok(())
    }
}

/// Lent.
impl<S, W: Watch<S>> Watch<S> for &mut W {
    fn look(&mut self, allowed: &[&S]) -> Result<(), String> {
        (**self).look(allowed)
    }

    fn committed(&mut self, reachable: &BTreeSet<BlockNr>) -> Result<(), String> {
        (**self).committed(reachable)
    }
}

/// Two look.
impl<S, A: Watch<S>, B: Watch<S>> Watch<S> for (A, B) {
    fn look(&mut self, allowed: &[&S]) -> Result<(), String> {
        self.0.look(allowed)?;
        self.1.look(allowed)
    }

    fn committed(&mut self, reachable: &BTreeSet<BlockNr>) -> Result<(), String> {
        self.0.committed(reachable)?;
        self.1.committed(reachable)
    }
}

/// Commits are done in order, and no block that the last commit reaches is written.
#[derive(Debug)]
pub struct Rules<'d> {
    disk: &'d SimDisk,
    order: Order,
    reachable: BTreeSet<BlockNr>,
}

impl<'d> Rules<'d> {
    /// Rules for what is done to `disk` from now on, of which the last commit reaches `reachable`.
    pub fn new(disk: &'d SimDisk, reachable: BTreeSet<BlockNr>) -> Self {
        disk.take_log();
        Self { disk, order: Order::new(), reachable }
    }
}

impl<S> Watch<S> for Rules<'_> {
    fn look(&mut self, _: &[&S]) -> Result<(), String> {
        let log = self.disk.take_log();
        self.order.observe(&log).map_err(|error| error.to_string())?;
        let overwritten: Vec<_> = (written(&log).into_iter())
            .filter(|at| *at != SUPERBLOCK && self.reachable.contains(at))
            .collect();
        match overwritten[..] {
            [] => Ok(()),
            _ => Err(format!("blocks {overwritten:?} are written, the last commit has them")),
        }
    }

    fn committed(&mut self, reachable: &BTreeSet<BlockNr>) -> Result<(), String> {
        self.reachable.clone_from(reachable);
        self.order.finish().map_err(|error| error.to_string())
    }
}
