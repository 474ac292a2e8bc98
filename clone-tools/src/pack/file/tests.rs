//! Packs are read back unchanged, and all other files are rejected.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use persistent_data::block::RawBlock;
use persistent_data::{BLOCK_SIZE, BlockNr};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use zerocopy::{FromZeros, IntoBytes};

use super::{CHUNK_RECORDS, ChunkDisk, Contents, PackError, Reader, WINDOW, Writer};

type Blocks = Vec<(BlockNr, RawBlock)>;

fn random_block(random: &mut StdRng) -> RawBlock {
    let mut block = RawBlock::ZERO;
    random.fill_bytes(block.bytes_mut());
    block
}

/// Returns blocks, some of which are similar to others, near and far.
fn blocks(nr: usize, random: &mut StdRng) -> Blocks {
    let mut blocks: Blocks = Vec::new();
    let mut at = 0;
    for _ in 0..nr {
        let mut block = match blocks.len() {
            0 => random_block(random),
            len => match random.random_range(0..4) {
                0 => random_block(random),
                1 => RawBlock::ZERO,
                _ => blocks[random.random_range(0..len)].1.clone(),
            },
        };
        block.bytes_mut()[random.random_range(0..BLOCK_SIZE)] ^= 1;
        at += [0, 0, 1, 1 << 40][random.random_range(0..4)];
        blocks.push((BlockNr(at), block));
        at += 1;
    }
    blocks
}

fn pack(size_bytes: u64, blocks: &Blocks, tail: &[u8]) -> Vec<u8> {
    let contents = Contents { size_bytes, nr_records: blocks.len() as u64, nr_dropped: 3 };
    let mut writer = Writer::new(Vec::new(), contents).unwrap();
    for (at, block) in blocks {
        writer.push(*at, block).unwrap();
    }
    writer.finish(tail).unwrap()
}

fn unpack(pack: &[u8]) -> Result<(Contents, Blocks, Vec<u8>), PackError> {
    let mut reader = Reader::new(pack)?;
    let mut blocks = Blocks::new();
    while let Some(block) = reader.next_block()? {
        blocks.push(block);
    }
    Ok((reader.contents(), blocks, reader.tail().unwrap().to_vec()))
}

fn size_of_device(blocks: &Blocks, tail: &[u8]) -> u64 {
    let nr_blocks = blocks.last().map_or(0, |(at, _)| at.0 + 1);
    nr_blocks * BLOCK_SIZE as u64 + tail.len() as u64
}

fn small_pack() -> Vec<u8> {
    let blocks = blocks(5, &mut StdRng::seed_from_u64(5));
    pack(size_of_device(&blocks, b"tail"), &blocks, b"tail")
}

#[test]
fn blocks_come_back_as_they_were() {
    let random = &mut StdRng::seed_from_u64(1);
    let around_chunk = [CHUNK_RECORDS - 1, CHUNK_RECORDS, CHUNK_RECORDS + 1];
    for nr in [0, 1, 2].into_iter().chain(around_chunk).chain([WINDOW + CHUNK_RECORDS + 7]) {
        for tail in [&b""[..], b"0123456"] {
            let blocks = blocks(nr, random);
            let size_bytes = size_of_device(&blocks, tail);
            let (contents, unpacked, unpacked_tail) =
                unpack(&pack(size_bytes, &blocks, tail)).unwrap();
            let expected = Contents { size_bytes, nr_records: nr as u64, nr_dropped: 3 };
            assert_eq!(contents, expected);
            assert!(unpacked == blocks, "{nr} blocks");
            assert_eq!(unpacked_tail, tail);
        }
    }
}

#[test]
fn the_same_blocks_give_the_same_bytes() {
    assert_eq!(small_pack(), small_pack());
}

#[test]
fn copies_that_differ_in_a_bit_take_next_to_nothing() {
    let random = &mut StdRng::seed_from_u64(2);
    let originals: Vec<RawBlock> = (0..100).map(|_| random_block(random)).collect();
    let mut blocks = Blocks::new();
    for at in 0..1000 {
        let mut block = originals[at % originals.len()].clone();
        block.bytes_mut()[random.random_range(0..BLOCK_SIZE)] ^= 1;
        blocks.push((BlockNr(at as u64), block));
    }
    let pack = pack(size_of_device(&blocks, b""), &blocks, b"");
    assert!(pack.len() < originals.len() * BLOCK_SIZE + 900 * 30, "{}", pack.len());
}

