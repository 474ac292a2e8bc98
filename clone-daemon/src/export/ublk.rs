//! A clone as a block device, `/dev/ublkbN`, by the kernel's ublk driver (Linux 6.0 and later, with
//! `CONFIG_BLK_DEV_UBLK`). Only root can do it.
//!
//! `Documentation/block/ublk.rst` of the kernel is what this follows: requests come by io_uring,
//! and the driver copies their data to and from buffers that are ours. Whether a request needs a
//! copy is the clone's affair; see [`queue`] for who does what.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, Builder, JoinHandle};

use thiserror::Error;

use crate::export::ublk::control::Control;
use crate::export::ublk::queue::Queue;
use crate::export::ublk::wire::{DeviceInfo, Params};
use crate::export::volume::Volume;

pub use self::exporter::UblkExporter;

mod control;
mod exporter;
mod queue;
mod wire;

/// The most queues, each of which has a thread. The kernel gives every processor one of them.
const QUEUES_MAX: usize = 4;

/// Why there is no block device, or still is.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UblkError {
    /// The driver cannot be reached.
    #[error("{} cannot be used: is the module ublk_drv loaded, and is this root?", wire::CONTROL)]
    Control(#[source] io::Error),
    /// The driver refuses something.
    #[error("the ublk driver cannot {what}")]
    Refused {
        /// What it was asked for.
        what: &'static str,
        /// What it says.
        source: io::Error,
    },
    /// A queue cannot be served.
    #[error("requests to {} cannot be served", .path.display())]
    Queue {
        /// The device that they would have gone to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is mounted, or the kernel uses it.
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
}

/// A clone that is there as a block device.
///
/// When it is dropped it is stopped, even if it is in use: whoever uses it then gets errors. It
/// must not be stopped while the clone is suspended: that waits for requests that are under way.
///
/// If the process dies the kernel removes the block device within some seconds.
pub struct Export {
    control: Control,
    id: u32,
    path: PathBuf,
    queues: Vec<JoinHandle<()>>,
    is_there: bool,
}

impl Export {
    /// Makes the clone a block device.
    ///
    /// # Errors
    /// [`UblkError`]. There is none then.
    pub fn start(volume: &Volume) -> Result<Self, UblkError> {
        let refused = |what| move |source| UblkError::Refused { what, source };
        let mut control = Control::open().map_err(UblkError::Control)?;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let wanted = DeviceInfo::wanted(threads.min(QUEUES_MAX) as u16);
        let info = control.add(wanted).map_err(refused("make a device"))?;
        let path = PathBuf::from(format!("/dev/ublkb{}", info.dev_id));
        let (id, queues) = (info.dev_id, Vec::new());
        let mut export = Self { control, id, path, queues, is_there: true };
        let params = Params::of(volume.size_bytes(), volume.region_bytes(), volume.block_bytes());
        export.control.set_params(id, params).map_err(refused("make a device like this"))?;
        export
            .serve(volume, info)
            .map_err(|source| UblkError::Queue { path: export.path.clone(), source })?;
        export.control.start(id).map_err(refused("start a device"))?;
        Ok(export)
    }

    /// Starts the threads that serve it, and waits until each of them takes requests.
    fn serve(&mut self, volume: &Volume, info: DeviceInfo) -> io::Result<()> {
        let requests = format!("/dev/ublkc{}", self.id);
        let device = Arc::new(OpenOptions::new().read(true).write(true).open(requests)?);
        let (ready, wait) = mpsc::channel();
        for number in 0..info.nr_hw_queues {
            let (device, user, ready) = (device.clone(), volume.user(), ready.clone());
            let is_encoded = self.control.is_encoded();
            let thread = Builder::new().name(format!("ublk-{number}"));
            self.queues.push(thread.spawn(move || {
                match Queue::new(device, info, number, user, is_encoded) {
                    Ok(mut queue) => {
                        // Whoever does not wait for it any more stops it at once.
                        let _ = ready.send(Ok(()));
                        drop(ready);
                        queue.run();
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?);
        }
        drop(ready);
        wait.iter().collect()
    }

    /// The block device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the block device, if neither a file system nor another device uses it. Programs that
    /// merely have it open get errors. What was flushed is durable.
    ///
    /// # Errors
    /// [`UblkError::Busy`]: it goes on then. [`UblkError::Refused`].
    pub fn stop(&mut self) -> Result<(), UblkError> {
        if !self.is_there {
            return Ok(());
        }
        // What is mounted is claimed, and so cannot be claimed by us.
        let claim = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&self.path);
        if claim.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            return Err(UblkError::Busy(self.path.clone()));
        }
        drop::<io::Result<File>>(claim);
        self.halt().map_err(|source| UblkError::Refused { what: "remove a device", source })
    }

    fn halt(&mut self) -> io::Result<()> {
        if !self.is_there {
            return Ok(());
        }
        self.is_there = false;
        self.control.stop(self.id)?;
        for queue in self.queues.drain(..) {
            // What it panicked of has been told.
            let _ = queue.join();
        }
        // That waits until nobody has the device of the requests open any more.
        self.control.delete(self.id)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // There is nobody to tell, and the kernel removes it when the process ends.
        let _ = self.halt();
    }
}
