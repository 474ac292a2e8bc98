//! Common requests to a guest's kernel: clones, their status, their devices.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clone_core::dm_target::{self, StatusLine};

use crate::content::{self, Run};
use crate::script::{Op, text};
use crate::vm::{Output, Vm};

/// The name and the table line of a clone.
#[derive(Clone, Debug)]
pub struct CloneLine {
    /// The name of the device.
    pub name: String,
    /// Length in sectors.
    pub length: u64,
    /// The metadata device.
    pub metadata: String,
    /// The destination.
    pub destination: String,
    /// The source.
    pub source: String,
    /// Region size in sectors.
    pub region_size: u64,
    /// Rest of the table line: features, then core arguments.
    pub options: String,
}

impl CloneLine {
    /// Returns the device node in the guest.
    pub fn node(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    /// Returns the table line.
    pub fn table(&self) -> String {
        let Self { length, metadata, destination, source, region_size, options, .. } = self;
        format!("0 {length} clone {metadata} {destination} {source} {region_size} {options}")
    }
}

/// A parsed status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Metadata blocks: used and total.
    pub metadata: (u64, u64),
    /// Regions: hydrated and total.
    pub regions: (u64, u64),
    /// Number of regions being copied; it may be one too high.
    pub hydrating: u64,
    /// `rw`, `ro`, or the only word of a line without figures.
    pub mode: String,
    /// The whole line.
    pub line: String,
}

impl Status {
    /// Parses a line of `dmsetup status` with the project's parser and prints it again, so that
    /// every status of a kernel tests both.
    ///
    /// # Errors
    /// If it is not the status of a clone, or if the printed line differs.
    pub fn parse(line: &str) -> Result<Self> {
        let line = line.trim().to_owned();
        let parsed = StatusLine::parse(&line).with_context(|| line.clone())?;
        ensure!(parsed.to_string() == line, "{line:?} is printed as {:?}", parsed.to_string());
        Ok(match parsed.status {
            dm_target::Status::Running(figures) => Self {
                metadata: (figures.metadata_used, figures.metadata_total),
                regions: (figures.hydrated, figures.regions),
                hydrating: figures.hydrating,
                mode: line.rsplit(' ').next().unwrap_or_default().to_owned(),
                line,
            },
            failed => Self {
                metadata: (0, 0),
                regions: (0, 0),
                hydrating: 0,
                mode: failed.to_string(),
                line,
            },
        })
    }
}

