//! Tables of damage cases: the change to an image, the codes that a check must report, and their
//! severity.
//!
//! The tests of the tools use them, and the kernel tests ask a real kernel for its verdict on each
//! case.

mod array_block;
mod blocks;
mod large_counts;
mod node;
mod pointers;
mod space_map;
mod superblock;

use clone_core::metadata::damage::Severity;

use crate::damage::ImageEditor;

/// A way to damage an image. Every checksum is made valid again, unless it is the damage.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Description of the change.
    pub name: &'static str,
    /// Name of the changed image.
    pub image: &'static str,
    /// Applies the change.
    pub change: fn(&mut ImageEditor),
    /// The codes that a check must report, and no others.
    pub codes: &'static [&'static str],
    /// The worst severity among them, given by the behaviour of a kernel.
    pub worst: Option<Severity>,
}

/// Cases with a common subject.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Description of the subject.
    pub about: &'static str,
    /// The cases.
    pub cases: &'static [Case],
}

const fn about(about: &'static str, cases: &'static [Case]) -> Table {
    Table { about, cases }
}

/// All tables.
pub const TABLES: &[Table] = &[
    about("a block", blocks::WHOLE),
    about("the superblock", superblock::HEADER),
    about("sizes in the superblock", superblock::SIZES),
    about("roots in the superblock", superblock::ROOTS),
    about("bitset, the only node", node::ONE_LEVEL_HEADER),
    about("bitset, nodes on two levels", node::TWO_LEVELS_HEADER),
    about("bitset, keys", pointers::KEYS),
    about("bitset, pointers", pointers::POINTERS),
    about("bitset, array block", array_block::HEADER),
    about("bitset, bits", array_block::TAIL),
    about("space map, index", space_map::INDEX),
    about("space map, bitmap", space_map::BITMAP),
    about("space map, counts", space_map::COUNTS),
    about("ref count tree, entries", large_counts::LARGE_COUNTS),
    about("ref count tree, header", large_counts::LARGE_COUNTS_HEADER),
    about("ref count tree that is needed", large_counts::NEEDED),
];

/// A case in which a kernel refuses, misreads or overwrites the metadata, crashes, or fails its
/// next commit.
const fn fatal(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Fatal) }
}

/// A case that a kernel opens and writes without harm; space is lost or a count is off.
const fn leak(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Leak) }
}

/// A case without consequences.
const fn warning(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Warning) }
}

/// A change that does not break the format.
const fn sound(name: &'static str, image: &'static str, change: fn(&mut ImageEditor)) -> Case {
    Case { name, image, change, codes: &[], worst: None }
}
