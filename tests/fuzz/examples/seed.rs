//! Writes the first inputs of every fuzz target to `corpus/`, made from the fixtures.

use std::fs;
use std::io;
use std::path::Path;

use clone_fuzz::fold;
use clone_tests::damage::{IMAGES, ImageEditor, Role, set_child, set_key};
use persistent_data::BlockNr;
use persistent_data::format::{Node, RefCountBits, node_capacity, node_flags};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    };
    for name in IMAGES {
        let image = ImageEditor::of(name);
        let used = image.layout().used();
        for role in [Role::Superblock, Role::Internal, Role::Leaf, Role::Array, Role::Index]
            .into_iter()
            .chain([Role::Bitmap, Role::RefCounts])
        {
            if let Some(&(at, _)) = used.iter().find(|(_, found)| *found == role) {
                write("block_kinds", &format!("{name}-{role:?}"), image.raw(at).bytes())?;
            }
        }
    }
    for name in ["fresh", "tail", "huge-region", "complete"] {
        write("check_image", name, &fold(&ImageEditor::of(name), 2, 32))?;
    }
    let three_bitmaps = ImageEditor::of("three-bitmaps");
    write("check_image", "three-bitmaps", &fold(&three_bitmaps, 3, 9))?;
    let smallest = ImageEditor::restored(10, 10, &[0..1, 3..5]);
    write("check_image", "smallest", &fold(&smallest, 0, 10))?;
    let empty = ImageEditor::restored(20, 100, &[]);
    write("check_image", "empty", &fold(&empty, 1, 8))?;
    write("check_image", "two-levels", &fold(&two_levels(), 1, 8))?;
    write("check_image", "large-counts", &fold(&large_counts(), 1, 8))?;
    let operations = |seed: u32| {
        let step = |i: u32| (seed + i).wrapping_mul(2_654_435_761).to_le_bytes();
        (0..100).flat_map(|i| [step(i)[3], step(i)[2] % 8, 0]).collect::<Vec<u8>>()
    };
    for seed in 0..8 {
        write("space_map", &format!("{seed}"), &operations(1000 * seed))?;
    }
    for (headers, name) in [(None, "simple"), (Some(8), "structured"), (Some(11), "extended")] {
        write("nbd_session", name, &nbd_session(headers))?;
    }
    for seed in 0..24_u8 {
        write("nbd_replies", &format!("{seed}"), &nbd_replies(seed))?;
    }
    println!("wrote {}", corpus.display());
    Ok(())
}

/// Returns an image with a root above a leaf that has the only array block.
fn two_levels() -> ImageEditor {
    let mut image = ImageEditor::restored(20, 100, &[7..9]);
    let (leaf, root) = (image.layout().root(), BlockNr(7));
    assert!(image.raw(root).is_zero());
    image.edit::<Node>(root, |disk| {
        let capacity = node_capacity(size_of::<u64>()) as u32;
        disk.header.flags.set(node_flags::INTERNAL);
        disk.header.blocknr.set(root.0);
        disk.header.nr_entries.set(1);
        disk.header.max_entries.set(capacity);
        disk.header.value_size.set(8);
        set_key(disk, 0, 0);
        set_child(disk, 0, leaf);
    });
    image.superblock(|disk| disk.bitset_root.set(root.0));
    image.set_count(root, RefCountBits::One);
    image
}

/// Returns an image with blocks whose counts are above two.
fn large_counts() -> ImageEditor {
    let mut image = ImageEditor::restored(20, 100, &[7..9]);
    for (at, count) in [(3, 3), (5, 7), (12, 1000)] {
        image.set_count(BlockNr(at), RefCountBits::Overflow);
        image.push_large_count(at, count);
    }
    image
}

/// Returns the stream of an NBD client that sends one request of each kind, after an option that
/// chooses the headers.
fn nbd_session(headers: Option<u32>) -> Vec<u8> {
    let mut stream = vec![0, 0, 0, 3];
    let contexts = b"\0\0\0\0\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x0eclone:hydrated";
    let info = b"\0\0\0\x04disk\0\x03\0\x01\0\x02\0\x03";
    let options: [(u32, &[u8]); 5] =
        [(headers.unwrap_or(3), b""), (9, contexts), (10, contexts), (6, info), (7, info)];
    for (option, data) in options {
        stream.extend(b"IHAVEOPT");
        stream.extend(number(option.into(), 4));
        stream.extend(number(data.len() as u64, 4));
        stream.extend(data);
    }
    let is_extended = headers == Some(11);
    for command in [1, 0, 3, 4, 5, 6, 7, 2] {
        let payload = if command == 1 { 600 } else { 0 };
        let length = if matches!(command, 2 | 3) { 0 } else { 600 };
        let flags = if is_extended && command == 1 { 32 } else { 0 };
        stream.extend(number(if is_extended { 0x21e4_1c71 } else { 0x2560_9513 }, 4));
        stream.extend([number(flags, 2), number(command, 2), number(command, 8)].concat());
        stream.extend(number(if length == 0 { 0 } else { 4000 }, 8));
        stream.extend(number(length, if is_extended { 8 } else { 4 }));
        stream.extend(vec![7; payload]);
    }
    stream
}

/// Returns requests of all kinds, repeated while the clone is suspended and resumed.
fn nbd_replies(seed: u8) -> Vec<u8> {
    let step = |i: u8| [i, i.wrapping_mul(37), i.wrapping_mul(101), i.wrapping_mul(seed | 1)];
    let steps = (0..80).flat_map(step);
    // All reply formats, with and without recording, and memory for buffers.
    let how = seed % 3 | (seed & 4) << 4 | (seed & 8) << 4;
    [how].into_iter().chain([12, 0, 0, 0]).chain(steps).chain([13, 0, 0, 0]).collect()
}

/// Returns the last `len` bytes of a number, in big-endian order.
fn number(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes()[..len].to_vec();
    bytes.reverse();
    bytes
}
