//! Metadata for the repair tests to damage.

use clone_core::generate::metadata::{Pattern, Recipe};
use clone_core::geometry::Geometry;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_tests::damage::ImageEditor;
use clone_tests::fixtures;
use clone_tests::history::History;
use clone_tests::hydration;
use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::format::ENTRIES_PER_BITMAP;
use rand::RngExt;
use rand::rngs::StdRng;

/// Number of regions of a clone whose bitset has two levels, for any fill of its nodes.
pub(crate) const TWO_LEVELS: u64 = 8_400_000;

/// Metadata with a name.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) history: History,
    /// True if there is space for several commits besides the last one.
    pub(crate) is_roomy: bool,
}

/// Returns metadata written by a real kernel.
pub(crate) fn by_a_kernel() -> Vec<Named> {
    let named = |name: &str| {
        let history = History::of_fixture(name);
        Named { name: name.to_owned(), history, is_roomy: true }
    };
    fixtures::IMAGES.into_iter().map(named).collect()
}

/// Returns the recommended number of blocks of a metadata device.
pub(crate) fn nr_blocks(geometry: Geometry) -> u64 {
    MetadataSize::of(geometry).total_blocks()
}

/// Returns metadata made by many commits, on devices of exactly the recommended size, of a slightly
/// larger one, and of ten times that size.
pub(crate) fn with_churn(nr_regions: u64, pattern: Pattern) -> Vec<Named> {
    let header = hydration::header(nr_regions);
    let least = nr_blocks(header.geometry);
    let rooms = [(least, false), (least + 9, false), (10 * least, true)];
    rooms
        .map(|(nr_blocks, is_roomy)| {
            let commits = 40.min(nr_regions as u32);
            let percent = if nr_regions == 1 { 100 } else { 50 };
            let recipe =
                Recipe { commits, percent, seed: nr_blocks, ..Recipe::new(header, pattern) };
            let name = format!("{nr_regions} regions, {pattern:?}, {nr_blocks} blocks");
            Named { name, history: History::of(&recipe, nr_blocks), is_roomy }
        })
        .into()
}

/// Returns metadata on a device so large that its space map takes three bitmaps.
pub(crate) fn with_three_bitmaps() -> Named {
    let recipe = Recipe::new(hydration::header(100_000), Pattern::Runs);
    let history = History::of(&recipe, 2 * ENTRIES_PER_BITMAP as u64 + 1000);
    Named { name: "three bitmaps".to_owned(), history, is_roomy: true }
}

/// Draws a clone of any size up to a dozen array blocks.
pub(crate) fn random_header(rng: &mut StdRng) -> Header {
    let most = [1, 64, 30_000, 70_000, 400_000, 400_000][rng.random_range(0..6)];
    let nr_regions = match rng.random_range(0..10) {
        // The last array block is full, or has a single region in it.
        0 => BITS_PER_BLOCK * rng.random_range(1..4) + rng.random_range(0..2),
        _ => rng.random_range(1..=most),
    };
    hydration::header(nr_regions)
}

/// Draws a history of any length that fits on a device of the recommended size.
pub(crate) fn random_recipe(rng: &mut StdRng, header: Header) -> Recipe {
    let nr_regions = header.geometry.nr_regions();
    let percent = [0, 1, 50, 99, 100, rng.random_range(0..=100)][rng.random_range(0..6)];
    let hydrated = nr_regions * u64::from(percent) / 100;
    let most = hydrated.clamp(1, [3, 20, 60][rng.random_range(0..3)]);
    let commits = rng.random_range(1..=most as u32);
    Recipe {
        percent,
        commits,
        reopens: [0, 0, commits / 10, commits - 1][rng.random_range(0..4)],
        seed: rng.random(),
        ..Recipe::new(header, Pattern::ALL[rng.random_range(0..Pattern::ALL.len())])
    }
}

/// Draws the number of blocks of a device that has space for `geometry`, with a random margin; now
/// and then large enough for several bitmaps.
pub(crate) fn random_room(rng: &mut StdRng, geometry: Geometry) -> u64 {
    let least = nr_blocks(geometry);
    if rng.random_range(0..40) == 0 {
        return ENTRIES_PER_BITMAP as u64 * rng.random_range(1..3) + least;
    }
    [least, least, least + 3, least + 10, least + 40, 3 * least, 10 * least][rng.random_range(0..7)]
}

/// Draws any metadata.
pub(crate) fn random(rng: &mut StdRng) -> History {
    let header = random_header(rng);
    let nr_blocks = random_room(rng, header.geometry);
    History::on(ImageEditor::blank(nr_blocks), &random_recipe(rng, header))
}
