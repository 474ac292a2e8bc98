//! Tests of single rules of the engine. Random histories are in the simulation in the `tests`
//! crate.

mod background;
mod durable;
mod priority;
mod requests;
mod world;
