//! Writes of which a part is on the destination, and a part waits for the source.

use std::sync::{Arc, Mutex, mpsc};

use clone_core::block_io::{Extent, ReadData, Source};
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::ServerOptions;
use clone_daemon::nbd_protocol::command;

use super::life::wait_until;
use super::raw::Raw;
use super::served::{Served, noise};
use crate::support::Rig;

/// The part that is hydrated, in bytes: a whole number of regions and of strips.
const HYDRATED: usize = 64 << 10;

/// A source whose bytes from [`HYDRATED`] on cannot be had before the other side of `wait` is gone.
struct Stalled {
    wait: Mutex<mpsc::Receiver<()>>,
}

impl ReadData for Stalled {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        if offset >= HYDRATED as u64 {
            let _ = self.wait.lock().unwrap().recv();
        }
        into.fill(7);
        Ok(())
    }
}

impl Source for Stalled {
    fn extent(&self, _: u64) -> std::io::Result<Extent> {
        Ok(Extent { zeroes: false, end: 1 << 20 })
    }
}

/// The first strips of a write are visible while the rest waits. Were they written again with the
/// rest, they would undo what another client has been answered meanwhile.
#[test]
fn what_a_waiting_write_has_written_is_not_written_again_over_what_came_after_it() {
    let rig = Rig::new(Sectors(8), &noise(60, 1 << 20));
    let (release, wait) = mpsc::channel();
    let clone = rig.start_from(Arc::new(Stalled { wait: Mutex::new(wait) }), false);
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

    drop(release);
    assert_eq!(first.reply().error(), None);
    assert!(read(0, 4096) == [2; 4096], "the second write was answered and is gone");
    assert!(read(4096, len - 4096) == vec![1; len - 4096]);
    assert!(read(len, 2048) == [7; 2048]);
    served.clone.stop();
}
