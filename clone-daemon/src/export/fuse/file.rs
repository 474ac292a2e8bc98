//! The file system that the kernel sees: a clone as its root, or as the only file in its root. It
//! runs requests on the fast path, or submits them to the [`Volume`].

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use clone_core::engine::{ByteRange, Operation, RequestError};
use clone_core::sync::lock;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rustix::process::{getegid, geteuid};

use crate::export::volume::{User, Volume};

/// Maximum length of a file name in bytes.
pub(super) const NAME_MAX: usize = 255;

/// Maximum length of a read or a write by the kernel in bytes, unless the kernel's own limit (by
/// default 256 pages) is smaller.
const REQUEST_BYTES: u32 = 1 << 20;

/// Maximum number of asynchronous direct I/O requests in flight. The kernel's default of 12 would
/// not fill a queue of 32.
const BACKGROUND: u16 = 128;

/// Time for which the kernel may cache names and attributes: they never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// Maximum number of stretches that one `SEEK_DATA` or `SEEK_HOLE` looks up. The rest counts as
/// data, which is always correct.
const STRETCHES_MAX: usize = 1 << 16;

/// The shape of the file system.
pub(super) enum Shape {
    /// The root is the clone itself.
    File,
    /// The root is a directory that contains the clone by this name.
    Directory(String),
}

impl Shape {
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File)
    }
}

/// The resources of one request.
struct RequestContext {
    user: User,
    /// Buffer for reads; it only grows, up to [`REQUEST_BYTES`].
    buffer: Vec<u8>,
}

/// A clone as a FUSE file system.
pub(super) struct FileSystem {
    volume: Arc<Volume>,
    shape: Shape,
    permissions: u16,
    began: SystemTime,
    /// The idle ones; the last one that was used is taken first.
    contexts: Mutex<Vec<RequestContext>>,
}

impl FileSystem {
    pub(super) fn new(volume: Arc<Volume>, shape: Shape, for_everybody: bool) -> Self {
        let permissions = if for_everybody { 0o666 } else { 0o600 };
        Self { volume, shape, permissions, began: SystemTime::now(), contexts: Mutex::default() }
    }

    fn with_context(&self, act: impl FnOnce(&mut RequestContext)) {
        let context = lock(&self.contexts).pop();
        let new = || RequestContext { user: self.volume.user(), buffer: Vec::new() };
        let mut context = context.unwrap_or_else(new);
        act(&mut context);
        lock(&self.contexts).push(context);
    }

    fn submit(&self, operation: Operation, range: ByteRange, reply: ReplyEmpty) {
        self.with_context(|context| {
            context.user.submit(
                operation,
                range,
                false,
                Vec::new(),
                move |result, _| match result {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(errno(error)),
                },
            );
        });
    }

    fn file(&self) -> INodeNo {
        match self.shape {
            Shape::File => INodeNo::ROOT,
            Shape::Directory(_) => INodeNo(INodeNo::ROOT.0 + 1),
        }
    }

    /// Returns the part of the clone in the `len` bytes at `offset`; `None` if that is empty.
    fn clip(&self, offset: u64, len: u64) -> Option<ByteRange> {
        let end = offset.saturating_add(len).min(self.volume.size_bytes());
        (offset < end).then_some(offset..end)
    }

