//! The command line of `clone_hydrate`.

use std::path::PathBuf;

use clap::Parser;
use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_core::size::{human, parse_sectors};

use crate::common::args::{SIZES, metadata_to_read, path_but_dash};
use crate::common::exit;

/// Finish the clone of a dm-clone target offline, or advance it.
///
/// Copies every region that is not hydrated from the source to the destination, in large batches
/// and without what is zero, and notes that in the metadata as the kernel does: the destination is
/// flushed, then the regions are committed, every second. It can be interrupted at any moment, by a
/// power cut too, and goes on where it was when it is run again. The kernel can go on with the
/// clone as well, or need it no more if it is complete.
#[derive(Debug, Parser)]
#[command(name = "clone_hydrate", version, after_help = after_help())]
pub struct HydrateArgs {
    /// The metadata: a block device or a file.
    #[arg(short, long, value_name = "META", value_parser = metadata_to_read())]
    pub metadata: PathBuf,

    /// What is copied to: a block device or a file, the one that the clone was begun with.
    #[arg(short, long, value_name = "DEST", value_parser = data())]
    pub destination: PathBuf,

    /// What is copied: a block device or a file. It is only read.
    #[arg(short, long, value_name = "SOURCE", value_parser = data())]
    pub source: PathBuf,

    /// The most that is read from the source in a second.
    #[arg(long, value_name = "SIZE", value_parser = parse_positive)]
    pub rate: Option<Sectors>,

    /// Stop when this much has been read from the source, in whole regions. Holes of the source do
    /// not count.
    #[arg(long, value_name = "SIZE", value_parser = parse_positive)]
    pub limit: Option<Sectors>,

    /// Copy the ranges first that FILE lists, in their order.
    #[arg(long, value_name = "FILE")]
    pub prefetch: Option<PathBuf>,

    /// The most that is copied in one go: 64 KiB to 64 MiB, rounded down to a power of two; 1M by
    /// default, 4M with --direct. Larger regions are copied in pieces.
    #[arg(long, value_name = "SIZE", value_parser = parse_batch)]
    pub batch: Option<Sectors>,

    /// How many copies are under way at a time. Each takes the memory of a batch.
    #[arg(short, long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub jobs: u32,

    /// Read and write past the page cache, with O_DIRECT.
    #[arg(long)]
    pub direct: bool,

    /// Give up after so many copies in a row that failed; 0 for never. What fails is set failed
    /// while the rest goes on, and tried again at the end.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_failures: u32,

    /// Take the source for the one that the clone was begun with, though META.source.json says
    /// otherwise. If it holds other data the clone becomes a mixture of both.
    #[arg(long)]
    pub repin: bool,

    /// Print one JSON document on stdout once the devices are open, whatever becomes of the work,
    /// and nothing else there. Its "ok" is true exactly when the exit code is 0.
    #[arg(long)]
    pub json: bool,

    /// Say nothing if the exit code is 0, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what is going to be done, and list every range that could not be copied.
    #[arg(short, long)]
    pub verbose: bool,
}

const BATCH: (Sectors, Sectors) = (Sectors(128), Sectors(131_072));

fn data() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    path_but_dash("the data of a clone are in no pipe; ./- names a file")
}

fn parse_positive(text: &str) -> Result<Sectors, String> {
    match parse_sectors(text) {
        Ok(Sectors(0)) => Err("0 is nothing; leave the option out for no limit".into()),
        Ok(size) if size.to_bytes().is_none() => Err("that many bytes cannot be counted".into()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn parse_batch(text: &str) -> Result<Sectors, String> {
    let size = parse_sectors(text).map_err(|error| error.to_string())?;
    if size < BATCH.0 || size > BATCH.1 {
        return Err(format!("a batch has {} to {}", human(BATCH.0), human(BATCH.1)));
    }
    Ok(size)
}

/// Converts a size into bytes. The parser has checked that it does not overflow.
pub(super) fn bytes(size: Sectors) -> u64 {
    size.0.saturating_mul(SECTOR_SIZE)
}

fn after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nA signal (SIGINT, SIGTERM, SIGHUP) has it commit what it has copied, and \
         exit with 1.\n\nExample:\n  clone_hydrate --rate 100M --metadata /dev/vg/clone-meta \\\
         \n      --destination /dev/vg/disk --source /dev/vg/slow",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::HydrateArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        HydrateArgs::command().debug_assert();
    }
}
