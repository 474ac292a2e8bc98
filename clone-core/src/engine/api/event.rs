//! What the engine is told.

use crate::engine::api::action::OpId;
use crate::engine::api::command::Command;
use crate::engine::api::request::{Device, Request, RequestError};

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A user wants something.
    Submit(Request),
    /// An operation has ended.
    Done {
        /// Which.
        op: OpId,
        /// How.
        result: Result<Done, Failure>,
    },
    /// Time has passed, as [`Engine::next_tick`](crate::engine::Engine::next_tick) wanted it to.
    Tick,
    /// A message for the clone.
    Command(Command),
    /// The source is not what it was: what has not been copied is lost, and hydration stops. Told
    /// as often as it is seen.
    SourceChanged {
        /// What about it, for people.
        reason: String,
    },
    /// Begin nothing new; when all that is under way has ended, commit and tell it.
    Suspend,
    /// Go on.
    Resume,
}

/// What an operation that succeeded has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing but that.
    Plain,
    /// A fetch: the source knows that it holds zeroes from the beginning of the range to here at
    /// least, which is the end of the range or after it. Bytes of the clone, or more.
    Zeroes {
        /// Where the zeroes end.
        until: u64,
    },
    /// A commit: so many blocks of the metadata device are in use now.
    Blocks {
        /// How many.
        used: u64,
    },
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which device it was: a store can fail for no other reason than the destination, but a fetch
    /// may have more to say than the source.
    pub device: Device,
    /// What it said, for people.
    pub reason: String,
    /// Whether that was that there is no room left.
    pub is_full: bool,
}

impl Failure {
    /// What becomes of a request that needed the device.
    pub(in crate::engine) fn error(&self) -> RequestError {
        if self.is_full {
            RequestError::Full(self.device)
        } else {
            RequestError::Device(self.device)
        }
    }
}
