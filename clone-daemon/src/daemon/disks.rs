//! The ublk exporter: clones as block devices.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::host::Exporter;
use crate::ublk::Export;
use crate::volume::Volume;

/// Exports clones as ublk block devices.
#[derive(Default)]
pub(super) struct Disks {
    there: Mutex<HashMap<String, Export>>,
}

impl Disks {
    fn there(&self) -> MutexGuard<'_, HashMap<String, Export>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exporter for Disks {
    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>> {
        let export = Export::start(volume)?;
        let told = export.path().display().to_string();
        self.there().insert(volume.name().to_owned(), export);
        Ok(vec![told])
    }

    fn remove(&self, volume: &Arc<Volume>) -> Result<()> {
        let mut there = self.there();
        if let Some(export) = there.get_mut(volume.name()) {
            export.stop()?;
            there.remove(volume.name());
        }
        Ok(())
    }
}
