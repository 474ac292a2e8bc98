//! A queue of requests, and the thread that serves it.
//!
//! *Invariant:* all commands for a queue come from one thread, as the driver requires. That thread
//! runs requests on the fast path and submits the others. A thread that completes one of those puts
//! the result into [`Ended`] and signals the eventfd in it (the wakeup), which wakes the queue
//! thread.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};

use clone_core::engine::{Operation, RequestError};
use clone_core::sync::lock;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::IntoBytes;

use crate::export::ublk::wire::{Command, DEPTH_MAX, Descriptor, DeviceInfo, IoCommand, UblkOp};
use crate::export::volume::User;

/// User data of the wakeup's event; other events have their tag.
const WAKEUP: u64 = u64::MAX;

/// Completed requests.
struct Ended {
    list: Mutex<Vec<End>>,
    wakeup: OwnedFd,
}

struct End {
    tag: u16,
    result: i32,
    /// The data of a read.
    data: Vec<u8>,
}

impl Ended {
    fn new() -> io::Result<Self> {
        let wakeup = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { list: Mutex::default(), wakeup })
    }

    fn put(&self, end: End) {
        lock(&self.list).push(end);
        // If the counter is full, the wakeup is ringing already.
        let _ = rustix::io::write(&self.wakeup, &1_u64.to_le_bytes());
    }

    fn take(&self) -> Vec<End> {
        // The wakeup may not be ringing.
        let _ = rustix::io::read(&self.wakeup, &mut [0; 8]);
        mem::take(&mut *lock(&self.list))
    }
}

/// A queue. The ring is the first field, so it is dropped before the memory that it uses.
pub(super) struct Queue {
    ring: IoUring,
    descriptors: Descriptors,
    /// One buffer for each tag. The driver uses a buffer only while its request is not with this
    /// process.
    buffers: Vec<Vec<u8>>,
    /// Number of tags in use, in the kernel or here: all but those that ended for good.
    live: usize,
    device: Arc<File>,
    number: u16,
    user: User,
    ended: Arc<Ended>,
    is_encoded: bool,
}

impl Queue {
    /// Sets the queue up to take requests. The queue must stay on the calling thread.
    pub(super) fn new(
        device: Arc<File>,
        info: DeviceInfo,
        number: u16,
        user: User,
        is_encoded: bool,
    ) -> io::Result<Self> {
        let depth = info.queue_depth;
        let bytes = info.max_io_buf_bytes as usize;
        let mut queue = Self {
            ring: IoUring::new((u32::from(depth) + 1).next_power_of_two())?,
            descriptors: Descriptors::map(&device, number, depth)?,
            buffers: (0..depth).map(|_| vec![0; bytes]).collect(),
            live: 0,
            device,
            number,
            user,
            ended: Arc::new(Ended::new()?),
            is_encoded,
        };
        queue.await_wakeup()?;
        for tag in 0..depth {
            queue.command(Command::Fetch, tag, 0)?;
            queue.live += 1;
        }
        queue.ring.submit()?;
        Ok(queue)
    }

