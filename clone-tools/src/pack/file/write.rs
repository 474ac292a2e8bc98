//! Writes a pack.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use persistent_data::block::RawBlock;
use persistent_data::{BLOCK_SIZE, BlockNr};
use zerocopy::{FromZeros, IntoBytes};

use super::likeness::Finder;
use super::{CHUNK_MAX, CHUNK_RECORDS, ChunkDisk, Contents, HeaderDisk, MAGIC, RECORD, VERSION};

/// Writes a pack. The output depends only on the blocks.
#[derive(Debug)]
pub struct Writer<W> {
    to: Summed<W>,
    contents: Contents,
    finder: Finder,
    /// The block number after the last record.
    next: u64,
    nr_written: u64,
    /// The columns of the current chunk.
    gaps: Vec<u8>,
    distances: Vec<u8>,
    blocks: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Starts a pack on `to`, which should be buffered.
    ///
    /// # Errors
    /// The errors of `to`.
    pub fn new(to: W, contents: Contents) -> io::Result<Self> {
        let mut header = HeaderDisk::new_zeroed();
        header.magic = MAGIC;
        header.version.set(VERSION);
        header.block_size.set(BLOCK_SIZE as u32);
        header.size_bytes.set(contents.size_bytes);
        header.nr_records.set(contents.nr_records);
        header.nr_dropped.set(contents.nr_dropped);
        header.csum.set(header.checksum());
        let mut to = Summed { to, crc: 0 };
        to.write_all(header.as_bytes())?;
        let finder = Finder::new();
        let (gaps, distances, blocks) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { to, contents, finder, next: 0, nr_written: 0, gaps, distances, blocks })
    }

    /// Adds a block. Block numbers must ascend.
    ///
    /// # Errors
    /// The errors of the output.
    ///
    /// # Panics
    /// If the block numbers do not ascend, or `at` lies past the end of the device.
    pub fn push(&mut self, at: BlockNr, block: &RawBlock) -> io::Result<()> {
        assert!((self.next..self.contents.nr_blocks()).contains(&at.0), "block {at}");
        let (distance, difference) = self.finder.difference(block);
        let distance = u16::try_from(distance).expect("the window is not as large");
        self.gaps.extend((at.0 - self.next).to_le_bytes());
        self.distances.extend(distance.to_le_bytes());
        self.blocks.extend(difference.bytes());
        self.next = at.0 + 1;
        self.nr_written += 1;
        if self.blocks.len() == CHUNK_RECORDS * BLOCK_SIZE {
            self.end_chunk()?;
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        let nr_records = self.blocks.len() / BLOCK_SIZE;
        if nr_records == 0 {
            return Ok(());
        }
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
        for column in [&mut self.gaps, &mut self.distances, &mut self.blocks] {
            deflate.write_all(column)?;
            column.clear();
        }
        let deflated = deflate.finish()?;
        assert!(deflated.len() <= CHUNK_MAX, "{nr_records} records of {RECORD} bytes");
        self.to.write_chunk(nr_records, &deflated)
    }

    /// Ends the pack with the `tail` of the device, and returns the output.
    ///
    /// # Errors
    /// The errors of the output.
    ///
    /// # Panics
    /// If the number of blocks or the length of `tail` differs from the header.
    pub fn finish(mut self, tail: &[u8]) -> io::Result<W> {
        assert_eq!(
            (self.nr_written, tail.len()),
            (self.contents.nr_records, self.contents.tail_len())
        );
        self.end_chunk()?;
        self.to.write_chunk(0, tail)?;
        let crc = self.to.crc;
        self.to.write_all(&crc.to_le_bytes())?;
        Ok(self.to.to)
    }
}

/// A writer that computes a checksum.
#[derive(Debug)]
struct Summed<W> {
    to: W,
    crc: u32,
}

impl<W: Write> Summed<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.to.write_all(bytes)
    }

    fn write_chunk(&mut self, nr_records: usize, bytes: &[u8]) -> io::Result<()> {
        let mut chunk = ChunkDisk::new_zeroed();
        chunk.nr_records.set(nr_records as u32);
        chunk.len.set(bytes.len() as u32);
        chunk.csum.set(crc32c::crc32c(bytes));
        self.write_all(chunk.as_bytes())?;
        self.write_all(bytes)
    }
}
