//! The driver: runs an [engine](crate::engine) on real devices.
//!
//! A [`RunningClone`] owns a pool of worker threads, which do I/O, and a timer thread. Each user of
//! the clone has a [`Client`].
//!
//! # Threads
//!
//! Requests for hydrated regions that need not be durable run on the caller's thread:
//! [`Lane::pass`](crate::engine::Lane::pass) says whether they may, and takes no lock. All other
//! requests go to the engine, and workers carry out the operations that it starts. After an
//! operation a worker takes the lock once: it passes the result to the engine, queues the
//! operations that follow, and takes its next task. It stores a chunk that it has just fetched
//! itself. The engine has no clock; the timer thread sleeps until exactly the time of the engine's
//! next tick.
//!
//! Users come before hydration, and the destination before the source. Each of these three classes
//! has a worker that the others do not use: see `queue`.
//!
//! # Locks
//!
//! | lock | guards | taken |
//! |---|---|---|
//! | `RunningClone::threads` | that one thread ends a clone | first; held until it has ended |
//! | `WorkerPool::state` | the engine, the queue, requests and copies | after that, or alone |
//! | `FastPath::lanes` | the lanes, whether they are closed | after `WorkerPool::state`, or alone |
//! | `EventLog::listener` | the listener | with none of those above |
//! | `EventLog::book` | the last events, calls that wait | after any of those above |
//! | metadata | metadata | by a worker that holds no other |
//! | those of a buffer, and of the pool | bytes | after all of those above |
//! | `Direct::locks` | blocks that direct I/O changes | by a `FileDestination`, last |
//! | `Flushes` | that flushes run one at a time, and whether one failed | likewise |
//! | the one of a `Tail` | memory from which the last blocks are written | likewise |
//!
//! *Invariant:* while `WorkerPool::state` is held, no device is accessed, no callback is called and
//! no large memory is copied. The exceptions are a copy of a [trace](RunningClone::trace), 16 MiB
//! at most, and of the list of [failed regions](RunningClone::failed_regions), for callers that ask
//! for them. Locks held during I/O are: the lock of a copy's buffer, for reading, while it is
//! stored; the lock of metadata during a commit, of which there is one at a time anyway; and the
//! locks of a `FileDestination`: those of blocks that direct I/O changes, of flushes, and of the
//! end of a file.
//!
//! *Invariant:* a callback runs on a worker, regardless of the thread whose event led to the
//! answer, and also if the clone has failed or was stopped. A server may therefore hold a lock that
//! its callback needs while it submits. [`Client::submit`] names the one exception.
//!
//! *Invariant:* every request is answered once. All work for a request holds a reference to it, and
//! the drop of the last reference answers it; until then the request owns its buffer.
//!
//! *Invariant:* no thread waits for one that has panicked. A panic in a device or in the engine
//! ends the clone: all requests fail, an event gives the reason, and nothing more begins. A panic
//! in a callback or in the listener is caught and counted, and the clone continues, since they are
//! not part of it.
//!
//! # The end of a clone
//!
//! *Invariant:* a clone that ends never resumes. [`RunningClone::end`] sets the end flag and sends
//! the suspend to the engine under the same lock, and a resume checks the flag under that lock.
//! Nothing therefore undoes the suspended state that the end waits for, and every request answered
//! before that state is committed.
//!
//! *Invariant:* calls that suspend, resume, ask for a status or send a message hold no lock while
//! they wait for a device. Each has a `Wait` in the book, which the first relevant event ends: the
//! suspend or commit that it waits for, a resume, a failure, or the end of the clone.

pub use self::client::{Client, CloneExtent};
pub use self::event_log::{DatedEvent, EVENTS_MAX, Listener};
pub use self::running::{
    Devices, DriverError, DriverOptions, HydrationProgress, RunningClone, Stopped,
};
pub use crate::block_io::Access;
pub use crate::block_io::AlignedBuf;
pub use crate::block_io::FileDestination;
pub use crate::block_io::FileSource;
pub use crate::block_io::zero_runs;
pub use crate::block_io::{Destination, DestinationLost, Extent, Source, SourceChanged};

mod backends;
mod buffers;
mod client;
mod event_log;
mod queue;
mod running;
mod state;
mod workers;

#[cfg(test)]
mod tests;
