//! Single changed bytes without a valid checksum: each of them is detected, at its block.

use clone_core::metadata::check::{Report, read};
use clone_core::metadata::damage::{Damage, Severity};
use clone_tests::damage::{ImageEditor, Role, THREE_BITMAPS};
use clone_tests::laws;
use persistent_data::BlockNr;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Returns the code that a flip in byte `byte` of a block of this role must cause.
fn code_of_flip(role: Role, byte: usize) -> &'static str {
    match role {
        // The superblock of another target has a valid checksum too, so the check looks at the
        // magic number first: "not clone metadata" says more than "bad checksum".
        Role::Superblock if (32..40).contains(&byte) => "superblock-magic",
        Role::Superblock => "superblock-checksum",
        Role::Internal | Role::Leaf => "bitset-node-checksum",
        Role::Array => "bitset-block-checksum",
        Role::Index => "space-map-index-checksum",
        Role::Bitmap => "space-map-bitmap-checksum",
        Role::RefCounts => "ref-count-tree-checksum",
    }
}

/// Flips the bits of `mask` in a byte in use, and checks that this damage and no other is found.
fn check_flip(editor: &mut ImageEditor, at: BlockNr, role: Role, byte: usize, mask: u8) {
    editor.bytes(at, |bytes| bytes[byte] ^= mask);
    let report = read(editor, &());
    editor.bytes(at, |bytes| bytes[byte] ^= mask);
    let [damage] = &report.damage[..] else {
        panic!("{role:?} at {at}, byte {byte}: {:?}", report.damage);
    };
    let found = (damage.block(), damage.code(), damage.severity());
    assert_eq!(found, (Some(at), code_of_flip(role, byte), Severity::Fatal), "byte {byte}");
}

fn flip_every_byte(name: &str, role_is_wanted: fn(Role) -> bool) {
    let mut editor = ImageEditor::of(name);
    let used = editor.layout().used();
    for (at, role) in used.into_iter().filter(|&(_, role)| role_is_wanted(role)) {
        for byte in 0..4096 {
            check_flip(&mut editor, at, role, byte, [0xff, 1 << (byte % 8)][byte / 8 % 2]);
        }
    }
}

#[test]
fn every_flipped_byte_of_the_bitset_is_fatal_where_it_is() {
    let of_bitset = |role| matches!(role, Role::Internal | Role::Leaf | Role::Array);
    flip_every_byte("tail", of_bitset);
    flip_every_byte("huge-region", of_bitset);
}

#[test]
fn every_flipped_byte_of_the_superblock_and_the_space_map_is_fatal_where_it_is() {
    let of_others = |role| !matches!(role, Role::Internal | Role::Leaf | Role::Array);
    flip_every_byte("tail", of_others);
    flip_every_byte("huge-region", of_others);
}

#[test]
fn flipped_bits_of_larger_images_are_fatal_where_they_are() {
    let mut rng = StdRng::seed_from_u64(1);
    for (name, flips) in [("fresh", 1500), ("complete", 500), ("twolevel", 250)] {
        let mut editor = ImageEditor::of(name);
        let used = editor.layout().used();
        for _ in 0..flips {
            let (at, role) = used[rng.random_range(0..used.len())];
            let (byte, bit) = (rng.random_range(0..4096), rng.random_range(0..8));
            check_flip(&mut editor, at, role, byte, 1 << bit);
        }
    }
}

#[test]
fn every_bad_block_of_a_tree_of_two_levels_costs_the_regions_below_it_and_no_others() {
    let mut editor = ImageEditor::of("twolevel");
    let layout = editor.layout().clone();
    let lost = |editor: &mut ImageEditor, at: BlockNr| {
        editor.bytes(at, |bytes| bytes[4000] ^= 1);
        let report = read(editor, &());
        editor.bytes(at, |bytes| bytes[4000] ^= 1);
        let lost: Vec<_> = report.regions.unwrap().lost().collect();
        assert_eq!(report.damage.iter().filter_map(Damage::regions).collect::<Vec<_>>(), lost);
        lost
    };
    let region = |index: u64| (32_576 * index).min(layout.nr_regions);
    assert_eq!(lost(&mut editor, layout.internal[0]), [0..layout.nr_regions]);
    let bounds = [0, 248, 374, 516].map(region);
    for (&leaf, bounds) in layout.leaves.iter().zip(bounds.windows(2)) {
        assert_eq!(lost(&mut editor, leaf), [bounds[0]..bounds[1]]);
    }
    for (index, &block) in
        (0..).zip(&layout.array_blocks).step_by(37).chain([(515, &layout.array_blocks[515])])
    {
        assert_eq!(lost(&mut editor, block), [region(index)..region(index + 1)]);
    }
}

#[test]
fn messages_name_the_block_what_it_is_and_what_it_costs() {
    let mut editor = ImageEditor::of("fresh");
    let layout = editor.layout().clone();
    for at in [layout.array_blocks[2], layout.index, layout.ref_counts] {
        editor.bytes(at, |bytes| bytes[100] ^= 1);
    }
    let report = laws::judge(&editor, true);
    let messages: Vec<String> = report.damage.iter().map(ToString::to_string).collect();
    let expected = [
        "block 2, ref count tree node: bad checksum: ",
        "block 1, space map index: bad checksum: ",
        "block 7, bitset array block 2: bad checksum: ",
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:?}");
    for (message, expected) in messages.iter().zip(expected) {
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(messages[2].ends_with("; regions 65152..97728 unknown"), "{messages:?}");
}

/// Returns the part of a report that must not depend on unused blocks.
fn essence(report: &Report) -> String {
    let regions = report.regions.as_ref().unwrap();
    format!(
        "{:?} {:?} {:?}",
        report.damage,
        report.metadata_blocks,
        regions.runs().collect::<Vec<_>>()
    )
}

#[test]
fn blocks_that_are_not_in_use_are_of_no_account() {
    let mut rng = StdRng::seed_from_u64(1);
    for name in ["fresh", "tail", "huge-region", THREE_BITMAPS] {
        let mut editor = ImageEditor::of(name);
        let sound = essence(&read(&editor, &()));
        let used: Vec<u64> = editor.layout().used().iter().map(|(at, _)| at.0).collect();
        for at in (0..2048).filter(|at| !used.contains(at)) {
            editor.bytes(BlockNr(at), |bytes| rng.fill(&mut bytes[..]));
            if at < 200 {
                assert_eq!(essence(&read(&editor, &())), sound, "{name}, block {at}");
            }
        }
        assert_eq!(essence(&read(&editor, &())), sound, "{name}");
        laws::judge(&editor, true);
    }
}
