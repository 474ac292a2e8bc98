//! Where a daemon can be reached.

use std::sync::Arc;

use anyhow::Result;

use super::args::CommonArgs;
use crate::host::Host;

/// What is listened at; nobody is served yet.
pub(super) struct Doors {}

/// What serves.
pub(super) struct OpenDoors {}

impl Doors {
    /// Listens at all that the command line names.
    ///
    /// # Errors
    /// What cannot be listened at.
    pub(super) fn bind(_: &CommonArgs, _: &Arc<Host>) -> Result<Self> {
        Ok(Self {})
    }

    /// Serves whoever comes.
    ///
    /// # Errors
    /// That there are no threads for it.
    pub(super) fn open(self, _: &Arc<Host>) -> Result<OpenDoors> {
        Ok(OpenDoors {})
    }
}

impl OpenDoors {
    /// Lets nobody in any more, and ends what is under way.
    pub(super) fn close(self) {}
}
