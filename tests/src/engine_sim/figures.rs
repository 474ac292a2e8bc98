//! How often something has come about, so that a test can tell whether it proves anything.

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident: $told:literal,)*) => {
        /// How often something has come about.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Figures {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Figures {
            /// Adds what another run has seen.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// What each figure is, in words.
            pub fn named(&self) -> [(&'static str, u64); [$($told),*].len()] {
                [$(($told, self.$name)),*]
            }
        }
    };
}

figures! {
    /// Requests of clients that were answered.
    answered: "an answer",
    /// Requests that took the short way.
    passes: "a pass",
    /// Answers that were errors.
    errors: "an error",
    /// Copies stored.
    stores: "a copy",
    /// Reads that were given what had been copied.
    gives: "a read of what is being copied",
    /// Copies with writes laid over them.
    overlays: "a write laid over a copy",
    /// Copies of which the source knew that they were zeroes.
    holes: "a hole in the source",
    /// Discards that had to make zeroes of what was not hydrated.
    zeroed: "a discard of regions that are not hydrated",
    /// Commits that succeeded.
    commits: "a commit",
    /// Times that a clone became read-only.
    read_only: "a clone that became read-only",
    /// Times that a complete clone could not be flushed.
    unflushed: "a complete clone whose flush failed",
    /// Regions that went back to the source after a failure.
    reverted: "a region that went back to the source",
    /// Times that a clone failed.
    failed: "a clone that failed",
    /// Times that hydration stopped after failures.
    stopped: "hydration that stopped",
    /// Times that hydration stopped at its limit.
    limited: "hydration that stopped at its limit",
    /// Times that a clone came to rest when it was suspended.
    suspended: "a suspended clone",
    /// Times that a clone was complete.
    finished: "a complete clone",
    /// Losses of power.
    power_cuts: "a loss of power",
    /// Those among them in the midst of a commit.
    power_cuts_in_commits: "a loss of power in a commit",
    /// Processes killed.
    kills: "a killed process",
    /// Processes ended after the clone was suspended.
    stops: "a clone that was closed",
}
