//! Metadata that a real kernel wrote. `fixtures/README.md` tells how each came to be.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clone_core::geometry::RegionRange;
use persistent_data::device::MemoryDevice;
use serde::Deserialize;

/// Names of the images.
pub const IMAGES: [&str; 5] = ["fresh", "tail", "huge-region", "twolevel", "complete"];

/// Where the fixtures are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kernel")
}

/// Use of the metadata device.
#[derive(Debug, Deserialize)]
pub struct BlockUse {
    /// All blocks.
    pub total: u64,
    /// Blocks in use.
    pub used: u64,
}

/// What an image holds, as the kernel's status line and an independent reader say.
#[derive(Debug, Deserialize)]
pub struct Expected {
    /// The kernel's status line.
    pub status: String,
    /// In sectors.
    pub region_size: u64,
    /// In sectors.
    pub target_size: u64,
    /// How many regions there are.
    pub nr_regions: u64,
    /// How many are hydrated.
    pub hydrated: u64,
    /// Use of the metadata device.
    pub metadata_blocks: BlockUse,
    runs: Vec<(u64, u64)>,
}

impl Expected {
    /// The hydrated regions, half-open.
    pub fn runs(&self) -> Vec<RegionRange> {
        self.runs.iter().map(|&(begin, end)| begin..end).collect()
    }

    /// `(used, total)` metadata blocks and `(hydrated, total)` regions of the status line.
    pub fn status_figures(&self) -> ((u64, u64), (u64, u64)) {
        let words: Vec<&str> = self.status.split_whitespace().collect();
        let pair = |word: &str| {
            let (first, second) = word.split_once('/').expect("two figures");
            (first.parse().expect("a number"), second.parse().expect("a number"))
        };
        (pair(words[4]), pair(words[6]))
    }
}

/// The bytes of the fixture file `name`, decompressed.
pub fn decompressed(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    let file = fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file).expect("a zstd frame");
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).expect("a whole zstd frame");
    bytes
}

/// Image `name`, and what it holds.
pub fn load(name: &str) -> (MemoryDevice, Expected) {
    let json = fs::read(folder().join(format!("{name}.json"))).expect("the fixture's figures");
    let expected = serde_json::from_slice(&json).expect("the fixture's figures");
    (MemoryDevice::from_bytes(&decompressed(&format!("{name}.img.zst"))), expected)
}
