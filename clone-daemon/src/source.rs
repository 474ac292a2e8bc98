//! Where data come from that are cloned.

pub mod remote;
pub mod spec;

pub use self::spec::{NbdAddress, NbdEndpoint, SourceSpec, SpecError, Url};
