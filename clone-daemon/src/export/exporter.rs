//! The interface of what serves clones: one implementation beside each transport.

use std::sync::Arc;

use anyhow::Result;

use crate::export::volume::Volume;

/// A service that exports clones to clients.
pub trait Exporter: Send + Sync {
    /// Checks that a clone called `name` could be exported, before anything is created for it.
    ///
    /// # Errors
    /// The export would fail, and why.
    fn check(&self, name: &str) -> Result<()> {
        let _ = name;
        Ok(())
    }

    /// Exports one more clone. Returns the addresses of the export, for users.
    ///
    /// # Errors
    /// The clone cannot be exported.
    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>>;

    /// Withdraws an export and closes the connections to it.
    ///
    /// # Errors
    /// The export cannot be withdrawn and stays as it was.
    fn remove(&self, volume: &Arc<Volume>) -> Result<()>;
}
