//! The control socket, without clonectl.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::support::hosting::{Hosting, LONG, answer};
use clone_daemon::control::CONNECTIONS_MAX;
use clone_daemon::control::line::{LINE_MAX, write};
use clone_daemon::control::protocol::{ErrorKind, Item, Reply, Request, Verb};

fn status(name: &str) -> Verb {
    Verb::Status { name: Some(name.into()), flush: true }
}

fn wait(after: u64) -> Verb {
    Verb::Wait { name: "disk".into(), after }
}

fn kind(reply: &Reply) -> ErrorKind {
    reply.error.as_ref().expect("a refusal").kind
}

#[test]
fn who_waits_holds_up_nobody_and_hears_of_it_when_it_happens() {
    let hosting = Hosting::new(&["disk"]);
    let waiting = hosting.connect();
    waiting.send(wait(0));
    let other = hosting.connect();
    assert!(other.ask(status("disk")).1.end);
    assert!(other.ask(Verb::Suspend { name: "disk".into() }).1.end);
    let (events, end) = answer(&mut waiting.lines());
    assert!(end.end);
    let [Reply { item: Some(Item::Event(event)), .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((&*event.name, event.number, &*event.what), ("disk", 1, "suspended"));
    // A connection serves one request after another.
    waiting.send(wait(1));
    assert!(other.ask(Verb::Resume { name: "disk".into() }).1.end);
    assert_eq!(answer(&mut waiting.lines()).0.len(), 1);
}

#[test]
fn a_wait_ends_with_the_clone_and_with_the_daemon() {
    let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "other"];
    let mut hosting = Hosting::new(&names);
    let other = hosting.connect();
    // It cannot be seen whether the wait has begun when the clone is removed. A request for a clone
    // that is gone, or about to be, is refused: then the next attempt has twice the time.
    let waited = names[..9].iter().enumerate().find_map(|(tries, name)| {
        let name = String::from(*name);
        let waiting = hosting.connect();
        // The last event of the clone is that it is suspended.
        waiting.send(Verb::Wait { name: name.clone(), after: 1 });
        thread::sleep(Duration::from_millis(50 << tries));
        assert!(other.ask(Verb::Remove { name }).1.end);
        let kind = kind(&answer(&mut waiting.lines()).1);
        (kind == ErrorKind::Stopped).then_some(waiting)
    });
    let waiting = waited.expect("a wait that ends with its clone");

    waiting.send(Verb::Events { name: Some("other".into()), follow: true });
    assert!(other.ask(status("other")).1.end);
    hosting.stop_server();
    let mut lines = waiting.lines();
    while lines.next::<Reply>(LONG, LONG).is_ok_and(|reply| reply.is_some()) {}
    assert!(!hosting.socket().exists());
}

#[test]
fn what_is_no_request_is_refused_and_nobody_else_notices() {
    let hosting = Hosting::new(&["disk"]);
    let long = vec![b' '; LINE_MAX];
    for bad in [&b"{\n"[..], b"[]\n", b"{\"v\":1,\"verb\":\"fly\"}\n", b"\xff\n", &long] {
        let peer = hosting.connect();
        (&peer.0).write_all(bad).unwrap();
        assert_eq!(kind(&answer(&mut peer.lines()).1), ErrorKind::Request);
    }
    let cut = hosting.connect();
    (&cut.0).write_all(b"{\"v\":1").unwrap();
    cut.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(kind(&answer(&mut cut.lines()).1), ErrorKind::Request);

    let peer = hosting.connect();
    (&peer.0).write_all(b"{\"v\":2,\"verb\":\"reload\"}\n").unwrap();
    let (_, refused) = answer(&mut peer.lines());
    assert!(refused.error.unwrap().message.contains("version 1"));
    assert_eq!(kind(&peer.ask(status("tape")).1), ErrorKind::NoClone);
    let message = Verb::Message { name: "disk".into(), message: "fly".into() };
    assert_eq!(kind(&peer.ask(message).1), ErrorKind::Message);
    assert!(peer.ask(status("disk")).1.end);
}

#[test]
fn too_many_who_wait_are_told_so_and_there_is_room_again_when_one_has_gone() {
    let hosting = Hosting::new(&["disk"]);
    let mut peers: Vec<_> = (0..CONNECTIONS_MAX).map(|_| hosting.connect()).collect();
    for peer in &peers {
        // Each peer receives an event and follows, so all are served, not only connecting.
        peer.send(Verb::Events { name: None, follow: true });
    }
    hosting.host.get("disk").unwrap().running().suspend().unwrap();
    for peer in &peers {
        assert!(peer.lines().next::<Reply>(LONG, LONG).unwrap().is_some());
    }
    let refused = hosting.connect();
    assert_eq!(kind(&answer(&mut refused.lines()).1), ErrorKind::Busy);
    peers.pop();
    let served = || {
        let peer = hosting.connect();
        // A refused connection may be closed before it sends a request.
        let asked = write(&mut &peer.0, &Request::new(status("disk")));
        let reply = peer.lines().next::<Reply>(LONG, LONG);
        asked.is_ok() && reply.is_ok_and(|reply| reply.is_some_and(|reply| reply.item.is_some()))
    };
    // The server thread of the closed connection notices this later.
    while !served() {
        std::thread::yield_now();
    }
}

#[test]
fn those_who_ask_for_nothing_make_way_for_those_who_do_and_those_who_wait_stay() {
    let hosting = Hosting::new(&["disk"]);
    hosting.host.get("disk").unwrap().running().suspend().unwrap();
    let waiting = hosting.connect();
    waiting.send(Verb::Events { name: None, follow: true });
    let mut events = waiting.lines();
    // It waits for the next event.
    assert!(events.next::<Reply>(LONG, LONG).unwrap().is_some());
    let idle: Vec<_> = (0..2 * CONNECTIONS_MAX).map(|_| hosting.connect()).collect();
    assert!(hosting.clonectl(&["status", "disk"]).text().starts_with("0 2048 clone"));
    // The connection that was idle for longest has been closed.
    assert_eq!(idle[0].lines().next::<Reply>(LONG, LONG).unwrap(), None);
    assert!(idle.last().unwrap().ask(Verb::Resume { name: "disk".into() }).1.end);
    assert!(events.next::<Reply>(LONG, LONG).unwrap().is_some());
}

#[test]
fn a_snapshot_shows_what_is_hydrated_and_what_was_asked() {
    let hosting = Hosting::new(&["disk"]);
    let peer = hosting.connect();
    let message = Verb::Message { name: "disk".into(), message: "hydrate 0 512k".into() };
    assert!(peer.ask(message).1.end);
    let snapshot = || {
        let (items, _) = peer.ask(Verb::Snapshot { name: "disk".into(), cells: 16 });
        match items.into_iter().next().and_then(|reply| reply.item) {
            Some(Item::Snapshot(snapshot)) => *snapshot,
            other => panic!("{other:?}"),
        }
    };
    let shown = loop {
        let shown = snapshot();
        if shown.clone.hydrated_regions == 128 {
            break shown;
        }
        std::thread::yield_now();
    };
    assert_eq!((&*shown.cells, shown.cell_regions), ("9999999900000000", 16));
    assert_eq!(shown.fetched_bytes, 512 << 10);
    assert!(shown.source.ends_with("/source"), "{}", shown.source);

    let volume = hosting.host.find("disk").unwrap().volume().clone();
    let mut bytes = [0; 8192];
    assert_eq!(volume.user().read_now(4096, &mut bytes), Some(Ok(())));
    let read = snapshot().requests["read"];
    assert_eq!((read.count, read.bytes, read.failed), (1, 8192, 0));
}
