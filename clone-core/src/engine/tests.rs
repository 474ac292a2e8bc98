//! What the engine does, one rule at a time. Random histories are in the simulation of the crate
//! of tests.

mod background;
mod durable;
mod priority;
mod requests;
mod world;
