//! Writes the image of a device, piece by piece in ascending order, with zeroes between the pieces.
//!
//! `clone_metadata_unpack` uses it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use persistent_data::BLOCK_SIZE;
use persistent_data::device::FileDevice;
use persistent_data::transaction::wipe_superblock;

use crate::common::output::{self, is_open_file, is_stdout, replace};

const BUFFER: usize = 1 << 20;

/// A sink for the pieces of an image, in ascending order.
pub trait ImageSink {
    /// Writes `bytes` at the byte `offset`, which must lie behind all bytes written so far.
    ///
    /// # Errors
    /// The error of the underlying output.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Writes an image of `size_bytes` to `path`; `write` supplies its pieces. The rest is zero.
///
/// A file is created or replaced once the image is complete; zeroes take no space in it. The
/// superblock of a block device is wiped first and written last. All pieces except the last must be
/// whole blocks.
///
/// # Errors
/// The output cannot be opened, is too small, or cannot be written, or `write` fails. The error
/// names the output.
pub fn write_image(
    path: &Path,
    size_bytes: u64,
    write: impl FnOnce(&mut dyn ImageSink) -> io::Result<()>,
) -> Result<()> {
    if is_stdout(path) {
        return output::write_to(None, in_sequence(size_bytes, write));
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => {
            return write_to_device(path, size_bytes, write);
        }
        Ok(metadata) if !metadata.is_file() || is_open_file(path) => {
            return output::write_to(Some(path), in_sequence(size_bytes, write));
        }
        _ => {}
    }
    let written = replace(path, |file| {
        file.set_len(size_bytes)?;
        write(&mut Sparse(file))
    });
    written.with_context(|| format!("cannot write to {}", path.display()))
}

/// Writes a whole image in ascending order, including zeroes.
fn in_sequence(
    size_bytes: u64,
    write: impl FnOnce(&mut dyn ImageSink) -> io::Result<()>,
) -> impl FnOnce(&mut dyn Write) -> io::Result<()> {
    move |to| {
        let mut sink = Sequential { to, at: 0 };
        write(&mut sink)?;
        sink.fill(size_bytes)
    }
}

fn write_to_device(
    path: &Path,
    size_bytes: u64,
    write: impl FnOnce(&mut dyn ImageSink) -> io::Result<()>,
) -> Result<()> {
    // Holds the device exclusively until it is dropped.
    let claimed = FileDevice::open_write(path)?;
    if claimed.size_bytes() < size_bytes {
        bail!(
            "{} has {} bytes, which is too small: the image has {size_bytes}",
            path.display(),
            claimed.size_bytes()
        );
    }
    if size_bytes < BLOCK_SIZE as u64 {
        bail!("an image of {size_bytes} bytes has no superblock: unpack it to a file");
    }
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .context("cannot open it")
        .and_then(|file| write_superblock_last(&claimed, &file, size_bytes, write));
    written
        .with_context(|| format!("cannot write {}; do not use what it holds now", path.display()))
}

/// Writes an image over the content of `claimed`, which is also open as `file`. Until the image is
/// complete, a mark in place of the superblock makes the kernel and all tools refuse it.
fn write_superblock_last(
    claimed: &FileDevice,
    mut file: &File,
    size_bytes: u64,
    write: impl FnOnce(&mut dyn ImageSink) -> io::Result<()>,
) -> Result<()> {
    wipe_superblock(claimed)?;
    let second = BLOCK_SIZE as u64;
    file.seek(SeekFrom::Start(second))?;
    let to = BufWriter::with_capacity(BUFFER, file);
    let rest = Sequential { to, at: second };
    let mut sink = SuperblockLast { superblock: vec![0; BLOCK_SIZE], rest };
    write(&mut sink)?;
    sink.rest.fill(size_bytes)?;
    sink.rest.to.flush()?;
    file.sync_data()?;
    file.write_all_at(&sink.superblock, 0)?;
    Ok(file.sync_data()?)
}

/// A file that reads as zeroes where nothing is written.
struct Sparse<'a>(&'a File);

