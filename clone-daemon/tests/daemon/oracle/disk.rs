//! A disk with a volatile cache, for metadata and destination: two files of a FUSE file system, in
//! the memory of the test.
//!
//! When the power goes, each sector that was not flushed is as it was at the last flush, or as it
//! was written since. A flush makes durable what had been written before it began, and takes its
//! time. One that fails has stored some sectors, and has forgotten the others: no later flush
//! stores them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{getegid, geteuid};

const SECTOR: usize = 512;

/// Names of the files, by their numbers.
const NAMES: [&str; 2] = ["metadata", "destination"];

const DESTINATION: usize = 1;

/// How long the kernel may remember what the files look like: it does not change.
const FOREVER: Duration = Duration::from_secs(1 << 30);

#[derive(Default)]
struct File {
    /// What is read.
    bytes: Vec<u8>,
    /// What is on the medium.
    stored: Vec<u8>,
    /// Sectors that differ, as far as the cache knows.
    dirty: HashSet<usize>,
}

impl File {
    fn new(bytes: usize) -> Self {
        let stored = vec![0; bytes.next_multiple_of(SECTOR)];
        Self { bytes: stored.clone(), stored, dirty: HashSet::new() }
    }

    /// Has `change` happen to a range that lies in the file.
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
    /// A flush takes half of that to all of it.
    flush: Duration,
    /// The next flush of the destination fails.
    fails: bool,
    /// How often the power went. What a flush was about to store before that, it does not store.
    cuts: u64,
}

struct Shared {
    state: Mutex<State>,
    /// Held while a file is flushed: the next flush waits for what this one stores.
    flushing: [Mutex<()>; 2],
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk, until it is dropped.
pub(super) struct Disk {
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    sizes: [usize; 2],
}

impl Disk {
    /// Mounts it at `folder`, a directory.
    pub(super) fn mount(folder: &Path, sizes: [usize; 2], seed: u64, flush: Duration) -> Self {
        let state = State {
            files: sizes.map(File::new),
            random: StdRng::seed_from_u64(seed ^ 0xd15c),
            flush,
            fails: false,
            cuts: 0,
        };
        let shared = Arc::new(Shared { state: state.into(), flushing: Default::default() });
        let mut config = Config::default();
        config.n_threads = Some(6);
        let session = Session::new(Files(shared.clone()), folder, &config);
        let session = session.and_then(Session::spawn).unwrap();
        Self { shared, session: Some(session), sizes }
    }

    /// All is as if it had never been written to.
    pub(super) fn forget(&self) {
        lock(&self.shared).files = self.sizes.map(File::new);
    }

    /// The power goes, and comes back.
    pub(super) fn lose_power(&self) {
        let state = &mut *lock(&self.shared);
        state.cuts += 1;
        for file in &mut state.files {
            let mut dirty: Vec<usize> = std::mem::take(&mut file.dirty).into_iter().collect();
            dirty.sort_unstable();
            // All of them, none, or some.
            let chance = [0.0, 0.1, 0.5, 0.9, 1.0][state.random.random_range(0..5)];
            for sector in dirty {
                if state.random.random_bool(chance) {
                    file.store(sector);
                }
            }
            file.bytes.clone_from(&file.stored);
        }
    }

    /// The next flush of the destination fails.
    pub(super) fn fail_a_flush(&self) {
        lock(&self.shared).fails = true;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // Whoever has a file open keeps it until the end.
            let _ = session.umount_and_join();
        }
    }
}

/// What the kernel asks.
struct Files(Arc<Shared>);

fn number(inode: INodeNo) -> Option<usize> {
    (inode.0 as usize).checked_sub(2).filter(|number| *number < NAMES.len())
}

impl Files {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let file = number(inode);
        let size = file.map_or(0, |file| lock(&self.0).files[file].bytes.len() as u64);
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if file.is_some() { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Has `act` happen to the part of a range that lies in a file.
    fn at<T>(
        &self,
        inode: INodeNo,
        offset: u64,
        len: u64,
        act: impl FnOnce(&mut File, usize, usize) -> T,
    ) -> Result<T, Errno> {
        let file = number(inode).ok_or(Errno::EISDIR)?;
        let file = &mut lock(&self.0).files[file];
        let size = file.bytes.len() as u64;
        let start = offset.min(size);
        let end = offset.saturating_add(len).min(size);
        Ok(act(file, start as usize, end as usize))
    }

    fn flush(&self, inode: INodeNo) -> Result<(), Errno> {
        let Some(number) = number(inode) else { return Ok(()) };
        let _one = self.0.flushing[number].lock().unwrap_or_else(PoisonError::into_inner);
        // What has been written by now is what it makes durable, and only when it ends.
        let (cached, wait, fails, cuts) = {
            let state = &mut *lock(&self.0);
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
        let state = &mut *lock(&self.0);
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

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match NAMES.iter().position(|known| name == *known) {
            Some(number) => {
                let attributes = self.attributes(INodeNo(number as u64 + 2));
                reply.entry(&FOREVER, &attributes, Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing stays in the page cache, which knows of no power cut.
        let how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), how);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.at(inode, offset, size.into(), |file, from, to| file.bytes[from..to].to_vec()) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.at(inode, offset, data.len() as u64, |file, from, to| {
            file.change(from, to, |bytes| bytes.copy_from_slice(&data[..to - from]));
            to - from
        });
        match written {
            Ok(0) if !data.is_empty() => reply.error(Errno::ENOSPC),
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // That is what a close says; it makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match Self::flush(self, inode) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let done = self.at(inode, offset, length, |file, from, to| {
            if mode & zeroes != 0 {
                file.change(from, to, |bytes| bytes.fill(0));
            }
        });
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}

/// Makes `name` in one folder another name of it in another.
pub(super) fn link(name: &str, from: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(from.join(name), to.join(name))
}
