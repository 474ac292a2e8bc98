//! Direct I/O to a block device, as `block_io` does it in the guest.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::content::{self, Run, SECTOR};
use crate::script::Op;

/// Memory alignment for direct I/O, in bytes.
const ALIGNMENT: usize = 4096;

/// An open block device.
pub struct Device {
    file: File,
    /// The same device, opened so that each write is durable when it ends.
    durable: File,
}

/// From <linux/fs.h>: _IO(0x12, 119), and 127.
const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKZEROOUT: libc::Ioctl = 0x127f;

/// Returns the number of bytes in `sectors`.
fn bytes(sectors: &Range<u64>) -> usize {
    ((sectors.end - sectors.start) * SECTOR) as usize
}

/// Writes the content of `seed` in one request.
fn write(file: &File, sectors: &Range<u64>, seed: u64) -> io::Result<()> {
    let mut memory = Vec::new();
    let buffer = aligned(&mut memory, bytes(sectors));
    content::fill(seed, sectors.start, buffer);
    file.write_all_at(buffer, sectors.start * SECTOR)
}

/// Returns an aligned buffer of `len` bytes within `memory`.
fn aligned(memory: &mut Vec<u8>, len: usize) -> &mut [u8] {
    memory.resize(len + ALIGNMENT, 0);
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    &mut memory[skip..skip + len]
}

impl Device {
    /// Opens `path` for direct I/O.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let open = |flags| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).custom_flags(libc::O_DIRECT | flags);
            file.open(path).with_context(|| path.display().to_string())
        };
        Ok(Self { file: open(0)?, durable: open(libc::O_DSYNC)? })
    }

    /// Returns whether sector `nr` can be read.
    pub fn is_readable(&self, nr: u64) -> bool {
        let mut memory = Vec::new();
        self.file.read_exact_at(aligned(&mut memory, SECTOR as usize), nr * SECTOR).is_ok()
    }

    /// Performs one operation, and waits for its end. For a read, returns the
    /// [authors](content::authors) of the data.
    ///
    /// # Errors
    /// The error of the device.
    pub fn apply(&self, op: &Op) -> io::Result<Option<Vec<Run>>> {
        match op {
            Op::Write(sectors, seed) => write(&self.file, sectors, *seed)?,
            Op::DurableWrite(sectors, seed) => write(&self.durable, sectors, *seed)?,
            Op::Zero(sectors) => self.request(BLKZEROOUT, sectors)?,
            Op::Read(sectors) => return self.read_authors(sectors).map(Some),
            Op::Discard(sectors) => self.request(BLKDISCARD, sectors)?,
            Op::Flush => self.file.sync_data()?,
        }
        Ok(None)
    }

    fn read_authors(&self, sectors: &Range<u64>) -> io::Result<Vec<Run>> {
        let mut memory = Vec::new();
        let buffer = aligned(&mut memory, bytes(sectors));
        self.file.read_exact_at(buffer, sectors.start * SECTOR)?;
        content::authors_from(sectors.start, &mut &*buffer)
    }

    /// Sends a request that carries no data.
    #[expect(unsafe_code, reason = "the standard library knows nothing of such requests")]
    fn request(&self, request: libc::Ioctl, sectors: &Range<u64>) -> io::Result<()> {
        let range = [sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR];
        // SAFETY: the file is open, and either request reads two u64, which live until it returns.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request, range.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Read for &Device {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut memory = Vec::new();
        let buffer = aligned(&mut memory, into.len());
        let read = (&self.file).read(buffer)?;
        into[..read].copy_from_slice(&buffer[..read]);
        Ok(read)
    }
}

/// Performs the operations of `script`, one per line. After each it writes its number, counted from
/// `first`, to `progress`: 8 bytes, little-endian. It writes the results of reads to `out`, one
/// line per read, as runs `<begin>-<end>:<seed or ?>`.
///
/// # Errors
/// The first failure, with the operation.
pub fn run(
    device: &Device,
    script: &mut dyn BufRead,
    first: u64,
    progress: &mut dyn Write,
    out: &mut dyn Write,
) -> Result<()> {
    for (nr, line) in (first..).zip(script.lines()) {
        let line = line?;
        let read =
            device.apply(&line.parse()?).with_context(|| format!("operation {nr}, {line}"))?;
        if let Some(runs) = read {
            out.write_all(format!("{}\n", content::text(&runs)).as_bytes())?;
        }
        progress.write_all(&nr.to_le_bytes())?;
    }
    Ok(())
}

/// Prints the [authors](content::authors) of all sectors, like [`run`] for a read.
///
/// # Errors
/// If a read fails.
pub fn print_authors(device: &Device, out: &mut dyn Write) -> Result<()> {
    Ok(writeln!(out, "{}", content::text(&content::authors(&mut &*device)?))?)
}

/// Prints a line with a digit for each sector whose number is on a line of `numbers`: `1` if it can
/// be read, and `0` if not.
///
/// # Errors
/// If a line is not a number.
pub fn print_readable(device: &Device, numbers: &mut dyn BufRead) -> Result<()> {
    let mut line = String::new();
    for number in numbers.lines() {
        line.push(if device.is_readable(number?.parse()?) { '1' } else { '0' });
    }
    println!("{line}");
    Ok(())
}
