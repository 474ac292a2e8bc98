//! Metadata with a history: the content of its device after each of the last commits.

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;

use clone_core::generate::metadata::{Recipe, make};
use clone_core::geometry::RegionRange;
use clone_core::metadata::check::read;
use clone_core::metadata::ir::Header;
use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, ReadDevice};
use persistent_data::transaction::SUPERBLOCK;

use crate::damage::ImageEditor;
use crate::fixtures;

/// Number of commits that are kept.
const REMEMBERED: usize = 3;

/// Content of a device after a commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The device, with the position of each structure.
    pub image: ImageEditor,
    /// The regions that were hydrated.
    pub truth: Vec<RegionRange>,
}

impl Commit {
    /// Returns the blocks in use.
    pub fn used(&self) -> BTreeSet<BlockNr> {
        self.image.layout().used().into_iter().map(|(at, _)| at).collect()
    }
}

/// The last commits of a clone.
#[derive(Clone, Debug)]
pub struct History {
    /// The UUID and the sizes of the clone.
    pub header: Header,
    /// The commits, oldest first.
    commits: Vec<Commit>,
}

impl History {
    /// Records the commits of metadata made by `recipe` on a blank device of `nr_blocks` blocks.
    pub fn of(recipe: &Recipe, nr_blocks: u64) -> Self {
        Self::on(ImageEditor::blank(nr_blocks), recipe)
    }

    /// Records the commits of metadata made by `recipe` on a device that already holds something.
    pub fn on(image: ImageEditor, recipe: &Recipe) -> Self {
        let device = Remembering { image, superblocks: Mutex::default() };
        let truth = make(&device, recipe).unwrap_or_else(|error| panic!("{recipe:?}: {error}"));
        let written = device.superblocks.into_inner().expect("nothing panics with the lock held");
        // Formatting wipes the superblock before it writes one.
        let is_whole = |image: &ImageEditor| {
            let report = read(image, &());
            report.header() == Some(recipe.header) && !report.is_fatal()
        };
        let commits: Vec<Commit> = (written.into_iter().filter(is_whole))
            .map(ImageEditor::looked_through)
            .map(|image| Commit { truth: image.runs_by_hand(), image })
            .collect();
        assert!(commits.last().is_some_and(|last| truth.runs().eq(last.truth.iter().cloned())));
        Self { header: recipe.header, commits }
    }

    /// Loads an image that a kernel made. Only its last commit is known.
    pub fn of_fixture(name: &str) -> Self {
        let (_, expected) = fixtures::load(name);
        let image = ImageEditor::of(name);
        let header = read(&image, &()).header().expect("a sound superblock");
        Self { header, commits: vec![Commit { image, truth: expected.runs() }] }
    }

    /// Returns the last commit.
    pub fn last(&self) -> &Commit {
        self.commits.last().expect("there is always one")
    }

    /// Returns the commit before the last one, if it is known.
    pub fn before(&self) -> Option<&Commit> {
        self.commits.len().checked_sub(2).map(|at| &self.commits[at])
    }

    /// Returns the history before the last commit; `None` if it is not known.
    pub fn without_last(&self) -> Option<Self> {
        let (_, commits) = self.commits.split_last()?;
        let (header, commits) = (self.header, commits.to_vec());
        (!commits.is_empty()).then_some(Self { header, commits })
    }

    /// Returns the blocks that the last commit wrote, without the superblock; empty if they are not
    /// known.
    pub fn written(&self) -> BTreeSet<BlockNr> {
        let Some(before) = self.before() else { return BTreeSet::new() };
        self.last().used().difference(&before.used()).copied().collect()
    }
}

/// A device that records its content after each write of the superblock.
struct Remembering {
    image: ImageEditor,
    superblocks: Mutex<Vec<ImageEditor>>,
}

impl ReadDevice for Remembering {
    fn nr_blocks(&self) -> u64 {
        self.image.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.image.read(first, into)
    }
}

impl Device for Remembering {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        self.image.write(first, from)?;
        if first == SUPERBLOCK {
            let mut written = self.superblocks.lock().expect("nothing panics with the lock held");
            if written.len() == REMEMBERED {
                written.remove(0);
            }
            written.push(self.image.clone());
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.image.flush()
    }
}

#[cfg(test)]
mod tests {
    use clone_core::generate::metadata::{Pattern, Recipe};
    use clone_core::metadata::check::read;
    use clone_core::metadata::metadata_size::MetadataSize;

    use super::History;
    use crate::hydration::header;
    use crate::runs::{count, minus};

    #[test]
    fn each_commit_that_is_remembered_is_sound_and_has_what_the_one_before_had() {
        let header = header(100_000);
        let nr_blocks = MetadataSize::of(header.geometry).total_blocks() + 20;
        let history = History::of(&Recipe::new(header, Pattern::Runs), nr_blocks);
        assert_eq!(history.commits.len(), 3);
        let mut before = Vec::new();
        for commit in &history.commits {
            let report = read(&commit.image, &());
            assert!(report.damage.is_empty(), "{:?}", report.damage);
            assert!(report.regions.unwrap().runs().eq(commit.truth.iter().cloned()));
            assert!(minus(&before, &commit.truth).is_empty());
            assert!(count(&commit.truth) > count(&before));
            before.clone_from(&commit.truth);
        }
        assert_eq!(before, history.last().truth);
        assert_eq!(history.without_last().unwrap().last().truth, history.commits[1].truth);
    }

    /// Only those blocks and the superblock differ between the two commits.
    #[test]
    fn what_the_last_commit_wrote_is_all_that_has_changed() {
        let header = header(100_000);
        let nr_blocks = MetadataSize::of(header.geometry).total_blocks() + 20;
        let history = History::of(&Recipe::new(header, Pattern::Runs), nr_blocks);
        let (last, before) = (history.last(), history.before().unwrap());
        assert!(!history.written().is_empty());
        let mut undone = last.image.clone();
        for at in history.written().into_iter().chain([super::SUPERBLOCK]) {
            let old = before.image.raw(at);
            undone.bytes(at, |bytes| bytes.copy_from_slice(old.bytes()));
        }
        let [undone, mut before] = [undone, before.image.clone()].map(|image| image.to_bytes());
        before.resize(undone.len(), 0);
        assert!(undone == before);
    }
}
