//! Drives an [engine](crate::engine) on real devices.
//!
//! A [`RunningClone`] has some threads of its own: workers, which do I/O, and one that keeps time.
//! Those who use it have a [`Client`] each.
//!
//! # Who does what
//!
//! What is on the destination already, and need not be durable, is done by the thread of whoever
//! wants it: [`Lane::pass`](crate::engine::Lane::pass) says whether it may, and that takes no lock.
//! All else is told to the engine, and the operations it wants done are done by workers. One that
//! has ended an operation takes the lock once: it tells the engine, queues what follows, and leaves
//! with the next thing to do. What it has just fetched it stores itself. The engine knows no
//! clock; the thread that keeps time sleeps until exactly when the engine wants to be told.
//!
//! Users come before hydration, what is on the destination before what is on the source, and each
//! of the three has a worker that the others do not take from it: see `queue`.
//!
//! # Locks
//!
//! | lock | what it guards | taken |
//! |---|---|---|
//! | `RunningClone::threads` | that one thread ends a clone | first; held until it has ended |
//! | `Crew::state` | the engine, the queue, requests and copies | after that, or alone |
//! | `Front::lanes` | who has a lane, whether lanes are closed | after `Crew::state`, or alone |
//! | `Notices::listener` | who listens | with none of those above |
//! | `Notices::book` | the last notices, calls that wait | after any of those above |
//! | metadata | metadata | by a worker that holds no other |
//! | those of a buffer, and of the pool | bytes | after all of those above |
//! | `Direct::locks` | blocks that are changed past the page cache | by a `FileDestination`, last |
//! | `Flushes` | that one flush at a time is done, and whether one failed | likewise |
//! | the one of a `Tail` | memory out of which the last blocks are written | likewise |
//!
//! *Invariant:* no device is touched and no callback called with `Crew::state` held, and no memory
//! of size is moved; but what is told of a [trace](RunningClone::trace), 16 MiB at most, and of
//! what is [set aside](RunningClone::set_aside) is copied with it, for those who ask for that. What
//! is held during I/O is the lock of a copy's buffer, for reading, while it is stored; that of
//! metadata during a commit, which is one at a time anyway; and those of a `FileDestination`:
//! that of blocks while they are changed past the page cache, that of flushes, and that of the end
//! of a file.
//!
//! *Invariant:* a callback runs on a worker, whoever told the engine what led to the answer, and
//! also if the clone has failed or was stopped; so a server may hold a lock that its callback wants
//! while it submits.
//!
//! *Invariant:* every request is answered once. Those who work for it hold it, and the last to let
//! it go answers; until then its buffer is its own.
//!
//! *Invariant:* no thread waits for one that has panicked. A panic in a device or the engine ends
//! the clone: all requests fail, a notice says why, and nothing more is begun. A panic in a
//! callback or the listener is caught and counted, and the clone goes on: they are not the clone.
//!
//! # The end of a clone
//!
//! *Invariant:* a clone that ends never goes on. [`RunningClone::end`] says that it ends, and tells
//! the engine to suspend, under the one lock, and a resume looks at that under the same lock. Then
//! the rest that the end waits for is a state which nothing undoes, and whatever is answered
//! before that rest is committed.
//!
//! *Invariant:* calls that suspend, resume, ask for a status or give a message hold no lock while
//! they wait for a device. Each has a `Wait` in the book, which the first event that concerns it
//! ends: the rest or the commit that it is for, a resume, a failure, or the end of the clone.

pub use self::client::{Client, Stretch};
pub use self::event_log::{Dated, Listener, NOTICES_MAX};
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
