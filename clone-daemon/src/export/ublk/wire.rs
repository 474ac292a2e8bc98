//! The data structures of the ublk driver: `include/uapi/linux/ublk_cmd.h` of the kernel. Numbers
//! are in the machine's byte order, and fields have the alignment of C structures.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Path of the control device.
pub(super) const CONTROL: &str = "/dev/ublk-control";

/// Maximum number of requests in flight for each queue.
pub(super) const DEPTH: u16 = 64;

/// Maximum length of a request in bytes.
const REQUEST_BYTES: u32 = 512 << 10;

/// Maximum length of a discard or a write of zeroes in sectors of 512 bytes.
const ZEROED_SECTORS: u32 = 1 << 21;

/// `UBLK_MAX_QUEUE_DEPTH`: the distance between the descriptors of two queues.
pub(super) const DEPTH_MAX: u64 = 4096;

/// Commands to the control device (`UBLK_CMD_*`) and to the device of a queue (`UBLK_IO_*`).
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Add = 0x04,
    Delete = 0x05,
    Start = 0x06,
    Stop = 0x07,
    SetParams = 0x08,
    GetFeatures = 0x13,
    Fetch = 0x20,
    CommitAndFetch = 0x21,
}

impl Command {
    /// Returns the number as in Linux 6.0 to 6.3.
    pub(super) fn plain(self) -> u32 {
        self as u32
    }

    /// Returns the number as an ioctl (`UBLK_U_*`). Later kernels may know only this one.
    pub(super) fn encoded(self) -> u32 {
        const READ: u32 = 2 << 30;
        const READ_WRITE: u32 = 3 << 30;
        let direction = if matches!(self, Self::GetFeatures) { READ } else { READ_WRITE };
        let size = match self {
            Self::Fetch | Self::CommitAndFetch => size_of::<IoCommand>(),
            _ => size_of::<ControlCommand>(),
        };
        direction | (size as u32) << 16 | u32::from(b'u') << 8 | self.plain()
    }
}

/// `struct ublksrv_ctrl_cmd`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ControlCommand {
    pub(super) dev_id: u32,
    pub(super) queue_id: u16,
    pub(super) len: u16,
    pub(super) addr: u64,
    pub(super) data: [u64; 2],
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct DeviceInfo {
    pub(super) nr_hw_queues: u16,
    pub(super) queue_depth: u16,
    state: u16,
    pad0: u16,
    pub(super) max_io_buf_bytes: u32,
    pub(super) dev_id: u32,
    ublksrv_pid: i32,
    pad1: u32,
    flags: u64,
    ublksrv_flags: u64,
    reserved: [u64; 3],
}

/// The id that lets the driver choose one.
pub(super) const ANY: u32 = u32::MAX;

impl DeviceInfo {
    pub(super) fn wanted(queues: u16) -> Self {
        Self {
            nr_hw_queues: queues,
            queue_depth: DEPTH,
            max_io_buf_bytes: REQUEST_BYTES,
            dev_id: ANY,
            ..Self::default()
        }
    }
}

/// The first part of `struct ublk_params`; later kernels have more.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Params {
    len: u32,
    types: u32,
    // struct ublk_param_basic
    attrs: u32,
    logical_bs_shift: u8,
    physical_bs_shift: u8,
    io_opt_shift: u8,
    io_min_shift: u8,
    max_sectors: u32,
    chunk_sectors: u32,
    dev_sectors: u64,
    virt_boundary_mask: u64,
    // struct ublk_param_discard
    discard_alignment: u32,
    discard_granularity: u32,
    max_discard_sectors: u32,
    max_write_zeroes_sectors: u32,
    max_discard_segments: u16,
    reserved0: u16,
    pad: u32,
}

