//! Limits on the number of connections: in all, to a clone, and from a peer.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::life::wait_until;
use super::raw::Raw;
use super::served::{Served, noise};
use crate::support::cloned::{Cloned, cloned};
use crate::support::{LONG, List, Rig, volume};
use clone_core::block_io::ReadData;
use clone_core::block_io::{Extent, Source};
use clone_core::driver::RunningClone;
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::{Address, BindOptions, Listener, Server, ServerOptions};
use clone_daemon::nbd_protocol::{command, option, option_reply};
use persistent_data::device::FileDevice;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

/// Three clones exported by TCP. Fields are dropped in the order of their declaration.
struct Three {
    server: Server,
    address: SocketAddr,
    _clones: Vec<RunningClone<FileDevice>>,
    _rigs: Vec<Rig>,
}

const NAMES: [&str; 3] = ["disk", "b", "c"];

impl Three {
    fn new(options: ServerOptions) -> Self {
        let rigs: Vec<Rig> =
            NAMES.iter().map(|_| Rig::new(Sectors(8), &noise(50, 64 << 10))).collect();
        let clones: Vec<_> = rigs.iter().map(|rig| rig.start(false)).collect();
        let all = rigs.iter().zip(&clones).zip(NAMES);
        let volumes = all.map(|((rig, clone), name)| volume(rig, name, clone)).collect();
        let place: Address = "tcp:127.0.0.1:0".parse().unwrap();
        let listeners = Listener::bind(&place, &BindOptions::default()).unwrap();
        let address = listeners[0].tcp_address().unwrap();
        let server = Server::start(listeners, Arc::new(List(volumes)), options).unwrap();
        Self { server, address, _clones: clones, _rigs: rigs }
    }

    /// Connects from the loopback address that ends with `peer`.
    fn greeted(&self, peer: u8) -> Raw<TcpStream> {
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, peer), 0)).unwrap();
        connect(&socket, &self.address).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut raw = Raw::over(stream);
        raw.read_greeting();
        raw.send(&[0, 0, 0, 3]);
        raw
    }

    fn go(&self, peer: u8, name: &str) -> Result<Raw<TcpStream>, String> {
        let mut raw = self.greeted(peer);
        match raw.try_go(name) {
            Ok(()) => Ok(raw),
            Err((kind, why)) => {
                assert_eq!(kind, option_reply::ERR_POLICY);
                assert!(why.contains("--nbd-connections"), "{why}");
                Err(why)
            }
        }
    }

    /// Selects an export as soon as there is room.
    fn go_soon(&self, peer: u8, name: &str) -> Raw<TcpStream> {
        let got = Mutex::new(None);
        wait_until("there is room", || {
            *got.lock().unwrap() = self.go(peer, name).ok();
            got.lock().unwrap().is_some()
        });
        got.into_inner().unwrap().unwrap()
    }
}

#[test]
fn neither_a_peer_nor_a_clone_nor_both_can_take_all_connections() {
    let three = Three::new(ServerOptions { connections_max: 8, ..ServerOptions::default() });
    let mut there: Vec<_> = (0..2).map(|_| three.go(2, "disk").unwrap()).collect();
    // The client learns the reason, and may select another export.
    let mut more = three.greeted(2);
    let (kind, why) = more.try_go("disk").unwrap_err();
    assert!(kind == option_reply::ERR_POLICY && why.contains("a quarter"), "{why}");
    assert_eq!(more.try_go("b"), Ok(()));
    there.push(more);
    there.push(three.go(2, "b").unwrap());
    let why = three.go(2, "c").err().unwrap();
    assert!(why.contains("a peer may have half"), "{why}");
    // Others are served, also by the same clones.
    there.extend((0..2).map(|_| three.go(3, "disk").unwrap()));
    let why = three.go(4, "disk").err().unwrap();
    assert!(why.contains("a clone may have half"), "{why}");
    there.extend((0..2).map(|_| three.go(4, "b").unwrap()));
    let why = three.go(5, "c").err().unwrap();
    assert!(why.contains("the maximum of --nbd-connections is reached"), "{why}");
    // The old option to select an export has no error reply.
    let mut old = three.greeted(5);
    old.send(&Raw::option_bytes(option::EXPORT_NAME, b"c"));
    let mut rest = Vec::new();
    assert_eq!(std::io::Read::read_to_end(&mut old.stream, &mut rest).unwrap_or(0), 0);
    there.iter_mut().for_each(Raw::is_served);
    let figures = three.server.stats();
    assert_eq!(NAMES.map(|name| figures.of(name)), [4, 4, 0]);
    assert_eq!((figures.max(), figures.refused(), figures.evicted()), (8, 5, 0));
    drop(there.swap_remove(0));
    three.go_soon(5, "c").is_served();
    there.iter_mut().for_each(Raw::is_served);
}

