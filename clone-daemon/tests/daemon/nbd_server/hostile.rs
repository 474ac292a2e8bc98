//! Clients that are hostile, slow or careless.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::life::wait_until;
use super::raw::Raw;
use super::served::{Served, noise};
use crate::support::Rig;
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::ServerOptions;
use clone_daemon::nbd_protocol::{command, errno, flag, option, option_reply};

const MIB: u64 = 1 << 20;

fn served(options: ServerOptions) -> Served {
    Served::with(Rig::new(Sectors(8), &noise(20, 4 << 20)), options)
}

#[test]
fn a_client_that_does_not_negotiate_in_time_is_cut_off() {
    let handshake = Duration::from_secs(3);
    let served = served(ServerOptions { handshake, ..ServerOptions::default() });
    let mut silent = Raw::new(served.connect());
    let mut half = Raw::greeted(served.connect());
    half.send(&Raw::option_bytes(option::LIST, &[])[..10]);
    let mut slow = Raw::greeted(served.connect());
    let slow = thread::spawn(move || {
        let bytes = Raw::option_bytes(99, &[0; 60_000]);
        use std::io::Write;
        bytes
            .chunks(1)
            .take_while(|byte| {
                thread::sleep(Duration::from_millis(1));
                slow.stream.write_all(byte).is_ok()
            })
            .count()
    });
    let mut chosen = Raw::chosen(served.connect(), &[]);
    assert!(silent.hung_up().is_empty());
    assert!(half.hung_up().is_empty());
    assert!(slow.join().unwrap() < 60_000);
    wait_until("they are gone", || served.server.connections() == 1);
    // A client that has selected an export has no time limit.
    thread::sleep(handshake);
    chosen.is_served();
}

#[test]
fn a_handshake_may_take_long_if_it_makes_progress() {
    let handshake_silence = Duration::from_secs(4);
    let served = served(ServerOptions { handshake_silence, ..ServerOptions::default() });
    let mut silent = Raw::greeted(served.connect());
    let mut slow = Raw::greeted(served.connect());
    let bytes = Raw::option_bytes(option::GO, b"\0\0\0\x04disk\0\0");
    for part in bytes.chunks(bytes.len().div_ceil(12)) {
        thread::sleep(handshake_silence / 8);
        slow.send(part);
    }
    assert_eq!(slow.option_replies(option::GO).pop(), Some((option_reply::ACK, vec![])));
    assert!(silent.hung_up().is_empty());
    wait_until("the silent one is gone", || served.server.connections() == 1);
    slow.is_served();
}

#[test]
fn a_thousand_connections_cost_little_and_others_are_served_meanwhile() {
    let served = served(ServerOptions { connections_max: 2200, ..ServerOptions::default() });
    let socket = served.socket();
    let half: Vec<UnixStream> = (0..1000).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    wait_until("all are taken", || served.server.connections() == 1000);
    let mut raw = Raw::chosen(served.connect(), &[]);
    raw.request((0, command::READ), 1, 0, 4096);
    assert_eq!(raw.reply().error(), None);
    raw.receive(4096);
    raw.is_served();
    // Each connection has at most the buffers for the first option.
    let bytes = served.server.buffer_bytes();
    assert!(bytes <= 1001 * 8192, "{bytes}");
    drop(half);
    wait_until("all are gone", || served.server.connections() == 1);
    raw.is_served();
}

#[test]
fn who_does_not_read_holds_up_nobody_and_memory_is_bounded() {
    let shared_bytes = 4 * MIB;
    let options = ServerOptions { shared_bytes, ..ServerOptions::default() };
    let served = Arc::new(served(options));
    served.clone.client().hydrate(0..2 * MIB).unwrap();
    // Half of the connections read hydrated regions, half of them others.
    let deaf: Vec<_> = (0..20)
        .map(|at| {
            let mut raw = Raw::chosen(served.connect(), &[option::STRUCTURED_REPLY]);
            raw.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut asked = 0;
            let bytes = Raw::request_bytes(false, (0, command::READ), 1, (at % 2) * 2 * MIB, MIB);
            while asked < 10_000 && std::io::Write::write_all(&mut raw.stream, &bytes).is_ok() {
                asked += 1;
            }
            raw
        })
        .collect();
    let bound = shared_bytes + 21 * MIB;
    let check = || {
        let bytes = served.server.buffer_bytes();
        assert!(bytes <= bound, "{bytes}");
    };
    check();
    let content = noise(20, 4 << 20);
    for (cookie, offset) in [(1, 0), (2, 2 * MIB), (3, 3 * MIB + 5)] {
        for len in [512, 300_000, 900_000] {
            let mut raw = Raw::chosen(served.connect(), &[]);
            raw.request((0, command::READ), cookie, offset, len as u64);
            assert_eq!((raw.reply().error(), check()), (None, ()));
            assert!(raw.receive(len) == content[offset as usize..][..len]);
            // Writes of all kinds complete too.
            raw.request((flag::FUA, command::WRITE), cookie, offset, len as u64);
            raw.send(&content[offset as usize..][..len]);
            assert_eq!((raw.reply().error(), check()), (None, ()));
        }
    }
    drop(deaf);
    wait_until("all are gone", || served.server.connections() == 0);
    wait_until("all is given back", || served.server.buffer_bytes() == 0);
}

