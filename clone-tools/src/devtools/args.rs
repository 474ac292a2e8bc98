//! The command lines of the test tools.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use clone_core::generate::damage::{BlockRole, DamageKind, Target};
use clone_core::generate::metadata::Pattern;
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::parse_sectors;

use crate::common::exit;

/// The patterns of hydrated regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PatternName {
    /// Each region has the same chance.
    Random,
    /// Runs of 1 to 4096 regions.
    Runs,
    /// As evenly as possible: every other region for half of them.
    Checkerboard,
    /// Like a file system: data at the start of each group of 128 MiB, and files of any size
    /// elsewhere.
    Fs,
}

impl From<PatternName> for Pattern {
    fn from(name: PatternName) -> Self {
        match name {
            PatternName::Random => Self::Random,
            PatternName::Runs => Self::Runs,
            PatternName::Checkerboard => Self::Checkerboard,
            PatternName::Fs => Self::FileSystem,
        }
    }
}

/// Make test metadata of a dm-clone target that looks as if it had been in use.
///
/// The regions are hydrated by many commits, some in the background from the start on, others by
/// scattered writes. The old copies of blocks that a commit changed stay until these blocks are
/// reused. The same options make the same bytes.
#[derive(Debug, Parser)]
#[command(name = "clone_generate_metadata", version, after_help = metadata_after_help())]
pub struct GenerateMetadataArgs {
    /// The region size: a power of two from 8 sectors (4 KiB) to 2097152 (1 GiB).
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: RegionSize,

    /// The size of the clone.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub target_size: Sectors,

    /// The pattern of the hydrated regions in the end.
    #[arg(long, value_enum, default_value = "fs")]
    pub pattern: PatternName,

    /// The percentage of regions that are hydrated in the end.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value = "50",
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub hydrated: u8,

    /// The number of commits. Each hydrates at least one region.
    #[arg(
        long,
        value_name = "N",
        default_value = "40",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub commits: u32,

    /// The number of times that the metadata is closed and reopened in between. After that the
    /// first free blocks of the device are reused, and the old copies in them are gone.
    #[arg(long, value_name = "N", default_value = "3")]
    pub reopens: u32,

    /// The seed of all random choices.
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,

    /// The size of the metadata device. Default: the size that clone_metadata_size prints. The
    /// larger it is, the more old copies survive.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub metadata_size: Option<Sectors>,

    /// The output: a file, which is created or replaced; a block device that is at least as large;
    /// or - for stdout.
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: PathBuf,

    /// Write the hydrated regions to FILE in the format of clone_dump: those that were set, not
    /// those that can be read back.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,

    /// Print nothing if the exit code is 0.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print a summary of the result.
    #[arg(short, long)]
    pub verbose: bool,
}

fn metadata_after_help() -> String {
    format!(
        "Sizes are written as for clone_restore: 64KiB, 8T; a plain number counts sectors.\n\n{}\
         \n\nExample:\n  clone_generate_metadata --region-size 4k --target-size 8G \
         --truth truth.xml -o meta.bin",
        exit::HELP
    )
}

/// The kinds of damage to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DamageKindName {
    /// All bytes become zero.
    Zero,
    /// All bytes become random.
    Random,
    /// One bit is flipped.
    Bit,
    /// The checksum is changed, and nothing else.
    Checksum,
    /// An older copy of the block replaces it, with the block number and checksum of its place, as
    /// after a lost write.
    Stale,
    /// Another block replaces it unchanged, of the same kind if there is one, as after a
    /// misdirected write.
    Swap,
}

impl From<DamageKindName> for DamageKind {
    fn from(name: DamageKindName) -> Self {
        match name {
            DamageKindName::Zero => Self::Zero,
            DamageKindName::Random => Self::Random,
            DamageKindName::Bit => Self::Bit,
            DamageKindName::Checksum => Self::Checksum,
            DamageKindName::Stale => Self::Stale,
            DamageKindName::Swap => Self::Swap,
        }
    }
}

