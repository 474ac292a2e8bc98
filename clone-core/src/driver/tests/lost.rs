//! A clone whose destination loses stored data.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::{Bench, Clone, REGION};
use crate::block_io::{Access, FileDestination};
use crate::dm_target::Status;
use crate::driver::{Client, Devices, DriverOptions, RunningClone};
use crate::engine::{Device, Event, EventKind, Failure, RequestError};
use crate::metadata::Metadata;

const SIZE: u64 = 64 * REGION;

/// The request of the first user that events.
type First = fn(&Client) -> Result<(), RequestError>;

/// Waits until the clone reports that it has failed.
fn failure_of(clone: &Clone) -> Failure {
    let mut last = 0;
    loop {
        let events = clone.wait_for(last, Duration::from_secs(300));
        assert!(!events.is_empty(), "nothing is told");
        for Event { number, kind } in events {
            last = number;
            if let EventKind::Failed(failure) = kind {
                return failure;
            }
        }
    }
}

#[test]
fn a_clone_whose_destination_is_cut_off_fails_says_so_and_commits_nothing_more() {
    let read: First = |client| client.read(40 * REGION, &mut [0; 512]);
    let flush: First = |client| client.flush();
    let fill: First = |client| client.write(50 * REGION, &[3; REGION as usize], true);
    let ask: First = |client| match client.extent(&(40 * REGION..SIZE)) {
        Ok(_) => Ok(()),
        Err(_) => Err(RequestError::Device(Device::Destination)),
    };
    for first in [read, flush, fill, ask] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("destination");
        let file = File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        let mut bench = Bench::new(SIZE);
        let metadata = bench.metadata.take().unwrap();
        let destination = FileDestination::open(&path, Access::Buffered).unwrap();
        let devices =
            Devices { metadata, source: bench.source.clone(), destination: Arc::new(destination) };
        let clone = RunningClone::start(devices, bench.settings, DriverOptions::default()).unwrap();
        let client = clone.client();
        client.write(0, &vec![1; 32 * REGION as usize], false).unwrap();
        client.write(40 * REGION, &[2; REGION as usize], true).unwrap();

        file.set_len(16 * REGION).unwrap();
        first(&client).unwrap_err();
        let failure = failure_of(&clone);
        assert_eq!(failure.device, Device::Destination);
        let path = path.display();
        let how = format!("{path} has become shorter: it had {SIZE} bytes when it was opened, and");
        assert!(failure.reason.starts_with(&how), "{failure}");
        assert_eq!(clone.status_now(), Status::Fail);
        // It does not recover.
        file.set_len(SIZE).unwrap();
        let failed = Err(RequestError::Failed);
        assert_eq!(client.read(0, &mut [0; 512]), failed);
        assert_eq!(client.write(0, &[1; 512], false), failed);
        assert_eq!(client.write(60 * REGION, &[1; REGION as usize], true), failed);
        assert_eq!(client.flush(), failed);
        let stopped = clone.stop();
        assert_eq!(stopped.failure.map(|failure| failure.device), Some(Device::Destination));
        drop(stopped.metadata);
        let metadata = Metadata::open(bench.metadata_device.clone()).unwrap();
        let hydrated: Vec<_> = (0..64).filter(|&region| metadata.is_hydrated(region)).collect();
        let expected: Vec<_> = (0..32).chain([40]).collect();
        assert_eq!(hydrated, expected);
    }
}
