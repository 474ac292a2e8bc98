//! Damage that was once overlooked, each with its history.

use clone_core::metadata::Metadata;
use clone_core::metadata::auto_repair::auto_repair;
use clone_core::metadata::check::read;
use clone_core::metadata::damage::Damage;
use clone_core::metadata::superblock::Superblock;
use clone_tests::damage::{ImageEditor, THREE_BITMAPS};
use clone_tests::laws;
use persistent_data::bitset::Bitset;
use persistent_data::format::RefCountBits;
use persistent_data::transaction::Transaction;
use persistent_data::{BlockNr, Error};

/// The bitmap moved the count of a block to the tree, and the tree said one. The count was right,
/// so nothing was reported; but a count below three belongs in the bitmap, and a kernel takes such
/// a block for shared, and its copies for leaks.
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

/// The repair reported these problems as fixed without fixing them, and the next check found them
/// again.
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

/// A number of free entries that is too high is harmless, unless blocks that are freed later make
/// it wrap to zero: then a kernel takes the bitmap for full.
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

/// A space map that covers just the blocks in use passed as sound. A kernel opens it, and is
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

/// The fuzzer found that space for one commit may not be space for a second: blocks in use whose
/// counts are too high count as shared, and so a commit keeps them when it copies them.
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

/// Returns whether a commit of one changed array block finds no space, independent of a check.
fn smallest_commit_has_no_room(image: &ImageEditor) -> bool {
    let device = image.clone();
    let superblock = Superblock::read(&device).unwrap();
    let mut transaction = Transaction::open(&device, &superblock.space_map_root).unwrap();
    let mut bitset = Bitset::open(superblock.bitset_root, image.layout().nr_regions);
    let prepared = bitset
        .edit_block(&mut transaction, 0, |_, words| words[0].set(!words[0].get()))
        .and_then(|()| bitset.flush(&mut transaction))
        .and_then(|_| transaction.prepare().map(|_| ()));
    match prepared {
        Ok(()) => false,
        Err(Error::NoSpace) => true,
        Err(error) => panic!("{error}"),
    }
}

/// A commit copies the bitmap and the index, and drops one reference to each old block. If leaks
/// have moved their counts into the tree of large counts, the commit copies that too: one block
/// more than the smallest commit. A check that did not count it called metadata sound that was
/// read-only from the first commit on.
#[test]
fn large_counts_of_the_space_maps_own_blocks_take_up_room_when_it_is_copied() {
    for (leaked_bitmap, leaked_index, needed) in
        [(None, None, 4), (Some(3), None, 5), (None, Some(3), 5), (Some(4), Some(9), 5)]
    {
        // The blocks in use are contiguous, so that all free blocks come after them.
        let mut editor = ImageEditor::restored(40, 1000, &[3..70]);
        let layout = editor.layout().clone();
        let mut counts = [(layout.bitmaps[0], leaked_bitmap), (layout.index, leaked_index)];
        counts.sort_unstable_by_key(|&(at, _)| at);
        for (at, count) in counts {
            let Some(count) = count else { continue };
            editor.set_count(at, RefCountBits::Overflow);
            editor.push_large_count(at.0, count);
        }
        let last = layout.used().iter().map(|&(at, _)| at.0).max().unwrap();
        let mut verdicts = Vec::new();
        for nr_blocks in last + 1..last + 8 {
            editor.space_map_root(|root| root.nr_blocks.set(nr_blocks));
            let report = laws::judge(&editor, true);
            let no_room = report.damage.iter().find(|damage| damage.code() == "space-map-full");
            assert_eq!(no_room.is_some(), smallest_commit_has_no_room(&editor), "{no_room:?}");
            if let Some(Damage::NoRoom { free, needed: told }) = no_room {
                assert!(free < told && *told == needed, "{no_room:?}");
            }
            verdicts.push(no_room.is_some());
        }
        assert!(verdicts.contains(&true) && verdicts.contains(&false), "{verdicts:?}");
    }
}
