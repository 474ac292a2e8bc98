//! The command lines of the tools, except `clone_repair` and `clone_hydrate`, and the value parsers
//! that all tools share.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::parse_sectors;

use crate::exit;
use crate::input::is_dash;

/// The description of sizes in the help.
pub const SIZES: &str = "\
Sizes: a plain number counts sectors of 512 bytes, as in the kernel's table lines. With a unit it
is exact: 16s, 4k, 64KiB, 100M, 8T (powers of 1024), 512kB, 2GB (powers of 1000).";

/// Check the metadata of a dm-clone target.
///
/// Reads all of it, finds all that is wrong with it, and says what each piece of damage costs.
/// Nothing is written unless --auto-repair is given.
#[derive(Debug, Parser)]
#[command(name = "clone_check", version, after_help = check_after_help())]
pub struct CheckArgs {
    /// Check the superblock only: whether this is metadata, and of which clone.
    #[arg(long, visible_alias = "superblock-only")]
    pub super_block_only: bool,

    /// Do not check the reference counts of metadata blocks.
    #[arg(long)]
    pub skip_space_map: bool,

    /// Exit with 0 instead of 3 if all problems are such as a kernel takes without harm.
    #[arg(long)]
    pub ignore_non_fatal_errors: bool,

    /// Free leaked blocks and correct wrong free counts, in place and in one transaction. Nothing
    /// else is changed, and nothing at all if there is fatal damage. Exits with 0 if nothing fatal
    /// is left.
    #[arg(long, conflicts_with_all = ["super_block_only", "skip_space_map", "live"])]
    pub auto_repair: bool,

    /// Read the metadata of a running clone, past the page cache, until one whole consistent state
    /// has been seen.
    #[arg(long)]
    pub live: bool,

    /// Print one JSON document on stdout whenever INPUT can be read, damaged or not, and nothing
    /// else there. Its "ok" is true exactly when the exit code is 0.
    #[arg(long)]
    pub json: bool,

    /// Say nothing if the exit code is 0, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem, however many are alike.
    #[arg(short, long)]
    pub verbose: bool,

    /// The metadata: a block device or a file.
    #[arg(value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,
}

fn check_after_help() -> String {
    format!(
        "{}\n\nExample:\n  clone_check /dev/vg/clone-meta || [ $? -eq 3 ] && echo usable",
        exit::CHECK_HELP
    )
}

/// The formats of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    /// What clone_restore reads.
    Xml,
    /// What clone_restore --format json reads; ranges are half-open.
    Json,
    /// For people.
    Text,
    /// Raw: one bit a region, lowest bit first, set if it is hydrated, in whole bytes.
    Bitmap,
}

/// The treatment of regions whose state cannot be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lost {
    /// List them and write nothing.
    Fail,
    /// They will be copied from the source again. Whatever was written to them since the clone
    /// began is lost.
    Unhydrated,
    /// They are taken as they are on the destination. Where they had not been copied yet, what
    /// the source holds is lost, and something older shows in its place.
    Hydrated,
}

/// Dump the metadata of a dm-clone target: its sizes, and which regions are hydrated.
///
/// All of the metadata is checked first. If it is damaged nothing is written, unless --repair is
/// given.
#[derive(Debug, Parser)]
#[command(name = "clone_dump", version, after_help = dump_after_help())]
pub struct DumpArgs {
    /// The form of the dump.
    #[arg(short, long, value_enum, default_value = "xml")]
    pub format: DumpFormat,

    /// Dump what can be recovered of damaged metadata, as clone_repair does.
    #[arg(short, long)]
    pub repair: bool,

    /// What becomes of regions whose state cannot be found out. Either guess may lose data, so it
    /// is yours to make.
    #[arg(long, value_enum, default_value = "fail", requires = "repair")]
    pub lost: Lost,

    /// The region size of the clone, if its superblock is lost; with --repair and --target-size.
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    #[arg(requires = "repair", requires = "target_size", conflicts_with = "live")]
    pub region_size: Option<RegionSize>,

    /// The size of the clone, if its superblock is lost; with --repair and --region-size.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    #[arg(requires = "repair", requires = "region_size", conflicts_with = "live")]
    pub target_size: Option<Sectors>,

    /// Read the metadata of a running clone, past the page cache, until one whole consistent state
    /// has been seen. With --repair, older copies are not looked for then.
    #[arg(long)]
    pub live: bool,

