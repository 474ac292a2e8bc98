//! Reading a pack, whoever made it.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};
use persistent_data::block::RawBlock;
use persistent_data::{BLOCK_SIZE, BlockNr};
use thiserror::Error;
use zerocopy::{FromZeros, IntoBytes};

use super::likeness::{Window, xor};
use super::{CHUNK_MAX, CHUNK_RECORDS, ChunkDisk, Contents, HeaderDisk, MAGIC, RECORD, VERSION};

/// Why something is not a whole pack.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackError {
    /// It could not be read.
    #[error("at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is there.
    #[error("it is empty: clone_metadata_pack wrote nothing to it, or did not come to an end")]
    Empty,
    /// It begins otherwise than a pack does.
    #[error("this is not what clone_metadata_pack writes")]
    Magic,
    /// A version that this program does not know.
    #[error("a pack of version {0}: this program knows version {VERSION} only")]
    Version(u32),
    /// It ends early.
    #[error("cut off at byte {at}, in {what}")]
    CutOff {
        /// Its length.
        at: u64,
        /// What should be there.
        what: &'static str,
    },
    /// A checksum does not match.
    #[error("at byte {at}: {what} is damaged: its checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// Where the part begins.
        at: u64,
        /// Which part.
        what: &'static str,
        /// The checksum that is stored.
        found: u32,
        /// The checksum of what is there.
        expected: u32,
    },
    /// The checksums match, and it makes no sense.
    #[error("at byte {at}: {what}")]
    Malformed {
        /// Where the part begins.
        at: u64,
        /// What is wrong.
        what: String,
    },
}

/// Reads a pack from front to back. It keeps a few MiB in memory, whatever the pack says.
#[derive(Debug)]
pub struct Reader<R> {
    from: Summed<R>,
    contents: Contents,
    window: Window,
    /// The chunk under way, inflated.
    chunk: Vec<u8>,
    /// Where it begins.
    chunk_at: u64,
    /// Its records, and how many of them have been read.
    nr_in_chunk: usize,
    nr_read_of_chunk: usize,
    /// Records that have not been read.
    left: u64,
    /// The first block that no record has passed yet.
    next: u64,
    tail: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Begins to read a pack.
    ///
    /// # Errors
    /// What is wrong with its beginning.
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

    /// What the pack says about the device.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// The bytes of the pack that have been read.
    pub fn position(&self) -> u64 {
        self.from.at
    }

    /// The next block, and where it lies; blocks ascend. After the last one, all of the pack has
    /// been found to be whole.
    ///
    /// # Errors
    /// What is wrong with the pack. Nothing that was read before is to be trusted then.
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

    /// The device's bytes after its last whole block, once all blocks have been read.
    pub fn tail(&self) -> Option<&[u8]> {
        self.tail.as_deref()
    }

    /// Reads the next chunk; `false` if there is none, and all is well.
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

    /// Reads what comes after the last chunk: the checksum, and nothing else.
    fn read_end(&mut self) -> Result<(), PackError> {
        let (at, expected) = (self.from.at, self.from.crc);
        let mut csum = [0; 4];
        self.from.read_exact(&mut csum, "the checksum of it all")?;
        let found = u32::from_le_bytes(csum);
        if found != expected {
            return Err(PackError::Checksum { at, what: "the pack", found, expected });
        }
        if self.from.read_up_to(&mut [0])? > 0 {
            let what = "more follows where the pack should end".to_owned();
            return Err(PackError::Malformed { at: at + 4, what });
        }
        Ok(())
    }

    fn malformed(&self, what: String) -> PackError {
        PackError::Malformed { at: self.chunk_at, what }
    }
}

/// Inflates `bytes`; whether all of them make up exactly all of `into`.
fn inflate(bytes: &[u8], into: &mut [u8]) -> bool {
    let mut inflate = Decompress::new(false);
    let status = inflate.decompress(bytes, into, FlushDecompress::Finish);
    let used = (inflate.total_in(), inflate.total_out());
    matches!(status, Ok(Status::StreamEnd)) && used == (bytes.len() as u64, into.len() as u64)
}

/// Counts and sums up what is read.
#[derive(Debug)]
struct Summed<R> {
    from: R,
    at: u64,
    crc: u32,
}

impl<R: Read> Summed<R> {
    /// Fills `into` as far as there is something left, and says how far.
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
