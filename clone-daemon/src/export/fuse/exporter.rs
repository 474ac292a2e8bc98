//! The exporter of FUSE: a mounted file for each clone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use clone_core::sync::lock;

use crate::export::exporter::Exporter;
use crate::export::fuse::{Export, FileUsers, Options};
use crate::export::volume::Volume;

/// Exports clones as files, by FUSE.
pub struct FuseExporter {
    place: MountPoint,
    users: FileUsers,
    mounted: Mutex<HashMap<String, Export>>,
}

/// The mount points.
pub enum MountPoint {
    /// One clone: on this file, or in this directory.
    One(PathBuf),
    /// Each clone in this directory, on a file with its name.
    Each(PathBuf),
}

impl FuseExporter {
    /// Mounts clones at `place`, for `users`.
    pub fn new(place: MountPoint, users: FileUsers) -> Self {
        Self { place, users, mounted: Mutex::default() }
    }

    /// Returns the mount point of the clone called `name`.
    fn path(&self, name: &str) -> PathBuf {
        match &self.place {
            MountPoint::One(path) => path.clone(),
            MountPoint::Each(folder) => folder.join(name),
        }
    }
}

impl Exporter for FuseExporter {
    fn check(&self, name: &str) -> Result<()> {
        Ok(Export::check(&self.path(name), name)?)
    }

    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>> {
        let options = Options { users: self.users, ..Options::default() };
        let export = Export::mount(&self.path(volume.name()), volume.clone(), options)?;
        let file = export.path().display().to_string();
        lock(&self.mounted).insert(volume.name().to_owned(), export);
        Ok(vec![file])
    }

    fn remove(&self, volume: &Arc<Volume>) -> Result<()> {
        let mut mounted = lock(&self.mounted);
        if let Some(export) = mounted.get_mut(volume.name()) {
            export.unmount()?;
            mounted.remove(volume.name());
        }
        Ok(())
    }
}
