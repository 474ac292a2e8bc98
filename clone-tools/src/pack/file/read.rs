//! Reads a pack from an untrusted file.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};
use persistent_data::block::RawBlock;
use persistent_data::{BLOCK_SIZE, BlockNr};
use thiserror::Error;
use zerocopy::{FromZeros, IntoBytes};

use super::likeness::{Window, xor};
use super::{CHUNK_MAX, CHUNK_RECORDS, ChunkDisk, Contents, HeaderDisk, MAGIC, RECORD, VERSION};

/// The reason why a file is not a whole pack.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackError {
    /// The file cannot be read.
    #[error("at byte {at}")]
    Read {
        /// The offset in bytes.
        at: u64,
        /// The I/O error.
        source: io::Error,
    },
    /// The file is empty.
    #[error("it is empty: clone_metadata_pack wrote nothing to it, or was interrupted")]
    Empty,
    /// The file does not begin like a pack.
    #[error("this is not a pack of clone_metadata_pack")]
    Magic,
    /// The version is unknown.
    #[error("a pack of version {0}: this program knows only version {VERSION}")]
    Version(u32),
    /// The file ends early.
    #[error("cut off at byte {at}, in {what}")]
    CutOff {
        /// The length of the file.
        at: u64,
        /// The part that is missing.
        what: &'static str,
    },
    /// A checksum does not match.
    #[error("at byte {at}: {what} is damaged: its checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// The offset of the part.
        at: u64,
        /// The name of the part.
        what: &'static str,
        /// The stored checksum.
        found: u32,
        /// The checksum of the data.
        expected: u32,
    },
    /// The checksums match, but the content is invalid.
    #[error("at byte {at}: {what}")]
    Malformed {
        /// The offset of the part.
        at: u64,
        /// The reason.
        what: String,
    },
}

/// Reads a pack sequentially. It needs a few MiB of memory, whatever the pack contains.
#[derive(Debug)]
pub struct Reader<R> {
    from: Summed<R>,
    contents: Contents,
    window: Window,
    /// The current chunk, inflated.
    chunk: Vec<u8>,
    /// The offset of the current chunk.
    chunk_at: u64,
    /// The number of records in the current chunk, and below the number already read.
    nr_in_chunk: usize,
    nr_read_of_chunk: usize,
    /// The number of records not read yet, apart from those of the current chunk.
    left: u64,
    /// The block number after the last record.
    next: u64,
    tail: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Reads the header of a pack.
    ///
    /// # Errors
    /// Any [`PackError`], for a file that cannot be read or has no valid header.
    pub fn new(from: R) -> Result<Self, PackError> {
        let mut from = Summed { from, at: 0, crc: 0 };
        let mut header = HeaderDisk::new_zeroed();
        let magic = from.read_up_to(&mut header.magic)?;
        if magic == 0 {
            return Err(PackError::Empty);
        }
        if header.magic != MAGIC {
            return Err(PackError::Magic);
        }
        from.read_exact(&mut header.as_mut_bytes()[MAGIC.len()..], "the header")?;
        let (found, expected) = (header.csum.get(), header.checksum());
        if found != expected {
            return Err(PackError::Checksum { at: 0, what: "the header", found, expected });
        }
        if header.version.get() != VERSION {
            return Err(PackError::Version(header.version.get()));
        }
        let contents = Contents {
            size_bytes: header.size_bytes.get(),
            nr_records: header.nr_records.get(),
            nr_dropped: header.nr_dropped.get(),
        };
        if header.block_size.get() as usize != BLOCK_SIZE
            || contents.size_bytes > i64::MAX as u64
            || contents.nr_records > contents.nr_blocks()
        {
            let what = format!("the header makes no sense: {contents:?}");
            return Err(PackError::Malformed { at: 0, what });
        }
        Ok(Self {
            from,
            contents,
            window: Window::new(),
            chunk: Vec::new(),
            chunk_at: 0,
            nr_in_chunk: 0,
            nr_read_of_chunk: 0,
            left: contents.nr_records,
            next: 0,
            tail: None,
        })
    }

    /// Returns the description of the device.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Returns the number of bytes of the pack that have been read.
    pub fn position(&self) -> u64 {
        self.from.at
    }

