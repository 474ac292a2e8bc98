//! Where data come from that are cloned.

pub mod remote;