#[test]
fn a_client_that_asks_for_much_at_a_time_is_answered_as_it_reads() {
    let served = served(ServerOptions::default());
    let mut raw = Raw::chosen(served.connect(), &[]);
    let mut sender = raw.stream.try_clone().unwrap();
    let count = 3000;
    let asking = thread::spawn(move || {
        for cookie in 0..count {
            let offset = cookie * 4096 % (4 * MIB - 8192);
            let bytes = Raw::request_bytes(false, (0, command::READ), cookie, offset, 8192);
            std::io::Write::write_all(&mut sender, &bytes).unwrap();
        }
    });
    let content = noise(20, 4 << 20);
    let mut cookies = Vec::new();
    for _ in 0..count {
        let reply = raw.reply();
        assert_eq!(reply.error(), None);
        let offset = (reply.cookie * 4096 % (4 * MIB - 8192)) as usize;
        assert!(raw.receive(8192) == content[offset..][..8192]);
        cookies.push(reply.cookie);
    }
    asking.join().unwrap();
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..count));
}

#[test]
fn a_long_reply_that_is_sent_in_pieces_is_not_torn_by_others() {
    let served = served(ServerOptions::default());
    let content = noise(20, 4 << 20);
    served.clone.client().hydrate(0..2 * MIB).unwrap();
    let mut raw = Raw::chosen(served.connect(), &[]);
    let mut sender = raw.stream.try_clone().unwrap();
    let count = 400;
    // Odd cookies are copied on demand; another thread answers them than the even ones.
    let range = |cookie: u64| match cookie % 2 {
        0 => (cookie * 512, MIB as usize),
        _ => (2 * MIB + cookie * 4096, 4096),
    };
    let asking = thread::spawn(move || {
        for cookie in 0..count {
            let (offset, len) = range(cookie);
            let what = (0, command::READ);
            let bytes = Raw::request_bytes(false, what, cookie, offset, len as u64);
            std::io::Write::write_all(&mut sender, &bytes).unwrap();
        }
    });
    for _ in 0..count {
        let reply = raw.reply();
        assert_eq!(reply.error(), None);
        let (offset, len) = range(reply.cookie);
        assert!(raw.receive(len) == content[offset as usize..][..len], "{}", reply.cookie);
    }
    asking.join().unwrap();
}

#[test]
fn wrong_magics_and_absurd_lengths_end_a_connection_and_no_other() {
    let served = served(ServerOptions::default());
    let mut good = Raw::chosen(served.connect(), &[]);
    let long = Raw::request_bytes(false, (0, command::WRITE), 1, 0, (32 << 20) + 1);
    for bytes in [vec![0; 28], b"GET / HTTP/1.1\r\nHost: disk\r\n\r\n".to_vec(), long] {
        let mut raw = Raw::chosen(served.connect(), &[]);
        raw.send(&bytes);
        assert!(raw.hung_up().is_empty());
    }
    // A read that is too long gets an error, and the connection continues.
    let mut raw = Raw::chosen(served.connect(), &[option::STRUCTURED_REPLY]);
    raw.request((0, command::READ), 1, 0, u64::from(u32::MAX));
    assert_eq!(raw.reply().error(), Some(errno::EINVAL));
    raw.request((0, command::TRIM), 2, u64::MAX, u64::from(u32::MAX));
    assert_eq!(raw.reply().error(), Some(errno::EINVAL));
    // The payload of a write past the end is received, and the write is refused.
    raw.request((0, command::WRITE), 3, 4 * MIB - 1, 2 * MIB);
    raw.send(&vec![0; 2 << 20]);
    assert_eq!(raw.reply().error(), Some(errno::ENOSPC));
    raw.request((0, command::DISC), 4, 0, 0);
    assert!(raw.hung_up().is_empty());
    good.is_served();
    drop(good);
    wait_until("all are gone", || served.server.connections() == 0);
}
