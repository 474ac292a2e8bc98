//! The command line of `clone_hydrate`.

use std::path::PathBuf;

use clap::Parser;
use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_core::size::{human, parse_sectors};

use crate::common::args::{SIZES, metadata_to_read, path_but_dash};
use crate::common::exit;

/// Complete or advance the clone of a dm-clone target offline.
///
/// Copies every region that is not hydrated from the source to the destination, in large batches
/// and without zeroes, and records it in the metadata as the kernel does: every second the
/// destination is flushed, and then the regions are committed. It can be interrupted at any time,
/// even by a power cut, and continues where it was when it is run again. The kernel can also
/// continue the clone, and no longer needs it once it is complete.
#[derive(Debug, Parser)]
#[command(name = "clone_hydrate", version, after_help = after_help())]
pub struct HydrateArgs {
    /// The metadata: a block device or a file.
    #[arg(short, long, value_name = "META", value_parser = metadata_to_read())]
    pub metadata: PathBuf,

    /// The destination: a block device or a file, the original one of the clone.
    #[arg(short, long, value_name = "DEST", value_parser = data())]
    pub destination: PathBuf,

    /// The source: a block device or a file. It is only read.
    #[arg(short, long, value_name = "SOURCE", value_parser = data())]
    pub source: PathBuf,

    /// Maximum read rate from the source, per second.
    #[arg(long, value_name = "SIZE", value_parser = parse_positive)]
    pub rate: Option<Sectors>,

    /// Stop when this much has been read from the source, in whole regions. Holes of the source do
    /// not count.
    #[arg(long, value_name = "SIZE", value_parser = parse_positive)]
    pub limit: Option<Sectors>,

    /// First copy the ranges that FILE lists, in their order.
    #[arg(long, value_name = "FILE")]
    pub prefetch: Option<PathBuf>,

    /// Maximum size of one copy: 64 KiB to 64 MiB, rounded down to a power of two; 1M by default,
    /// 4M with --direct. Larger regions are copied in pieces.
    #[arg(long, value_name = "SIZE", value_parser = parse_batch)]
    pub batch: Option<Sectors>,

    /// Number of copies at the same time. Each needs the memory of a batch.
    #[arg(short, long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub jobs: u32,

    /// Read and write past the page cache, with O_DIRECT.
    #[arg(long)]
    pub direct: bool,

    /// Stop after this number of failed copies in a row; 0 for never. Failed regions are skipped
    /// until the end, and then retried.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_failures: u32,

    /// Accept this source as the original one, even if META.source.json records another. If it
    /// holds other data, the clone becomes a mixture of both.
    #[arg(long)]
    pub repin: bool,

    /// Print one JSON document on stdout once the devices are open, even if the work fails, and
    /// nothing else there. Its "ok" is true exactly when the exit code is 0.
    #[arg(long)]
    pub json: bool,

    /// Print nothing if the exit code is 0; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print the plan, and list every range that could not be copied.
    #[arg(short, long)]
    pub verbose: bool,
}

const BATCH: (Sectors, Sectors) = (Sectors(128), Sectors(131_072));

fn data() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    path_but_dash("the data of a clone cannot be in a pipe; ./- names a file")
}

fn parse_positive(text: &str) -> Result<Sectors, String> {
    match parse_sectors(text) {
        Ok(Sectors(0)) => Err("0 is not a limit; omit the option for no limit".into()),
        Ok(size) if size.to_bytes().is_none() => Err("too many bytes".into()),
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
        "{SIZES}\n\n{}\n\nOn SIGINT, SIGTERM or SIGHUP it commits what it has copied, and exits \
         with 1.\n\nExample:\n  clone_hydrate --rate 100M --metadata /dev/vg/clone-meta \\\n      \
         --destination /dev/vg/disk --source /dev/vg/slow",
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
