//! Checks small images that claim absurd sizes, or allocates 64 MiB. A test runs it with limited
//! memory.

use std::process::ExitCode;

use clone_core::metadata::check::read;
use clone_tests::damage::ImageEditor;

const CHANGES: [fn(&mut ImageEditor); 10] = [
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

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("check") => {
            for change in CHANGES {
                let mut editor = ImageEditor::restored(20, 10, &[3..5]);
                change(&mut editor);
                let regions = read(&editor, &()).regions;
                assert!(regions.is_none_or(|regions| regions.runs().count() <= 1));
            }
            println!("{} images checked", CHANGES.len());
            ExitCode::SUCCESS
        }
        Some("take-too-much") => {
            let taken = vec![1_u8; 64 << 20];
            println!("{}", taken.iter().map(|&byte| u64::from(byte)).sum::<u64>());
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(2),
    }
}
