//! Damage that once passed, each with its story.

use clone_tests::damage::ImageEditor;
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
