//! space_map.
