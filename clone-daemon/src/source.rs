//! The backends that a clone copies from.
//!
//! - [`uri`]: the name of a source, a path or a URI.
//! - [`open()`]: opens a source.
//! - [`identity`]: the version of an object; [`pin`] stores it next to the metadata.
//!   `clone_hydrate` shares both.
//! - [`remote`]: the interface of sources across a network; [`retry`] retries their requests.
//!
//! *Invariant:* no byte is returned unless it is known to belong to the version that was opened, as
//! far as the [identity](identity::Identity::warning) can prove. Once another version has been
//! seen, every read fails.

pub mod error;
mod http;
pub mod nbd;
#[cfg(feature = "object-store")]
mod object;
pub mod open;
pub mod opened;
pub mod options;
pub mod pin;
pub mod remote;
pub mod retry;
mod retry_policy;
pub mod stats;
pub mod uri;

pub use clone_tools::common::pin::identity;

pub use self::error::SourceError;
pub use self::identity::{Identity, Version};
pub use self::open::open;
pub use self::opened::{Opened, RemoteHandle};
pub use self::options::SourceOptions;
pub use self::pin::{Pin, PinError};
pub use self::retry::RetryingSource;
pub use self::stats::SourceStats;
pub use self::uri::{NbdAddress, NbdEndpoint, SourceSpec, SpecError, Url};
