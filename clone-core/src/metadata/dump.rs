//! Handing out what metadata says.

use crate::metadata::ir::{Header, Visitor};
use crate::metadata::region_map::RegionMap;

/// Drives `visitor` through what was read of a clone's metadata. Regions that could not be read
/// and have not been settled are left out.
///
/// # Errors
/// The visitor's.
pub fn dump<V: Visitor>(
    header: &Header,
    regions: &RegionMap,
    visitor: &mut V,
) -> Result<(), V::Error> {
    visitor.begin(header, regions.hydrated())?;
    for run in regions.runs() {
        visitor.run(run)?;
    }
    visitor.end()
}
