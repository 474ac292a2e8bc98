//! Random damage to several blocks of random metadata.

use std::collections::BTreeSet;
use std::fmt;

use clone_core::metadata::ir::Header;
use clone_core::repair::{Origin, RepairError, recover};
use clone_tests::assert_seen;
use clone_tests::damage::{ImageEditor, Layout};
use clone_tests::history::History;
use clone_tests::recovery::Truth;
use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, ReadDevice};
use persistent_data::sim::{SimDisk, seeds};
use persistent_data::transaction::SUPERBLOCK;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::hits::{Aims, Hits};
use crate::images;

/// Number of times that each image is damaged.
const ROUNDS: u64 = 16;

/// Counts of outcomes.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    /// Nothing was lost.
    exact: u64,
    /// Something was lost, but not everything.
    part: u64,
    /// Something was recovered from older commits.
    finds: u64,
    /// The superblock was lost, and nothing else.
    exact_without_superblock: u64,
    /// The superblock was lost, and a newer commit may have been lost too.
    in_doubt: u64,
    no_bitset: u64,
    /// Cases that cannot be distinguished from others.
    left_out: u64,
}

/// Prints the damage when a test fails after it.
struct Told<T: fmt::Display>(T);

impl<T: fmt::Display> Drop for Told<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// An image, and the known facts about it.
struct Subject<'a> {
    image: &'a ImageEditor,
    layout: &'a Layout,
    /// Blocks that the last commit wrote.
    written: BTreeSet<BlockNr>,
    /// Those blocks, and the blocks of a commit that was interrupted after it.
    traces: BTreeSet<BlockNr>,
    /// The first block that the last commit wrote, if all other blocks in use are below it.
    growing_end: Option<BlockNr>,
    truth: Truth<'a>,
}

impl<'a> Subject<'a> {
    fn of(history: &'a History) -> Self {
        let last = history.last();
        let truth = Truth::new(history.header, &last.truth);
        Self::with(&last.image, history, truth)
    }

    /// `image` holds the last commit of `history`, and perhaps more.
    fn with(image: &'a ImageEditor, history: &'a History, truth: Truth<'a>) -> Self {
        let (last, written) = (&history.last().image, history.written());
        let all = (0..image.nr_blocks()).map(BlockNr);
        let mut traces: BTreeSet<BlockNr> =
            all.filter(|&at| image.raw(at) != last.raw(at)).collect();
        traces.extend(&written);
        let mut kept = history.last().used();
        kept.retain(|at| !written.contains(at));
        let growing_end = written.first().copied().filter(|first| kept.last() < Some(first));
        Self { image, layout: last.layout(), written, traces, growing_end, truth }
    }

    /// Returns whether the damage cannot be distinguished from another possible history.
    ///
    /// Block 0 says which commit is the last one. Without it, the blocks of the last commit show
    /// it, as long as some of them are left, or a gap shows where they were. If all of them have
    /// become zeroes, with everything that was written later, and the device is zero from their
    /// first block to its end, then `damaged` is byte for byte an image on which that commit never
    /// happened, with its superblock lost, on a new device. That image must come back as the commit
    /// before, so no repair can get this one right. There is no other case like it: one byte that
    /// is not zero, or one block in use above, is a trace.
    fn never_happened(&self, damaged: &ImageEditor) -> bool {
        let is_zero = |at| damaged.raw(at).is_zero();
        let Some(BlockNr(first)) = self.growing_end else { return false };
        (first..damaged.nr_blocks()).all(|at| is_zero(BlockNr(at)))
            && self.traces.iter().all(|&at| is_zero(at))
    }

    fn is_bitset_hit(&self, hits: &Hits) -> bool {
        let Layout { internal, leaves, array_blocks, .. } = self.layout;
        let bitset = [internal, leaves, array_blocks];
        hits.blocks().any(|at| bitset.iter().any(|blocks| blocks.contains(&at)))
    }

