//! Tables of damages: what is changed in an image, what it must be called, and how bad it is.
//!
//! The tests hold the tools against them, and a real kernel is asked what it makes of each.

mod array_block;
mod blocks;
mod large_counts;
mod node;
mod pointers;
mod space_map;
mod superblock;

use clone_core::metadata::damage::Severity;

use crate::damage::ImageEditor;

/// One way to damage an image. Every checksum is made good again, but where it is the damage.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is changed, in words.
    pub name: &'static str,
    /// The image that is changed.
    pub image: &'static str,
    /// Changes it.
    pub change: fn(&mut ImageEditor),
    /// The codes of all that must be found.
    pub codes: &'static [&'static str],
    /// The worst of them, by what a kernel does.
    pub worst: Option<Severity>,
}

/// Cases that are about the same thing.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// What they are about, in words.
    pub about: &'static str,
    /// They.
    pub cases: &'static [Case],
}

const fn about(about: &'static str, cases: &'static [Case]) -> Table {
    Table { about, cases }
}

/// All of them.
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

/// A kernel refuses, misreads, overwrites, dies, or fails its next commit.
const fn fatal(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Fatal) }
}

/// A kernel opens it, writes to it, and does no harm; space is lost or a figure is off.
const fn leak(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Leak) }
}

/// Of no consequence.
const fn warning(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Warning) }
}

/// Nothing that the format speaks of.
const fn sound(name: &'static str, image: &'static str, change: fn(&mut ImageEditor)) -> Case {
    Case { name, image, change, codes: &[], worst: None }
}
