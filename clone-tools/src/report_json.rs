//! The parts that the `--json` documents of several tools share.

use clone_core::metadata::damage::Damage;
use clone_core::metadata::ir::{Header, METADATA_VERSION};
use serde::{Serialize, Serializer};

use crate::common::units::format_uuid;

/// The content of the superblock.
#[derive(Serialize)]
pub(crate) struct Superblock {
    uuid: String,
    version: u32,
    region_size: u64,
    target_size: u64,
    nr_regions: u64,
}

impl From<Header> for Superblock {
    fn from(header: Header) -> Self {
        Self {
            uuid: format_uuid(&header.uuid),
            version: METADATA_VERSION,
            region_size: header.geometry.region_size().sectors().0,
            target_size: header.geometry.target_size().0,
            nr_regions: header.geometry.nr_regions(),
        }
    }
}

#[derive(Serialize)]
struct Problem {
    severity: &'static str,
    kind: &'static str,
    block: Option<u64>,
    regions: Option<(u64, u64)>,
    message: String,
}

/// Serializes damage in the form that all `--json` documents share.
pub(crate) fn problems<S: Serializer>(
    damage: &&[Damage],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(damage.iter().map(|problem| Problem {
        severity: problem.severity().name(),
        kind: problem.code(),
        block: problem.block().map(|block| block.0),
        regions: problem.regions().map(|regions| (regions.start, regions.end)),
        message: problem.to_string(),
    }))
}
