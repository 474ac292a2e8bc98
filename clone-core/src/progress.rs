//! How far long work has come.

/// Is told how far the work is, in blocks of 4096 bytes.
pub trait Progress {
    /// How much there is to do, once that is known.
    fn set_total(&self, blocks: u64);

    /// That much more has been done.
    fn advance(&self, blocks: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn set_total(&self, _: u64) {}

    fn advance(&self, _: u64) {}
}
