//! What the tests across the workspace share.

pub mod audited;
pub mod client;
pub mod crash;
pub mod damage;
pub mod faults;
pub mod fixtures;
pub mod growing;
pub mod hydration;
pub mod laws;
pub mod log_writes;
pub mod mutants;
pub mod surgery;
pub mod watch;
pub mod writer_at_work;
