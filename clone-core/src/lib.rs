//! dm-clone metadata.

pub mod auto_repair;
pub mod check;
pub mod damage;
pub mod dump;
pub mod format;
pub mod geometry;
pub mod ir;
pub mod live;
pub mod metadata;
pub mod progress;
pub mod region_map;
pub mod restore;
pub mod size;
pub mod superblock;
pub mod survey;
