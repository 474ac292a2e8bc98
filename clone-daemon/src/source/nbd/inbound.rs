//! The received bytes of a connection, before they are parsed.

use std::ops::Range;

use crate::source::nbd::error::NbdError;

/// Input of a connection that no caller has taken yet.
#[derive(Default)]
pub(super) struct Inbound {
    pub(super) buffer: Vec<u8>,
    /// The part of the buffer that has not been parsed.
    pub(super) unseen: Range<usize>,
    /// The data payload that is being received.
    pub(super) data: Option<Data>,
}

/// A data payload that is being received.
pub(super) struct Data {
    /// Cookie of the request that the data belong to.
    pub(super) cookie: u64,
    /// The bytes of the export that are still to come.
    pub(super) range: Range<u64>,
}

/// Bytes to receive at once while the next messages are unknown: some headers, or a small reply.
const AHEAD: usize = 4096;
/// Bytes to receive at once when the data are discarded.
pub(super) const DRAINED: usize = 64 << 10;

impl Inbound {
    /// Returns the received bytes that have not been parsed.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.unseen.clone()).unwrap_or_default()
    }

    /// Removes up to `len` of the received bytes.
    pub(super) fn seen(&mut self, len: usize) {
        self.unseen.start = self.unseen.end.min(self.unseen.start.saturating_add(len));
    }

    /// Receives until `need` bytes are there. The buffer grows with the bytes that arrive, not with
    /// the announced length.
    pub(super) fn fill(
        &mut self,
        need: usize,
        mut receive: impl FnMut(&mut [u8]) -> Result<usize, NbdError>,
    ) -> Result<(), NbdError> {
        self.buffer.copy_within(self.unseen.clone(), 0);
        self.unseen = 0..self.unseen.len();
        while self.unseen.len() < need {
            let size = need.min(2 * self.unseen.len()).max(AHEAD);
            self.buffer.resize(size, 0);
            self.buffer.shrink_to(DRAINED);
            let room = self.buffer.get_mut(self.unseen.end..).unwrap_or_default();
            self.unseen.end += receive(room)?;
        }
        Ok(())
    }
}
