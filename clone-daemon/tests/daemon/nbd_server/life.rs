//! Start and stop of servers, and changes of their volumes.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::raw::Raw;
use super::served::{Served, listen, noise, output};
use crate::support::{LONG, List, Rig, volume};
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::{BindOptions, Listener, Server, ServerOptions};
use clone_daemon::export::volume::{Volume, Volumes};
use clone_daemon::nbd_protocol::{command, errno, option, option_reply};

/// A list of volumes that changes.
struct Changing(Mutex<List>);

impl Volumes for Changing {
    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().names()
    }

    fn find(&self, name: &str) -> Option<Arc<Volume>> {
        self.0.lock().unwrap().find(name)
    }
}

/// Waits until a condition is true.
pub(super) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_connections_of_a_volume_that_was_removed_end_and_those_of_others_do_not() {
    let content = noise(12, 64 << 10);
    let rigs = [Rig::new(Sectors(8), &content), Rig::new(Sectors(8), &content)];
    let clones = rigs.each_ref().map(|rig| rig.start(false));
    let volumes = vec![volume(&rigs[0], "disk", &clones[0]), volume(&rigs[1], "b", &clones[1])];
    let volumes = Arc::new(Changing(Mutex::new(List(volumes))));
    let socket = rigs[0].path("socket");
    let connect = || std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let server = Server::start(listen(&socket), volumes.clone(), ServerOptions::default()).unwrap();
    let mut removed = Raw::chosen(connect(), &[]);
    let mut other = Raw::greeted(connect());
    other.option(option::GO, b"\0\0\0\x01b\0\0");
    let mut negotiating = Raw::greeted(connect());
    assert_eq!(server.connections(), 3);
    volumes.0.lock().unwrap().0.remove(0);
    server.disconnect("disk");
    assert!(removed.hung_up().is_empty());
    other.is_served();
    let told = negotiating.option(option::GO, b"\0\0\0\x04disk\0\0");
    assert_eq!(told[0].0, option_reply::ERR_UNKNOWN);
    negotiating.option(option::GO, b"\0\0\0\0\0\0");
    negotiating.is_served();
    wait_until("it is gone", || server.connections() == 2);
    server.stop();
    assert!(!socket.exists());
    assert!(negotiating.hung_up().is_empty());
}

#[test]
fn requests_under_way_are_answered_when_the_server_stops() {
    let options = ServerOptions { grace: LONG, ..ServerOptions::default() };
    let served = Served::with(Rig::new(Sectors(8), &noise(13, 1 << 20)), options);
    let mut raw = Raw::chosen(served.connect(), &[]);
    served.clone.suspend().unwrap();
    for cookie in 0..20 {
        raw.request((0, command::READ), cookie, cookie * 4096, 4096);
    }
    wait_until("all have come", || served.volume.stats().in_flight() == 20);
    let Served { server, clone, rig: _rig, .. } = served;
    let (stopped, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        server.stop();
        stopped.send(()).unwrap();
    });
    clone.resume().unwrap();
    let mut cookies: Vec<u64> = (0..20)
        .map(|_| {
            let reply = raw.reply();
            raw.receive(4096);
            reply.cookie
        })
        .collect();
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..20));
    assert!(raw.hung_up().is_empty());
    wait.recv_timeout(LONG).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_server_stops_though_nothing_is_answered_and_nobody_reads() {
    let options = ServerOptions { grace: Duration::from_millis(50), ..ServerOptions::default() };
    let served = Served::with(Rig::new(Sectors(8), &noise(14, 4 << 20)), options);
    served.clone.client().hydrate(0..2 << 20).unwrap();
    // A client that does not read its replies.
    let mut deaf = Raw::chosen(served.connect(), &[]);
    for cookie in 0..100 {
        deaf.request((0, command::READ), cookie, 0, 1 << 20);
    }
    served.clone.suspend().unwrap();
    // A client that waits for a reply that will not arrive.
    let mut waiting = Raw::chosen(served.connect(), &[]);
    waiting.request((0, command::READ), 1, 2 << 20, 4096);
    wait_until("it has come", || served.volume.stats().in_flight() == 1);
    // A client that sends nothing, and one that does not even negotiate.
    let _silent = [Raw::chosen(served.connect(), &[]), Raw::greeted(served.connect())];
    let Served { server, clone, rig: _rig, .. } = served;
    server.stop();
    assert!(waiting.hung_up().is_empty());
    clone.resume().unwrap();
    clone.stop();
}

#[test]
fn a_clone_that_was_stopped_says_so_to_its_clients() {
    let served = Served::new(&noise(15, 64 << 10));
    let mut raw = Raw::chosen(served.connect(), &[option::STRUCTURED_REPLY]);
    let Served { server, clone, rig: _rig, .. } = served;
    clone.stop();
    raw.request((0, command::FLUSH), 1, 0, 0);
    let reply = raw.reply();
    assert_eq!(reply.error(), Some(errno::ESHUTDOWN));
    assert!(String::from_utf8_lossy(&reply.data[6..]).contains("stopped"));
    drop(server);
    assert!(raw.hung_up().is_empty());
}

#[test]
fn a_server_serves_several_sockets_and_those_of_tcp_too() {
    let served = Served::new(&noise(16, 64 << 10));
    let loopback = "tcp:127.0.0.1:0".parse().unwrap();
    let mut listeners = Listener::bind(&loopback, &BindOptions::default()).unwrap();
    let address = listeners[0].tcp_address().unwrap();
    let second = served.rig.path("second");
    listeners.extend(listen(&second));
    let volumes = Arc::new(List(vec![served.volume.clone()]));
    let server = Server::start(listeners, volumes, ServerOptions::default()).unwrap();
    for uri in [
        format!("nbd://{address}/disk"),
        format!("nbd://{address}"),
        format!("nbd+unix:///?socket={}", second.display()),
    ] {
        let Some(told) = output("nbdinfo", &["--size", &uri]) else { return };
        assert_eq!(String::from_utf8_lossy(&told.stdout), "65536\n", "{uri}");
    }
    server.stop();
    assert!(TcpStream::connect(address).is_err());
}
