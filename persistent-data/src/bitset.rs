//! bitset.
