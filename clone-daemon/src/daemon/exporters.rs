//! Clones as files: one way of several in which they are served.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::fuse::{Export, Options};
use crate::host::Exporter;
use crate::volume::Volume;

/// Mounts clones by FUSE.
pub(super) struct Files {
    place: FilePlace,
    mounted: Mutex<HashMap<String, Export>>,
}

/// Where clones are mounted.
pub(super) enum FilePlace {
    /// The only one: on this file, or in this folder.
    One(PathBuf),
    /// Each in this folder, on a file that is called as it is.
    Each(PathBuf),
}

impl Files {
    pub(super) fn new(place: FilePlace) -> Self {
        Self { place, mounted: Mutex::default() }
    }

    fn mounted(&self) -> MutexGuard<'_, HashMap<String, Export>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exporter for Files {
    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>> {
        let path = match &self.place {
            FilePlace::One(path) => path.clone(),
            FilePlace::Each(folder) => folder.join(volume.name()),
        };
        let export = Export::mount(&path, volume.clone(), Options::default())?;
        let told = export.path().display().to_string();
        self.mounted().insert(volume.name().to_owned(), export);
        Ok(vec![told])
    }

    fn remove(&self, volume: &Arc<Volume>) -> Result<()> {
        let mut mounted = self.mounted();
        if let Some(export) = mounted.get_mut(volume.name()) {
            export.unmount()?;
            mounted.remove(volume.name());
        }
        Ok(())
    }
}
