//! Writes to the end of a regular file that can never make the file longer.
//!
//! A write past the end of a file extends it, and one that ends at the former end of a truncated
//! file hides the truncation. No flag of a write prevents that, and a check of the size before the
//! write comes too early. Therefore the last blocks are mapped, and the kernel is asked to copy
//! into the mapping: where the blocks have been cut off there is no page to copy into. The mapping
//! is never accessed by a load or a store, which would raise SIGBUS.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::Mutex;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::sync::lock;

/// The last blocks of a file.
#[derive(Debug)]
pub(super) struct Tail {
    begin: u64,
    /// `None` if the file system does not support writable shared mappings.
    mapping: Option<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    address: *mut c_void,
    len: usize,
    /// Memory with a file descriptor, from which the kernel copies.
    scratch: Mutex<File>,
}

// SAFETY: the address is only given to the kernel, which copies to it from any thread.
#[expect(unsafe_code, reason = "a pointer that is never followed here")]
unsafe impl Send for Mapping {}
// SAFETY: as above; the scratch memory has a lock.
#[expect(unsafe_code, reason = "a pointer that is never followed here")]
unsafe impl Sync for Mapping {}

impl Tail {
    /// Maps the tail of a file of `size_bytes`, at least 1, that is written in multiples of `unit`
    /// bytes, a power of two.
    pub(super) fn new(file: &File, size_bytes: u64, unit: u64) -> Self {
        let block = page_bytes().max(unit);
        let begin = (size_bytes - 1) / block * block;
        Self { begin, mapping: Mapping::new(file.as_raw_fd(), begin, size_bytes) }
    }

    /// Returns the start of the tail, in bytes: a multiple of the unit. Only data beyond it has to
    /// be written by [`write`](Self::write).
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    /// Writes `data` at `offset` of the file, entirely within the tail. Returns `None` if there is
    /// no mapping, so that the caller has to write in another way.
    ///
    /// # Errors
    /// EFAULT if there is no page: the file was truncated, or its file system is full or fails.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Option<io::Result<()>> {
        let mapping = self.mapping.as_ref()?;
        Some(mapping.write((offset - self.begin) as usize, data))
    }
}

impl Mapping {
    #[expect(unsafe_code, reason = "no crate has a safe call for it")]
    fn new(file: RawFd, begin: u64, end: u64) -> Option<Self> {
        let len = usize::try_from(end - begin).ok()?;
        let offset = begin.try_into().ok()?;
        let scratch = memfd_create("clone-tail", MemfdFlags::CLOEXEC).ok()?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses an address where nothing is.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, file, offset) };
        (address != libc::MAP_FAILED).then(|| Self {
            address,
            len,
            scratch: Mutex::new(File::from(scratch)),
        })
    }

    #[expect(unsafe_code, reason = "a slice of memory that may vanish must not exist")]
    fn write(&self, at: usize, data: &[u8]) -> io::Result<()> {
        assert!(at.checked_add(data.len()).is_some_and(|end| end <= self.len), "it is mapped");
        let scratch = lock(&self.scratch);
        scratch.write_all_at(data, 0)?;
        let mut done = 0;
        while done < data.len() {
            // SAFETY: the range lies in the mapping, to which there is no reference.
            let copied = unsafe {
                let to = self.address.byte_add(at + done);
                libc::pread(scratch.as_raw_fd(), to, data.len() - done, done as libc::off_t)
            };
            match usize::try_from(copied) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(copied) => done += copied,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "no crate has a safe call for it")]
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing refers to it. Unmapping an existing
        // mapping cannot fail.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

#[expect(unsafe_code, reason = "no crate has a safe call for it")]
fn page_bytes() -> u64 {
    // SAFETY: it reads a constant.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}
