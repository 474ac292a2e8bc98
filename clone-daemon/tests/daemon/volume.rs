//! A volume and its users.

use std::sync::mpsc;

use crate::support::{List, Rig, volume};
use clone_core::engine::{Operation, RequestError};
use clone_core::geometry::Sectors;
use clone_daemon::export::stats::Kind;
use clone_daemon::export::volume::Volumes;

#[test]
fn what_is_hydrated_is_done_at_once_and_the_rest_is_submitted_and_all_is_counted() {
    let rig = Rig::new(Sectors(8), &[7; 64 << 10]);
    let clone = rig.start(false);
    let volume = volume(&rig, "disk", &clone);
    let user = volume.user();
    let mut bytes = [0; 4096];
    assert_eq!(user.read_now(0, &mut bytes), None);
    let (done, wait) = mpsc::channel();
    let write = done.clone();
    user.submit(Operation::Write, 0..4096, true, vec![1; 4096], move |result, _| {
        write.send((result, Vec::new())).unwrap();
    });
    assert_eq!(wait.recv().unwrap().0, Ok(()));
    user.submit(Operation::Read, 4090..4100, false, vec![0; 10], move |result, bytes| {
        done.send((result, bytes)).unwrap();
    });
    assert_eq!(wait.recv().unwrap(), (Ok(()), [[1; 6].to_vec(), [7; 4].to_vec()].concat()));
    assert_eq!(user.read_now(0, &mut bytes), Some(Ok(())));
    assert_eq!(bytes, [1; 4096]);
    assert_eq!(user.hydrated(&(0..64 << 10)), Some((true, 4096)));

    let count = |kind, hydrated| {
        volume.stats().counts(kind, hydrated).bytes.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!((count(Kind::Read, true), count(Kind::Read, false)), (4096, 10));
    assert_eq!((count(Kind::Write, true), count(Kind::Write, false)), (0, 4096));
    clone.stop();
    assert_eq!(rig.destination()[..4097], [[1; 4096].to_vec(), vec![0xee]].concat());
    let (done, wait) = mpsc::channel();
    user.submit(Operation::Flush, 0..0, false, Vec::new(), move |result, _| {
        done.send(result).unwrap();
    });
    assert_eq!(wait.recv().unwrap(), Err(RequestError::Stopped));
    let list = List(vec![volume]);
    assert_eq!(list.names(), ["disk"]);
    assert!(list.find("").is_some() && list.find("disk").is_some() && list.find("x").is_none());
}
