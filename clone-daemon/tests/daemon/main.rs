//! Tests of the daemon from outside.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod clonectl;
mod cloned;
mod control;
mod cut_off;
mod full;
mod fuse;
mod killed;
mod life;
mod metrics;
mod nbd_client;
mod nbd_server;
#[cfg(feature = "object-store")]
mod object_source;
mod oracle;
mod side_channels;
mod small_files;
mod support;
mod volume;
mod web_clone;
mod web_malformed;
mod web_servers;
mod web_source;
