//! Export of metadata to a [`Visitor`].

use crate::metadata::ir::{Header, Visitor};
use crate::metadata::region_map::RegionMap;

/// Calls `visitor` for the header and the hydrated regions of a clone. Lost regions that have not
/// been settled are left out.
///
/// # Errors
/// Those of the visitor.
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
