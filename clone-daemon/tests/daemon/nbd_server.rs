//! The NBD server, as its clients see it.

mod extended;
mod haggling;
mod hostile;
mod interleavings;
mod libnbd;
mod life;
mod limits;
mod raw;
pub(crate) mod served;
mod streams;
mod tls;
mod tools;
mod writes;
