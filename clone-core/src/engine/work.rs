//! The work of the engine, one file for each kind: requests, copies, commits, suspending.

pub(super) mod buffer_budget;
pub(super) mod commit;
pub(super) mod copying;
pub(super) mod hydration;
pub(super) mod plan;
pub(super) mod prefetch;
pub(super) mod rate;
pub(super) mod readahead;
pub(super) mod requests;
pub(super) mod suspend;
pub(super) mod window;