#[test]
fn every_cut_is_seen() {
    let pack = small_pack();
    assert!(unpack(&pack).is_ok());
    assert!(matches!(unpack(&[]), Err(PackError::Empty)));
    for len in 1..pack.len() {
        match unpack(&pack[..len]) {
            Err(PackError::Magic) if len < 8 => {}
            Err(PackError::CutOff { at, .. }) if at == len as u64 => {}
            other => panic!("cut at {len}: {other:?}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    let pack = small_pack();
    for byte in 0..pack.len() {
        let mut pack = pack.clone();
        pack[byte] ^= 1 << (byte % 8);
        assert!(unpack(&pack).is_err(), "byte {byte}");
    }
}

#[test]
fn nothing_may_follow() {
    let mut pack = small_pack();
    pack.push(0);
    assert!(matches!(unpack(&pack), Err(PackError::Malformed { .. })));
}

/// Returns a pack with correct checksums and one chunk that inflates to `inflated`.
fn forged(contents: Contents, nr_records: u32, inflated: &[u8]) -> Vec<u8> {
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(inflated).unwrap();
    let bytes = deflate.finish().unwrap();
    let mut chunk = ChunkDisk::new_zeroed();
    chunk.nr_records.set(nr_records);
    chunk.len.set(bytes.len() as u32);
    chunk.csum.set(crc32c::crc32c(&bytes));
    let empty = Contents { nr_records: 0, ..contents };
    let mut pack = Writer::new(Vec::new(), empty).unwrap().finish(&[]).unwrap();
    pack.truncate(40);
    pack[24..32].copy_from_slice(&contents.nr_records.to_le_bytes());
    pack.extend(crc32c::crc32c(&pack).to_le_bytes());
    pack.extend(chunk.as_bytes());
    pack.extend(bytes);
    pack.extend([0; 12]);
    pack.extend(crc32c::crc32c(&pack).to_le_bytes());
    pack
}

fn record(gap: u64, distance: u16) -> Vec<u8> {
    let mut record = gap.to_le_bytes().to_vec();
    record.extend(distance.to_le_bytes());
    record.extend([1; BLOCK_SIZE]);
    record
}

#[test]
fn what_makes_no_sense_is_refused_though_its_checksums_are_right() {
    let device = Contents { size_bytes: 10 * 4096, nr_records: 1, nr_dropped: 0 };
    let (contents, blocks, _) = unpack(&forged(device, 1, &record(9, 0))).unwrap();
    assert_eq!((contents, blocks[0].0), (device, BlockNr(9)));

    let many = Contents { nr_records: 9, ..device };
    let bomb = vec![0; 8 << 20];
    let cases = [
        ("past the end", device, 1, record(10, 0)),
        ("past the end by overflow", device, 1, record(u64::MAX, 0)),
        ("refers to itself", device, 1, record(0, 1)),
        ("refers before the first", device, 1, record(0, u16::MAX)),
        ("inflates to too little", device, 1, record(0, 0)[1..].to_vec()),
        ("inflates to too much", device, 1, bomb),
        ("more records than announced", device, 2, [record(0, 0), record(0, 0)].concat()),
        ("fewer records than announced", many, 1, record(0, 0)),
        ("more records than a chunk has", many, 257, record(0, 0)),
        ("more records than blocks", Contents { nr_records: 11, ..device }, 1, record(0, 0)),
        (
            "a size that no file has",
            Contents { size_bytes: u64::MAX << 12, ..device },
            1,
            record(0, 0),
        ),
    ];
    for (case, contents, nr_records, inflated) in cases {
        let unpacked = unpack(&forged(contents, nr_records, &inflated));
        assert!(matches!(unpacked, Err(PackError::Malformed { .. })), "{case}: {unpacked:?}");
    }
}

#[test]
fn another_version_is_named() {
    let mut pack = small_pack();
    pack[8] = 2;
    let csum = crc32c::crc32c(&pack[..40]).to_le_bytes();
    pack[40..44].copy_from_slice(&csum);
    assert!(matches!(unpack(&pack), Err(PackError::Version(2))));
}

#[test]
fn noise_is_no_pack() {
    let random = &mut StdRng::seed_from_u64(3);
    for _ in 0..100 {
        let mut noise = vec![0; random.random_range(1..10_000)];
        random.fill_bytes(&mut noise);
        assert!(matches!(unpack(&noise), Err(PackError::Magic)));
    }
}
