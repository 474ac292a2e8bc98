//! Random damage of blocks in use, with valid checksums.

use clone_core::geometry::RegionRange;
use clone_tests::damage::{ImageEditor, Role, THREE_BITMAPS, child};
use clone_tests::laws;
use persistent_data::BlockNr;
use persistent_data::block;
use persistent_data::format::Node;
use persistent_data::sim::seeds;
use rand::RngExt;
use rand::rngs::StdRng;

/// Returns the fields of a block, as offset and size in bytes.
fn fields(role: Role) -> Vec<(usize, usize)> {
    let node: Vec<_> = [(4, 4), (8, 8), (16, 4), (20, 4), (24, 4), (28, 4)].into();
    match role {
        Role::Superblock => [
            (4, 4),
            (8, 8),
            (16, 8),
            (32, 8),
            (40, 4),
            (44, 8),
            (52, 8),
            (60, 8),
            (68, 8),
            (76, 8),
            (172, 8),
            (180, 8),
            (188, 8),
            (196, 8),
        ]
        .into(),
        Role::Internal | Role::Leaf => {
            // Keys and children of the first entries and of the last one.
            let entries = (0..10).chain([251]).flat_map(|i| [(32 + 8 * i, 8), (2048 + 8 * i, 8)]);
            node.into_iter().chain(entries).collect()
        }
        Role::RefCounts => {
            let entries = (0..3).flat_map(|i| [(32 + 8 * i, 8), (2720 + 4 * i, 4)]);
            node.into_iter().chain(entries).collect()
        }
        Role::Array => {
            let words = [0, 1, 243, 244, 245, 508].map(|word| (24 + 8 * word, 8));
            [(4, 4), (8, 4), (12, 4), (16, 8)].into_iter().chain(words).collect()
        }
        Role::Index => {
            let entries = [0, 1, 2, 3, 254]
                .into_iter()
                .flat_map(|i| [(16 + 16 * i, 8), (24 + 16 * i, 4), (28 + 16 * i, 4)]);
            [(4, 4), (8, 8)].into_iter().chain(entries).collect()
        }
        Role::Bitmap => {
            let words = [0, 1, 31, 60, 64, 300, 509].map(|word| (16 + 8 * word, 8));
            [(4, 4), (8, 8)].into_iter().chain(words).collect()
        }
    }
}

/// Draws a damaged value for a field that holds `old`.
fn nasty(rng: &mut StdRng, old: u64, other_block: u64) -> u64 {
    match rng.random_range(0..12) {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => u64::MAX,
        4 => u64::MAX - 1,
        5 => old.wrapping_add(1),
        6 => old.wrapping_sub(1),
        7 => old << 1,
        8 => old ^ 1 << rng.random_range(0..64),
        9 => 1 << rng.random_range(0..64),
        10 => rng.random(),
        _ => other_block,
    }
}

/// Damages one block in use, and describes the damage.
fn damage(rng: &mut StdRng, editor: &mut ImageEditor) -> String {
    let used = editor.layout().used();
    // Half of the time one of the few blocks that hold the structure together.
    let pool = if rng.random() { used.len() } else { used.len().min(8) };
    let (at, role) = used[rng.random_range(0..pool)];
    let (other, _) = used[rng.random_range(0..used.len())];
    let fields = fields(role);
    let (offset, size) = match rng.random_range(0..4) {
        0 => (rng.random_range(4..4096), 1),
        _ => fields[rng.random_range(0..fields.len())],
    };
    let mut change = String::new();
    editor.bytes(at, |bytes| {
        let mut old = [0; 8];
        old[..size].copy_from_slice(&bytes[offset..][..size]);
        let new = nasty(rng, u64::from_le_bytes(old), other.0).to_le_bytes();
        bytes[offset..][..size].copy_from_slice(&new[..size]);
        change = format!("{role:?} {at}, bytes {offset}+{size}: {old:x?} to {new:x?}");
    });
    editor.reseal(at, role.salt());
    change
}

/// Returns whether the leaves of the bitset point to the same blocks in another order, which the
/// format does not forbid.
fn is_shuffled(editor: &ImageEditor) -> bool {
    let layout = editor.layout();
    let children = |at: &BlockNr| {
        let raw = editor.raw(*at);
        let disk = block::view::<Node>(&raw);
        (0..disk.header.nr_entries.get().min(252) as usize)
            .map(|entry| child(disk, entry))
            .collect::<Vec<_>>()
    };
    let mut now: Vec<_> = layout.leaves.iter().flat_map(children).collect();
    let mut then = layout.array_blocks.clone();
    let moved = now != then;
    now.sort_unstable();
    then.sort_unstable();
    moved && now == then
}

fn run(test: &'static str, names: &[&str], count: u64) {
    let mut outcomes = [0; 4];
    for seed in seeds(test, count) {
        let mut rng = seed.rng();
        let mut editor = ImageEditor::of(names[seed.value() as usize % names.len()]);
        let changes: Vec<String> =
            (0..rng.random_range(1..=4)).map(|_| damage(&mut rng, &mut editor)).collect();
        let told = Told(changes);
        let same_regions = !is_shuffled(&editor);
        let report = laws::judge(&editor, same_regions);
        outcomes[report.worst().map_or(0, |severity| 1 + severity as usize)] += 1;
        drop(told);
    }
    println!("sound, warning, leak, fatal: {outcomes:?}");
}

/// Prints the damage when a test fails after it.
struct Told(Vec<String>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.0);
        }
    }
}

/// Regions match the bits, or the damage is fatal; and metadata without fatal damage can be
/// written.
#[test]
fn random_damage_of_small_images_is_never_misread_in_silence() {
    let names = ["tail", "fresh", "huge-region", "complete", THREE_BITMAPS];
    run("random_damage_of_small_images_is_never_misread_in_silence", &names, 20_000);
}

#[test]
fn random_damage_of_a_tree_of_two_levels_is_never_misread_in_silence() {
    run("random_damage_of_a_tree_of_two_levels_is_never_misread_in_silence", &["twolevel"], 1000);
}

/// Proves that the laws would detect a single wrong bit of the bitset.
#[test]
fn the_oracle_reads_what_the_kernel_said() {
    for name in clone_tests::fixtures::IMAGES {
        let (_, expected) = clone_tests::fixtures::load(name);
        let runs: Vec<RegionRange> = ImageEditor::of(name).runs_by_hand();
        assert_eq!(runs, expected.runs(), "{name}");
    }
}
