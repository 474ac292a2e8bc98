//! The results of a repair, for the report.

use clone_core::repair::Recovery;
use clone_core::repair::content::Decided;

use super::recovery::RecoveryFailure;

/// The results of a repair so far.
pub(super) struct RepairOutcome {
    /// The recovery, with the decisions by content, but without those by `--lost`.
    pub(super) found: Result<Recovery, RecoveryFailure>,
    /// The decisions by the content of source and destination.
    pub(super) by_content: Option<Decided>,
    /// The regions decided by `--lost`.
    pub(super) by_choice: Option<ByChoice>,
    /// True once OUTPUT has been written and read back.
    pub(super) written: bool,
}

impl RepairOutcome {
    /// Returns the number of hydrated regions after all decisions so far, if anything was
    /// recovered.
    pub(super) fn hydrated(&self) -> Option<u64> {
        let known = self.found.as_ref().ok()?.regions.hydrated();
        let chosen = self.by_choice.filter(|choice| choice.hydrated);
        Some(known + chosen.map_or(0, |choice| choice.nr_regions))
    }
}

/// The lost regions that `--lost` set to one state.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByChoice {
    pub(super) nr_regions: u64,
    pub(super) hydrated: bool,
}
