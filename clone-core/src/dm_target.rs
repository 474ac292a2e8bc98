//! The text interface of a clone target: table lines, status lines, messages.
//!
//! [`TableLine`] and [`Arguments`] are the input of `dmsetup create`, [`StatusLine`] is the output
//! of `dmsetup status`, and [`Message`] is the input of `dmsetup message`. All are parsed like
//! dmsetup 1.02.185 and kernel 6.1 do, according to experiments, except for the differences that
//! `docs/differences.md` lists.

mod devices;
mod error;
mod message;
mod number;
mod options;
mod status;
mod table;
mod words;

pub use devices::{DeviceError, DeviceLimits};
pub use error::{Role, TableError, Word};
pub use message::{Message, MessageError};
pub use options::Options;
pub use status::{Field, Mode, Status, StatusCounts, StatusError, StatusLine};
pub use table::{Arguments, DevicePaths, MAX_SECTORS, TableLine};
