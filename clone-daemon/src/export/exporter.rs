//! The interface of what serves clones: one implementation beside each transport.

use std::sync::Arc;

use anyhow::Result;

use crate::export::volume::Volume;

/// What serves clones to others.
pub trait Exporter: Send + Sync {
    /// Finds out whether a clone called `name` could be served, before anything is made for it.
    ///
    /// # Errors
    /// Why it could not.
    fn check(&self, name: &str) -> Result<()> {
        let _ = name;
        Ok(())
    }

    /// Serves one more clone. Returns where it can be found, for people.
    ///
    /// # Errors
    /// Why it cannot be served.
    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>>;

    /// Serves it no more, and ends the connections to it.
    ///
    /// # Errors
    /// Why it cannot be withdrawn: then it is served as before.
    fn remove(&self, volume: &Arc<Volume>) -> Result<()>;
}