    fn attributes(&self, of: INodeNo) -> FileAttr {
        let is_file = of == self.file();
        let size = if is_file { self.volume.size_bytes() } else { 0 };
        // Users who may read and write the file may also search the directory.
        let permissions =
            if is_file { self.permissions } else { self.permissions & !0o222 | 0o111 };
        FileAttr {
            ino: of,
            size,
            blocks: size / 512,
            atime: self.began,
            mtime: self.began,
            ctime: self.began,
            crtime: self.began,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: permissions,
            nlink: if is_file { 1 } else { 2 },
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Returns the start of the first extent from `offset` on that is known to be zeroes
    /// (`zeroes`), or is not; the size of the clone if there is none.
    fn seek(&self, user: &User, offset: u64, zeroes: bool) -> io::Result<u64> {
        let size = self.volume.size_bytes();
        let mut at = offset;
        for _ in 0..STRETCHES_MAX {
            match user.extent(&(at..size))? {
                Some(extent) if extent.zeroes != zeroes => at = extent.end.max(at + 1),
                Some(_) => return Ok(at),
                None => return Ok(size),
            }
        }
        Ok(if zeroes { size } else { at })
    }
}

/// Returns the error for users of the file. The reason why a device failed is in the events of the
/// clone.
fn errno(error: RequestError) -> Errno {
    match error {
        RequestError::PastEnd | RequestError::Full(_) => Errno::ENOSPC,
        RequestError::ReadOnly => Errno::EROFS,
        _ => Errno::EIO,
    }
}

impl Filesystem for FileSystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // If the kernel lacks one of these, it uses its defaults.
        let _ = config.set_max_write(REQUEST_BYTES);
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match &self.shape {
            Shape::Directory(file) if name == OsStr::new(file) => {
                reply.entry(&FOREVER, &self.attributes(self.file()), Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, of: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(of));
    }

    fn setattr(
        &self,
        _: &Request,
        of: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let attributes = self.attributes(of);
        let is_other_size = size.is_some_and(|size| size != attributes.size);
        if is_other_size || mode.is_some() || uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        // Times are not stored.
        reply.attr(&FOREVER, &attributes);
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        if flags.acc_mode() == OpenAccMode::O_RDONLY {
            how |= FopenFlags::FOPEN_NOFLUSH;
        }
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
        let Some(range) = self.clip(offset, size.into()) else { return reply.data(&[]) };
        let len = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
        self.with_context(|context| {
            if context.buffer.len() < len {
                context.buffer.resize(len, 0);
            }
            let into = &mut context.buffer[..len];
            match context.user.read_now(offset, into) {
                Some(Ok(())) => reply.data(into),
                Some(Err(error)) => reply.error(errno(error)),
                None => {
                    let buffer = vec![0; len];
                    let done = move |result, bytes: Vec<u8>| match result {
                        Ok(()) => reply.data(&bytes),
                        Err(error) => reply.error(errno(error)),
                    };
                    context.user.submit(Operation::Read, range, false, buffer, done);
                }
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(range) = self.clip(offset, data.len() as u64) else {
            return match data {
                [] => reply.written(0),
                _ => reply.error(Errno::ENOSPC),
            };
        };
        let len = u32::try_from(range.end - offset).unwrap_or(u32::MAX);
        let data = &data[..len as usize];
        // The kernel adds this to the flags of the file for a write with RWF_DSYNC.
        let durable = flags.0 & libc::O_DSYNC != 0;
        self.with_context(|context| {
            let done = if durable { None } else { context.user.write_now(offset, data) };
            match done {
                Some(Ok(())) => reply.written(len),
                Some(Err(error)) => reply.error(errno(error)),
                None => {
                    let done = move |result, _| match result {
                        Ok(()) => reply.written(len),
                        Err(error) => reply.error(errno(error)),
                    };
                    context.user.submit(Operation::Write, range, durable, data.to_vec(), done);
                }
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.submit(Operation::Flush, 0..0, reply);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.submit(Operation::Flush, 0..0, reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
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
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let is_beyond = offset.saturating_add(length) > self.volume.size_bytes();
        let deallocate = match mode {
            PUNCH => true,
            ZERO_KEEP => false,
            // The other modes would extend the file, or reserve space beyond its end.
            0 | KEEP | ZERO if is_beyond => return reply.error(Errno::ENOSPC),
            ZERO => false,
            // The contents stay as they are; the destination allocates space by itself.
            0 | KEEP => return reply.ok(),
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        match self.clip(offset, length) {
            Some(range) => self.submit(Operation::WriteZeroes { deallocate }, range, reply),
            None => reply.ok(),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let size = self.volume.size_bytes();
        let zeroes = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let offset = match u64::try_from(offset) {
            Ok(offset) if offset < size => offset,
            _ => return reply.error(Errno::ENXIO),
        };
        self.with_context(|context| match self.seek(&context.user, offset, zeroes) {
            Ok(found) if !zeroes && found >= size => reply.error(Errno::ENXIO),
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(_) => reply.error(Errno::EIO),
        });
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if let Shape::Directory(name) = &self.shape {
            let root = (INodeNo::ROOT, FileType::Directory);
            let all = [(root, "."), (root, ".."), ((self.file(), FileType::RegularFile), name)];
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            for (at, ((inode, kind), name)) in all.into_iter().enumerate().skip(from) {
                if reply.add(inode, at as u64 + 1, kind, name) {
                    break;
                }
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.volume.size_bytes().div_ceil(4096);
        reply.statfs(blocks, 0, 0, 1, 0, 4096, NAME_MAX as u32, 4096);
    }
}
