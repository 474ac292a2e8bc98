//! Metadata images for the tools: written by kernels, whole or damaged.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use ruzstd::decoding::StreamingDecoder;

use crate::support::{Scratch, run};

pub(crate) const BLOCK: usize = 4096;

/// All fixtures that are images.
pub(crate) const FIXTURES: [&str; 5] = ["fresh", "tail", "huge-region", "twolevel", "complete"];

/// The offset of the space map's root in the superblock.
const SPACE_MAP_ROOT: usize = 44;

const SUPERBLOCK_SALT: u32 = 257_649_492;
const BITMAP_SALT: u32 = 240_779;
const INDEX_SALT: u32 = 160_478;

fn fixture_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/kernel").join(name)
}

fn decompressed(name: &str) -> Vec<u8> {
    let packed = fs::File::open(fixture_path(name)).expect("a fixture");
    let mut bytes = Vec::new();
    let mut decoder = StreamingDecoder::new(packed).expect("zstd");
    decoder.read_to_end(&mut bytes).expect("a whole fixture");
    bytes
}

/// Returns every `step`th state of the device in the log of writes.
pub(crate) fn crash_states(step: usize) -> Vec<Vec<u8>> {
    const UNIT: usize = 512;
    let log = decompressed("crash-log.zst");
    let number = |at: usize| {
        usize::try_from(u64::from_le_bytes(log[at..at + 8].try_into().unwrap())).unwrap()
    };
    let mut image = vec![0; 8 << 20];
    let mut states = Vec::new();
    let mut at = UNIT;
    for entry in 0..number(16) {
        let (sector, len, flags) = (number(at), number(at + 8) * UNIT, number(at + 16));
        at += UNIT;
        let (discard, mark) = (flags & 4 != 0, flags & 8 != 0);
        if !discard && !mark {
            image[sector * UNIT..][..len].copy_from_slice(&log[at..at + len]);
            at += len;
        } else if discard && !mark {
            image[sector * UNIT..][..len].fill(0);
        }
        if entry % step == step - 1 {
            states.push(image.clone());
        }
    }
    states
}

/// Returns the description of a fixture.
pub(crate) fn description(name: &str) -> serde_json::Value {
    let text = fs::read(fixture_path(&format!("{name}.json"))).expect("the fixture is there");
    serde_json::from_slice(&text).expect("the description is JSON")
}

/// Returns the runs in the description of a fixture, half-open.
pub(crate) fn runs(description: &serde_json::Value) -> Vec<(u64, u64)> {
    serde_json::from_value(description["runs"].clone()).expect("runs are pairs")
}

/// An image of a metadata device.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Image {
    pub(crate) fn fixture(name: &str) -> Self {
        Self(decompressed(&format!("{name}.img.zst")))
    }

    /// Returns a restored fixture, without older copies of any block: the used blocks are
    /// contiguous, and all free blocks follow them.
    fn restored(name: &str) -> Self {
        let scratch = Scratch::new();
        let input = scratch.file("image", Self::fixture(name).0);
        let xml = scratch.file("xml", run("clone_dump", [input]).exits(0).stdout);
        let restored = scratch.path("restored");
        let args = ["-i".as_ref(), xml.as_os_str(), "-o".as_ref(), restored.as_os_str()];
        run("clone_restore", args).exits(0);
        Self(fs::read(&restored).unwrap())
    }

    /// Returns the fixture `tail` on a device with space for only `free` more blocks.
    pub(crate) fn full(free: u64) -> Self {
        let mut image = Self::restored("tail");
        let nr_blocks = image.u64_at(0, SPACE_MAP_ROOT + 8) + free;
        assert!(nr_blocks <= image.nr_blocks());
        image.change_superblock(SPACE_MAP_ROOT, &nr_blocks.to_le_bytes());
        image.0.truncate(nr_blocks as usize * BLOCK);
        image
    }

    /// Returns the completely hydrated fixture, [restored](Self::restored) and with a damaged array
    /// block: the state of its first 32576 regions is lost for good.
    pub(crate) fn torn() -> Self {
        let mut image = Self::restored("complete");
        let block = image.first_array_block();
        image.block(block)[100] ^= 1;
        image
    }

    pub(crate) fn nr_blocks(&self) -> u64 {
        (self.0.len() / BLOCK) as u64
    }

    pub(crate) fn block(&mut self, block: u64) -> &mut [u8] {
        let start = usize::try_from(block).unwrap() * BLOCK;
        &mut self.0[start..start + BLOCK]
    }

    fn u64_at(&mut self, block: u64, offset: usize) -> u64 {
        u64::from_le_bytes(self.block(block)[offset..offset + 8].try_into().unwrap())
    }

    fn reseal(&mut self, block: u64, salt: u32) {
        let block = self.block(block);
        let checksum = crc32c::crc32c(&block[4..]) ^ u32::MAX ^ salt;
        block[..4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Changes a field of the superblock and updates its checksum.
    pub(crate) fn change_superblock(&mut self, offset: usize, value: &[u8]) {
        self.block(0)[offset..offset + value.len()].copy_from_slice(value);
        self.reseal(0, SUPERBLOCK_SALT);
    }

    /// Returns the number of the space map's index block.
    pub(crate) fn index(&mut self) -> u64 {
        self.u64_at(0, SPACE_MAP_ROOT + 16)
    }

    /// Returns the number of the space map's first bitmap block.
    pub(crate) fn bitmap(&mut self) -> u64 {
        let index = self.index();
        self.u64_at(index, 16)
    }

    /// Returns the root of the space map's tree of large counts.
    pub(crate) fn ref_count_root(&mut self) -> u64 {
        self.u64_at(0, SPACE_MAP_ROOT + 24)
    }

    /// Sets the count of free blocks of the first bitmap to one. The space map stays consistent,
    /// but counts references that do not exist.
    pub(crate) fn leak(&mut self, blocks: impl Iterator<Item = u64>) {
        let nr_allocated = self.u64_at(0, SPACE_MAP_ROOT + 8);
        let (index, bitmap) = (self.index(), self.bitmap());
        let mut leaked: u32 = 0;
        for block in blocks {
            let (byte, shift) = (16 + block as usize / 4, block % 4 * 2);
            let bits = &mut self.block(bitmap)[byte];
            assert_eq!(*bits >> shift & 3, 0, "block {block} is not free");
            // The low bit of the count is the high bit of the pair.
            *bits |= 0b10 << shift;
            leaked += 1;
        }
        self.reseal(bitmap, BITMAP_SALT);
        let nr_free = &mut self.block(index)[16 + 8..16 + 12];
        let left = u32::from_le_bytes(nr_free.try_into().unwrap()) - leaked;
        nr_free.copy_from_slice(&left.to_le_bytes());
        self.reseal(index, INDEX_SALT);
        self.change_superblock(
            SPACE_MAP_ROOT + 8,
            &(nr_allocated + u64::from(leaked)).to_le_bytes(),
        );
    }

    /// Returns the first array block of a one-level bitset.
    pub(crate) fn first_array_block(&mut self) -> u64 {
        self.array_block(0)
    }

    /// Returns an array block of a one-level bitset, by its index.
    pub(crate) fn array_block(&mut self, index: usize) -> u64 {
        let root = self.u64_at(0, 188);
        let max_entries = u32::from_le_bytes(self.block(root)[20..24].try_into().unwrap());
        self.u64_at(root, 32 + 8 * (max_entries as usize + index))
    }
}
