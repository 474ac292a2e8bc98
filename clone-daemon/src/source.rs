//! Where data come from that are cloned.
//!
//! - [`spec`]: what names a source.
//! - [`open()`]: opening it, and what comes of that.
//! - [`identity`]: which version of which object it is; [`pin`] keeps that beside the metadata.
//!   Both are those of `clone_hydrate`.
//! - [`remote`]: what is across a network; [`retrying`] makes a source of it that can be relied on.
//!
//! *Invariant:* no byte is handed out that is not known to be of the version that was opened, as
//! far as its [identity](identity::Identity::warning) can tell. Once another version was seen,
//! every read fails.

mod http;
pub mod nbd;
#[cfg(feature = "object-store")]
mod object;
pub mod open;
pub mod options;
pub mod pin;
pub mod remote;
pub mod retry;
mod retry_policy;
pub mod stats;
pub mod uri;

pub use clone_tools::common::pin::identity;

pub use self::identity::{Identity, Version};
pub use self::open::{Opened, RemoteHandle, SourceError, open};
pub use self::options::SourceOptions;
pub use self::pin::{Pin, PinError};
pub use self::retry::Retrying;
pub use self::stats::SourceFigures;
pub use self::uri::{NbdAddress, NbdEndpoint, SourceSpec, SpecError, Url};
