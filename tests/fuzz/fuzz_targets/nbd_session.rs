//! Any bytes as the stream of an NBD client: the server answers or hangs up, and releases its
//! buffers.

#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};
use std::thread;

use clone_core::driver::RunningClone;
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::{Server, ServerOptions};
use clone_daemon::export::volume::Volume;
use clone_fuzz::memory::{Memory, One, start};
use libfuzzer_sys::fuzz_target;
use persistent_data::sim::SimDisk;

const SIZE: Sectors = Sectors(512);

/// Maximum number of bytes that a connection holds in buffers.
const BUFFERS_MAX: u64 = 64 << 20;

/// The clone is shared by all inputs, with the data that they have written.
static SERVED: LazyLock<(RunningClone<SimDisk>, Server)> = LazyLock::new(|| {
    let bytes = (SIZE.0 * 512) as usize;
    let clone = start(SIZE, Arc::new(Memory::new(vec![7; bytes])));
    let volume = Arc::new(Volume::new("disk", 4096, clone.client()));
    let server = Server::start(Vec::new(), Arc::new(One(volume)), ServerOptions::default());
    (clone, server.expect("there are threads"))
});

fuzz_target!(|stream: &[u8]| {
    let (_, server) = &*SERVED;
    let (mut client, theirs) = UnixStream::pair().expect("there are sockets");
    let mut replies = client.try_clone().expect("there are files");
    server.serve(theirs).expect("there are threads");
    let reader = thread::spawn(move || {
        let mut told = Vec::new();
        // Unread data is reported as a connection reset.
        let _ = replies.read_to_end(&mut told);
        told.len()
    });
    // The server may hang up at any time.
    let _ = client.write_all(stream);
    let _ = client.shutdown(Shutdown::Write);
    assert!(server.buffer_bytes() <= BUFFERS_MAX);
    assert!(reader.join().expect("it does not panic") >= 18, "there is no greeting");
    while server.connections() > 0 {
        thread::yield_now();
    }
});
