//! The NBD server, as its clients see it.

mod extended;
mod hostile;
mod interleavings;
mod libnbd;
mod life;
mod limits;
mod negotiation;
mod raw;
pub(crate) mod served;
mod streams;
mod tls;
mod tools;
mod writes;
