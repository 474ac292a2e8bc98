//! Writes of which a part is on the destination, and a part waits for the source.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, mpsc};

use clone_core::block_io::{Destination, ReadData, Source};
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::ServerOptions;
use clone_daemon::nbd_protocol::command;

use super::life::wait_until;
use super::raw::Raw;
use super::served::{Served, noise};
use crate::support::Rig;

/// The part that is hydrated, in bytes: a whole number of regions and of strips.
const HYDRATED: usize = 64 << 10;

const SIZE: usize = 1 << 20;

/// Holds one kind of access back until the other end of the channel is gone.
struct Gate(Mutex<mpsc::Receiver<()>>);

impl Gate {
    fn new() -> (mpsc::Sender<()>, Self) {
        let (release, wait) = mpsc::channel();
        (release, Self(Mutex::new(wait)))
    }

    fn pass(&self) {
        let _ = self.0.lock().unwrap().recv();
    }
}

/// A source of sevens, whose bytes from [`HYDRATED`] on are behind a gate.
struct Stalled(Gate);

impl ReadData for Stalled {
    fn size_bytes(&self) -> u64 {
        SIZE as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if offset >= HYDRATED as u64 {
            self.0.pass();
        }
        into.fill(7);
        Ok(())
    }
}

impl Source for Stalled {}

/// A destination in memory. A second write of ones to its first byte is behind a gate.
struct Memory {
    bytes: Mutex<Vec<u8>>,
    again: Gate,
}

impl ReadData for Memory {
    fn size_bytes(&self) -> u64 {
        SIZE as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let range = offset as usize..offset as usize + into.len();
        into.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(())
    }
}

impl Destination for Memory {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let is_again = || offset == 0 && data[0] == 1 && self.bytes.lock().unwrap()[0] == 1;
        if is_again() {
            self.again.pass();
        }
        let range = offset as usize..offset as usize + data.len();
        self.bytes.lock().unwrap()[range].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _: bool) -> io::Result<()> {
        self.bytes.lock().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn discard(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The first strips of a write are visible while the rest waits. Were they written again with the
/// rest, they would undo what another client has been answered meanwhile.
#[test]
fn what_a_waiting_write_has_written_is_not_written_again_over_what_came_after_it() {
    let rig = Rig::new(Sectors(8), &noise(60, SIZE));
    let ((release, stalled), (release_again, again)) = (Gate::new(), Gate::new());
    let destination = Memory { bytes: Mutex::new(vec![0xee; SIZE]), again };
    let clone = rig.start_with(Arc::new(Stalled(stalled)), Arc::new(destination), false);
    clone.client().hydrate(0..HYDRATED as u64).unwrap();
    let served = Served::of(rig, clone, ServerOptions::default());
    let client = served.clone.client();
    let read = |offset: usize, len: usize| {
        let mut bytes = vec![0; len];
        client.read(offset as u64, &mut bytes).unwrap();
        bytes
    };

    let mut first = Raw::chosen(served.connect(), &[]);
    let len = HYDRATED + 2048;
    first.request((0, command::WRITE), 1, 0, len as u64);
    first.send(&vec![1; len]);
    wait_until("the first part of it is seen", || read(0, 4096) == [1; 4096]);

    let mut second = Raw::chosen(served.connect(), &[]);
    second.request((0, command::WRITE), 2, 0, 4096);
    second.send(&[2; 4096]);
    assert_eq!(second.reply().error(), None);
    assert!(read(0, 4096) == [2; 4096]);

    drop((release, release_again));
    assert_eq!(first.reply().error(), None);
    assert!(read(0, 4096) == [2; 4096], "the second write was answered and is gone");
    assert!(read(4096, len - 4096) == vec![1; len - 4096]);
    assert!(read(len, 2048) == [7; 2048]);
    served.clone.stop();
}
