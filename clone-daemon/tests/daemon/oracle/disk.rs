//! A disk with a volatile cache, for metadata and destination: two files that FUSE mounts, in the
//! memory of the test.
//!
//! After a loss of power each sector that was not flushed has the content of the last flush, or of
//! a write since then. A flush makes durable what had been written before it began, and takes time.
//! A flush that fails has stored some sectors and forgotten the others: no later flush stores them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, Session, WriteFlags,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{getegid, geteuid};

const SECTOR: usize = 512;

/// Number of the destination; the metadata is 0.
const DESTINATION: usize = 1;

/// Cache time for file attributes, which never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);

#[derive(Default)]
struct File {
    /// The content that reads return.
    bytes: Vec<u8>,
    /// The content on the medium.
    stored: Vec<u8>,
    /// Sectors that differ, according to the cache.
    dirty: HashSet<usize>,
}

impl File {
    fn new(bytes: usize) -> Self {
        let stored = vec![0; bytes.next_multiple_of(SECTOR)];
        Self { bytes: stored.clone(), stored, dirty: HashSet::new() }
    }

    /// Applies `change` to a range that lies in the file.
    fn change(&mut self, start: usize, end: usize, change: impl FnOnce(&mut [u8])) {
        change(&mut self.bytes[start..end]);
        self.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
    }

    fn store(&mut self, sector: usize) {
        let at = sector * SECTOR..(sector + 1) * SECTOR;
        self.stored[at.clone()].copy_from_slice(&self.bytes[at]);
    }
}

struct State {
    files: [File; 2],
    random: StdRng,
    /// A flush takes between half of this time and all of it.
    flush: Duration,
    /// True if the next flush of the destination fails.
    fails: bool,
    /// Number of power losses. A flush that was interrupted by one stores nothing.
    cuts: u64,
}

struct Shared {
    state: Mutex<State>,
    /// Held during a flush of a file: the next flush waits for what this one stores.
    flushing: [Mutex<()>; 2],
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk. Dropping it unmounts the files.
pub(super) struct Disk {
    shared: Arc<Shared>,
    sessions: Vec<BackgroundSession>,
    sizes: [usize; 2],
}

impl Disk {
    /// Creates files of these sizes at these paths, the metadata first, and mounts them.
    pub(super) fn mount(
        paths: [&Path; 2],
        sizes: [usize; 2],
        seed: u64,
        flush: Duration,
    ) -> io::Result<Self> {
        let state = State {
            files: sizes.map(File::new),
            random: StdRng::seed_from_u64(seed ^ 0xd15c),
            flush,
            fails: false,
            cuts: 0,
        };
        let shared = Arc::new(Shared { state: state.into(), flushing: Default::default() });
        let mut disk = Self { shared, sessions: Vec::new(), sizes };
        for (number, path) in paths.into_iter().enumerate() {
            fs::write(path, "")?;
            let mut config = Config::default();
            config.n_threads = Some(6);
            let file = OneFile { shared: disk.shared.clone(), number };
            disk.sessions.push(Session::new(file, path, &config)?.spawn()?);
        }
        Ok(disk)
    }

    /// Resets the files to their initial content.
    pub(super) fn forget(&self) {
        lock(&self.shared).files = self.sizes.map(File::new);
    }

    /// Simulates a loss of power.
    pub(super) fn lose_power(&self) {
        let state = &mut *lock(&self.shared);
        state.cuts += 1;
        for file in &mut state.files {
            let mut dirty: Vec<usize> = std::mem::take(&mut file.dirty).into_iter().collect();
            dirty.sort_unstable();
            // All dirty sectors, none, or some.
            let chance = [0.0, 0.1, 0.5, 0.9, 1.0][state.random.random_range(0..5)];
            for sector in dirty {
                if state.random.random_bool(chance) {
                    file.store(sector);
                }
            }
            file.bytes.clone_from(&file.stored);
        }
    }

    /// Makes the next flush of the destination fail.
    pub(super) fn fail_a_flush(&self) {
        lock(&self.shared).fails = true;
    }

    /// Lets flushes succeed again, if none has failed yet.
    pub(super) fn fail_no_flush(&self) {
        lock(&self.shared).fails = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for session in self.sessions.drain(..) {
            // A process that has the file open keeps it until it ends.
            let _ = session.umount_and_join();
        }
    }
}

/// One of the files, as the root of its FUSE mount.
struct OneFile {
    shared: Arc<Shared>,
    number: usize,
}

impl OneFile {
    fn attributes(&self) -> FileAttr {
        let size = lock(&self.shared).files[self.number].bytes.len() as u64;
        FileAttr {
            ino: INodeNo::ROOT,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Applies `act` to the part of a range that lies in the file.
    fn at<T>(&self, offset: u64, len: u64, act: impl FnOnce(&mut File, usize, usize) -> T) -> T {
        let file = &mut lock(&self.shared).files[self.number];
        let size = file.bytes.len() as u64;
        let start = offset.min(size);
        let end = offset.saturating_add(len).min(size);
        act(file, start as usize, end as usize)
    }

    fn store(&self) -> Result<(), Errno> {
        let number = self.number;
        let _one = self.shared.flushing[number].lock().unwrap_or_else(PoisonError::into_inner);
        // The flush stores what has been written by now, and only when it ends.
        let (cached, wait, fails, cuts) = {
            let state = &mut *lock(&self.shared);
            let file = &mut state.files[number];
            let cached: Vec<(usize, [u8; SECTOR])> = file
                .dirty
                .drain()
                .map(|sector| {
                    let bytes = &file.bytes[sector * SECTOR..(sector + 1) * SECTOR];
                    (sector, std::array::from_fn(|at| bytes[at]))
                })
                .collect();
            let most = state.flush.as_micros() as u64;
            let wait = Duration::from_micros(state.random.random_range(most / 2..=most));
            let fails = number == DESTINATION && std::mem::take(&mut state.fails);
            (cached, wait, fails, state.cuts)
        };
        thread::sleep(wait);
        let state = &mut *lock(&self.shared);
        if state.cuts != cuts {
            return Err(Errno::EIO);
        }
        let file = &mut state.files[number];
        for (sector, bytes) in cached {
            if !fails || state.random.random() {
                file.stored[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&bytes);
            }
        }
        if fails { Err(Errno::EIO) } else { Ok(()) }
    }
}

impl Filesystem for OneFile {
    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Bypasses the page cache, which would survive the simulated loss of power.
        let how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), how);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.at(offset, size.into(), |file, from, to| file.bytes[from..to].to_vec());
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.at(offset, data.len() as u64, |file, from, to| {
            file.change(from, to, |bytes| bytes.copy_from_slice(&data[..to - from]));
            to - from
        });
        match written {
            0 if !data.is_empty() => reply.error(Errno::ENOSPC),
            written => reply.written(written as u32),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A close sends this; it makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.store() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        self.at(offset, length, |file, from, to| {
            if mode & zeroes != 0 {
                file.change(from, to, |bytes| bytes.fill(0));
            }
        });
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 2, 0, 4096, 255, 4096);
    }
}
