//! `clone_metadata_size`: prints the size that a metadata device needs.

use anyhow::Result;
use clone_core::geometry::Geometry;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::size::human;

use self::args::MetadataSizeArgs;
use crate::common::exit::{Exit, Tool, usage_error};
use crate::common::output;
use crate::common::units::{Counted, in_units, sectors_of_blocks};

pub mod args;

/// Runs `clone_metadata_size`.
///
/// # Errors
/// The two sizes do not make a valid clone, or stdout cannot be written.
pub fn run(tool: &Tool, args: &MetadataSizeArgs) -> Result<Exit> {
    let geometry = Geometry::new(args.region_size, args.target_size)
        .map_err(usage_error::<MetadataSizeArgs>)?;
    let size = MetadataSize::of(geometry);
    let total = sectors_of_blocks(size.total_blocks());
    output::say(|to| writeln!(to, "{total}"))?;
    if args.verbose {
        explain(tool, &geometry, &size);
    }
    Ok(Exit::Success)
}

/// Explains the size on stderr: stdout holds only the number.
fn explain(tool: &Tool, geometry: &Geometry, size: &MetadataSize) {
    tool.say(format_args!(
        "{} of {} each",
        Counted(geometry.nr_regions(), "region"),
        in_units(geometry.region_size().sectors())
    ));
    let parts = [
        ("bitset", size.array_blocks),
        ("btree over it", size.nodes),
        ("bitmaps of the space map", size.bitmaps),
        ("superblock and roots", size.fixed),
        ("blocks that a commit changes", size.shadows),
        ("together", size.total_blocks()),
    ];
    for (what, blocks) in parts {
        let size = human(sectors_of_blocks(blocks)).to_string();
        tool.say(format_args!("{what:<30} {blocks:>8} blocks of 4 KiB {size:>11}"));
    }
}
