//! Any bytes as what an NBD client sends: the server answers or hangs up, and keeps nothing.

#![no_main]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use clone_core::content::ReadData;
use clone_core::driver::{Destination, Devices, DriverOptions, Extent, RunningClone, Source};
use clone_core::engine::Settings;
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use clone_core::ir::Header;
use clone_core::metadata::Metadata;
use clone_core::restore::MetadataSize;
use clone_daemon::nbd::server::{Server, ServerOptions};
use clone_daemon::volume::{Volume, Volumes};
use libfuzzer_sys::fuzz_target;
use persistent_data::sim::SimDisk;

const SIZE: Sectors = Sectors(512);

/// The most that one connection has in buffers.
const BUFFERS_MAX: u64 = 64 << 20;

/// The clone goes on from one input to the next, with what was written to it.
static SERVED: LazyLock<(RunningClone<SimDisk>, Server)> = LazyLock::new(|| {
    let geometry = Geometry::new(RegionSize::new(Sectors(8)).expect("8 sectors"), SIZE);
    let geometry = geometry.expect("it is small");
    let blocks = MetadataSize::of(geometry).total_blocks() as usize;
    let header = Header { uuid: [0; 16], geometry };
    let metadata = Metadata::format(SimDisk::new(blocks), header).expect("it is blank");
    let bytes = (SIZE.0 * 512) as usize;
    let devices = Devices {
        metadata,
        source: Arc::new(Memory::new(vec![7; bytes])),
        destination: Arc::new(Memory::new(vec![0xee; bytes])),
    };
    let clone = RunningClone::start(devices, Settings::default(), DriverOptions::default());
    let clone = clone.expect("there are threads");
    let volume = Arc::new(Volume::new("disk", 4096, clone.client()));
    let server = Server::start(Vec::new(), Arc::new(One(volume)), ServerOptions::default());
    (clone, server.expect("there are threads"))
});

struct One(Arc<Volume>);

impl Volumes for One {
    fn names(&self) -> Vec<String> {
        vec![self.0.name().into()]
    }

    fn find(&self, name: &str) -> Option<Arc<Volume>> {
        ["", self.0.name()].contains(&name).then(|| self.0.clone())
    }
}

/// A device in memory. What is zeroes is known of whole pages.
struct Memory(Mutex<Vec<u8>>);

const PAGE: usize = 4096;

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, offset: u64) -> Extent {
        let bytes = self.bytes();
        let at = offset as usize;
        let page = at / PAGE * PAGE;
        let end = (page + PAGE).min(bytes.len());
        Extent { zeroes: bytes[page..end].iter().all(|&byte| byte == 0), end: end as u64 }
    }
}

impl ReadData for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.bytes()[offset as usize..][..into.len()]);
        Ok(())
    }
}

impl Source for Memory {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        Ok(self.known(offset))
    }
}

impl Destination for Memory {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        Ok(self.known(offset))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.bytes()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _deallocate: bool) -> io::Result<()> {
        self.bytes()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.zero(range, true)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|stream: &[u8]| {
    let (_, server) = &*SERVED;
    let (mut client, theirs) = UnixStream::pair().expect("there are sockets");
    let mut replies = client.try_clone().expect("there are files");
    server.serve(theirs).expect("there are threads");
    let reader = thread::spawn(move || {
        let mut told = Vec::new();
        // What was not read is told as a reset.
        let _ = replies.read_to_end(&mut told);
        told.len()
    });
    // It may hang up at any time.
    let _ = client.write_all(stream);
    let _ = client.shutdown(Shutdown::Write);
    assert!(server.buffer_bytes() <= BUFFERS_MAX);
    assert!(reader.join().expect("it does not panic") >= 18, "there is no greeting");
    while server.connections() > 0 {
        thread::yield_now();
    }
});
