//! Counts of events in a run. A test uses them to show that its runs cover what it claims to check.

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $told:literal,)*) => {
        /// Counts of events in runs.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Adds the counts of another run.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Returns each count with its description.
            pub fn named(&self) -> [(&'static str, u64); [$($told),*].len()] {
                [$(($told, self.$name)),*]
            }
        }
    };
}

counts! {
    /// Requests of clients that were answered.
    answered: "an answer",
    /// Requests that took the fast path.
    passes: "a pass",
    /// Answers that were errors.
    errors: "an error",
    /// Copies stored.
    stores: "a copy",
    /// Reads that got data from a copy in flight.
    gives: "a read of what is being copied",
    /// Copies with writes laid over them.
    overlays: "a write laid over a copy",
    /// Copies that the source reported to be zeroes.
    holes: "a hole in the source",
    /// Discards that had to zero regions that were not hydrated.
    zeroed: "a discard of regions that are not hydrated",
    /// Commits that succeeded.
    commits: "a commit",
    /// Times that a clone became read-only.
    read_only: "a clone that became read-only",
    /// Times that the flush of a complete clone failed.
    unflushed: "a complete clone whose flush failed",
    /// Regions that reverted to the source after a failure.
    reverted: "a region that went back to the source",
    /// Times that a clone failed.
    failed: "a clone that failed",
    /// Times that hydration stopped after failures.
    stopped: "hydration that stopped",
    /// Times that hydration stopped at its limit.
    limited: "hydration that stopped at its limit",
    /// Times that a clone was suspended.
    suspended: "a suspended clone",
    /// Times that a clone became complete.
    finished: "a complete clone",
    /// Losses of power.
    power_cuts: "a loss of power",
    /// Losses of power during a commit.
    power_cuts_in_commits: "a loss of power in a commit",
    /// Processes killed.
    kills: "a killed process",
    /// Processes ended after the clone was suspended.
    stops: "a clone that was closed",
}
