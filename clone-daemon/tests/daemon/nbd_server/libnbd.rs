//! The server with libnbd, by Python scripts.

use std::fs;

use super::served::{Served, noise, script};

const SIZE: usize = 1 << 20;

/// Returns a clone of noise, with a hole from 256 KiB to 512 KiB.
fn with_hole() -> Served {
    let mut content = noise(8, SIZE);
    content[256 << 10..512 << 10].fill(0);
    let served = Served::new(&content);
    // The source is open already, but its extents have not been looked up.
    let source = fs::OpenOptions::new().write(true).open(served.rig.path("source")).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&source, punch, 256 << 10, 256 << 10).unwrap();
    served
}

#[test]
fn holes_and_what_is_hydrated_are_told_and_follow_what_is_done() {
    let served = with_hole();
    let told = script(
        &served.uri(),
        r#"
h.add_meta_context("base:allocation")
h.add_meta_context("clone:hydrated")
h.connect_uri(uri)
def status(offset, length, flags=0):
    told = {}
    def extents(context, offset, entries, error):
        told[context] = [(l >> 10, f) for l, f in zip(entries[::2], entries[1::2])]
    h.block_status(length, offset, extents, flags)
    return told["base:allocation"], told["clone:hydrated"]
K = 1024
assert status(0, K * K) == ([(256, 0), (256, 3), (512, 0)], [(1024, 0)]), status(0, K * K)
assert status(300 * K, 100 * K) == ([(100, 3)], [(100, 0)])
assert status(250 * K, 10 * K, nbd.CMD_FLAG_REQ_ONE) == ([(6, 0)], [(10, 0)])
h.cache(16 * K, 512 * K)
assert status(500 * K, 40 * K) == ([(12, 3), (28, 0)], [(12, 0), (16, 1), (12, 0)])
h.pwrite(b"x" * 4096, 256 * K)
assert status(252 * K, 12 * K) == ([(8, 0), (4, 3)], [(4, 0), (4, 1), (4, 0)])
assert h.pread(8192, 256 * K) == b"x" * 4096 + bytes(4096)
h.zero(64 * K, 512 * K)
assert status(512 * K, 80 * K) == ([(64, 3), (16, 0)], [(64, 1), (16, 0)]), status(512*K, 80*K)
h.zero(64 * K, 512 * K, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(64 * K, 512 * K) == bytes(64 * K)
h.trim(64 * K, 768 * K)
assert status(768 * K, 80 * K)[1] == [(64, 1), (16, 0)]
assert h.pread(64 * K, 768 * K) == bytes(64 * K)
try:
    status(K * K - 1, 2)
    assert False
except nbd.Error as error:
    assert error.errno == "EINVAL", error.errno
h.shutdown()
"#,
    );
    drop(told);
}

#[test]
fn zeroes_are_fast_where_nothing_has_to_be_copied_or_written() {
    let served = Served::new(&noise(9, SIZE));
    let before = noise(9, SIZE);
    let _ = script(
        &served.uri(),
        r#"
h.connect_uri(uri)
def fast(length, offset, flags=0):
    try:
        h.zero(length, offset, nbd.CMD_FLAG_FAST_ZERO | flags)
        return h.pread(length, offset) == bytes(length)
    except nbd.Error as error:
        assert error.errno == "ENOTSUP", error.errno
        return False
assert fast(65536, 0)
assert not fast(65536, 65536 + 512)
assert not fast(65536 + 512, 65536)
assert not fast(65536, 65536, nbd.CMD_FLAG_NO_HOLE)
assert not fast(4096, 65536)
h.cache(131072, 65536)
assert fast(65536, 65536 + 512)
assert fast(1048576 - 524288, 524288)
"#,
    );
    let client = served.clone.client();
    let mut bytes = vec![0; 400_000 - 131_584];
    client.read(131_584, &mut bytes).unwrap();
    assert!(bytes == before[131_584..400_000]);
}

#[test]
fn replies_are_simple_or_structured_and_of_any_length() {
    let content = noise(10, 3 * SIZE);
    let served = Served::new(&content);
    let file = served.rig.path("content");
    fs::write(&file, &content).unwrap();
    for hydrated in [false, true] {
        for structured in ["False", "True"] {
            let text = r#"
h.set_request_structured_replies(STRUCTURED)
h.connect_uri(uri)
assert h.get_structured_replies_negotiated() == STRUCTURED
content = open(FILE, "rb").read()
assert h.pread(len(content), 0) == content
assert h.pread(300001, 12345) == content[12345:312346]
assert h.pread(1, 0) == content[:1]
if STRUCTURED:
    chunks = []
    def chunk(data, offset, status, error):
        chunks.append((offset, bytes(data), status))
    h.pread_structured(1048577, 7, chunk, nbd.CMD_FLAG_DF)
    assert chunks == [(7, content[7:1048584], nbd.READ_DATA)], len(chunks)
try:
    h.pread(2, len(content) - 1)
    assert False
except nbd.Error as error:
    assert error.errno == "EINVAL", error.errno
"#;
            let text = text.replace("STRUCTURED", structured);
            let text = text.replace("FILE", &format!("{:?}", file.to_str().unwrap()));
            if script(&served.uri(), &format!("h.set_strict_mode(0)\n{text}")).is_none() {
                return;
            }
        }
        if !hydrated {
            served.hydrate();
        }
    }
}

#[test]
fn long_reads_of_holes_are_told_as_holes_unless_they_must_not_be() {
    let served = with_hole();
    let _ = script(
        &served.uri(),
        r#"
h.connect_uri(uri)
def kinds(length, offset, flags=0):
    chunks = []
    def chunk(data, offset, status, error):
        chunks.append((offset >> 10, len(data) >> 10, status))
    data = h.pread_structured(length, offset, chunk, flags)
    return chunks, data
K = 1024
chunks, data = kinds(128 * K, 256 * K)
assert chunks == [(256, 0, nbd.READ_HOLE)] or chunks == [(256, 128, nbd.READ_HOLE)], chunks
assert data == bytes(128 * K)
chunks, data = kinds(128 * K, 448 * K)
assert [(o, s) for o, l, s in chunks] == [(448, nbd.READ_HOLE), (512, nbd.READ_DATA)], chunks
assert data[:64 * K] == bytes(64 * K) and data[64 * K:] != bytes(64 * K)
chunks, data = kinds(128 * K, 256 * K, nbd.CMD_FLAG_DF)
assert chunks == [(256, 128, nbd.READ_DATA)], chunks
h.zero(128 * K, 0)
assert kinds(128 * K, 0)[0][0][2] == nbd.READ_HOLE
h.pwrite(b"a", 5)
assert kinds(128 * K, 0)[1][:6] == bytes(5) + b"a"
"#,
    );
}

#[test]
fn what_one_connection_has_flushed_or_written_through_is_there_for_the_other() {
    let served = Served::new(&noise(11, SIZE));
    let _ = script(
        &served.uri(),
        r#"
g = nbd.NBD()
h.connect_uri(uri)
g.connect_uri(uri)
assert h.can_multi_conn()
h.pwrite(b"a" * 10000, 1000)
g.flush()
assert g.pread(10000, 1000) == b"a" * 10000
g.pwrite(b"b" * 10000, 5000, nbd.CMD_FLAG_FUA)
g.pwrite(b"c" * 400000, 500000, nbd.CMD_FLAG_FUA)
assert h.pread(10000, 5000) == b"b" * 10000
assert h.pread(400000, 500000) == b"c" * 400000
h.zero(5000, 20000, nbd.CMD_FLAG_FUA)
h.trim(8192, 40960, nbd.CMD_FLAG_FUA)
assert g.pread(5000, 20000) == bytes(5000)
h.set_strict_mode(0)
for length, offset in [(2, 1048575), (1, 1 << 60)]:
    for operation in [lambda: h.pwrite(b"x" * length, offset), lambda: h.zero(length, offset)]:
        try:
            operation()
            assert False
        except nbd.Error as error:
            assert error.errno == "ENOSPC", error.errno
"#,
    );
    let flushed = served.rig.destination();
    assert!(flushed[500_000..900_000].iter().all(|&byte| byte == b'c'));
    assert!(flushed[1000..5000].iter().all(|&byte| byte == b'a'));
}