    fn damage(&self, rng: &mut StdRng, superblock: bool, tally: &mut Tally) {
        let aims = Aims { image: self.image, written: &self.written };
        let hits = Told(Hits::draw(rng, &aims, superblock));
        let damaged = hits.0.on(self.image, rng);
        if superblock && self.never_happened(&damaged) {
            tally.left_out += 1;
            return;
        }
        let before = damaged.clone();
        tally.runs += 1;
        let geometry = self.truth.header.geometry;
        let recovery = match recover(&damaged, superblock.then_some(geometry), &()) {
            Ok(recovery) => recovery,
            Err(RepairError::NoBitset { .. }) if superblock => {
                assert!(self.is_bitset_hit(&hits.0), "the bitset was not hit, and is not found");
                tally.no_bitset += 1;
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(damaged.same_bytes(&before), "the damaged device was written to");
        self.truth.judge(&recovery).unwrap_or_else(|error| panic!("{error}"));
        let is_whole = recovery.regions.is_whole();
        if !superblock {
            assert_eq!(recovery.header, self.truth.header);
            let may_be_lost = self.is_bitset_hit(&hits.0);
            assert!(is_whole || may_be_lost, "the bitset was not hit, and something is lost");
        }
        let nr_regions = recovery.regions.nr_regions();
        let nr_lost = recovery.regions.tally(0..nr_regions).lost;
        tally.exact += u64::from(is_whole);
        tally.part += u64::from(!is_whole && nr_lost < nr_regions);
        tally.finds += u64::from(!recovery.finds.is_empty());
        if superblock {
            tally.exact_without_superblock += u64::from(is_whole);
            let in_doubt = matches!(recovery.origin, Origin::Scan { is_newest: false, .. });
            tally.in_doubt += u64::from(in_doubt);
        }
    }
}

#[test]
fn damage_to_some_blocks_invents_nothing_and_loses_only_what_it_says() {
    let test = "damage_to_some_blocks_invents_nothing_and_loses_only_what_it_says";
    let mut tally = Tally::default();
    for seed in seeds(test, 300) {
        let mut rng = seed.rng();
        let history = images::random(&mut rng);
        let told = Told(format!("{:?}, {}", history.header, history.last().image.nr_blocks()));
        let subject = Subject::of(&history);
        for round in 0..ROUNDS {
            subject.damage(&mut rng, round % 2 == 0, &mut tally);
        }
        drop(told);
    }
    println!("{tally:?}");
    assert_seen("all came back", tally.exact, tally.runs);
    assert_seen("some came back", tally.part, tally.runs);
    assert_seen("something came back from an older commit", tally.finds, tally.runs);
    let exact = tally.exact_without_superblock;
    assert_seen("all came back without the superblock", exact, tally.runs);
    assert_seen("a newer commit may have been lost", tally.in_doubt, tally.runs);
}

/// Proves why one case is left out: it is identical to the commit before.
#[test]
fn a_commit_of_which_no_trace_is_left_never_happened() {
    let mut seen = 0;
    for seed in 0..40 {
        let history = images::random(&mut StdRng::seed_from_u64(seed));
        let subject = Subject::of(&history);
        let Some(before) = history.before().filter(|_| subject.growing_end.is_some()) else {
            continue;
        };
        let [damaged, earlier] = [&history.last().image, &before.image].map(|image| {
            let mut image = image.clone();
            for at in subject.written.iter().copied().chain([SUPERBLOCK]) {
                image.bytes(at, |bytes| bytes.fill(0));
            }
            image
        });
        assert!(damaged.to_bytes() == earlier.to_bytes());
        if !subject.never_happened(&damaged) {
            continue;
        }
        let recovery = recover(&damaged, Some(history.header.geometry), &()).unwrap();
        Truth::new(history.header, &before.truth).judge(&recovery).unwrap();
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

/// Returns the blocks that an older clone has left. Formatting wipes the superblock and writes the
/// blocks of the fresh metadata; all others stay.
fn left_by_an_older_clone(rng: &mut StdRng, header: Header, nr_blocks: u64) -> ImageEditor {
    let recipe = images::random_recipe(rng, header);
    let mut image = History::on(ImageEditor::blank(nr_blocks), &recipe).last().image.clone();
    image.bytes(SUPERBLOCK, |bytes| bytes.fill(0));
    image
}

/// The superblock is spared. Without it, nothing shows which of two clones of the same size was the
/// last one on the device.
#[test]
fn what_an_older_clone_left_on_the_device_is_not_taken_for_this_one() {
    let test = "what_an_older_clone_left_on_the_device_is_not_taken_for_this_one";
    let mut tally = Tally::default();
    for seed in seeds(test, 200) {
        let mut rng = seed.rng();
        let header = images::random_header(&mut rng);
        let older = if rng.random() { header } else { images::random_header(&mut rng) };
        let larger = [header, older].map(|header| images::nr_blocks(header.geometry));
        let nr_blocks = larger[0].max(larger[1]) + [0, 5, 100][rng.random_range(0..3)];
        let image = left_by_an_older_clone(&mut rng, older, nr_blocks);
        let history = History::on(image, &images::random_recipe(&mut rng, header));
        let told = Told(format!("{older:?}, then {header:?}, {nr_blocks}"));
        let subject = Subject::of(&history);
        for _ in 0..ROUNDS {
            subject.damage(&mut rng, false, &mut tally);
        }
        drop(told);
    }
    println!("{tally:?}");
    assert_seen("something came back from an older commit", tally.finds, tally.runs);
}

/// Returns the state after a crash during the last commit of `history`: any part of its blocks or
/// sectors is there, and its superblock is not.
fn interrupted(history: &History, rng: &mut StdRng) -> ImageEditor {
    let (before, last) = (&history.before().unwrap().image, &history.last().image);
    let mut image = before.clone();
    if rng.random() {
        let chance: f64 = rng.random();
        for at in history.written().into_iter().filter(|_| rng.random_bool(chance)) {
            image.bytes(at, |bytes| *bytes = *last.raw(at).bytes());
        }
        return image;
    }
    let all = (0..before.nr_blocks()).map(|at| RawBlock::clone(&before.raw(BlockNr(at))));
    let disk = SimDisk::from_blocks(all);
    for at in history.written() {
        disk.write(at, std::slice::from_ref(&*last.raw(at))).unwrap();
    }
    let crashed = disk.crash(rng).live_image();
    for at in history.written() {
        image.bytes(at, |bytes| *bytes = *crashed.block(at).bytes());
    }
    image
}

/// The superblock is spared. It distinguishes an interrupted commit from the last one: without it,
/// a tree whose new array blocks were never written is taken for one in which they were.
#[test]
fn a_commit_that_was_cut_short_is_there_or_not_and_damage_invents_nothing() {
    let test = "a_commit_that_was_cut_short_is_there_or_not_and_damage_invents_nothing";
    let mut tally = Tally::default();
    for seed in seeds(test, 200) {
        let mut rng = seed.rng();
        let history = images::random(&mut rng);
        let Some(committed) = history.without_last() else { continue };
        let told = Told(format!("{:?}, {}", history.header, history.last().image.nr_blocks()));
        let truth = Truth {
            header: history.header,
            committed: &committed.last().truth,
            unfinished: &history.last().truth,
        };
        for _ in 0..ROUNDS {
            let mut crash_rng = StdRng::seed_from_u64(rng.random());
            let image = interrupted(&history, &mut crash_rng);
            let subject = Subject::with(&image, &committed, truth);
            subject.damage(&mut rng, false, &mut tally);
        }
        drop(told);
    }
    println!("{tally:?}");
    assert_seen("all came back", tally.exact, tally.runs);
    assert_seen("something came back from an older commit", tally.finds, tally.runs);
}
