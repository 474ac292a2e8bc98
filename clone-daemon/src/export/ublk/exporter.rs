//! The exporter of ublk: a block device for each clone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use clone_core::sync::lock;

use crate::export::exporter::Exporter;
use crate::export::ublk::Export;
use crate::export::volume::Volume;

/// Makes a block device of each clone.
#[derive(Default)]
pub struct UblkExporter {
    exports: Mutex<HashMap<String, Export>>,
}

impl Exporter for UblkExporter {
    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>> {
        let export = Export::start(volume)?;
        let device = export.path().display().to_string();
        lock(&self.exports).insert(volume.name().to_owned(), export);
        Ok(vec![device])
    }

    fn remove(&self, volume: &Arc<Volume>) -> Result<()> {
        let mut exports = lock(&self.exports);
        if let Some(export) = exports.get_mut(volume.name()) {
            export.stop()?;
            exports.remove(volume.name());
        }
        Ok(())
    }
}