impl Params {
    /// Returns the parameters of a clone. All sizes are in bytes: the size of the clone, of a
    /// region, and of the block that is written without being read first.
    pub(super) fn of(size: u64, region: u64, block: u64) -> Self {
        const BASIC: u32 = 1 << 0;
        const DISCARD: u32 = 1 << 1;
        const VOLATILE_CACHE: u32 = 1 << 2;
        const FUA: u32 = 1 << 3;
        Self {
            len: size_of::<Self>() as u32,
            types: BASIC | DISCARD,
            attrs: VOLATILE_CACHE | FUA,
            logical_bs_shift: 9,
            physical_bs_shift: block.ilog2() as u8,
            io_opt_shift: block.ilog2() as u8,
            io_min_shift: block.ilog2() as u8,
            max_sectors: REQUEST_BYTES / 512,
            dev_sectors: size / 512,
            discard_granularity: u32::try_from(region).unwrap_or(1 << 31),
            max_discard_sectors: ZEROED_SECTORS,
            max_write_zeroes_sectors: ZEROED_SECTORS,
            max_discard_segments: 1,
            ..Self::default()
        }
    }
}

/// `struct ublksrv_io_desc`: a request.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Descriptor {
    op_flags: u32,
    nr_sectors: u32,
    start_sector: u64,
    addr: u64,
}

/// The operation of a request, `UBLK_IO_OP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UblkOp {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

impl Descriptor {
    /// Returns the operation; `None` if the device does not support it.
    pub(super) fn op(&self) -> Option<UblkOp> {
        match self.op_flags & 0xff {
            0 => Some(UblkOp::Read),
            1 => Some(UblkOp::Write),
            2 => Some(UblkOp::Flush),
            3 => Some(UblkOp::Discard),
            5 => Some(UblkOp::WriteZeroes),
            _ => None,
        }
    }

    /// Returns whether the data must be durable (`UBLK_IO_F_FUA`).
    pub(super) fn is_durable(&self) -> bool {
        self.op_flags & 1 << 13 != 0
    }

    /// Returns whether zeroes must stay allocated (`UBLK_IO_F_NOUNMAP`).
    pub(super) fn keeps_room(&self) -> bool {
        self.op_flags & 1 << 15 != 0
    }

    /// Returns the range in bytes, half-open; `None` if it overflows. A flush has an empty range,
    /// and -1 as its sector.
    pub(super) fn range(&self) -> Option<std::ops::Range<u64>> {
        if self.op() == Some(UblkOp::Flush) {
            return Some(0..0);
        }
        let start = self.start_sector.checked_mul(512)?;
        let end = start.checked_add(u64::from(self.nr_sectors) * 512)?;
        Some(start..end)
    }
}

/// `struct ublksrv_io_cmd`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct IoCommand {
    pub(super) q_id: u16,
    pub(super) tag: u16,
    pub(super) result: i32,
    pub(super) addr: u64,
}

const _: () = {
    assert!(size_of::<ControlCommand>() == 32);
    assert!(size_of::<DeviceInfo>() == 64);
    assert!(size_of::<Params>() == 64);
    assert!(size_of::<Descriptor>() == 24);
    assert!(size_of::<IoCommand>() == 16);
};

#[cfg(test)]
mod tests {
    use super::{Command, Descriptor, UblkOp};

    #[test]
    fn commands_have_the_numbers_of_the_kernels_header() {
        assert_eq!(Command::Add.encoded(), 0xc020_7504);
        assert_eq!(Command::GetFeatures.encoded(), 0x8020_7513);
        assert_eq!(Command::Fetch.encoded(), 0xc010_7520);
        assert_eq!(Command::CommitAndFetch.encoded(), 0xc010_7521);
        assert_eq!(Command::CommitAndFetch.plain(), 0x21);
    }

    #[test]
    fn a_descriptor_is_taken_apart_and_one_that_makes_no_sense_has_no_range() {
        let mut descriptor =
            Descriptor { op_flags: 1 << 13 | 5, nr_sectors: 3, start_sector: 8, addr: 0 };
        assert_eq!(descriptor.op(), Some(UblkOp::WriteZeroes));
        assert!(descriptor.is_durable() && !descriptor.keeps_room());
        assert_eq!(descriptor.range(), Some(4096..5632));
        descriptor.op_flags = 1 << 15 | 4;
        assert_eq!(descriptor.op(), None);
        assert!(descriptor.keeps_room() && !descriptor.is_durable());
        for start_sector in [1 << 55, u64::MAX] {
            assert_eq!(Descriptor { start_sector, ..descriptor }.range(), None);
        }
        let flush = Descriptor { op_flags: 2, start_sector: u64::MAX, ..descriptor };
        assert_eq!((flush.op(), flush.range()), (Some(UblkOp::Flush), Some(0..0)));
    }
}
