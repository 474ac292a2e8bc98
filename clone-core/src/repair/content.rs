//! Compares the data of source and destination to decide whether regions are hydrated, if the
//! metadata has lost that information.
//!
//! *Invariants:* only lost regions are read. The result does not depend on the speed of threads.
//! Memory does not grow with the size of the devices, nor with the number of regions.

use std::fmt;
use std::io;
use std::mem;

use persistent_data::BLOCK_SIZE;
use thiserror::Error;

use self::evidence::{Buffers, Finding, PieceEvidence, ReadFailure, examine};
use self::parallel_map::WORKERS;
use self::piece::{Piece, Pieces};
use crate::block_io::ReadData;
use crate::geometry::{Geometry, RegionRange};
use crate::metadata::region_map::RegionMap;
use crate::progress::Progress;

mod evidence;
mod parallel_map;
mod piece;

/// One of the two compared devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The device that the clone was made from.
    Source,
    /// The device that receives copies and writes.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// The reason why no comparison took place. No data was then read, and no region settled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContentError {
    /// A device is smaller than the clone.
    #[error(
        "the {side} has {has} bytes, and the clone {needed}: it is not the {side} of this clone, \
         or the sizes of the clone are wrong"
    )]
    TooSmall {
        /// The device.
        side: Side,
        /// Size of the device, in bytes.
        has: u64,
        /// Size of the clone, in bytes.
        needed: u64,
    },
    /// The system cannot start another thread.
    #[error("cannot start a thread to read with")]
    Thread(#[source] io::Error),
}

/// The number of decided regions, by result.
#[derive(Debug, Default)]
pub struct Decided {
    /// Source and destination are equal. These regions are hydrated now; both answers would be
    /// right.
    pub equal: u64,
    /// A sector of the destination is neither zero nor equal to the source. These regions are
    /// hydrated now.
    pub written: u64,
    /// They differ, but only where the destination is zero. These regions are still lost.
    pub undecided: u64,
    /// The part of `undecided` in which the destination is not all zero: they look half copied.
    /// Such a region was either being copied when that was interrupted, or it was hydrated and had
    /// zeroes written to it. Calling the first kind hydrated replaces the uncopied data by zeroes;
    /// calling the second kind not hydrated reverts the written zeroes.
    pub half_copied: u64,
    /// Regions that could not be read completely, on either device. They are still lost.
    pub nr_unreadable: u64,
    /// These regions in ascending order: the first [`UNREADABLE_RUNS_MAX`] runs.
    pub unreadable: Vec<Unreadable>,
}

/// Maximum number of kept runs of unreadable regions.
pub const UNREADABLE_RUNS_MAX: usize = 1000;

/// Adjacent regions that could not be read for the same reason.
#[derive(Debug)]
pub struct Unreadable {
    /// The regions, half-open.
    pub regions: RegionRange,
    /// The device that could not be read; the source if neither could.
    pub side: Side,
    /// The error for the first of the regions.
    pub error: io::Error,
}

/// Decides by their data which of the lost regions of `regions` are hydrated, and settles those.
///
/// | source and destination of a region | result |
/// |---|---|
/// | are equal | hydrated: either answer would be right |
/// | differ, in a sector that is not zero on the destination | hydrated: it was written to |
/// | differ, in sectors that are all zero on the destination | still lost |
/// | cannot both be read | still lost |
///
/// **Limits of the second rule.** It proves that something was written to the destination. That was
/// the clone only if the destination was all zero when the clone began, which dm-clone does not
/// ensure. On a reused disk, regions that the clone has never touched hold old data, which looks
/// like a write; they are called hydrated, and the clone will then show that old data instead of
/// the source's. Use this only with a destination that was new or had been discarded to zeroes. The
/// rule does not prove either that the write was completed: one that was interrupted before it was
/// flushed may have left some of its sectors, and zeroes in place of others.
///
/// The third rule decides nothing: the region may have had zeroes written to it, or have been
/// discarded, or its copy may have been interrupted: see [`half_copied`](Decided::half_copied). The
/// first rule relies on a source that has never changed, as dm-clone itself does.
///
/// A region is not read further once a written sector was found, so unreadable sectors after it go
/// unnoticed. Progress is in blocks of the clone, each of which is read on both devices.
///
/// # Errors
/// [`ContentError::TooSmall`] if a device is smaller than the clone, and [`ContentError::Thread`]
/// if a thread cannot be started.
///
/// # Panics
/// If `regions` and `geometry` have different numbers of regions, or if a device or `progress`
/// panics.
pub fn decide<S: ReadData + ?Sized, D: ReadData + ?Sized>(
    regions: &mut RegionMap,
    geometry: Geometry,
    source: &S,
    destination: &D,
    progress: &dyn Progress,
) -> Result<Decided, ContentError> {
    decide_by_pieces(regions, Pieces::new(geometry, PIECE_BYTES), source, destination, progress)
}

