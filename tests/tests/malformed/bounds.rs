//! A small image that claims absurd sizes costs no more memory and time than its real size
//! justifies.
//!
//! A separate process does the work, and a shell limits its memory.

use std::process::{Command, Output};

use clone_core::metadata::check::read;
use clone_tests::damage::{ImageEditor, set_child, set_key};
use persistent_data::BlockNr;
use persistent_data::format::{Node, node_capacity, node_flags};

/// Address space of the process in KiB. An idle process takes about a tenth of it.
const LIMIT_KIB: u32 = 64 << 10;

fn run_limited(what: &str) -> Output {
    let limited = format!("ulimit -v {LIMIT_KIB} && exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_absurd_sizes"), what])
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

#[test]
fn absurd_sizes_take_no_memory_that_a_small_image_does_not_justify() {
    let output = run_limited("check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10 images checked\n");
}

#[test]
fn a_process_that_takes_more_memory_than_it_may_fails() {
    let output = run_limited("take-too-much");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("memory allocation"));
}

/// An image of ten regions on twenty blocks.
fn small() -> ImageEditor {
    ImageEditor::restored(20, 10, &[3..5])
}

/// Makes block `at` an internal node whose children are all `child`.
fn fan(editor: &mut ImageEditor, at: BlockNr, child: BlockNr) {
    let capacity = node_capacity(size_of::<u64>());
    editor.edit::<Node>(at, |disk| {
        disk.header.flags.set(node_flags::INTERNAL);
        disk.header.blocknr.set(at.0);
        disk.header.nr_entries.set(capacity as u32);
        disk.header.max_entries.set(capacity as u32);
        disk.header.value_size.set(size_of::<u64>() as u32);
        for entry in 0..capacity {
            set_key(disk, entry, entry as u64);
            set_child(disk, entry, child);
        }
    });
}

/// Builds nodes in blocks 10 to 18, each with 252 times the next one as its child; the last one
/// points to `end`.
fn ladder(end: BlockNr) -> ImageEditor {
    let mut editor = small();
    for at in 10..19 {
        fan(&mut editor, BlockNr(at), if at == 18 { end } else { BlockNr(at + 1) });
    }
    editor
}

#[test]
fn ways_that_multiply_or_lead_round_in_circles_come_to_an_end() {
    for end in [BlockNr(10), BlockNr(14), BlockNr(18), BlockNr(19), small().layout().root()] {
        let mut editor = ladder(end);
        editor.superblock(|disk| disk.bitset_root.set(10));
        assert!(read(&editor, &()).is_fatal());

        let mut editor = ladder(end);
        editor.space_map_root(|root| root.ref_count_root.set(10));
        assert!(read(&editor, &()).is_fatal());
    }
}

#[test]
fn an_index_whose_every_entry_is_the_same_comes_to_an_end() {
    let mut editor = ImageEditor::restored(40_000, 10, &[]);
    let bitmap = editor.layout().bitmaps[0];
    editor.index(|disk| disk.entries.iter_mut().for_each(|entry| entry.blocknr.set(bitmap.0)));
    assert!(read(&editor, &()).is_fatal());
}
