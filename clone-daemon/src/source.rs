//! The backends that a clone copies from.
//!
//! - [`spec`]: the name of a source, a path or a URI.
//! - [`open()`]: opens a source.
//! - [`identity`]: the version of an object; [`pin`] stores it next to the metadata.
//!   `clone_hydrate` shares both.
//! - [`remote`]: the interface of sources across a network; [`retrying`] retries their requests.
//!
//! *Invariant:* no byte is returned unless it is known to belong to the version that was opened, as
//! far as the [identity](identity::Identity::warning) can prove. Once another version has been
//! seen, every read fails.

pub mod figures;
mod http;
#[cfg(feature = "object-store")]
mod object;
pub mod open;
pub mod options;
mod patience;
pub mod pin;
pub mod remote;
pub mod retrying;
pub mod spec;

pub use clone_tools::pin::identity;

pub use self::figures::SourceFigures;
pub use self::identity::{Identity, Version};
pub use self::open::{Opened, RemoteHandle, SourceError, open};
pub use self::options::SourceOptions;
pub use self::pin::{Pin, PinError};
pub use self::retrying::Retrying;
pub use self::spec::{NbdAddress, NbdEndpoint, SourceSpec, SpecError, Url};
