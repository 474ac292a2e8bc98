//! Byte streams that no real client sends.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use super::life::wait_until;
use super::raw::{Raw, be32, be64};
use super::served::{Served, noise};
use crate::support::LONG;
use clone_daemon::nbd_protocol::{command, flag, option};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SIZE: u64 = 256 << 10;

/// Returns the whole stream of a client that complies with the protocol.
fn good_stream(rng: &mut StdRng) -> Vec<u8> {
    let mut stream = vec![0, 0, 0, 3];
    let headers = [None, Some(option::STRUCTURED_REPLY), Some(option::EXTENDED_HEADERS)];
    let headers = headers[rng.next_u32() as usize % 3];
    let extended = headers == Some(option::EXTENDED_HEADERS);
    if let Some(option) = headers {
        stream.extend(Raw::option_bytes(option, &[]));
        let contexts = b"\0\0\0\0\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x0eclone:hydrated";
        stream.extend(Raw::option_bytes(option::LIST_META_CONTEXT, contexts));
        stream.extend(Raw::option_bytes(option::SET_META_CONTEXT, contexts));
    }
    stream.extend(Raw::option_bytes(option::LIST, &[]));
    stream.extend(Raw::option_bytes(option::INFO, b"\0\0\0\x04disk\0\x03\0\x01\0\x02\0\x03"));
    if extended || rng.next_u32().is_multiple_of(2) {
        stream.extend(Raw::option_bytes(option::GO, b"\0\0\0\0\0\0"));
    } else {
        stream.extend(Raw::option_bytes(option::EXPORT_NAME, b"disk"));
    }
    for cookie in 0..rng.next_u64() % 20 {
        request(rng, extended, cookie, &mut stream);
    }
    stream
}

fn request(rng: &mut StdRng, extended: bool, cookie: u64, stream: &mut Vec<u8>) {
    let command = rng.next_u32() as u16 % 9;
    let offset = rng.next_u64() % SIZE;
    let length = rng.next_u64() % [600, 70_000][rng.next_u32() as usize % 2];
    let payload = match command {
        command::WRITE => vec![cookie as u8; length as usize],
        command::BLOCK_STATUS if extended => [&be64(length)[..], &be32(1)].concat(),
        _ => vec![],
    };
    let told = if extended && !payload.is_empty() { flag::PAYLOAD_LEN } else { 0 };
    let length = if payload.is_empty() { length } else { payload.len() as u64 };
    let flags = told | [0, flag::FUA, flag::DF, flag::NO_HOLE][rng.next_u32() as usize % 4];
    stream.extend(Raw::request_bytes(extended, (flags, command), cookie, offset, length));
    stream.extend(payload);
}

/// Changes, removes, and repeats some bytes.
fn mutate(rng: &mut StdRng, stream: &mut Vec<u8>) {
    for _ in 0..1 + rng.next_u32() % 4 {
        let at = rng.next_u64() as usize % stream.len();
        let end = stream.len().min(at + rng.next_u32() as usize % 32);
        match rng.next_u32() % 5 {
            0 => stream[at] = rng.next_u32() as u8,
            1 => stream[at] ^= 1 << (rng.next_u32() % 8),
            2 => drop(stream.drain(at..end)),
            3 => stream.extend_from_within(at..end),
            _ => stream[at..end].fill([0, 0xff][rng.next_u32() as usize % 2]),
        }
        if stream.is_empty() {
            stream.push(0);
        }
    }
}

/// Sends `stream` to the server, and reads all of its replies.
fn feed(served: &Served, stream: &[u8]) {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    served.server.serve(server).unwrap();
    let mut replies = client.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        match replies.read_to_end(&mut bytes) {
            Ok(_) => bytes.len(),
            // The kernel reports input that the server did not read.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => bytes.len(),
            Err(error) => panic!("the server does not end: {error}"),
        }
    });
    // The server may close the connection at any time.
    let _ = client.write_all(stream);
    let _ = client.shutdown(Shutdown::Write);
    assert!(reader.join().unwrap() >= 18);
}

#[test]
fn no_stream_of_bytes_does_any_harm() {
    let served = Served::new(&noise(30, SIZE as usize));
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut stream = good_stream(&mut rng);
        if seed % 8 != 0 {
            mutate(&mut rng, &mut stream);
        }
        if seed % 16 == 1 {
            let start = rng.next_u64() as usize % stream.len();
            rng.fill_bytes(&mut stream[start..]);
        }
        feed(&served, &stream);
        assert!(served.server.buffer_bytes() <= 4 << 20, "seed={seed}");
    }
    wait_until("all are gone", || served.server.connections() == 0);
    wait_until("all is given back", || served.server.buffer_bytes() == 0);
    assert_eq!(served.volume.stats().in_flight(), 0);
    Raw::chosen(served.connect(), &[]).is_served();
}