    /// Write to FILE instead of stdout. A file is replaced when the dump is whole, and not before.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Say nothing beside the dump if the exit code is 0 and nothing was lost; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem and every lost range, and say how many regions are hydrated.
    #[arg(short, long)]
    pub verbose: bool,

    /// The metadata: a block device or a file.
    #[arg(value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,
}

fn dump_after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nExamples:\n  clone_dump /dev/vg/clone-meta > clone.xml\n  \
         clone_dump --format text /dev/vg/clone-meta | less",
        exit::HELP
    )
}

/// The formats that metadata is restored from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RestoreFormat {
    /// What clone_dump writes.
    Xml,
    /// What clone_dump --format json writes.
    Json,
}

/// The hydrated regions of metadata that is made without a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hydrated {
    /// Every region: the clone is complete, its source is not read any more.
    All,
    /// None: a fresh clone.
    None,
}

/// Make metadata for a dm-clone target from a dump, or fresh.
///
/// All of the input is read and checked before OUTPUT is touched. Then the superblock of OUTPUT is
/// wiped, and written last: if it is interrupted, OUTPUT is refused by all tools.
#[derive(Debug, Parser)]
#[command(name = "clone_restore", version, after_help = restore_after_help())]
pub struct RestoreArgs {
    /// The dump, - for stdin.
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "hydrated",
        conflicts_with = "hydrated"
    )]
    pub input: Option<PathBuf>,

    /// Where the metadata goes: a block device or a file, as large as it is, or a file that is
    /// made.
    #[arg(short, long, value_name = "OUTPUT", value_parser = metadata_to_write())]
    pub output: PathBuf,

    /// The form of the dump.
    #[arg(short, long, value_enum, default_value = "xml", conflicts_with = "hydrated")]
    pub format: RestoreFormat,

    /// How large a file is made if OUTPUT does not exist. By default as large as
    /// clone_metadata_size says.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub metadata_size: Option<Sectors>,

    /// The region size, instead of the one in the dump. Refused if some regions in the dump are
    /// hydrated and others are not: regions are not converted.
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: Option<RegionSize>,

    /// The size of the clone, instead of the one in the dump. Refused if that cuts off hydrated
    /// regions, or if a hydrated one that was cut short at the end of the clone would grow.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub target_size: Option<Sectors>,

    /// Take no dump: the regions of a clone of the given sizes are all hydrated, or none.
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        requires = "region_size",
        requires = "target_size"
    )]
    pub hydrated: Option<Hydrated>,

    /// Say nothing if the exit code is 0, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what was made.
    #[arg(short, long)]
    pub verbose: bool,
}

fn restore_after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nExamples:\n  clone_dump old.bin | clone_restore -i - -o new.bin\n  \
         clone_restore --hydrated none --region-size 4k --target-size 8T -o /dev/vg/clone-meta",
        exit::HELP
    )
}

/// Print how many sectors the metadata device of a dm-clone target needs.
///
/// That is room for all metadata, and once more for all that a single commit can change, for
/// changed blocks are written elsewhere before the old ones are free.
#[derive(Debug, Parser)]
#[command(name = "clone_metadata_size", version, after_help = metadata_size_after_help())]
pub struct MetadataSizeArgs {
    /// The region size: a power of two from 8 sectors (4 KiB) to 2097152 (1 GiB).
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: RegionSize,

    /// The size of the clone.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub target_size: Sectors,

    /// Print the number alone, which is what happens anyway.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say on stderr how the number comes about.
    #[arg(short, long)]
    pub verbose: bool,
}

fn metadata_size_after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nExample:\n  \
         truncate -s \"$(($(clone_metadata_size --region-size 4k --target-size 8T) * 512))\" \
         meta.bin",
        exit::HELP
    )
}

/// When a picture in the terminal has colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// If stdout is a terminal, and neither NO_COLOR nor TERM=dumb says otherwise.
    Auto,
    /// Whatever stdout is.
    Always,
    /// Not at all: shades are told by their characters alone, as they are anyway.
    Never,
}

/// Draw a map of which regions of a dm-clone target are hydrated.
///
/// Each cell of the map stands for the same number of regions and shows how many of them are
/// hydrated. A cell is full or empty only if every region in it is hydrated, or none: a single
/// region that differs changes the cell, and one whose state cannot be read marks the cell as
/// lost, whatever the rest of it is.
#[derive(Debug, Parser)]
#[command(name = "clone_map", version, after_help = map_after_help())]
pub struct MapArgs {
    /// Read the metadata of a running clone, past the page cache, until one whole consistent state
    /// has been seen.
    #[arg(long)]
    pub live: bool,

