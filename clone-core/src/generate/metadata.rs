//! Makes metadata with a history.
//!
//! A kernel leaves more on a metadata device than its superblock reaches: each commit writes copies
//! of the blocks that it changes, and the old ones stay until they are reused. This module makes
//! metadata in the same way, with many commits of [`Metadata`].

use persistent_data::device::Device;
use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;

use super::churn::Churn;
pub use super::pattern::Pattern;
use super::pattern::choose;
use super::regions::Regions;
use crate::metadata::ir::Header;
use crate::metadata::{Metadata, MetadataError};

/// Reason why no metadata was made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MakeError {
    /// The percentage is above 100.
    #[error("{0} % of the regions: there are no more than 100")]
    Percent(u8),
    /// Regions are to be hydrated, but without any commit.
    #[error("no commits: hydrating something takes at least one")]
    NoCommits,
    /// The device is too small, or failed.
    #[error("cannot make the metadata")]
    Metadata(#[from] MetadataError),
}

/// Parameters of the metadata to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The uuid and the sizes of the clone.
    pub header: Header,
    /// Arrangement of the hydrated regions in the end.
    pub pattern: Pattern,
    /// Percentage of the regions that are hydrated in the end, `0..=100`, rounded down to whole
    /// regions.
    pub percent: u8,
    /// Number of commits, at least 1 if anything is to be hydrated. Each one hydrates regions as
    /// long as any are left.
    pub commits: u32,
    /// Number of times that the metadata is reopened between two commits, at even intervals, at
    /// most `commits - 1`. The search for free blocks then restarts at the beginning of the device,
    /// and stale blocks there are overwritten.
    pub reopens: u32,
    /// The same seed gives the same bytes.
    pub seed: u64,
}

impl Recipe {
    /// Half of the regions, in 40 commits, reopened three times, with seed 0.
    pub fn new(header: Header, pattern: Pattern) -> Self {
        Self { header, pattern, percent: 50, commits: 40, reopens: 3, seed: 0 }
    }

    /// Returns whether the metadata is reopened before `commit` of `0..commits`.
    fn reopens_before(&self, commit: u32) -> bool {
        let (commits, reopens) = (u64::from(self.commits), u64::from(self.reopens));
        let so_far = |commit: u32| u64::from(commit) * (reopens.min(commits - 1) + 1) / commits;
        commit > 0 && so_far(commit) > so_far(commit - 1)
    }
}

/// Makes metadata on a device whose content is discarded. Returns the regions that were set as
/// hydrated, without reading them back.
///
/// The regions are hydrated in an order that is possible for a clone: some in the background, in
/// ascending order, others by writes to random places. Of every four commits one has writes to a
/// single array block, one has writes to up to sixteen, one has only background hydration, and one
/// has both.
///
/// # Errors
/// Any [`MakeError`].
pub fn make<D: Device>(device: &D, recipe: &Recipe) -> Result<Regions, MakeError> {
    if recipe.percent > 100 {
        return Err(MakeError::Percent(recipe.percent));
    }
    let mut rng = StdRng::seed_from_u64(recipe.seed);
    let wanted = choose(recipe.pattern, recipe.header.geometry, recipe.percent, &mut rng);
    if wanted.count() > 0 && recipe.commits == 0 {
        return Err(MakeError::NoCommits);
    }
    let mut hydrated = Regions::none(wanted.nr_regions());
    let mut metadata = Metadata::format(device, recipe.header)?;
    let mut churn = Churn::new(wanted);
    for commit in 0..recipe.commits {
        if recipe.reopens_before(commit) {
            metadata = Metadata::open(device)?;
        }
        for run in churn.batch(u64::from(commit), u64::from(recipe.commits - commit), &mut rng) {
            metadata.set_hydrated(run.clone())?;
            hydrated.insert(run);
        }
        metadata.commit()?;
    }
    Ok(hydrated)
}
