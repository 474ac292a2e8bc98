//! Btrees.
