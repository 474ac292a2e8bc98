//! Closing a destination that is still held.
//!
//! Everybody who uses a clone holds its destination, and some of them let go late. When the clone
//! has ended nobody reads or writes any more, and the claim must not last longer than that.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use persistent_data::device::unlock;
use rustix::io::{DupFlags, dup3};

/// Gives up the claim that `file` is. Others can open what it was when this returns. From then on
/// `file` is an empty file that cannot be written.
pub(super) fn release(file: &File) {
    // For the copies that a child has until it executes another program.
    unlock(file);
    // A block device is claimed by the open file, until that is closed. If there are no descriptors
    // it is closed with the last one who holds it.
    let _ = File::open("/dev/null").and_then(|empty| replace(file, &empty));
}

/// Closes what `file` is and has it be `by`, in one step.
#[expect(unsafe_code, reason = "a file that is shared cannot be replaced otherwise")]
fn replace(file: &File, by: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open and stays so: `file` owns it, and it is not closed here.
    let shared = unsafe { OwnedFd::from_raw_fd(file.as_raw_fd()) };
    Ok(dup3(by, &mut ManuallyDrop::new(shared), DupFlags::CLOEXEC)?)
}
