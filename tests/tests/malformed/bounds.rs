//! What a small image claims costs neither memory nor time that the image does not justify.
//!
//! The work is done by a process of its own, whose memory a shell limits.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use clone_core::check::read;
use clone_tests::damage::{ImageEditor, set_child, set_key};
use persistent_data::BlockNr;
use persistent_data::format::{Node, node_capacity, node_flags};

/// Address space of a worker. A worker that does nothing takes about a tenth of it.
const LIMIT_KIB: u32 = 64 << 10;

/// Longer than any check of a small image takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

fn run_limited(worker: &str) -> Output {
    let limited = format!("ulimit -v {LIMIT_KIB} && exec \"$0\" \"$@\"");
    let test = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", &limited])
        .arg(test)
        .args([&format!("bounds::{worker}"), "--exact", "--ignored", "--test-threads=1"])
        // A second arena alone would take the address space.
        .env("MALLOC_ARENA_MAX", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

#[test]
fn absurd_sizes_take_no_memory_that_a_small_image_does_not_justify() {
    let output = run_limited("worker_of_absurd_sizes");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn a_worker_that_takes_more_memory_than_it_may_fails() {
    let output = run_limited("worker_that_takes_too_much");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("memory allocation"));
}

#[test]
#[ignore = "run by a test that limits its memory"]
fn worker_that_takes_too_much() {
    let taken = vec![1_u8; (LIMIT_KIB as usize) << 10];
    assert!(taken.iter().all(|&byte| byte == 1));
}

#[test]
#[ignore = "run by a test that limits its memory"]
fn worker_of_absurd_sizes() {
    let changes: [fn(&mut ImageEditor); 10] = [
        |_| {},
        |e| e.superblock(|s| s.target_size.set(8 << 31)),
        |e| e.superblock(|s| s.target_size.set(4_000_000_000)),
        |e| e.superblock(|s| s.target_size.set(u64::MAX)),
        |e| e.superblock(|s| s.region_size.set(u64::MAX)),
        |e| e.space_map_root(|r| r.nr_blocks.set(4_161_600)),
        |e| e.space_map_root(|r| r.nr_blocks.set(u64::MAX)),
        |e| e.array_block(0, |a| a.header.nr_entries.set(u32::MAX)),
        |e| e.node(e.layout().root(), |n| n.header.nr_entries.set(u32::MAX)),
        |e| e.node(e.layout().ref_counts, |n| n.header.max_entries.set(u32::MAX)),
    ];
    for change in changes {
        let mut editor = small();
        change(&mut editor);
        let report = read(&editor, &());
        let runs = report.regions.iter().flat_map(clone_core::region_map::RegionMap::runs).count();
        assert!(runs <= 1);
    }
}

/// Ten regions on twenty blocks.
fn small() -> ImageEditor {
    ImageEditor::restored(20, 10, &[3..5])
}

/// Makes block `at` an internal node all of whose children are `child`.
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

/// Nodes in blocks 10 to 18, each with 252 times the next as its child; the last leads to `end`.
fn ladder(end: BlockNr) -> ImageEditor {
    let mut editor = small();
    for at in 10..19 {
        fan(&mut editor, BlockNr(at), if at == 18 { end } else { BlockNr(at + 1) });
    }
    editor
}

#[test]
fn ways_that_multiply_or_lead_round_in_circles_come_to_an_end() {
    let begun = Instant::now();
    for end in [BlockNr(10), BlockNr(14), BlockNr(18), BlockNr(19), small().layout().root()] {
        let mut editor = ladder(end);
        editor.superblock(|disk| disk.bitset_root.set(10));
        assert!(read(&editor, &()).is_fatal());

        let mut editor = ladder(end);
        editor.space_map_root(|root| root.ref_count_root.set(10));
        assert!(read(&editor, &()).is_fatal());
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn an_index_whose_every_entry_is_the_same_comes_to_an_end() {
    let begun = Instant::now();
    let mut editor = ImageEditor::restored(40_000, 10, &[]);
    let bitmap = editor.layout().bitmaps[0];
    editor.index(|disk| disk.entries.iter_mut().for_each(|entry| entry.blocknr.set(bitmap.0)));
    assert!(read(&editor, &()).is_fatal());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}
