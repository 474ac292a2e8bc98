//! Requests to a block device, past the page cache: what `block_io` does in the guest.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::content::{self, SECTOR};
use crate::script::Op;

/// What direct I/O wants the memory to be aligned to, in bytes.
const ALIGNMENT: usize = 4096;

/// An open block device.
pub struct Device(File);

/// A buffer of `len` bytes, aligned, within `memory`.
fn aligned(memory: &mut Vec<u8>, len: usize) -> &mut [u8] {
    memory.resize(len + ALIGNMENT, 0);
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    &mut memory[skip..skip + len]
}

impl Device {
    /// Opens `path` for direct I/O.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        Ok(Self(file.with_context(|| path.display().to_string())?))
    }

    /// Whether sector `nr` can be read.
    pub fn is_readable(&self, nr: u64) -> bool {
        let mut memory = Vec::new();
        self.0.read_exact_at(aligned(&mut memory, SECTOR as usize), nr * SECTOR).is_ok()
    }

    /// Carries out one operation, and waits for its end.
    ///
    /// # Errors
    /// What the device answers.
    pub fn apply(&self, op: &Op) -> io::Result<()> {
        match op {
            Op::Write(sectors, seed) => {
                let mut memory = Vec::new();
                let buffer =
                    aligned(&mut memory, ((sectors.end - sectors.start) * SECTOR) as usize);
                content::fill(*seed, sectors.start, buffer);
                self.0.write_all_at(buffer, sectors.start * SECTOR)
            }
            Op::Discard(sectors) => self.discard(sectors.start, sectors.end - sectors.start),
            Op::Flush => self.0.sync_data(),
        }
    }

    #[expect(unsafe_code, reason = "the standard library discards nothing")]
    fn discard(&self, start: u64, sectors: u64) -> io::Result<()> {
        let range = [start * SECTOR, sectors * SECTOR];
        // The request's number as <linux/fs.h> makes it: _IO(0x12, 119).
        // SAFETY: the file is open, and BLKDISCARD reads two u64, which live until it returns.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), 0x1277, range.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Read for &Device {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut memory = Vec::new();
        let buffer = aligned(&mut memory, into.len());
        let read = (&self.0).read(buffer)?;
        into[..read].copy_from_slice(&buffer[..read]);
        Ok(read)
    }
}

/// Carries out the operations that `script` holds, a line each. After each, its number from
/// `first` on, as 8 bytes, lowest first, goes to `progress`.
///
/// # Errors
/// The first that fails, with what it was.
pub fn run(
    device: &Device,
    script: &mut dyn BufRead,
    first: u64,
    progress: &mut dyn Write,
) -> Result<()> {
    for (nr, line) in (first..).zip(script.lines()) {
        let line = line?;
        device.apply(&line.parse()?).with_context(|| format!("operation {nr}, {line}"))?;
        progress.write_all(&nr.to_le_bytes())?;
    }
    Ok(())
}

/// Prints the [authors](content::authors) of all sectors, a run a line: begin, end, seed or `?`.
///
/// # Errors
/// When reading fails.
pub fn print_authors(device: &Device, out: &mut dyn Write) -> Result<()> {
    for (range, author) in content::authors(&mut &*device)? {
        let author = author.map_or_else(|| "?".to_owned(), |seed| seed.to_string());
        writeln!(out, "{} {} {author}", range.start, range.end)?;
    }
    Ok(())
}

/// Prints a line that has, for each sector whose number `numbers` holds on a line, `1` if it can be
/// read, and `0` if not.
///
/// # Errors
/// When a line is no number.
pub fn print_readable(device: &Device, numbers: &mut dyn BufRead) -> Result<()> {
    let mut line = String::new();
    for number in numbers.lines() {
        line.push(if device.is_readable(number?.parse()?) { '1' } else { '0' });
    }
    println!("{line}");
    Ok(())
}
