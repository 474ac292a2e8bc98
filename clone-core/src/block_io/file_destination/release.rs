//! Closes a destination that is still referenced.
//!
//! All users of a clone hold its destination, and some release it late. After the end of the clone
//! no I/O takes place, and the claim must not last longer than that.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use persistent_data::device::unlock;
use rustix::io::{DupFlags, dup3};

/// Releases the claim that `file` holds. When this returns, others can open the device, and `file`
/// is an empty file that cannot be written.
pub(super) fn release(file: &File) {
    // A child process holds copies of the descriptor until it executes another program.
    unlock(file);
    // The claim of a block device lasts until the open file is closed. If no descriptor is
    // available, it is closed with its last holder.
    let _ = File::open("/dev/null").and_then(|empty| replace(file, &empty));
}

/// Closes the file behind `file` and replaces it by that of `by`, atomically.
#[expect(unsafe_code, reason = "a file that is shared cannot be replaced otherwise")]
fn replace(file: &File, by: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open and stays so: `file` owns it, and it is not closed here.
    let shared = unsafe { OwnedFd::from_raw_fd(file.as_raw_fd()) };
    Ok(dup3(by, &mut ManuallyDrop::new(shared), DupFlags::CLOEXEC)?)
}
