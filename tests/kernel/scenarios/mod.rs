//! The scenarios, one file each. A new one needs a file here and a line below; the longest come
//! first.

use crate::context::Scenario;

/// Declares the files, and lists their scenarios.
macro_rules! scenarios {
    ($($name:ident)*) => {
        $(mod $name;)*

        /// All scenarios.
        pub const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            shows: $name::SHOWS,
            run: $name::run,
        }),*];
    };
}

scenarios! {
    verdicts
    power_cut
    equivalence
    live
    handover
    write_log
    geometries
    restored
    repaired
    served
    file_system
    daemon_faults
    ublk
    arguments
    auto_repaired
    zeroed_superblock
}
