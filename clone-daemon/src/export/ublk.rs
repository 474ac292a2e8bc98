//! A clone as a block device, `/dev/ublkbN`, by the kernel's ublk driver (Linux 6.0 and later, with
//! `CONFIG_BLK_DEV_UBLK`). Only root can use it.
//!
//! It follows `Documentation/block/ublk.rst` of the kernel: requests arrive by io_uring, and the
//! driver copies their data to and from buffers of this process. [`Export`] controls the device by
//! `control`, and each thread of it serves a [`queue`].

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

/// Maximum number of queues, each with a thread. The kernel assigns one of them to each processor.
const QUEUES_MAX: usize = 4;

/// An error of an [`Export`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UblkError {
    /// The control device cannot be used.
    #[error("{} cannot be used: is the module ublk_drv loaded, and is this root?", wire::CONTROL)]
    Control(#[source] io::Error),
    /// The driver refused a command.
    #[error("the ublk driver cannot {what}")]
    Refused {
        /// The refused operation.
        what: &'static str,
        /// The error of the driver.
        source: io::Error,
    },
    /// A queue cannot be set up.
    #[error("requests to {} cannot be served", .path.display())]
    Queue {
        /// The block device.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The device is mounted, or in use by the kernel.
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
}

/// A clone exported as a block device.
///
/// Dropping it stops it even if the device is in use; its users get errors then. It must not be
/// stopped while the clone is suspended, because that waits for the requests in flight.
///
/// If the process dies, the kernel removes the block device within some seconds.
pub struct Export {
    control: Control,
    id: u32,
    path: PathBuf,
    queues: Vec<JoinHandle<()>>,
    is_there: bool,
}

impl Export {
    /// Exports a clone as a block device.
    ///
    /// # Errors
    /// - [`UblkError::Control`]: the control device cannot be used.
    /// - [`UblkError::Refused`]: the driver does not create, configure or start a device.
    /// - [`UblkError::Queue`]: a queue cannot be set up.
    ///
    /// Then no device is left.
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

    /// Starts the threads of the queues, and waits until each of them takes requests.
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
                        // The receiver is gone if another queue failed; the device stops then.
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

    /// Returns the path of the block device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the block device, unless a file system or another device uses it. Programs that just
    /// have it open get errors. Flushed data are durable.
    ///
    /// # Errors
    /// - [`UblkError::Busy`]: the device is in use; the export continues.
    /// - [`UblkError::Refused`]: the driver does not remove the device.
    pub fn stop(&mut self) -> Result<(), UblkError> {
        if !self.is_there {
            return Ok(());
        }
        // A mounted device is claimed exclusively, so this open fails for it.
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
            // If it panicked, the message is on stderr already.
            let _ = queue.join();
        }
        // This waits until no process has the device of the requests open.
        self.control.delete(self.id)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Nothing can handle the error, and the kernel removes the device when the process ends.
        let _ = self.halt();
    }
}
