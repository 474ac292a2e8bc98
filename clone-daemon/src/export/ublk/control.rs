//! The control device of the ublk driver.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::process::getpid;
use zerocopy::IntoBytes;

use crate::export::ublk::wire::{ANY, CONTROL, Command, ControlCommand, DeviceInfo, Params};

/// The connection to the control device. It handles one command at a time.
pub(super) struct Control {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    driver: File,
    is_encoded: bool,
}

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        let driver = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        let ring = IoUring::builder().build(2)?;
        let mut control = Self { ring, driver, is_encoded: true };
        // A driver that does not know this command by its ioctl number gets plain numbers.
        let mut features = 0_u64;
        control.is_encoded =
            control.give(Command::GetFeatures, ANY, 0, features.as_mut_bytes()).is_ok();
        Ok(control)
    }

    /// Returns whether the driver knows commands by their ioctl numbers.
    pub(super) fn is_encoded(&self) -> bool {
        self.is_encoded
    }

    /// Creates a device. The driver returns its id, and how much of the request it grants.
    pub(super) fn add(&mut self, mut info: DeviceInfo) -> io::Result<DeviceInfo> {
        self.give(Command::Add, info.dev_id, 0, info.as_mut_bytes())?;
        Ok(info)
    }

    pub(super) fn set_params(&mut self, id: u32, mut params: Params) -> io::Result<()> {
        self.give(Command::SetParams, id, 0, params.as_mut_bytes())
    }

    /// Makes the block device appear. Waits until all queues take requests and the kernel has read
    /// from the device.
    pub(super) fn start(&mut self, id: u32) -> io::Result<()> {
        let pid = getpid().as_raw_nonzero().get();
        self.give(Command::Start, id, u64::from(pid.unsigned_abs()), &mut [])
    }

    /// Makes the block device disappear, and ends the waiting commands of its queues.
    pub(super) fn stop(&mut self, id: u32) -> io::Result<()> {
        self.give(Command::Stop, id, 0, &mut [])
    }

    /// Deletes a device.
    pub(super) fn delete(&mut self, id: u32) -> io::Result<()> {
        self.give(Command::Delete, id, 0, &mut [])
    }

    #[expect(unsafe_code, reason = "io_uring is told where memory is")]
    fn give(&mut self, what: Command, id: u32, data: u64, buffer: &mut [u8]) -> io::Result<()> {
        let command = ControlCommand {
            dev_id: id,
            queue_id: u16::MAX,
            len: u16::try_from(buffer.len()).map_err(io::Error::other)?,
            addr: if buffer.is_empty() { 0 } else { buffer.as_mut_ptr() as u64 },
            data: [data, 0],
        };
        let number = if self.is_encoded { what.encoded() } else { what.plain() };
        let mut bytes = [0; 80];
        bytes[..size_of::<ControlCommand>()].copy_from_slice(command.as_bytes());
        let driver = types::Fd(self.driver.as_raw_fd());
        let entry = opcode::UringCmd80::new(driver, number).cmd(bytes).build();
        // SAFETY: the kernel reads and writes `buffer` until the command ends. The loop below waits
        // for that, and has no other exit.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            // On an error (interrupted, busy) the command has been taken or will be.
            let _ = self.ring.submit_and_wait(1);
            if let Some(end) = self.ring.completion().next() {
                return match end.result() {
                    error @ ..0 => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
                    _ => Ok(()),
                };
            }
        }
    }
}