#[test]
fn those_that_negotiate_make_way_for_new_ones_of_their_peer_and_others_do_not() {
    let three = Three::new(ServerOptions { connections_max: 8, ..ServerOptions::default() });
    let mut chosen = three.go(2, "disk").unwrap();
    let mut other = three.greeted(3);
    let mut silent: Vec<_> = (0..100).map(|_| three.greeted(2)).collect();
    wait_until("four are left", || three.server.stats().handshakes() == 5);
    assert_eq!(three.server.stats().refused(), 96);
    // The others were there before, or belong to another peer.
    other.try_go("disk").unwrap();
    other.is_served();
    let mut last = silent.pop().unwrap();
    last.try_go("b").unwrap();
    last.is_served();
    chosen.is_served();
    // With further peers there are too many in all; the peer with the most loses some.
    let others: Vec<_> = (4..9).map(|peer| three.greeted(peer)).collect();
    wait_until("eight are left", || three.server.stats().handshakes() == 8);
    for mut raw in others {
        raw.try_go("c").unwrap();
        raw.is_served();
    }
}

#[test]
fn one_that_is_idle_makes_way_only_where_a_limit_is_reached_and_nothing_is_under_way() {
    let unused_max = Duration::ZERO;
    let options = ServerOptions { connections_max: 4, unused_max, ..ServerOptions::default() };
    let three = Three::new(options);
    let mut elsewhere = three.go(2, "b").unwrap();
    let mut unused = three.go(2, "disk").unwrap();
    let mut used = three.go_soon(2, "disk");
    let mut rest = Vec::new();
    assert_eq!(std::io::Read::read_to_end(&mut unused.stream, &mut rest).unwrap_or(0), 0);
    used.is_served();
    elsewhere.is_served();
    assert_eq!(three.server.stats().evicted(), 1);
    // This one has not been silent for a day.
    for _ in 0..3 {
        assert!(three.go(2, "disk").is_err());
    }
    used.is_served();
}

#[test]
fn one_with_a_request_under_way_makes_no_way_however_long_it_waits() {
    let options = ServerOptions {
        connections_max: 1,
        unused_max: Duration::ZERO,
        idle_max: Duration::ZERO,
        ..ServerOptions::default()
    };
    let served = Served::with(Rig::new(Sectors(8), &noise(51, 64 << 10)), options);
    let mut waits = Raw::chosen(served.connect(), &[]);
    served.clone.suspend().unwrap();
    waits.request((0, command::READ), 1, 0, 4096);
    wait_until("it has come", || served.volume.stats().in_flight() == 1);
    for _ in 0..3 {
        assert!(Raw::greeted(served.connect()).try_go("disk").is_err());
    }
    let _ = served.clone.resume();
    assert_eq!((waits.reply().error(), waits.receive(4096).len()), (None, 4096));
    // From now on it is idle, and is closed after some time.
    wait_until("it makes way", || Raw::greeted(served.connect()).try_go("disk").is_ok());
    assert!(waits.hung_up().is_empty());
}

/// A source that reports no extent until the sender of `wait` is dropped.
struct Mute {
    wait: Mutex<mpsc::Receiver<()>>,
    asked: mpsc::Sender<()>,
}

impl ReadData for Mute {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, _: u64, into: &mut [u8]) -> std::io::Result<()> {
        into.fill(7);
        Ok(())
    }
}

