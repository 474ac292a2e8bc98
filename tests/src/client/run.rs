//! A client that runs at random.

use persistent_data::Error;
use persistent_data::device::Device;
use rand::RngExt;
use rand::rngs::StdRng;

use super::layout::Catalog;
use super::{Client, Family, Model, OnDevice, inspect};
use crate::watch::Watch;

/// The kinds of operations of a client.
#[derive(Clone, Debug)]
pub struct Mix {
    /// The structures that it changes.
    pub families: Vec<Family>,
    /// Limit on entries of the btree and the array; the other structures are scaled accordingly.
    pub most: u64,
    /// True if the device may be too small for that.
    pub may_run_out: bool,
}

impl Mix {
    /// Draws a mix of some of the structures. A run that leaves some of them out goes further with
    /// the rest.
    pub fn random(rng: &mut StdRng, most: u64) -> Self {
        let mut families = super::ALL.to_vec();
        families.retain(|_| rng.random_bool(0.6));
        if families.is_empty() {
            families = super::ALL.to_vec();
        }
        Self { families, most, may_run_out: false }
    }
}

/// A client, its expected content, and a watch on its device.
pub struct Run<D, W> {
    device: D,
    client: Option<Client<D>>,
    /// Expected content of the client.
    pub model: Model,
    /// Content of the last commit.
    pub committed: Model,
    on_device: OnDevice,
    mix: Mix,
    /// The watch, which runs after each step.
    pub watch: W,
    /// Number of operations that ran out of space.
    pub ran_out: u64,
}

impl<D, W> std::fmt::Debug for Run<D, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("mix", &self.mix).finish_non_exhaustive()
    }
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

impl<D: Device + Clone, W: Watch<Option<Model>>> Run<D, W> {
    /// Begins a run on a device. The old content is lost.
    ///
    /// # Errors
    /// The broken rule, or a lack of space at the beginning.
    pub fn begin(device: D, mix: Mix, mut watch: W) -> Result<Self, String> {
        let before = inspect(&device)?.map(|on_device| on_device.model);
        let empty = Some(Model::default());
        let client = Client::create(device.clone());
        watch.look(&[&before, &None, &empty])?;
        client.map_err(text)?;
        Self::resume(device, mix, watch)
    }

    /// Begins a run from the content of the device.
    ///
    /// # Errors
    /// The broken rule.
    pub fn resume(device: D, mix: Mix, mut watch: W) -> Result<Self, String> {
        let on_device = inspect(&device)?.ok_or("the device is not formatted")?;
        watch.committed(&on_device.reachable)?;
        let client = Client::open(device.clone(), on_device.reachable.clone()).map_err(text)?;
        let (model, committed) = (on_device.model.clone(), on_device.model.clone());
        let client = Some(client);
        Ok(Self { device, client, model, committed, on_device, mix, watch, ran_out: 0 })
    }

    /// Performs a random operation.
    ///
    /// # Errors
    /// The broken rule.
    pub fn step(&mut self, rng: &mut StdRng) -> Result<(), String> {
        match rng.random_range(0..100) {
            0..=11 => self.commit()?,
            12..=15 => self.abort()?,
            16..=18 => self.reopen()?,
            19..=20 => {
                self.prepare_in_vain()?;
                self.abort()?;
            }
            _ => self.operate(rng)?,
        }
        let client = self.client.as_ref().expect("there is one between steps");
        client.spot_check(&self.model, rng).map_err(text)
    }

    fn client(&mut self) -> &mut Client<D> {
        self.client.as_mut().expect("there is one between steps")
    }

    /// Extends the space map to the blocks by which the device has grown.
    pub fn extend(&mut self) {
        self.client().writer.transaction.extend();
    }

    /// Returns the number of blocks that the space map of the metadata device covers.
    pub fn nr_blocks(&mut self) -> u64 {
        self.client().writer.transaction.nr_blocks()
    }

    fn look(&mut self) -> Result<(), String> {
        self.watch.look(&[&Some(self.committed.clone())])
    }

    fn operate(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let family = self.mix.families[rng.random_range(0..self.mix.families.len())];
        let client = self.client.as_mut().expect("there is one between steps");
        let (model, committed) = (&mut self.model, &self.committed);
        let result = client.operate(model, committed, family, self.mix.most, rng);
        self.look()?;
        self.survive(result)
    }

    /// Aborts after a lack of space, if the mix allows that.
    fn survive(&mut self, result: Result<(), Error>) -> Result<(), String> {
        match result {
            Err(Error::NoSpace) if self.mix.may_run_out => {
                self.ran_out += 1;
                let again = self.client().prepare().map(|_| ());
                assert!(matches!(again, Err(Error::Broken)), "{again:?}");
                self.abort()
            }
            result => result.map_err(text),
        }
    }

    fn prepare_in_vain(&mut self) -> Result<(), String> {
        let result = self.client().prepare().map(|_| ());
        self.look()?;
        self.survive(result)
    }

    /// Commits, and checks the device before and after.
    ///
    /// # Errors
    /// The broken rule.
    pub fn commit(&mut self) -> Result<(), String> {
        let (before, after) = (Some(self.committed.clone()), Some(self.model.clone()));
        let client = self.client.as_mut().expect("there is one between steps");
        let (prepared, catalog) = match client.prepare() {
            Ok(prepared) => prepared,
            Err(error) => return self.survive(Err(error)),
        };
        self.watch.look(&[&before])?;
        prepared.commit::<Catalog>(&catalog).map_err(text)?;
        client.begin_after(catalog);
        self.watch.look(&[&before, &after])?;
        self.watch.look(&[&after])?;
        self.committed.clone_from(&self.model);
        self.inspect()?;
        let on_device = &self.on_device;
        let writer = &mut self.client.as_mut().expect("there is one between steps").writer;
        if !on_device.space_map.is_disjoint(writer.given_out()) {
            return Err("the space map uses a block that was freed in the transaction".into());
        }
        if writer.transaction.nr_allocated() != on_device.reachable.len() as u64 {
            return Err(format!("{} blocks in use", writer.transaction.nr_allocated()));
        }
        writer.committed(on_device.reachable.clone());
        self.watch.committed(&on_device.reachable)
    }

    /// Checks that the device holds the last commit.
    fn inspect(&mut self) -> Result<(), String> {
        self.on_device = inspect(&self.device)?.ok_or("the device is not formatted")?;
        if self.on_device.model == self.committed {
            Ok(())
        } else {
            Err(format!("{:?} instead of {:?}", self.on_device.model, self.committed))
        }
    }

    fn abort(&mut self) -> Result<(), String> {
        self.client = self.client.take().map(Client::abort);
        self.model.clone_from(&self.committed);
        self.look()?;
        self.inspect()
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.model.clone_from(&self.committed);
        self.inspect()?;
        let reachable = self.on_device.reachable.clone();
        self.client = Some(Client::open(self.device.clone(), reachable).map_err(text)?);
        self.look()
    }
}
