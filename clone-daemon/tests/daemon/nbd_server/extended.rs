//! Extended headers, which no installed client supports.

use super::raw::{Chunk, Raw, be32, be64};
use super::served::{Served, noise};
use byteorder::{BigEndian, ByteOrder};
use clone_daemon::nbd_protocol::{chunk, command, errno, flag, option};

const SIZE: usize = 256 << 10;

/// Connects with extended headers.
fn connect(served: &Served) -> Raw {
    let mut raw = Raw::chosen(served.connect(), &[option::EXTENDED_HEADERS]);
    raw.is_served();
    raw
}

/// Connects with extended headers, and selects metadata contexts.
fn connect_with_contexts(served: &Served) -> Raw {
    let mut raw = Raw::greeted(served.connect());
    raw.option(option::EXTENDED_HEADERS, &[]);
    let contexts = b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x0eclone:hydrated";
    assert_eq!(raw.option(option::SET_META_CONTEXT, contexts).len(), 3);
    raw.speak_extended();
    raw.go();
    raw
}

fn data(chunk: &Chunk) -> (u64, &[u8]) {
    assert_eq!(chunk.kind, chunk::OFFSET_DATA);
    (BigEndian::read_u64(&chunk.data), &chunk.data[8..])
}

#[test]
fn reads_and_writes_go_with_extended_headers() {
    let content = noise(5, SIZE);
    let served = Served::new(&content);
    let mut raw = connect(&served);
    raw.request((0, command::READ), 1, 100, 5000);
    let reply = raw.reply();
    assert_eq!((reply.flags, reply.cookie, reply.offset), (chunk::DONE, 1, 100));
    assert_eq!(data(&reply), (100, &content[100..5100]));
    raw.request((flag::PAYLOAD_LEN | flag::FUA, command::WRITE), 2, 4000, 300);
    raw.send(&[9; 300]);
    let reply = raw.reply();
    assert_eq!((reply.kind, reply.cookie, reply.offset), (chunk::NONE, 2, 4000));
    raw.request((0, command::READ), 3, 3999, 302);
    let expected = [&content[3999..4000], &[9; 300], &content[4300..4301]].concat();
    assert_eq!(data(&raw.reply()).1, expected);
    raw.request((0, command::READ), 4, SIZE as u64 - 1, 2);
    let reply = raw.reply();
    assert_eq!((reply.error(), reply.offset), (Some(errno::EINVAL), SIZE as u64 - 1));
    // The reply to an empty read has no chunk of data.
    raw.request((0, command::READ), 5, 5, 0);
    assert_eq!(raw.reply().kind, chunk::NONE);
}

#[test]
fn payload_that_no_command_wants_is_read_over_and_a_write_need_not_announce_its_own() {
    let served = Served::new(&noise(6, SIZE));
    let mut raw = connect(&served);
    raw.request((flag::PAYLOAD_LEN, command::READ), 1, 0, 1000);
    raw.send(&[0x25; 1000]);
    assert_eq!(raw.reply().error(), Some(errno::EINVAL));
    raw.request((flag::PAYLOAD_LEN, 99), 2, 0, 300_000);
    raw.send(&vec![0x25; 300_000]);
    assert_eq!(raw.reply().error(), Some(errno::EINVAL));
    raw.is_served();
    raw.request((0, command::WRITE), 3, 0, 512);
    raw.send(&[0x25; 512]);
    assert_eq!(raw.reply().error(), None);
    raw.request((0, command::READ), 4, 0, 512);
    assert_eq!(data(&raw.reply()), (0, &[0x25; 512][..]));
    raw.request((flag::PAYLOAD_LEN, command::READ), 1, 0, u64::MAX);
    assert!(raw.hung_up().is_empty());
}

/// Returns the extents of a reply, with lengths in KiB.
fn extents(reply: &Chunk, context: u32) -> Vec<(u64, u64)> {
    assert_eq!(reply.kind, chunk::BLOCK_STATUS_EXT);
    let (header, extents) = reply.data.split_at(8);
    assert_eq!(BigEndian::read_u32(header), context);
    assert_eq!(BigEndian::read_u32(&header[4..]) as usize * 16, extents.len());
    let number = |bytes: &[u8]| BigEndian::read_u64(bytes);
    extents.chunks(16).map(|one| (number(one) >> 10, number(&one[8..]))).collect()
}

#[test]
fn ranges_are_told_of_in_64_bits_and_only_in_the_contexts_that_are_asked_for() {
    let served = Served::new(&noise(7, SIZE));
    served.clone.client().hydrate(8192..16384).unwrap();
    let mut raw = connect_with_contexts(&served);
    raw.request((0, command::BLOCK_STATUS), 1, 0, SIZE as u64);
    let reply = raw.reply();
    assert_eq!((extents(&reply, 1), reply.flags), (vec![(256, 0)], 0));
    let reply = raw.reply();
    assert_eq!(extents(&reply, 2), [(8, 0), (8, 1), (240, 0)]);
    assert_eq!(reply.flags, chunk::DONE);
    let mut ask = |length: u64, ids: &[u32], flags| {
        let payload = ids.iter().flat_map(|id| be32(*id));
        let payload: Vec<u8> = be64(length).into_iter().chain(payload).collect();
        let what = (flag::PAYLOAD_LEN | flags, command::BLOCK_STATUS);
        raw.request(what, 2, 4096, payload.len() as u64);
        raw.send(&payload);
        raw.reply()
    };
    let reply = ask(8192, &[2], 0);
    assert_eq!((extents(&reply, 2), reply.flags), (vec![(4, 0), (4, 1)], chunk::DONE));
    assert_eq!(extents(&ask(8192, &[2], flag::REQ_ONE), 2), [(4, 0)]);
    for (length, ids) in [(8192, &[2, 2][..]), (8192, &[3]), (8192, &[0]), (8192, &[]), (0, &[1])] {
        assert_eq!(ask(length, ids, 0).error(), Some(errno::EINVAL), "{ids:?}");
    }
    assert_eq!(ask(SIZE as u64, &[1], 0).error(), Some(errno::EINVAL));
    let many: Vec<u32> = (0..100_000).collect();
    assert_eq!(ask(4096, &many, 0).error(), Some(errno::EINVAL));
    raw.is_served();
}
