//! Damage that once passed, each with its story.

use clone_core::auto_repair::auto_repair;
use clone_core::check::read;
use clone_core::metadata::Metadata;
use clone_tests::damage::{ImageEditor, THREE_BITMAPS};
use clone_tests::laws;
use persistent_data::BlockNr;
use persistent_data::format::RefCountBits;

/// The bitmap left the count of a block to the tree, and the tree said one. The count was right, so
/// nothing was told; but a count below three belongs in the bitmap, and a kernel takes such a block
/// for shared, and copies of it for leaks.
#[test]
fn a_right_count_in_the_wrong_place_is_told_and_put_right() {
    for (at, count) in [(6, 1), (1000, 0)] {
        let mut editor = ImageEditor::of("tail");
        editor.set_count(BlockNr(at), RefCountBits::Overflow);
        editor.push_large_count(at, count);
        let report = laws::judge(&editor, true);
        assert_eq!(laws::codes(&report).len(), 1);
        assert_eq!(
            report.damage[0].to_string(),
            format!("space map: the ref count tree has a needless entry for block {at}")
        );
    }
}

/// The repair counted these among the figures that it had put right, and left them as they were:
/// the next check found them again.
#[test]
fn auto_repair_puts_right_all_that_it_says_it_has() {
    let changes: [fn(&mut ImageEditor); 5] = [
        |e| e.index(|index| index.padding.set(7)),
        |e| e.bitmap(0, |bitmap| bitmap.not_used.set(7)),
        |e| e.bitmap(2, |bitmap| bitmap.not_used.set(7)),
        |e| e.bitmap(2, |bitmap| bitmap.set(16_319, RefCountBits::Two)),
        |e| e.push_large_count(33_640, 3),
    ];
    for change in changes {
        let mut editor = ImageEditor::of(THREE_BITMAPS);
        change(&mut editor);
        let report = read(&editor, &());
        assert!(!report.is_fatal() && !report.damage.is_empty());
        let repaired = auto_repair(&editor, &report).unwrap();
        assert_eq!((repaired.leaked_blocks, repaired.figures), (0, report.damage.len() as u64));
        assert!(read(&editor, &()).damage.is_empty());
    }
}

/// Too high a number of free entries is harmless, unless it is so high that the blocks which are
/// freed later make it zero: then a kernel takes the bitmap for full.
#[test]
fn a_number_of_free_entries_that_is_about_to_overflow_is_fatal() {
    for (nr_free, is_fatal) in
        [(u32::MAX, true), (u32::MAX - 16_319, true), (u32::MAX - 16_320, false)]
    {
        let mut editor = ImageEditor::of("tail");
        editor.index(|index| index.entries[0].nr_free.set(nr_free));
        assert_eq!(laws::judge(&editor, true).is_fatal(), is_fatal, "{nr_free}");
    }
}

/// A space map that covers just the blocks in use passed as sound: a kernel opens it, and is
/// read-only from its first commit on.
#[test]
fn a_map_without_room_for_a_commit_is_fatal_until_all_is_hydrated() {
    let mut editor = ImageEditor::of("fresh");
    editor.space_map_root(|root| root.nr_blocks.set(17));
    let report = laws::judge(&editor, true);
    let messages: Vec<String> = report.damage.iter().map(ToString::to_string).collect();
    assert_eq!(messages, ["space map: 3 blocks are free, and the smallest commit takes 4"]);

    let full = ImageEditor::restored(33, 32_576, &[0..32_576]);
    let mut editor = full.clone();
    editor.space_map_root(|root| root.nr_blocks.set(6));
    assert!(read(&editor, &()).damage.is_empty());
}

/// The fuzzer found that room for one commit may not be room for a second: blocks in use whose
/// counts are too high count as shared, so they are kept when they are copied.
#[test]
fn leaks_of_blocks_in_use_take_up_room_when_they_are_copied() {
    let mut editor = ImageEditor::of("tail");
    for at in [6, 7, 8, 9] {
        editor.set_count(BlockNr(at), RefCountBits::Two);
    }
    editor.space_map_root(|root| root.nr_blocks.set(10));
    assert!(!laws::judge(&editor, true).is_fatal());

    let mut metadata = Metadata::open(&editor).unwrap();
    metadata.set_hydrated(0..1).unwrap();
    metadata.commit().unwrap();
    let report = laws::judge(&editor, true);
    assert!(laws::codes(&report).iter().any(|&(code, _)| code == "space-map-full"));
}
