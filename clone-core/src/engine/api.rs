//! The input and output of the engine: requests, inputs and commands; actions and events.

pub(super) mod action;
pub(super) mod command;
pub(super) mod event;
pub(super) mod input;
pub(super) mod request;
pub(super) mod settings;
