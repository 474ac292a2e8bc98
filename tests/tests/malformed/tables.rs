//! Every damage of the shared tables is reported with its code and severity.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clone_tests::damage::{Case, ImageEditor, TABLES, Table, child, set_child};
use clone_tests::laws;

#[test]
fn every_damage_of_the_superblock_is_called_what_it_must_be() {
    run(|table| table.about.contains("superblock"));
}

#[test]
fn every_damage_of_the_bitset_is_called_what_it_must_be() {
    run(|table| table.about.starts_with("bitset"));
}

#[test]
fn every_damage_of_the_space_map_is_called_what_it_must_be() {
    run(|table| !table.about.contains("superblock") && !table.about.starts_with("bitset"));
}

/// Runs every case of the selected tables, and reports all deviations.
fn run(is_wanted: impl Fn(&Table) -> bool) {
    let failures: Vec<String> = TABLES
        .iter()
        .filter(|table| is_wanted(table))
        .flat_map(|table| table.cases.iter().map(|case| (table.about, case)))
        .filter_map(|(about, case)| Some(format!("{about}, {}", failure(case).err()?)))
        .collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn failure(case: &Case) -> Result<(), String> {
    let Case { name, image, change, codes, worst } = case;
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let mut editor = ImageEditor::of(image);
        change(&mut editor);
        laws::judge(&editor, true)
    }));
    let report = judged.map_err(|_| format!("{image}, {name}: panicked, see above"))?;
    let mut expected = codes.to_vec();
    expected.sort_unstable();
    let found: Vec<_> = laws::codes(&report).into_iter().map(|(code, _)| code).collect();
    if found == expected && report.worst() == *worst {
        return Ok(());
    }
    let messages: Vec<String> = report.damage.iter().take(5).map(ToString::to_string).collect();
    Err(format!("{image}, {name}: {:?} {found:?}\n    {}", report.worst(), messages.join("\n    ")))
}

/// Two full array blocks that are swapped look the same: an array block does not record its index
/// in the array. No reader of the format can detect the swap, and a kernel does not either.
#[test]
fn array_blocks_that_have_traded_places_are_told_only_if_one_of_them_is_the_last() {
    let swapped = |entries: (usize, usize)| {
        let mut editor = ImageEditor::of("complete");
        let leaf = editor.layout().leaves[0];
        editor.node(leaf, |disk| {
            let (a, b) = entries;
            let (in_a, in_b) = (child(disk, a), child(disk, b));
            set_child(disk, a, in_b);
            set_child(disk, b, in_a);
        });
        clone_core::metadata::check::read(&editor, &())
    };
    assert!(swapped((0, 1)).damage.is_empty());
    let report = swapped((1, 4));
    let messages: Vec<String> = report.damage.iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].starts_with("block 28, bitset array block 1: "), "{messages:?}");
    assert!(messages[1].ends_with("regions 130304..131072 unknown"), "{messages:?}");
}
