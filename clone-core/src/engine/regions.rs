//! The state of the regions: which are hydrated, which are being changed, which failed.

pub(super) mod claim;
pub(super) mod failed_regions;
pub(super) mod fast_path;
pub(super) mod map;
pub(super) mod region_set;