impl Source for Mute {
    fn extent(&self, _: u64) -> std::io::Result<Extent> {
        let _ = self.asked.send(());
        let _ = self.wait.lock().unwrap().recv();
        Ok(Extent { zeroes: false, end: 1 << 20 })
    }
}

#[test]
fn a_server_does_not_wait_for_a_source_that_says_nothing_and_replies_do_not_either() {
    let rig = Rig::new(Sectors(8), &noise(52, 1 << 20));
    let ((release, wait), (asked, is_asked)) = (mpsc::channel(), mpsc::channel());
    let source = Mute { wait: Mutex::new(wait), asked };
    let clone = rig.start_from(Arc::new(source), false);
    let grace = Duration::from_millis(50);
    let options = ServerOptions { grace, ..ServerOptions::default() };
    let served = Served::of(rig, clone, options);
    let mut raw = Raw::chosen(served.connect(), &[option::STRUCTURED_REPLY]);
    let cheap = Raw::request_bytes(false, (0, 99), 1, 0, 0);
    let long = Raw::request_bytes(false, (0, command::READ), 2, 0, 128 << 10);
    raw.send(&[cheap, long].concat());
    // The earlier request is answered although the source has not reported its holes.
    is_asked.recv_timeout(LONG).unwrap();
    assert_eq!(raw.reply().cookie, 1);
    let Served { server, clone, rig: _rig, .. } = served;
    let (stopped, has_stopped) = mpsc::channel();
    let stopping = thread::spawn(move || {
        server.stop();
        stopped.send(()).unwrap();
    });
    has_stopped.recv_timeout(LONG).unwrap();
    stopping.join().unwrap();
    assert!(raw.hung_up().is_empty());
    drop(release);
    clone.stop();
}

#[test]
fn a_full_server_lets_others_connect_and_tells_them_at_once() {
    let options = ServerOptions { connections_max: 1, ..ServerOptions::default() };
    let served = Served::with(Rig::new(Sectors(8), &noise(53, 64 << 10)), options);
    let mut only = Raw::chosen(served.connect(), &[]);
    for _ in 0..200 {
        let mut raw = Raw::greeted(served.connect());
        assert_eq!(raw.try_go("disk").unwrap_err().0, option_reply::ERR_POLICY);
        // Exports are listed nevertheless.
        assert_eq!(raw.option(option::LIST, &[]).len(), 2);
    }
    only.is_served();
    // A connection that has not ended when the next one arrives may be cut, which counts too.
    assert!(served.server.stats().refused() >= 200);
}

#[test]
fn the_daemon_says_which_limit_was_reached_and_counts_the_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("source"), noise(54, 64 << 10)).unwrap();
    let arguments = "run -m meta -d disk -s source --no-hydration --control none --nbd unix:nbd \
                     --nbd-connections 4 --metrics tcp:127.0.0.1:0";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let mut daemon = Cloned::spawn(cloned(folder.path(), &arguments));
    let line = daemon.wait_for("metrics at http://");
    let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).unwrap().0;
    daemon.wait_for("serving ");
    let connect = || UnixStream::connect(folder.path().join("nbd")).unwrap();
    let mut only = Raw::chosen(connect(), &[]);
    let (kind, why) = Raw::greeted(connect()).try_go("disk").unwrap_err();
    assert_eq!(kind, option_reply::ERR_POLICY);
    assert!(why.contains("a quarter of --nbd-connections"), "{why}");
    let told = daemon.wait_for("refused an NBD client");
    assert!(told.contains("a quarter") && told.contains("--nbd-connections, now 4"), "{told}");
    only.is_served();
    let mut scrape = TcpStream::connect(address).unwrap();
    let mut metrics = String::new();
    std::io::Write::write_all(&mut scrape, b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    std::io::Read::read_to_string(&mut scrape, &mut metrics).unwrap();
    for line in [
        "cloned_nbd_connections{clone=\"disk\"} 1",
        "cloned_nbd_connections_max 4",
        "cloned_nbd_connections_refused_total 1",
        "cloned_nbd_connections_evicted_total 0",
    ] {
        assert!(metrics.lines().any(|told| told == line), "{line}\n{metrics}");
    }
    assert!(daemon.stop().success());
}
