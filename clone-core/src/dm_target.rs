//! What is said to a clone target and what it answers: table lines, status, messages.
//!
//! [`TableLine`] and [`Arguments`] are what `dmsetup create` is given, [`StatusLine`] is what
//! `dmsetup status` prints, [`Message`] what `dmsetup message` sends. Each is taken as dmsetup
//! 1.02.185 and a kernel 6.1 take it, found out by asking them, but for the differences that
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
pub use status::{Field, Figures, Mode, Status, StatusError, StatusLine};
pub use table::{Arguments, DevicePaths, MAX_SECTORS, TableLine};
