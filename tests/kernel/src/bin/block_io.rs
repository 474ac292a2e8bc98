//! Runs in the guest: performs the operations of a script from standard input on a block device. It
//! prints the author of each sector that it reads, or of the whole device.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use clap::Parser;
use kernel_judge::block::{self, Device};

/// Performs operations on a block device, one after the other.
#[derive(Parser)]
struct Args {
    /// The device.
    device: PathBuf,

    /// Prints the authors of all sectors instead.
    #[arg(long)]
    authors: bool,

    /// Prints which of the sectors named on standard input are readable, instead.
    #[arg(long)]
    readable: bool,

    /// Receives the number of each operation that has ended.
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,

    /// A script, instead of standard input. Several scripts run at the same time; the operation
    /// numbers of the second begin at 2^32, and so on.
    #[arg(long, value_name = "FILE")]
    script: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::open(&args.device)?;
    if args.authors {
        return block::print_authors(&device, &mut io::BufWriter::new(io::stdout().lock()));
    }
    if args.readable {
        return block::print_readable(&device, &mut io::stdin().lock());
    }
    let progress = match args.progress {
        Some(path) => Some(OpenOptions::new().write(true).open(path)?),
        None => None,
    };
    if args.script.is_empty() {
        let sink = &mut *sink(progress.as_ref());
        return block::run(&device, &mut io::stdin().lock(), 0, sink, &mut io::stdout());
    }
    thread::scope(|scope| {
        let start = |(nr, path): (u64, &PathBuf)| -> Result<_> {
            let mut script = BufReader::new(File::open(path)?);
            let (device, progress) = (&device, progress.as_ref());
            Ok(scope.spawn(move || {
                let sink = &mut *sink(progress);
                block::run(device, &mut script, nr << 32, sink, &mut io::stdout())
            }))
        };
        let writers: Vec<_> = (0..).zip(&args.script).map(start).collect::<Result<_>>()?;
        writers.into_iter().try_for_each(|writer| writer.join().ok().context("a writer died")?)
    })
}

/// Each number is written with one call, so that several writers do not mix.
fn sink(progress: Option<&File>) -> Box<dyn Write + '_> {
    progress.map_or_else(|| Box::new(io::sink()) as Box<dyn Write>, |file| Box::new(file))
}
