//! Metadata that a real kernel wrote. `fixtures/README.md` describes how each image was made.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clone_core::geometry::RegionRange;
use persistent_data::device::MemoryDevice;
use serde::Deserialize;

/// Names of the images.
pub const IMAGES: [&str; 5] = ["fresh", "tail", "huge-region", "twolevel", "complete"];

/// Returns the folder of the fixtures.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kernel")
}

/// Block usage of the metadata device.
#[derive(Debug, Deserialize)]
pub struct BlockUse {
    /// Number of blocks.
    pub total: u64,
    /// Number of blocks in use.
    pub used: u64,
}

/// Expected content of an image, from the kernel's status line and an independent reader.
#[derive(Debug, Deserialize)]
pub struct Expected {
    /// The kernel's status line.
    pub status: String,
    /// Region size in sectors.
    pub region_size: u64,
    /// Target size in sectors.
    pub target_size: u64,
    /// Number of regions.
    pub nr_regions: u64,
    /// Number of hydrated regions.
    pub hydrated: u64,
    /// Block usage of the metadata device.
    pub metadata_blocks: BlockUse,
    runs: Vec<(u64, u64)>,
}

impl Expected {
    /// Returns the hydrated regions, half-open.
    pub fn runs(&self) -> Vec<RegionRange> {
        self.runs.iter().map(|&(begin, end)| begin..end).collect()
    }

    /// Returns `(used, total)` metadata blocks and `(hydrated, total)` regions from the status
    /// line.
    pub fn status_figures(&self) -> ((u64, u64), (u64, u64)) {
        let words: Vec<&str> = self.status.split_whitespace().collect();
        let pair = |word: &str| {
            let (first, second) = word.split_once('/').expect("two figures");
            (first.parse().expect("a number"), second.parse().expect("a number"))
        };
        (pair(words[4]), pair(words[6]))
    }
}

/// Returns the decompressed bytes of the fixture file `name`.
pub fn decompressed(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    let file = fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file).expect("a zstd frame");
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).expect("a whole zstd frame");
    bytes
}

/// Loads image `name` and its expected content.
pub fn load(name: &str) -> (MemoryDevice, Expected) {
    let json = fs::read(folder().join(format!("{name}.json"))).expect("the fixture's figures");
    let expected = serde_json::from_slice(&json).expect("the fixture's figures");
    (MemoryDevice::from_bytes(&decompressed(&format!("{name}.img.zst"))), expected)
}
