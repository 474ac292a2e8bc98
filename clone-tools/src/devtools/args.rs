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
    /// As even as can be: every other region for half of them.
    Checkerboard,
    /// What a file system writes: something at the start of each group of 128 MiB, and files of
    /// any size elsewhere.
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

/// Make metadata of a dm-clone target to test with, as one that has been in use.
///
/// The regions get hydrated by many commits, some in the background from the start on, others by
/// writes here and there, and the old copies of what each commit changed stay until their blocks
/// are used again. The same options make the same bytes.
#[derive(Debug, Parser)]
#[command(name = "clone_generate_metadata", version, after_help = metadata_after_help())]
pub struct GenerateMetadataArgs {
    /// The region size: a power of two from 8 sectors (4 KiB) to 2097152 (1 GiB).
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: RegionSize,

    /// The size of the clone.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub target_size: Sectors,

    /// How the hydrated regions lie in the end.
    #[arg(long, value_enum, default_value = "fs")]
    pub pattern: PatternName,

    /// How many of all regions are hydrated in the end, in percent.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value = "50",
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub hydrated: u8,

    /// How many commits that takes. Each hydrates at least one region.
    #[arg(
        long,
        value_name = "N",
        default_value = "40",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub commits: u32,

    /// How often the metadata is closed and opened anew in between: after that the first free
    /// blocks of the device are used again, and what was stale in them is gone.
    #[arg(long, value_name = "N", default_value = "3")]
    pub reopens: u32,

    /// What all that is random depends on.
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,

    /// The size of the metadata device. By default what clone_metadata_size says. The larger it
    /// is, the more old copies survive.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub metadata_size: Option<Sectors>,

    /// Where the metadata goes: a file, which is made or replaced; a block device that is at least
    /// as large; or - for stdout.
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: PathBuf,

    /// Write to FILE which regions were hydrated, as clone_dump would: what was set, not what can
    /// be read back.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,

    /// Say nothing if the exit code is 0.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what was made.
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
    /// An older copy of the block is put in its place, with block number and checksum as they
    /// must be there: what a lost write leaves.
    Stale,
    /// Another block is put in its place as it is, of the same kind if there is one: what a
    /// misdirected write leaves.
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

/// Damage the metadata of a dm-clone target in one block, in place, to test with.
///
/// What was changed is told on stdout. The same options damage the same metadata in the same way.
#[derive(Debug, Parser)]
#[command(name = "clone_generate_damage", version, after_help = damage_after_help())]
pub struct GenerateDamageArgs {
    /// The metadata, which is changed: a block device or a file. It must be sound as far as the
    /// way to the block goes.
    #[arg(short, long, value_name = "METADATA", value_parser = metadata_to_change())]
    pub input: PathBuf,

    /// Which block: superblock, bitset-node, bitset-leaf, array-block, index, bitmap or
    /// ref-counts. N says which of several, from 0; without it, the seed picks one.
    #[arg(long, value_name = "KIND[:N]", value_parser = parse_target)]
    pub block: Target,

    /// What is done to it.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub damage: DamageKindName,

    /// What all that is random depends on.
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,

    /// Say nothing if the exit code is 0.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say on stderr how to do the same again.
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
        return Err(format!("{name:?} is no kind of block: there are {names}"));
    };
    let ordinal = ordinal.map(|ordinal| {
        ordinal.parse().map_err(|_| format!("{ordinal:?} is no number: blocks count from 0"))
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
