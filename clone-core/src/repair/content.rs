//! Telling by what the devices hold whether a region is hydrated, where the metadata is lost.
//!
//! *Invariants:* only regions that are lost are read. What comes out does not depend on which
//! thread is faster. Memory does not grow with the devices, nor with the regions.

use std::fmt;
use std::io;
use std::mem;

use persistent_data::BLOCK_SIZE;
use thiserror::Error;

use self::evidence::{Buffers, Evidence, Failure, Finding, examine};
use self::parallel_map::WORKERS;
use self::piece::{Piece, Pieces};
use crate::block_io::ReadData;
use crate::geometry::{Geometry, RegionRange};
use crate::metadata::region_map::RegionMap;
use crate::progress::Progress;

mod evidence;
mod parallel_map;
mod piece;

/// One of the two devices that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the clone was made from.
    Source,
    /// What it is copied to, and where writes go.
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

/// Why nothing could be compared. Nothing was read then, and no region settled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContentError {
    /// A device ends before the clone does.
    #[error(
        "the {side} has {has} bytes, and the clone {needed}: it is not the {side} of this clone, \
         or the sizes of the clone are wrong"
    )]
    TooSmall {
        /// Which device.
        side: Side,
        /// Its bytes.
        has: u64,
        /// Bytes of the clone.
        needed: u64,
    },
    /// The system gives no more threads.
    #[error("cannot start a thread to read with")]
    Thread(#[source] io::Error),
}

/// How many regions were decided, and how.
#[derive(Debug, Default)]
pub struct Decided {
    /// Source and destination are equal. They are hydrated now, and either would have been right.
    pub equal: u64,
    /// A sector of the destination is neither zero nor as on the source. They are hydrated now.
    pub written: u64,
    /// They differ, but where they do the destination is zero. They are still lost.
    pub undecided: u64,
    /// Those of `undecided` in which the destination is not all zero: by all that can be told
    /// they are half copied. A region looks like this whose copying was cut off, but also one that
    /// was hydrated and had zeroes written to it: whoever calls the first one hydrated puts zeroes
    /// in the place of what was not copied, and whoever calls the second one not hydrated takes
    /// those zeroes back.
    pub half_copied: u64,
    /// Some of it could not be read, on either device. They are still lost.
    pub nr_unreadable: u64,
    /// Which regions these are, ascending: the first [`UNREADABLE_RUNS_MAX`] runs of them.
    pub unreadable: Vec<Unreadable>,
}

/// The most runs of unreadable regions that are kept.
pub const UNREADABLE_RUNS_MAX: usize = 1000;

/// Regions next to each other that could not be read for the same reason.
#[derive(Debug)]
pub struct Unreadable {
    /// The regions, half-open.
    pub regions: RegionRange,
    /// The device that could not be read. If neither could it is the source.
    pub side: Side,
    /// What the device said of the first of them.
    pub error: io::Error,
}

/// Decides by their content which of the lost regions of `regions` are hydrated, and settles
/// those.
///
/// | source and destination of a region | the region is then |
/// |---|---|
/// | are equal | hydrated: either answer would be right |
/// | differ, in a sector that is not zero on the destination | hydrated: somebody wrote to it |
/// | differ, in sectors that are all zero on the destination | still lost |
/// | cannot both be read | still lost |
///
/// **What the second rule proves.** Something has written to the destination. That was the clone
/// only if the destination was all zero when the clone began, and dm-clone does not see to that.
/// On a disk that was used before, regions that the clone has never touched hold what the disk held
/// then, which looks like a write; they are called hydrated, and the clone will serve that old
/// content instead of the source's. Use this only with a destination that was fresh or had been
/// discarded to zeroes. It does not prove either that the write came to its end: one that was cut
/// off before it was flushed may have left some of its sectors, and zeroes in the place of others.
///
/// The third rule decides nothing, for a region may have had zeroes written to it, or have been
/// discarded, or its copying may have been cut off: see [`half_copied`](Decided::half_copied). The
/// first one relies on a source that has never changed, as dm-clone itself does.
///
/// A region of which a part was found to be written is not read to its end, so that a sector
/// further on that cannot be read is not noticed. Progress is told in blocks of the clone, each
/// of which is read on both devices.
///
/// # Errors
/// See [`ContentError`].
///
/// # Panics
/// If `regions` has not as many regions as `geometry`, and if a device or `progress` panics.
pub fn decide<S: ReadData + ?Sized, D: ReadData + ?Sized>(
    regions: &mut RegionMap,
    geometry: Geometry,
    source: &S,
    destination: &D,
    progress: &dyn Progress,
) -> Result<Decided, ContentError> {
    decide_by_pieces(regions, Pieces::new(geometry, PIECE_BYTES), source, destination, progress)
}

/// The most that is read at once: much, so that calls are few, and little enough for each worker to
/// have room for two.
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
    let mut judge = Judge {
        regions,
        decided: Decided::default(),
        so_far: Evidence::default(),
        judged: 0,
        hydrated: 0..0,
    };
    parallel_map::gather(buffers, work, |crew| {
        loop {
            while crew.has_room() {
                let Some(piece) = pieces.cut(judge.regions) else { break };
                crew.hand_out(piece);
            }
            let Some((piece, findings)) = crew.next_done() else { break };
            progress.advance(judge.hear(&piece, findings));
            pieces.skip_to(judge.judged);
        }
        judge.finish()
    })
    .map_err(ContentError::Thread)
}

/// Settles regions by what was found in them. It hears the pieces in their order, whichever was
/// read first, and nothing of a region that is judged already: that is why the outcome is always
/// the same.
struct Judge<'a> {
    regions: &'a mut RegionMap,
    decided: Decided,
    /// Of the region of which only some parts have been heard.
    so_far: Evidence,
    /// Where the regions begin that are not judged.
    judged: u64,
    /// Regions to be settled as hydrated: many at once cost no more than one.
    hydrated: RegionRange,
}

impl Judge<'_> {
    /// Takes in what was found in each region of a piece. Returns how many blocks need no more
    /// attention: those of the piece, and the rest of a region of which enough is known.
    fn hear(&mut self, piece: &Piece, findings: Vec<Finding>) -> u64 {
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
    fn note_unreadable(&mut self, region: u64, Failure { side, error }: Failure) {
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
