//! Reads pieces on both devices, and compares them.

use std::io;

use super::{Piece, ReadData, Side};
use crate::geometry::SECTOR_SIZE;

/// The result of the comparison of a region, or of a part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PieceEvidence {
    /// Source and destination are not equal.
    pub(super) differs: bool,
    /// The destination is not all zero.
    pub(super) nonzero: bool,
    /// A sector of the destination is neither zero nor equal to the source. Further data cannot
    /// change the decision.
    pub(super) foreign: bool,
}

const ZEROES: [u8; SECTOR_SIZE as usize] = [0; SECTOR_SIZE as usize];

impl PieceEvidence {
    /// Compares bytes of the source with those at the same offset of the destination.
    pub(super) fn of(source: &[u8], destination: &[u8]) -> Self {
        let is_nonzero = |sector: &[u8]| sector != &ZEROES[..sector.len()];
        let mut sectors = destination.chunks(ZEROES.len());
        if source == destination {
            return Self { nonzero: sectors.any(is_nonzero), ..Self::default() };
        }
        let mut found = Self { differs: true, ..Self::default() };
        for (on_source, sector) in source.chunks(ZEROES.len()).zip(sectors) {
            if is_nonzero(sector) {
                found.nonzero = true;
                if on_source != sector {
                    found.foreign = true;
                    break;
                }
            }
        }
        found
    }

    /// Combines the evidence of two parts.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            differs: self.differs | other.differs,
            nonzero: self.nonzero | other.nonzero,
            foreign: self.foreign | other.foreign,
        }
    }
}

/// The result for a region, or for a part of one.
pub(super) type Finding = Result<PieceEvidence, ReadFailure>;

/// A device could not be read.
#[derive(Debug)]
pub(super) struct ReadFailure {
    pub(super) side: Side,
    pub(super) error: io::Error,
}

/// Buffers for a piece of either device.
#[derive(Debug)]
pub(super) struct Buffers {
    source: Vec<u8>,
    destination: Vec<u8>,
}

impl Buffers {
    pub(super) fn new(bytes: usize) -> Self {
        Self { source: vec![0; bytes], destination: vec![0; bytes] }
    }

    fn read<S: ReadData + ?Sized, D: ReadData + ?Sized>(
        &mut self,
        offset: u64,
        len: usize,
        source: &S,
        destination: &D,
    ) -> Result<(&[u8], &[u8]), ReadFailure> {
        let failed = |side| move |error| ReadFailure { side, error };
        let (from_source, from_destination) =
            (&mut self.source[..len], &mut self.destination[..len]);
        source.read_at(offset, from_source).map_err(failed(Side::Source))?;
        destination.read_at(offset, from_destination).map_err(failed(Side::Destination))?;
        Ok((from_source, from_destination))
    }
}

/// Reads and compares a piece. Returns one finding per region.
pub(super) fn examine<S: ReadData + ?Sized, D: ReadData + ?Sized>(
    piece: &Piece,
    source: &S,
    destination: &D,
    buffers: &mut Buffers,
) -> Vec<Finding> {
    let stride = piece.stride;
    match buffers.read(piece.offset, piece.len, source, destination) {
        Ok((on_source, on_destination)) => {
            let regions = on_source.chunks(stride).zip(on_destination.chunks(stride));
            regions
                .map(|(source, destination)| Ok(PieceEvidence::of(source, destination)))
                .collect()
        }
        Err(failure) if piece.len <= stride => vec![Err(failure)],
        // Retry each region: only regions with a bad sector stay lost, not their neighbours.
        Err(_) => (0..piece.len)
            .step_by(stride)
            .map(|at| {
                let len = stride.min(piece.len - at);
                let read = buffers.read(piece.offset + at as u64, len, source, destination);
                read.map(|(source, destination)| PieceEvidence::of(source, destination))
            })
            .collect(),
    }
}
