//! Metadata in which no region is hydrated: that of a new clone, or of a clone whose superblock was
//! all zero when a kernel opened it. The kernel then formats the device silently.

use clone_core::repair::{Origin, Recovery};

use crate::common::reporter::Reporter;

/// True if a sound superblock leads to a bitset in which no region is hydrated.
pub(super) fn is_fresh(recovery: &Recovery) -> bool {
    let regions = &recovery.regions;
    recovery.origin == Origin::Superblock && regions.is_whole() && regions.hydrated() == 0
}

/// Reports the possible cause, and a way to search for the old metadata.
pub(super) fn report(reporter: &Reporter<'_>, recovery: &Recovery) {
    let geometry = recovery.header.geometry;
    let (region_size, target_size) = (geometry.region_size().sectors().0, geometry.target_size().0);
    reporter.say(format_args!(
        "no region is hydrated in it, as in the metadata of a new clone. If this clone has been in \
         use before, a kernel may have formatted its metadata again. To search for the old \
         metadata, zero the superblock of a copy (dd if=/dev/zero of=COPY bs=4k count=1 \
         conv=notrunc) and repair the copy (clone_repair --region-size {region_size} --target-size \
         {target_size} -i COPY -o NEW). The regions that it finds were hydrated, and others may \
         have been: clone_repair(8) describes what to do then"
    ));
}