    /// Draw an SVG picture too. In a browser, each cell tells its regions under the pointer.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Draw a PNG picture too.
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,

    /// How many characters wide the map in the terminal may be. By default as wide as the
    /// terminal, 80 where there is none.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(20..=1000))]
    pub width: Option<u16>,

    /// When the map in the terminal has colour.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: Color,

    /// Draw nothing in the terminal if a picture goes to a file; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem and every lost range.
    #[arg(short, long)]
    pub verbose: bool,

    /// The metadata: a block device or a file.
    #[arg(value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,
}

fn map_after_help() -> String {
    format!(
        "{}\n\nDamaged metadata is drawn as far as it can be read, its lost ranges are listed on \
         stderr,\nand the exit code is 1.\n\nExamples:\n  clone_map --live /dev/vg/clone-meta\n  \
         clone_map -q --svg map.svg --png map.png /dev/vg/clone-meta",
        exit::HELP
    )
}

/// Pack the metadata of a dm-clone target into a small file, for a bug report.
///
/// clone_metadata_unpack makes a device of it again that is the same bit for bit, damage included,
/// in every block that is in use, that has the checksum of metadata of any kind, or that such a
/// block refers to. Anything else, which was on the device before the metadata, becomes zeroes.
///
/// A pack holds no data of the clone: metadata says only which regions are hydrated.
#[derive(Debug, Parser)]
#[command(name = "clone_metadata_pack", version, after_help = pack_after_help())]
pub struct PackArgs {
    /// The metadata: a block device or a file.
    #[arg(short, long, value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,

    /// Where the pack goes, - for stdout. A file is replaced when the pack is whole, and not
    /// before.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Say nothing if the exit code is 0, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say how many blocks were kept and how many dropped.
    #[arg(short, long)]
    pub verbose: bool,
}

fn pack_after_help() -> String {
    format!(
        "{}\n\nBlocks that cannot be read are left out and listed on stderr; the pack is written, \
         and the\nexit code is 1.\n\nExample:\n  \
         clone_metadata_pack -i /dev/vg/clone-meta -o report.clonepack",
        exit::HELP
    )
}

/// Make a metadata device of what clone_metadata_pack wrote.
///
/// All of the pack is read and checked before OUTPUT is touched.
#[derive(Debug, Parser)]
#[command(name = "clone_metadata_unpack", version, after_help = unpack_after_help())]
pub struct UnpackArgs {
    /// The pack, - for stdin.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,

    /// Where the metadata goes: a file, which is made or replaced, as large as the device was; a
    /// block device that is at least as large; or - for stdout.
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: PathBuf,

    /// Say nothing if the exit code is 0, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what was unpacked.
    #[arg(short, long)]
    pub verbose: bool,
}

fn unpack_after_help() -> String {
    format!(
        "{}\n\nExamples:\n  clone_metadata_unpack -i report.clonepack -o meta.bin\n  \
         clone_metadata_unpack -i report.clonepack -o meta.bin && clone_check meta.bin",
        exit::HELP
    )
}

/// Parses the path of metadata to read. `-` is refused, since metadata needs random access.
pub(crate) fn metadata_to_read() -> impl TypedValueParser<Value = PathBuf> {
    path_but_dash("metadata cannot be read from a pipe; ./- names a file")
}

/// Parses the path of metadata to write. `-` is refused, since metadata needs random access.
pub(crate) fn metadata_to_write() -> impl TypedValueParser<Value = PathBuf> {
    path_but_dash("metadata cannot go to stdout; ./- names a file")
}

pub(crate) fn path_but_dash(refusal: &'static str) -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(
        move |path| {
            if is_dash(&path) { Err(refusal) } else { Ok(path) }
        },
    )
}

/// Parses a region size.
///
/// # Errors
/// The text is not a size, or the size is not a valid region size.
pub fn parse_region_size(text: &str) -> Result<RegionSize, String> {
    let sectors = parse_sectors(text).map_err(|error| error.to_string())?;
    RegionSize::new(sectors).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{
        CheckArgs, DumpArgs, MapArgs, MetadataSizeArgs, PackArgs, RestoreArgs, UnpackArgs,
    };

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        CheckArgs::command().debug_assert();
        DumpArgs::command().debug_assert();
        RestoreArgs::command().debug_assert();
        MetadataSizeArgs::command().debug_assert();
        MapArgs::command().debug_assert();
        PackArgs::command().debug_assert();
        UnpackArgs::command().debug_assert();
    }
}