/// Damage one block of the metadata of a dm-clone target, in place, for tests.
///
/// The change is printed on stdout. The same options damage the same metadata in the same way.
#[derive(Debug, Parser)]
#[command(name = "clone_generate_damage", version, after_help = damage_after_help())]
pub struct GenerateDamageArgs {
    /// The metadata, which is changed: a block device or a file. It must be sound on the path to
    /// the block.
    #[arg(short, long, value_name = "METADATA", value_parser = metadata_to_change())]
    pub input: PathBuf,

    /// The block: superblock, bitset-node, bitset-leaf, array-block, index, bitmap or ref-counts. N
    /// selects one of several, from 0; without it, the seed picks one.
    #[arg(long, value_name = "KIND[:N]", value_parser = parse_target)]
    pub block: Target,

    /// The kind of damage.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub damage: DamageKindName,

    /// The seed of all random choices.
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,

    /// Print nothing if the exit code is 0.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print on stderr how to repeat the damage.
    #[arg(short, long)]
    pub verbose: bool,
}

fn damage_after_help() -> String {
    format!(
        "{}\n\nExample:\n  clone_generate_damage -i meta.bin --block array-block:2 --damage stale",
        exit::HELP
    )
}

fn metadata_to_change() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if path == Path::new("-") {
            Err("metadata cannot be read from a pipe; ./- names a file")
        } else {
            Ok(path)
        }
    })
}

fn parse_target(text: &str) -> Result<Target, String> {
    let (name, ordinal) = match text.split_once(':') {
        Some((name, ordinal)) => (name, Some(ordinal)),
        None => (text, None),
    };
    let Some(role) = BlockRole::ALL.into_iter().find(|role| role.name() == name) else {
        let names = BlockRole::ALL.map(BlockRole::name).join(", ");
        return Err(format!("{name:?} is not a kind of block: the kinds are {names}"));
    };
    let ordinal = ordinal.map(|ordinal| {
        ordinal.parse().map_err(|_| format!("{ordinal:?} is not a number: blocks count from 0"))
    });
    Ok(Target { role, ordinal: ordinal.transpose()? })
}

fn parse_region_size(text: &str) -> Result<RegionSize, String> {
    let sectors = parse_sectors(text).map_err(|error| error.to_string())?;
    RegionSize::new(sectors).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};
    use clone_core::generate::damage::{BlockRole, DamageKind};
    use clone_core::generate::metadata::Pattern;

    use super::{
        DamageKindName, GenerateDamageArgs, GenerateMetadataArgs, PatternName, parse_target,
    };

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        GenerateMetadataArgs::command().debug_assert();
        GenerateDamageArgs::command().debug_assert();
    }

    #[test]
    fn every_pattern_and_every_damage_has_a_name() {
        let patterns: Vec<Pattern> =
            PatternName::value_variants().iter().map(|&name| name.into()).collect();
        assert_eq!(patterns, Pattern::ALL);
        let harms: Vec<DamageKind> =
            DamageKindName::value_variants().iter().map(|&name| name.into()).collect();
        assert_eq!(harms, DamageKind::ALL);
        let help = GenerateDamageArgs::command().render_long_help().to_string();
        assert!(BlockRole::ALL.into_iter().all(|role| help.contains(role.name())));
    }

    #[test]
    fn a_block_is_a_kind_and_perhaps_a_number() {
        for role in BlockRole::ALL {
            let target = parse_target(role.name()).unwrap();
            assert_eq!((target.role, target.ordinal), (role, None));
            let target = parse_target(&format!("{role}:17")).unwrap();
            assert_eq!((target.role, target.ordinal), (role, Some(17)));
        }
        for text in ["", ":", "array", "array-block:", "array-block:-1", "bitmap:1:2", "index:x"] {
            assert!(parse_target(text).is_err(), "{text:?}");
        }
    }
}