impl ImageSink for Sparse<'_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
}

/// An output that can be written only sequentially.
struct Sequential<W> {
    to: W,
    /// The offset of the next byte.
    at: u64,
}

impl<W: Write> Sequential<W> {
    /// Writes zeroes up to `offset`.
    fn fill(&mut self, offset: u64) -> io::Result<()> {
        let zeroes = offset.saturating_sub(self.at);
        io::copy(&mut io::repeat(0).take(zeroes), &mut self.to)?;
        self.at += zeroes;
        Ok(())
    }
}

impl<W: Write> ImageSink for Sequential<W> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.fill(offset)?;
        self.to.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Keeps the first block back, to be written last.
struct SuperblockLast<W> {
    superblock: Vec<u8>,
    rest: Sequential<W>,
}

impl<W: Write> ImageSink for SuperblockLast<W> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.superblock = bytes.to_vec();
            return Ok(());
        }
        self.rest.put(offset, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io;

    use persistent_data::BLOCK_SIZE;
    use persistent_data::device::MemoryDevice;
    use persistent_data::transaction::is_unfinished;

    use super::{ImageSink, Sequential, Sparse, write_to_device};

    const SIZE: u64 = 10 * BLOCK_SIZE as u64 + 5;

    fn put_pieces(sink: &mut dyn ImageSink) -> io::Result<()> {
        for (block, byte) in [(0, 1), (1, 2), (7, 3), (8, 4)] {
            sink.put(block * BLOCK_SIZE as u64, &[byte; BLOCK_SIZE])?;
        }
        sink.put(SIZE - 5, b"tail!")
    }

    fn expected() -> Vec<u8> {
        let mut image = vec![0; SIZE as usize];
        for (block, byte) in [(0, 1), (1, 2), (7, 3), (8, 4)] {
            image[block * BLOCK_SIZE..][..BLOCK_SIZE].fill(byte);
        }
        image[SIZE as usize - 5..].copy_from_slice(b"tail!");
        image
    }

    #[test]
    fn every_sink_makes_the_same_image() {
        let mut stream = Vec::new();
        let mut sink = Sequential { to: &mut stream, at: 0 };
        put_pieces(&mut sink).unwrap();
        sink.fill(SIZE).unwrap();
        assert!(stream == expected());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        put_pieces(&mut Sparse(&file)).unwrap();
        assert!(fs::read(&path).unwrap() == expected());

        let path = folder.path().join("device");
        fs::write(&path, vec![0xee; SIZE as usize + 9]).unwrap();
        write_to_device(&path, SIZE, put_pieces).unwrap();
        let written = fs::read(&path).unwrap();
        assert!(written[..SIZE as usize] == expected(), "the image");
        assert!(written[SIZE as usize..] == [0xee; 9], "what is behind it");
    }

    #[test]
    fn a_device_has_no_superblock_until_all_else_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        fs::write(&path, vec![0xee; SIZE as usize]).unwrap();
        let has_mark = || {
            let device = MemoryDevice::from_bytes(&fs::read(&path).unwrap());
            is_unfinished(&device.to_blocks()[0])
        };
        let written = write_to_device(&path, SIZE, |sink| {
            put_pieces(sink)?;
            assert!(has_mark());
            Err(io::Error::other("power is gone"))
        });
        assert!(written.is_err() && has_mark());
    }

    #[test]
    fn a_device_that_is_too_small_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        fs::write(&path, vec![0xee; SIZE as usize - 1]).unwrap();
        for size_bytes in [3, SIZE] {
            assert!(write_to_device(&path, size_bytes, |_| panic!("not reached")).is_err());
        }
        assert!(fs::read(&path).unwrap() == vec![0xee; SIZE as usize - 1]);
    }

    #[test]
    fn a_device_whose_superblock_was_zeroes_gets_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        fs::write(&path, vec![0xee; SIZE as usize]).unwrap();
        write_to_device(&path, SIZE, |_| Ok(())).unwrap();
        assert!(fs::read(&path).unwrap() == vec![0; SIZE as usize]);
    }
}
