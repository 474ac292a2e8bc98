//! The life of a clone from its opening to its end, in a guest's kernel or in the project's engine.
//! Steps are performed one after the other, so that there is only one right result.

use std::fmt;

use anyhow::{Result, ensure};
use clone_core::dm_target::{Message, Options, TableLine};

use crate::content::{self, Run};
use crate::data::DataClone;
use crate::images::Images;
use crate::script::{Op, text};
use crate::vm::Vm;

/// One step of a life.
#[derive(Clone, Debug)]
pub enum Step {
    /// Operations.
    Io(Vec<Op>),
    /// A message to the clone.
    Message(String),
    /// Enables hydration, waits until this many more regions are hydrated, and disables it.
    HydrateSome(u64),
    /// Waits until all regions are hydrated.
    Finish,
}

/// The options of a clone and the steps of its life.
#[derive(Clone, Debug)]
pub struct Life {
    /// Features and core arguments of the table line.
    pub options: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// Formats a life as text that can be replayed by hand.
impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.options)?;
        for step in &self.steps {
            match step {
                Step::Io(ops) => f.write_str(&text(ops))?,
                Step::Message(message) => writeln!(f, "# message {message}")?,
                Step::HydrateSome(regions) => writeln!(f, "# hydrate {regions} regions")?,
                Step::Finish => writeln!(f, "# wait until all is hydrated")?,
            }
        }
        Ok(())
    }
}

impl Life {
    /// Returns the operations in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.steps.iter().flat_map(|step| match step {
            Step::Io(ops) => &ops[..],
            _ => &[],
        })
    }
}

impl Life {
    /// Returns the options at the end of the life.
    ///
    /// # Errors
    /// If the options or a message are invalid.
    pub fn options_at_end(&self) -> Result<Options> {
        let line = TableLine::parse(&format!("0 8 clone m d s 8 {}", self.options))?;
        let mut options = line.arguments().options();
        for step in &self.steps {
            match step {
                Step::Message(message) => match Message::parse(message)? {
                    Message::EnableHydration => options.hydration = true,
                    Message::DisableHydration => options.hydration = false,
                    Message::HydrationThreshold(regions) => options.hydration_threshold = regions,
                    Message::HydrationBatchSize(regions) => options.hydration_batch_size = regions,
                },
                Step::HydrateSome(_) => options.hydration = false,
                Step::Io(_) | Step::Finish => {}
            }
        }
        Ok(options)
    }

    /// Predicts the results of reads in this life, and applies its changes to `images`. The regions
    /// that [`Step::HydrateSome`] hydrates are unpredictable, and left out.
    pub fn foretell(&self, images: &mut Images) -> Vec<Vec<Run>> {
        let mut reads = Vec::new();
        for step in &self.steps {
            match step {
                Step::Io(ops) => {
                    for op in ops {
                        if let Op::Read(sectors) = op {
                            reads.push(images.runs(sectors));
                        }
                        images.apply(op);
                    }
                }
                Step::Finish => images.hydrate(&(0..images.regions().count())),
                Step::Message(_) | Step::HydrateSome(_) => {}
            }
        }
        reads
    }

    /// Checks the results of reads against the predicted ones.
    ///
    /// # Errors
    /// The first difference, with the actual result.
    pub fn expect(&self, told: &Told, reads: &[Vec<Run>]) -> Result<()> {
        let read: Vec<&Op> = self.ops().filter(|op| matches!(op, Op::Read(_))).collect();
        ensure!(told.reads.len() == read.len(), "{} of {} reads", told.reads.len(), read.len());
        for ((nr, op), (told, expected)) in (1..).zip(read).zip(told.reads.iter().zip(reads)) {
            let (told_text, text) = (content::text(told), content::text(expected));
            ensure!(told == expected, "{op}, the read number {nr}, gave {told_text}, not {text}");
        }
        Ok(())
    }
}

/// The results of a clone's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The result of each read.
    pub reads: Vec<Vec<Run>>,
    /// The status line at the end.
    pub status: String,
}

impl Vm {
    /// Lets the kernel open a clone, perform the steps of its life, and close it.
    ///
    /// # Errors
    /// If the kernel refuses it, or a step fails.
    pub fn live(&mut self, clone: &DataClone, name: &str, life: &Life) -> Result<Told> {
        let attached = clone.attach(self, name, &life.options)?;
        self.create(&attached.line)?;
        let node = attached.line.node();
        let mut reads = Vec::new();
        for step in &life.steps {
            match step {
                Step::Io(ops) => reads.extend(self.block_io(&node, ops)?),
                Step::Message(message) => self.message(name, message)?,
                Step::HydrateSome(regions) => self.hydrate_some(name, *regions)?,
                Step::Finish => self.wait_hydrated(name).map(drop)?,
            }
        }
        let status = self.status_at_rest(name)?.line;
        self.remove(&[name])?;
        attached.detach(self)?;
        Ok(Told { reads, status })
    }

    fn hydrate_some(&mut self, name: &str, regions: u64) -> Result<()> {
        self.script(&format!(
            "hydrated() {{
                 set -- $(dmsetup status --noflush {name})
                 echo ${{7%/*}}
             }}
             set -- $(dmsetup status {name})
             enough=$((${{7%/*}} + {regions}))
             [ $enough -le ${{7#*/}} ] || enough=${{7#*/}}
             dmsetup message {name} 0 enable_hydration
             for i in $(seq 60000); do
                 [ $(hydrated) -lt $enough ] || break
                 usleep 10000
             done
             # What is under way ends with that.
             dmsetup message {name} 0 disable_hydration
             dmsetup suspend {name} && dmsetup resume {name}
             [ $(hydrated) -ge $enough ]"
        ))
        .map(drop)
    }
}
