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
//! | `control` | that a clone is suspended by one at a time | first; held while a suspend waits |
//! | `Crew::state` | the engine, the queue, the tables of requests and copies | after `control` |
//! | `Notices::listener` | who listens | with none of those above |
//! | `Notices::book` | the last notices | after any of those above |
//! | metadata | metadata | by a worker that holds no other |
//! | those of a buffer, and of the pool | bytes | last |
//!
//! *Invariant:* no device is touched, no callback called and no memory of size moved with
//! `Crew::state` held. The only lock that is held during I/O on the devices with data is the one of
//! a copy's buffer, for reading, while it is stored; and that of metadata during a commit, which is
//! one at a time anyway.
//!
//! *Invariant:* a callback runs on a worker, whoever told the engine what led to the answer, and
//! also if the clone has failed or was stopped; so a server may hold a lock that its callback wants
//! while it submits.
//!
//! *Invariant:* every request is answered once. Those who work for it hold it, and the last to let
//! it go answers; until then its buffer is its own.
//!
//! *Invariant:* no thread waits for one that has panicked. A panic in a device, a callback or the
//! engine ends the clone: all requests fail, a notice says why, and nothing more is begun.

pub use self::aligned::AlignedBuf;
pub use self::client::Client;
pub use self::data_file::Access;
pub use self::device::{Destination, Extent, Source};
pub use self::file_destination::FileDestination;
pub use self::file_source::FileSource;
pub use self::notices::{Listener, NOTICES_MAX};
pub use self::running::{
    Devices, DriverError, DriverOptions, HydrationProgress, RunningClone, Stopped,
};
pub use self::zero_runs::zero_runs;

mod aligned;
mod buffers;
mod client;
mod crew;
mod data_file;
mod device;
mod direct;
mod file_destination;
mod file_source;
mod notices;
mod perform;
mod queue;
mod running;
#[cfg(test)]
mod scratch;
mod state;
mod zero_runs;

#[cfg(test)]
mod tests;
