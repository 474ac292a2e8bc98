//! Progress reports of long operations.

/// Receives the progress of an operation, in blocks of 4096 bytes.
pub trait Progress {
    /// Sets the amount of work, as soon as it is known.
    fn set_total(&self, blocks: u64);

    /// Reports that `blocks` more have been done.
    fn advance(&self, blocks: u64);
}

/// Ignores all reports.
impl Progress for () {
    fn set_total(&self, _: u64) {}

    fn advance(&self, _: u64) {}
}
