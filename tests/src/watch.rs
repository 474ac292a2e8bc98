//! Rules for writes to a device while transactions are running.

use std::collections::BTreeSet;

use persistent_data::BlockNr;
use persistent_data::sim::{Order, SimDisk, written};
use persistent_data::transaction::SUPERBLOCK;

/// Observes a device after every step of its user. `S` is the content of a device.
pub trait Watch<S> {
    /// Checks the device after a step. A crash since the last check may leave any of `allowed`.
    ///
    /// # Errors
    /// The broken rule.
    fn look(&mut self, allowed: &[&S]) -> Result<(), String>;

    /// Observes a successful commit, which reaches the blocks in `reachable`.
    ///
    /// # Errors
    /// The broken rule.
    fn committed(&mut self, _reachable: &BTreeSet<BlockNr>) -> Result<(), String> {
        Ok(())
    }
}

/// A watch that checks nothing.
impl<S> Watch<S> for () {
    fn look(&mut self, _: &[&S]) -> Result<(), String> {
        Ok(())
    }
}

/// A borrowed watch.
impl<S, W: Watch<S>> Watch<S> for &mut W {
    fn look(&mut self, allowed: &[&S]) -> Result<(), String> {
        (**self).look(allowed)
    }

    fn committed(&mut self, reachable: &BTreeSet<BlockNr>) -> Result<(), String> {
        (**self).committed(reachable)
    }
}

/// Two watches in turn.
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

/// The rules that commits are ordered, and that no block reached by the last commit is written.
#[derive(Debug)]
pub struct Rules<'d> {
    disk: &'d SimDisk,
    order: Order,
    reachable: BTreeSet<BlockNr>,
}

impl<'d> Rules<'d> {
    /// Applies the rules to all operations on `disk` from now on. The last commit reaches
    /// `reachable`.
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
