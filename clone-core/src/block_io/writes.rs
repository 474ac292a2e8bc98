//! Tracks which writes to a file were followed by a check of its size.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts writes that could extend a file that another program has truncated.
///
/// *Invariant:* `looked_at` is at most the number of writes that had all ended when the file was
/// last seen with its full size.
#[derive(Debug, Default)]
pub(super) struct Writes {
    begun: AtomicU64,
    ended: AtomicU64,
    looked_at: AtomicU64,
}

/// A write in flight, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct WriteUnderWay<'a>(&'a Writes);

impl Writes {
    /// Begins a write. Must be called before it.
    pub(super) fn begin(&self) -> WriteUnderWay<'_> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        WriteUnderWay(self)
    }

    /// Checks the size by `look`, unless that was done since the last write ended and none has
    /// begun since. Must be called after a read, before its data is used.
    ///
    /// # Errors
    /// The errors of `look`.
    pub(super) fn look<E>(&self, look: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // In this order: if both are equal, no write was in flight when the second was loaded.
        let ended = self.ended.load(Ordering::SeqCst);
        let begun = self.begun.load(Ordering::SeqCst);
        if self.looked_at.load(Ordering::SeqCst) == begun {
            return Ok(());
        }
        look()?;
        if ended == begun {
            self.looked_at.fetch_max(begun, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Drop for WriteUnderWay<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::Writes;

    #[test]
    fn a_look_is_taken_after_each_write_and_as_long_as_one_is_under_way() {
        let writes = Writes::default();
        let looks = Cell::new(0);
        let look = || {
            writes.look(|| {
                looks.set(looks.get() + 1);
                Ok::<_, ()>(())
            })
        };
        look().unwrap();
        assert_eq!(looks.get(), 0, "nothing was written");
        let first = writes.begin();
        look().unwrap();
        let second = writes.begin();
        drop(first);
        look().unwrap();
        assert_eq!(looks.get(), 2, "one is under way");
        drop(second);
        look().unwrap();
        look().unwrap();
        assert_eq!(looks.get(), 3, "once after the last one");
        drop(writes.begin());
        writes.look(|| Err(())).unwrap_err();
        look().unwrap();
        assert_eq!(looks.get(), 4, "a look that fails does not count");
    }

    #[test]
    fn a_write_that_begins_while_the_size_is_looked_at_is_looked_at_again() {
        let writes = Writes::default();
        drop(writes.begin());
        writes
            .look(|| {
                drop(writes.begin());
                Ok::<_, ()>(())
            })
            .unwrap();
        let mut looked = false;
        writes
            .look(|| {
                looked = true;
                Ok::<_, ()>(())
            })
            .unwrap();
        assert!(looked);
    }
}
