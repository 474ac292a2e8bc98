//! Clones in userspace: what the dm-clone target does, without it and without root, on the same
//! metadata.
//!
//! The clone itself is [`clone_core::driver`]'s; here is what is around it. A transport knows
//! nothing of regions, and the engine knows nothing of transports: between them is a [`volume`].
//!
//! - [`volume`]: a clone as those see it who serve it.
//! - [`figures`]: what is counted of it.
//! - [`nbd`]: the NBD protocol, served and spoken to others.
//! - [`source`]: where data come from that are cloned.

pub mod figures;
pub mod nbd;
pub mod source;
pub mod volume;
