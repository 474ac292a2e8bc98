//! Checks that the devices fit a table line.

use thiserror::Error;

use crate::dm_target::error::Role;
use crate::dm_target::table::TableLine;
use crate::geometry::{SECTOR_SIZE, Sectors};

/// Properties of a destination or a source that a table line depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Size of the device.
    pub size: Sectors,
    /// Smallest read or write of the device in bytes, 512 or more.
    pub logical_block_size: u64,
}

/// Reason why a device does not fit a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device is shorter than the clone.
    #[error("{role} has {size} sectors: the clone needs {length}")]
    TooSmall {
        /// Role of the device.
        role: Role,
        /// Size of the device.
        size: Sectors,
        /// Length of the clone.
        length: Sectors,
    },
    /// Region boundaries are not block boundaries of the device.
    #[error(
        "a region size of {region_size} sectors is not a multiple of the logical block size \
         of {role}, {logical_block_size} bytes"
    )]
    RegionSize {
        /// Role of the device.
        role: Role,
        /// Size of a region.
        region_size: Sectors,
        /// Logical block size of the device, in bytes.
        logical_block_size: u64,
    },
    /// The end of the clone is not a block boundary of the device.
    #[error(
        "a length of {length} sectors is not a multiple of the logical block size \
         of {role}, {logical_block_size} bytes"
    )]
    Length {
        /// Role of the device.
        role: Role,
        /// Length of the clone.
        length: Sectors,
        /// Logical block size of the device, in bytes.
        logical_block_size: u64,
    },
}

impl TableLine {
    /// Checks that the devices fit the line. If the length does not fit, device-mapper reports
    /// "len=4097 not aligned to h/w logical block size 4096".
    ///
    /// # Errors
    /// [`DeviceError`], for the first violation.
    pub fn check_devices(
        &self,
        destination: DeviceLimits,
        source: DeviceLimits,
    ) -> Result<(), DeviceError> {
        let length = self.geometry().target_size();
        let region_size = self.geometry().region_size().sectors();
        let devices = [(Role::Destination, destination), (Role::Source, source)];
        for (role, DeviceLimits { size, .. }) in devices {
            if size < length {
                return Err(DeviceError::TooSmall { role, size, length });
            }
        }
        for (role, DeviceLimits { logical_block_size, .. }) in devices {
            // Neither overflows: both are far below 2^63 bytes.
            let whole =
                |sectors: Sectors| (sectors.0 * SECTOR_SIZE).is_multiple_of(logical_block_size);
            if !whole(region_size) {
                return Err(DeviceError::RegionSize { role, region_size, logical_block_size });
            }
            if !whole(length) {
                return Err(DeviceError::Length { role, length, logical_block_size });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceError, DeviceLimits};
    use crate::dm_target::error::Role;
    use crate::dm_target::table::TableLine;
    use crate::geometry::Sectors;

    fn device(sectors: u64, logical_block_size: u64) -> DeviceLimits {
        DeviceLimits { size: Sectors(sectors), logical_block_size }
    }

    fn check(
        length: u64,
        destination: DeviceLimits,
        source: DeviceLimits,
    ) -> Result<(), DeviceError> {
        let line = TableLine::parse(&format!("0 {length} clone m d s 8")).unwrap();
        line.check_devices(destination, source)
    }

    #[test]
    fn both_devices_are_at_least_as_long_as_the_clone() {
        assert_eq!(check(1000, device(1000, 512), device(4000, 512)), Ok(()));
        let (short, length) = (Sectors(1000), Sectors(1001));
        let too_small = |role| Err(DeviceError::TooSmall { role, size: short, length });
        let refused = check(1001, device(1000, 512), device(4000, 512));
        assert_eq!(refused, too_small(Role::Destination));
        let refused = check(1001, device(4000, 512), device(1000, 512));
        assert_eq!(refused, too_small(Role::Source));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the source device has 1000 sectors: the clone needs 1001"
        );
    }

    #[test]
    fn regions_and_the_clone_end_between_blocks() {
        let (small, large) = (device(9000, 512), device(9000, 4096));
        assert_eq!(check(4104, large, small), Ok(()));
        assert!(matches!(check(4097, small, large), Err(DeviceError::Length { .. })));
        assert!(matches!(check(4097, large, small), Err(DeviceError::Length { .. })));
        let larger = device(9000, 8192);
        assert!(matches!(check(4096, larger, small), Err(DeviceError::RegionSize { .. })));
        assert!(matches!(check(4096, device(9000, 0), small), Err(DeviceError::RegionSize { .. })));
    }
}