impl Vm {
    /// Creates a device of zeroes and returns its node. It serves as a source or destination if
    /// only metadata matters; writes to it are lost.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn zero_device(&mut self, name: &str, sectors: u64) -> Result<String> {
        self.script(&format!("dmsetup create {name} --table '0 {sectors} zero'"))?;
        Ok(format!("/dev/mapper/{name}"))
    }

    /// Tries to create a clone.
    ///
    /// # Errors
    /// If the guest does not answer; a refusal is not an error.
    pub fn try_create(&mut self, clone: &CloneLine) -> Result<Output> {
        self.run(&format!("dmsetup create {} --table '{}'", clone.name, clone.table()))
    }

    /// Creates a clone.
    ///
    /// # Errors
    /// If the kernel refuses it, with its messages.
    pub fn create(&mut self, clone: &CloneLine) -> Result<()> {
        let created = self.try_create(clone)?;
        if created.code != 0 {
            let said = self.run("dmesg | grep device-mapper | tail -5")?;
            anyhow::bail!("{}: {}{}", clone.table(), created.text, said.text);
        }
        Ok(())
    }

    /// Returns the clone's status. This request commits.
    ///
    /// # Errors
    /// If there is no such clone.
    pub fn status(&mut self, name: &str) -> Result<Status> {
        Status::parse(&self.script(&format!("dmsetup status {name}"))?)
    }

    /// Returns the clone's status while no copy is in flight. A kernel that looks for a region to
    /// copy reports one region too many for a moment.
    ///
    /// # Errors
    /// If a copy is still reported after 3000 attempts.
    pub fn status_at_rest(&mut self, name: &str) -> Result<Status> {
        for _ in 0..3000 {
            let status = self.status(name)?;
            if status.hydrating == 0 {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        anyhow::bail!("{name} does not come to rest: {}", self.status(name)?.line)
    }

    /// Sends a message to a clone.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn message(&mut self, name: &str, message: &str) -> Result<()> {
        self.script(&format!("dmsetup message {name} 0 {message}")).map(drop)
    }

    /// Removes devices.
    ///
    /// # Errors
    /// If one is in use or does not exist.
    pub fn remove(&mut self, names: &[&str]) -> Result<()> {
        self.script(&format!(
            "for name in {}; do dmsetup remove $name || exit; done",
            names.join(" ")
        ))
        .map(drop)
    }

    /// Waits until all regions of a clone are hydrated.
    ///
    /// # Errors
    /// If that takes more than ten minutes.
    pub fn wait_hydrated(&mut self, name: &str) -> Result<Status> {
        self.script(&format!(
            "for i in $(seq 6000); do
                 set -- $(dmsetup status {name})
                 [ -n \"$7\" ] && [ \"${{7%/*}}\" = \"${{7#*/}}\" ] && exit
                 usleep 100000
             done
             echo $7 of the regions of {name} are hydrated after ten minutes
             exit 1"
        ))?;
        let status = self.status(name)?;
        ensure!(status.mode == "rw" && status.regions.0 == status.regions.1, "{}", status.line);
        Ok(status)
    }

    /// Performs operations on a device, one after the other. Returns the results of the reads among
    /// them.
    ///
    /// # Errors
    /// The first failure.
    pub fn block_io(&mut self, node: &str, ops: &[Op]) -> Result<Vec<Vec<Run>>> {
        let read = self.script(&format!("block_io {node} << END\n{}END", text(ops)))?;
        read.lines().map(content::parse_runs).collect()
    }

    /// Returns the authors of a device's sectors, read past the page cache.
    ///
    /// # Errors
    /// If a read fails.
    pub fn authors(&mut self, node: &str) -> Result<Vec<Run>> {
        content::parse_runs(&self.script(&format!("block_io --authors {node}"))?)
    }

    /// Returns the kernel's messages about device-mapper, bugs and warnings since the last call.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub fn kernel_messages(&mut self) -> Result<Vec<String>> {
        let text = self.script("dmesg -c | grep -E 'device-mapper|BUG|WARNING' || true")?;
        let message = |line: &str| line.split_once("] ").map_or(line, |(_, rest)| rest).to_owned();
        Ok(text.lines().map(message).collect())
    }

    /// Attaches `image` as the metadata of a clone between two devices of zeroes.
    ///
    /// # Errors
    /// If one of the devices cannot be created.
    pub fn clone_of_zeroes(
        &mut self,
        name: &str,
        image: &Path,
        (region_size, length): (u64, u64),
        options: &str,
    ) -> Result<CloneLine> {
        Ok(CloneLine {
            name: name.to_owned(),
            length,
            metadata: self.attach(image)?.node,
            destination: self.zero_device(&format!("{name}-destination"), length)?,
            source: self.zero_device(&format!("{name}-source"), length)?,
            region_size,
            options: options.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn a_status_line_is_read() {
        let line = "0 262144 clone 8 7/2048 8 4530/32768 0 1 no_hydration 4 hydration_threshold 1 \
                    hydration_batch_size 1 rw\n";
        let status = Status::parse(line).expect("a status line");
        assert_eq!((status.metadata, status.regions), ((7, 2048), (4530, 32768)));
        assert_eq!(status.mode, "rw");
        assert_eq!(Status::parse("0 262144 clone Fail").expect("a status line").mode, "Fail");
        assert!(Status::parse("0 262144 linear").is_err());
    }
}
