//! A real kernel as judge: a virtual machine with the clone target, requests to it, and the
//! [scenarios] that it judges. `tests/kernel/README.md` explains how to write one.

pub mod block;
pub mod content;
pub mod context;
pub mod data;
pub mod guest;
pub mod history;
pub mod images;
pub mod kernel;
pub mod life;
pub mod ours;
pub mod qmp;
pub mod requests;
pub mod runner;
#[path = "../scenarios/mod.rs"]
pub mod scenarios;
pub mod script;
pub mod served;
pub mod tools;
pub mod vm;
