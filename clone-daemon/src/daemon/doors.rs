//! Where a daemon can be reached.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::args::CommonArgs;
use super::exporters::{FilePlace, Files};
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
    pub(super) fn bind(args: &CommonArgs, host: &Arc<Host>) -> Result<Self> {
        if let Some(path) = &args.fuse {
            let place = match host.has_table() {
                true if !path.is_dir() => {
                    bail!("--fuse {}: it must be a directory, for several clones", path.display())
                }
                true => FilePlace::Each(path.clone()),
                false => FilePlace::One(path.clone()),
            };
            host.add_exporter(Arc::new(Files::new(place)));
        }
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