    /// Serves the queue until the device is stopped.
    pub(super) fn run(&mut self) {
        let mut events = Vec::new();
        while self.live > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return self.give_up(&error),
            }
            events.extend(self.ring.completion().map(|event| (event.user_data(), event.result())));
            for (which, result) in events.drain(..) {
                let outcome = match u16::try_from(which) {
                    Ok(tag) if result == 0 => self.serve(tag),
                    // The device is being stopped, and this tag gets no more requests.
                    Ok(_) => {
                        self.live -= 1;
                        Ok(())
                    }
                    Err(_) => self.finish_ended(),
                };
                if let Err(error) = outcome {
                    return self.give_up(&error);
                }
            }
        }
    }

    /// Logs an error that ends the thread. The kernel notices that and removes the device.
    fn give_up(&self, error: &io::Error) {
        tracing::error!("queue {} of a ublk device is no longer served: {error}", self.number);
    }

    fn finish_ended(&mut self) -> io::Result<()> {
        for End { tag, result, data } in self.ended.take() {
            if let Some(buffer) = self.buffers.get_mut(usize::from(tag)) {
                buffer[..data.len()].copy_from_slice(&data);
            }
            self.command(Command::CommitAndFetch, tag, result)?;
        }
        self.await_wakeup()
    }

    /// Handles the request with `tag`: completes it, or submits it.
    fn serve(&mut self, tag: u16) -> io::Result<()> {
        match self.act(tag) {
            Some(result) => self.command(Command::CommitAndFetch, tag, result),
            None => Ok(()),
        }
    }

    /// Runs a request on the fast path and returns its result, or submits it.
    fn act(&mut self, tag: u16) -> Option<i32> {
        let descriptor = self.descriptors.get(tag)?;
        let Some((op, range)) = descriptor.op().zip(descriptor.range()) else {
            return Some(-libc::EOPNOTSUPP);
        };
        let buffer = self.buffers.get_mut(usize::from(tag))?;
        let has_data = matches!(op, UblkOp::Read | UblkOp::Write);
        let len = if has_data { usize::try_from(range.end - range.start).ok()? } else { 0 };
        let Some(data) = buffer.get_mut(..len) else { return Some(-libc::EIO) };
        let bytes = i32::try_from(len).ok()?;
        let durable = descriptor.is_durable();
        let done = match op {
            UblkOp::Read => self.user.read_now(range.start, data),
            UblkOp::Write if !durable => self.user.write_now(range.start, data),
            _ => None,
        };
        if let Some(done) = done {
            return Some(outcome(done, bytes));
        }
        let (operation, buffer) = match op {
            UblkOp::Read => (Operation::Read, vec![0; len]),
            UblkOp::Write => (Operation::Write, data.to_vec()),
            UblkOp::Flush => (Operation::Flush, Vec::new()),
            UblkOp::Discard => (Operation::Discard, Vec::new()),
            UblkOp::WriteZeroes => {
                (Operation::WriteZeroes { deallocate: !descriptor.keeps_room() }, Vec::new())
            }
        };
        let ended = self.ended.clone();
        self.user.submit(operation, range, durable, buffer, move |done, buffer| {
            let data = if op == UblkOp::Read { buffer } else { Vec::new() };
            ended.put(End { tag, result: outcome(done, bytes), data });
        });
        None
    }

    fn command(&mut self, what: Command, tag: u16, result: i32) -> io::Result<()> {
        let Some(buffer) = self.buffers.get_mut(usize::from(tag)) else {
            return Err(io::Error::other("an unknown tag"));
        };
        let addr = buffer.as_mut_ptr() as u64;
        let command = IoCommand { q_id: self.number, tag, result, addr };
        let mut bytes = [0; 16];
        bytes.copy_from_slice(command.as_bytes());
        let number = if self.is_encoded { what.encoded() } else { what.plain() };
        let device = types::Fd(self.device.as_raw_fd());
        let entry = opcode::UringCmd16::new(device, number).cmd(bytes).build();
        self.push(&entry.user_data(tag.into()))
    }

    /// Registers the wakeup, which will wake this thread once.
    fn await_wakeup(&mut self) -> io::Result<()> {
        let wakeup = types::Fd(self.ended.wakeup.as_raw_fd());
        let entry = opcode::PollAdd::new(wakeup, libc::POLLIN as u32).build();
        self.push(&entry.user_data(WAKEUP))
    }

    #[expect(unsafe_code, reason = "io_uring is told where memory is")]
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: a command points to a buffer, which lives as long as the queue. The driver uses
        // it only on this thread, in a system call, while the request is not with this process;
        // after the queue is dropped, this thread makes no more such calls before it ends. The ring
        // has room for one command for each tag, and for the wakeup.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }
}

/// Returns the result for the driver: a number of bytes, or a negative error number.
fn outcome(done: Result<(), RequestError>, bytes: i32) -> i32 {
    match done {
        Ok(()) => bytes,
        // The reason why a device failed is in the events of the clone.
        Err(_) => -libc::EIO,
    }
}

/// The request descriptors of a queue, which the driver writes.
struct Descriptors {
    at: NonNull<Descriptor>,
    depth: u16,
    bytes: usize,
}

impl Descriptors {
    #[expect(unsafe_code, reason = "the driver gives requests in shared memory")]
    fn map(device: &File, queue: u16, depth: u16) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let bytes = (usize::from(depth) * size_of::<Descriptor>()).next_multiple_of(page);
        let offset = u64::from(queue) * DEPTH_MAX * size_of::<Descriptor>() as u64;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel chooses an unused address.
        let at = unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::READ, flags, device, offset) }?;
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("no address"))?;
        Ok(Self { at, depth, bytes })
    }

    /// Returns the request with `tag`. It must be with this process: then the driver does not write
    /// it.
    #[expect(unsafe_code, reason = "the driver gives requests in shared memory")]
    fn get(&self, tag: u16) -> Option<Descriptor> {
        if tag >= self.depth {
            return None;
        }
        // SAFETY: it lies in the mapping, which holds `depth` descriptors and lives as long as
        // `self`. Pages are sufficiently aligned, and all bit patterns are valid.
        Some(unsafe { self.at.add(usize::from(tag)).read_volatile() })
    }
}

impl Drop for Descriptors {
    #[expect(unsafe_code, reason = "what was mapped is to be unmapped")]
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference into it exists.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}
