//! The names of clones and their owners.
//!
//! *Invariant:* each check of a name and the change that depends on it happen under one lock. A
//! [`Reserved`] holds a name while its clone is set up or taken down, and releases it even if the
//! thread panics.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use anyhow::anyhow;
use clone_core::sync::lock;

use super::{HostError, ServedClone};

/// The state of a clone's name.
enum Slot {
    /// The clone is being set up or taken down.
    Busy,
    Runs(Arc<ServedClone>),
}

/// All names in use.
#[derive(Default)]
pub(super) struct Slots {
    state: Mutex<State>,
    /// Signals that a slot has changed, a task has finished, or the daemon is stopping.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<String, Slot>,
    is_stopping: bool,
}

/// A reserved name. When this is dropped the name is free again, unless a clone was [put
/// in](Self::fill).
pub(super) struct Reserved {
    slots: Arc<Slots>,
    name: String,
    fills: Option<Arc<ServedClone>>,
}

impl Reserved {
    /// Assigns the name to a running clone.
    pub(super) fn fill(mut self, served: Arc<ServedClone>) {
        self.fills = Some(served);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        match self.fills.take() {
            Some(served) => state.slots.insert(self.name.clone(), Slot::Runs(served)),
            None => state.slots.remove(&self.name),
        };
        drop(state);
        self.slots.changed.notify_all();
    }
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the running clones, sorted by name.
    pub(super) fn list(&self) -> Vec<Arc<ServedClone>> {
        let running = |slot: &Slot| match slot {
            Slot::Runs(served) => Some(served.clone()),
            Slot::Busy => None,
        };
        self.lock().slots.values().filter_map(running).collect()
    }

    /// Returns the running clone called `name`.
    pub(super) fn get(&self, name: &str) -> Result<Arc<ServedClone>, HostError> {
        self.lock().get(name).cloned()
    }

    /// Reserves a free name.
    pub(super) fn reserve(self: &Arc<Self>, name: &str) -> Result<Reserved, HostError> {
        let mut state = self.lock();
        if state.is_stopping {
            return Err(HostError::Stopping);
        }
        match state.slots.entry(name.to_owned()) {
            Entry::Vacant(place) => drop(place.insert(Slot::Busy)),
            Entry::Occupied(place) => {
                return Err(match place.get() {
                    Slot::Runs(_) => HostError::Exists(name.to_owned()),
                    Slot::Busy => HostError::Busy(name.to_owned()),
                });
            }
        }
        Ok(self.reserved(name))
    }

    /// Reserves the name of a running clone and returns the clone. With `only`, fails if the name
    /// belongs to another clone by now.
    pub(super) fn take(
        self: &Arc<Self>,
        name: &str,
        only: Option<&Arc<ServedClone>>,
    ) -> Result<(Reserved, Arc<ServedClone>), HostError> {
        let mut state = self.lock();
        let served = state.get(name)?.clone();
        if only.is_some_and(|only| !Arc::ptr_eq(only, &served)) {
            return Err(HostError::Busy(name.to_owned()));
        }
        state.slots.insert(name.to_owned(), Slot::Busy);
        Ok((self.reserved(name), served))
    }

    /// Reserves the names of all running clones. Waits until there is one; returns nothing when no
    /// name is in use.
    pub(super) fn take_all(self: &Arc<Self>) -> Vec<(Reserved, Arc<ServedClone>)> {
        let is_busy = |slot: &Slot| matches!(slot, Slot::Busy);
        let waits =
            |state: &mut State| !state.slots.is_empty() && state.slots.values().all(is_busy);
        let state = self.changed.wait_while(self.lock(), waits);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        for (name, slot) in &mut state.slots {
            if let Slot::Runs(served) = slot {
                taken.push((self.reserved(name), served.clone()));
                *slot = Slot::Busy;
            }
        }
        taken
    }

    fn reserved(self: &Arc<Self>, name: &str) -> Reserved {
        Reserved { slots: self.clone(), name: name.to_owned(), fills: None }
    }

    /// Begins to stop: no name can be reserved, and calls of
    /// [`unless_stopping`](Self::unless_stopping) return.
    pub(super) fn begin_stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Runs `act` on a thread of its own and waits for it, but only until the daemon stops. The
    /// thread is then abandoned: it may hang in a system call that cannot be interrupted, and it
    /// ends with the process.
    pub(super) fn unless_stopping<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HostError> {
        let done = Arc::new(Mutex::new(None));
        let (slots, result) = (self.clone(), done.clone());
        let thread = Builder::new().name("clone-setup".into()).spawn(move || {
            let acted = catch_unwind(AssertUnwindSafe(act));
            *lock(&result) = Some(acted);
            // Takes the lock, so that a waiting thread either sees the result or gets the
            // notification.
            drop(slots.lock());
            slots.changed.notify_all();
        });
        thread.map_err(|error| anyhow!("cannot start a thread: {error}"))?;
        let take = || lock(&done).take();
        let mut state = self.lock();
        loop {
            match take() {
                Some(Ok(done)) => return Ok(done),
                Some(Err(_)) => return Err(anyhow!("setting it up panicked; see the log").into()),
                None if state.is_stopping => return Err(HostError::Stopping),
                None => {}
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn get(&self, name: &str) -> Result<&Arc<ServedClone>, HostError> {
        match self.slots.get(name) {
            Some(Slot::Runs(served)) => Ok(served),
            Some(Slot::Busy) => Err(HostError::Busy(name.to_owned())),
            None => {
                let there = self.slots.keys().cloned().collect();
                Err(HostError::NoSuch { name: name.to_owned(), there })
            }
        }
    }
}
