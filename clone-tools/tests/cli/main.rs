//! Tests of the tools as processes, with their exit codes and streams.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod check;
mod contract;
mod dump;
mod generate;
mod hydrate;
mod image;
mod map;
mod metadata_size;
mod pack;
mod repair;
mod restore;
mod support;