    /// Returns the next block with its number, in ascending order. When it returns `None`, the
    /// whole pack has been verified.
    ///
    /// # Errors
    /// Any [`PackError`]. The blocks that were returned before must not be trusted then.
    pub fn next_block(&mut self) -> Result<Option<(BlockNr, RawBlock)>, PackError> {
        if self.nr_read_of_chunk == self.nr_in_chunk && !self.read_chunk()? {
            return Ok(None);
        }
        let (row, rows) = (self.nr_read_of_chunk, self.nr_in_chunk);
        let (gaps, rest) = self.chunk.split_at(rows * 8);
        let (distances, blocks) = rest.split_at(rows * 2);
        let gap = u64::from_le_bytes(gaps.as_chunks().0[row]);
        let distance = usize::from(u16::from_le_bytes(distances.as_chunks().0[row]));
        let mut block = RawBlock::ZERO;
        *block.bytes_mut() = blocks.as_chunks().0[row];

        let at = match self.next.checked_add(gap) {
            Some(at) if at < self.contents.nr_blocks() => at,
            _ => {
                return Err(self.malformed(format!(
                    "a block past the end of the device: {gap} on from block {}",
                    self.next
                )));
            }
        };
        if distance > 0 {
            match self.window.back(distance) {
                Some(base) => xor(&mut block, base),
                None => {
                    return Err(self.malformed(format!(
                        "block {at} refers to a record {distance} back: too far"
                    )));
                }
            }
        }
        self.window.push(&block);
        self.next = at + 1;
        self.nr_read_of_chunk += 1;
        Ok(Some((BlockNr(at), block)))
    }

    /// Returns the bytes after the device's last whole block, once all blocks have been read.
    pub fn tail(&self) -> Option<&[u8]> {
        self.tail.as_deref()
    }

    /// Reads the next chunk. Returns false at the end of a valid pack.
    fn read_chunk(&mut self) -> Result<bool, PackError> {
        if self.tail.is_some() {
            return Ok(false);
        }
        self.chunk_at = self.from.at;
        let mut head = ChunkDisk::new_zeroed();
        self.from.read_exact(head.as_mut_bytes(), "a chunk")?;
        let (nr_records, len) = (head.nr_records.get() as usize, head.len.get() as usize);
        let expected_len = self.contents.tail_len();
        let possible = match nr_records {
            0 => len == expected_len && self.left == 0,
            1..=CHUNK_RECORDS => len <= CHUNK_MAX && nr_records as u64 <= self.left,
            _ => false,
        };
        if !possible {
            let left = self.left;
            return Err(self.malformed(format!(
                "a chunk of {nr_records} blocks in {len} bytes, where {left} blocks are left"
            )));
        }
        let mut bytes = vec![0; len];
        self.from.read_exact(&mut bytes, "a chunk")?;
        let (found, expected) = (head.csum.get(), crc32c::crc32c(&bytes));
        if found != expected {
            let at = self.chunk_at;
            return Err(PackError::Checksum { at, what: "a chunk", found, expected });
        }
        if nr_records == 0 {
            self.read_end()?;
            self.tail = Some(bytes);
            return Ok(false);
        }
        self.chunk.resize(nr_records * RECORD, 0);
        if !inflate(&bytes, &mut self.chunk) {
            let expected = self.chunk.len();
            return Err(
                self.malformed(format!("a chunk that does not inflate to {expected} bytes"))
            );
        }
        (self.nr_in_chunk, self.nr_read_of_chunk) = (nr_records, 0);
        self.left -= nr_records as u64;
        Ok(true)
    }

    /// Reads the checksum and checks that nothing follows.
    fn read_end(&mut self) -> Result<(), PackError> {
        let (at, expected) = (self.from.at, self.from.crc);
        let mut csum = [0; 4];
        self.from.read_exact(&mut csum, "the final checksum")?;
        let found = u32::from_le_bytes(csum);
        if found != expected {
            return Err(PackError::Checksum { at, what: "the pack", found, expected });
        }
        if self.from.read_up_to(&mut [0])? > 0 {
            let what = "data follows the end of the pack".to_owned();
            return Err(PackError::Malformed { at: at + 4, what });
        }
        Ok(())
    }

    fn malformed(&self, what: String) -> PackError {
        PackError::Malformed { at: self.chunk_at, what }
    }
}

/// Inflates `bytes`. Returns whether they fill `into` exactly and nothing is left over.
fn inflate(bytes: &[u8], into: &mut [u8]) -> bool {
    let mut inflate = Decompress::new(false);
    let status = inflate.decompress(bytes, into, FlushDecompress::Finish);
    let used = (inflate.total_in(), inflate.total_out());
    matches!(status, Ok(Status::StreamEnd)) && used == (bytes.len() as u64, into.len() as u64)
}

/// A reader that tracks its position and a checksum.
#[derive(Debug)]
struct Summed<R> {
    from: R,
    at: u64,
    crc: u32,
}

impl<R: Read> Summed<R> {
    /// Fills `into` as far as there is data, and returns the number of bytes.
    fn read_up_to(&mut self, into: &mut [u8]) -> Result<usize, PackError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.from.read(&mut into[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(PackError::Read { at: self.at + filled as u64, source }),
            }
        }
        self.at += filled as u64;
        self.crc = crc32c::crc32c_append(self.crc, &into[..filled]);
        Ok(filled)
    }

    fn read_exact(&mut self, into: &mut [u8], what: &'static str) -> Result<(), PackError> {
        if self.read_up_to(into)? == into.len() {
            Ok(())
        } else {
            Err(PackError::CutOff { at: self.at, what })
        }
    }
}
