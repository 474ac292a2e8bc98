//! Events: the input of the engine, which the driver sends.

use crate::engine::api::action::OpId;
use crate::engine::api::command::Command;
use crate::engine::api::request::{Device, Request, RequestError};

/// An input to the engine.
#[derive(Debug)]
pub enum Input {
    /// A user submits a request.
    Submit(Request),
    /// An operation has ended.
    Done {
        /// The operation.
        op: OpId,
        /// Its result.
        result: Result<Done, Failure>,
    },
    /// Time has passed, as [`Engine::next_tick`](crate::engine::Engine::next_tick) wanted it to.
    Tick,
    /// A message for the clone.
    Command(Command),
    /// The source has changed: regions that were not copied are lost, and hydration stops. The
    /// driver sends this each time it notices the change.
    SourceChanged {
        /// A description of the change, for people.
        reason: String,
    },
    /// Start nothing new; when all work in flight has ended, commit and report the suspend.
    Suspend,
    /// Resume the clone.
    Resume,
}

/// The result of a successful operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Success with no further information.
    Plain,
    /// The source knows that a fetched range is all zeroes, and that the zeroes go on to `until`.
    Zeroes {
        /// End of the zeroes, in bytes: the end of the range or a later offset, possibly past the
        /// end of the clone. More zeroes may follow.
        until: u64,
    },
    /// A commit succeeded; `used` blocks of the metadata device are in use.
    Blocks {
        /// Number of blocks.
        used: u64,
    },
}

/// The reason why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The device that failed. A store fails only because of the destination; a fetch can fail
    /// because of other devices than the source.
    pub device: Device,
    /// The error, for people.
    pub reason: String,
    /// True if the device is out of space.
    pub is_full: bool,
}

impl Failure {
    /// Returns the error of a request that needed the device.
    pub(in crate::engine) fn error(&self) -> RequestError {
        if self.is_full {
            RequestError::Full(self.device)
        } else {
            RequestError::Device(self.device)
        }
    }
}
