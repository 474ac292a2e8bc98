//! Making metadata that has a past.
//!
//! What a kernel leaves on a metadata device is not only what its superblock reaches: each commit
//! wrote copies of what it changed, and the old ones stay until their blocks are used again. Here
//! metadata is made in the same way, by many commits of [`Metadata`].

use persistent_data::device::Device;
use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;

use super::churn::Churn;
use super::pattern::choose;
use super::regions::Regions;
use crate::metadata::ir::Header;
use crate::metadata::{Metadata, MetadataError};

/// Why no metadata was made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MakeError {
    /// More than all regions.
    #[error("{0} % of the regions: there are no more than 100")]
    Percent(u8),
    /// Something is to be hydrated, and nothing to be committed.
    #[error("no commits: hydrating something takes at least one")]
    NoCommits,
    /// The device is too small, or it failed.
    #[error("cannot make the metadata")]
    Metadata(#[from] MetadataError),
}

/// How the hydrated regions lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each region has the same chance.
    Random,
    /// Runs of 1 to 4096 regions, or up to a 32nd of a small clone.
    Runs,
    /// As even as can be: every other region for half of them. The worst case for whatever keeps
    /// runs.
    Checkerboard,
    /// What a file system has written: something at the start of each group of 128 MiB, and files
    /// of any size elsewhere. A small clone has 16 groups.
    FileSystem,
}

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 4] = [Self::Random, Self::Runs, Self::Checkerboard, Self::FileSystem];
}

/// What metadata is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The uuid and the sizes of the clone.
    pub header: Header,
    /// How the hydrated regions lie in the end.
    pub pattern: Pattern,
    /// How many of all regions are hydrated in the end, in percent, `0..=100`, rounded down to
    /// whole regions.
    pub percent: u8,
    /// Commits that the hydration takes, at least 1 if anything is to be hydrated. Each hydrates
    /// something, so there are no more than hydrated regions.
    pub commits: u32,
    /// How often the metadata is opened anew between two commits, at even distances: `0..commits`,
    /// and what is beyond is left out. The search for free blocks begins at the start of the
    /// device then, and overwrites what is stale there.
    pub reopens: u32,
    /// The same seed gives the same bytes.
    pub seed: u64,
}

impl Recipe {
    /// Half of the regions, by 40 commits, opened anew three times, seed 0.
    pub fn new(header: Header, pattern: Pattern) -> Self {
        Self { header, pattern, percent: 50, commits: 40, reopens: 3, seed: 0 }
    }

    /// Whether the metadata is opened anew before `commit` of `0..commits`.
    fn reopens_before(&self, commit: u32) -> bool {
        let (commits, reopens) = (u64::from(self.commits), u64::from(self.reopens));
        let so_far = |commit: u32| u64::from(commit) * (reopens.min(commits - 1) + 1) / commits;
        commit > 0 && so_far(commit) > so_far(commit - 1)
    }
}

/// Makes metadata on a device whose content is given up, and gives the regions that were hydrated:
/// what was set, not what can be read back.
///
/// The regions get hydrated in an order in which a clone could do it: some in the background, from
/// the first on, others by writes here and there. Of every four commits one is of writes to a
/// single array block, one of writes to as many as sixteen, one of background hydration only, and
/// one of both.
///
/// # Errors
/// See [`MakeError`].
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
