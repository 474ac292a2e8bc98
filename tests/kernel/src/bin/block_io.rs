//! Runs in the guest: does to a block device what a script on standard input says, or tells who
//! wrote what it holds.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use kernel_judge::block::{self, Device};

/// Carries out operations on a block device, one after the other.
#[derive(Parser)]
struct Args {
    /// The device.
    device: PathBuf,

    /// Prints whose content the sectors are, instead.
    #[arg(long)]
    authors: bool,

    /// Gets the number of each operation that has ended.
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::open(&args.device)?;
    if args.authors {
        return block::print_authors(&device, &mut io::BufWriter::new(io::stdout().lock()));
    }
    let mut progress: Box<dyn Write> = match args.progress {
        Some(path) => Box::new(OpenOptions::new().write(true).open(path)?),
        None => Box::new(io::sink()),
    };
    block::run(&device, &mut io::stdin().lock(), &mut progress)
}