/// Maximum size of one read, in bytes: large, for few calls, but small enough for two buffers per
/// worker.
const PIECE_BYTES: usize = 2 << 20;

const _: () = assert!(2 * WORKERS * PIECE_BYTES <= 64 << 20, "buffers for both devices");

fn decide_by_pieces<S: ReadData + ?Sized, D: ReadData + ?Sized>(
    regions: &mut RegionMap,
    mut pieces: Pieces,
    source: &S,
    destination: &D,
    progress: &dyn Progress,
) -> Result<Decided, ContentError> {
    assert!(regions.nr_regions() == pieces.nr_regions(), "a map of another clone");
    let needed = pieces.size_bytes();
    let sizes =
        [(Side::Source, source.size_bytes()), (Side::Destination, destination.size_bytes())];
    for (side, has) in sizes {
        if has < needed {
            return Err(ContentError::TooSmall { side, has, needed });
        }
    }
    progress.set_total(pieces.nr_blocks(regions));
    if regions.is_whole() {
        return Ok(Decided::default());
    }
    let largest = pieces.largest();
    let buffers = || Buffers::new(largest);
    let work = |buffers: &mut Buffers, piece: &Piece| examine(piece, source, destination, buffers);
    let mut decider = RegionDecider {
        regions,
        decided: Decided::default(),
        so_far: PieceEvidence::default(),
        judged: 0,
        hydrated: 0..0,
    };
    parallel_map::gather(buffers, work, |map| {
        loop {
            while map.has_room() {
                let Some(piece) = pieces.cut(decider.regions) else { break };
                map.hand_out(piece);
            }
            let Some((piece, findings)) = map.next_done() else { break };
            progress.advance(decider.observe(&piece, findings));
            pieces.skip_to(decider.judged);
        }
        decider.finish()
    })
    .map_err(ContentError::Thread)
}

/// Settles regions by their evidence. It receives the pieces in order, regardless of the order of
/// the reads, and ignores regions that are already judged: the result is therefore always the same.
struct RegionDecider<'a> {
    regions: &'a mut RegionMap,
    decided: Decided,
    /// Evidence of the region of which only some parts have been processed.
    so_far: PieceEvidence,
    /// The first region that is not judged.
    judged: u64,
    /// Regions to settle as hydrated: settling many at once costs no more than settling one.
    hydrated: RegionRange,
}

impl RegionDecider<'_> {
    /// Processes the evidence for each region of a piece. Returns the number of blocks that need no
    /// more work: those of the piece, and the rest of a region that is decided.
    fn observe(&mut self, piece: &Piece, findings: Vec<Finding>) -> u64 {
        if piece.regions.start < self.judged {
            return 0;
        }
        let mut bytes = piece.len as u64;
        for (region, finding) in piece.regions.clone().zip(findings) {
            let so_far = mem::take(&mut self.so_far);
            match finding.map(|found| so_far.and(found)) {
                Ok(found) if piece.rest > 0 && !found.foreign => self.so_far = found,
                finding => {
                    self.judge(region, finding);
                    self.judged = region + 1;
                    bytes += piece.rest;
                }
            }
        }
        bytes.div_ceil(BLOCK_SIZE as u64)
    }

    fn judge(&mut self, region: u64, finding: Finding) {
        match finding {
            Ok(found) if !found.differs => {
                self.decided.equal += 1;
                self.hydrate(region);
            }
            Ok(found) if found.foreign => {
                self.decided.written += 1;
                self.hydrate(region);
            }
            Ok(found) => {
                self.decided.undecided += 1;
                self.decided.half_copied += u64::from(found.nonzero);
            }
            Err(failure) => self.decided.note_unreadable(region, failure),
        }
    }

    fn hydrate(&mut self, region: u64) {
        if self.hydrated.end != region {
            self.settle();
            self.hydrated.start = region;
        }
        self.hydrated.end = region + 1;
    }

    fn settle(&mut self) {
        self.regions.settle(self.hydrated.clone(), true);
    }

    fn finish(mut self) -> Decided {
        self.settle();
        self.decided
    }
}

impl Decided {
    fn note_unreadable(&mut self, region: u64, ReadFailure { side, error }: ReadFailure) {
        self.nr_unreadable += 1;
        let has_room = self.unreadable.len() < UNREADABLE_RUNS_MAX;
        match self.unreadable.last_mut() {
            Some(last) if last.regions.end == region && last.is_like(side, &error) => {
                last.regions.end += 1;
            }
            _ if has_room => {
                self.unreadable.push(Unreadable { regions: region..region + 1, side, error });
            }
            _ => {}
        }
    }
}

impl Unreadable {
    fn is_like(&self, side: Side, error: &io::Error) -> bool {
        let reason = |error: &io::Error| (error.kind(), error.raw_os_error());
        self.side == side && reason(&self.error) == reason(error)
    }
}

#[cfg(test)]
mod tests;
