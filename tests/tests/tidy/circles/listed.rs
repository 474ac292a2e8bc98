//! The circles that exist.

/// Why a circle exists, and its files. Take out those that are gone; add nothing.
pub(super) const LISTED: &[(&str, &[&str])] = &[
    (
        "TableError tells the largest size, which is beside the table",
        &["clone-core/src/dm_target/error.rs", "clone-core/src/dm_target/table.rs"],
    ),
    (
        "the methods of Engine are in files by subject, and its fields are types of these files",
        &[
            "clone-core/src/engine.rs",
            "clone-core/src/engine/regions/claim.rs",
            "clone-core/src/engine/trace.rs",
            "clone-core/src/engine/work/buffer_budget.rs",
            "clone-core/src/engine/work/commit.rs",
            "clone-core/src/engine/work/hydration.rs",
            "clone-core/src/engine/work/plan.rs",
            "clone-core/src/engine/work/prefetch.rs",
            "clone-core/src/engine/work/requests.rs",
            "clone-core/src/engine/work/window.rs",
        ],
    ),
    (
        "an action carries an event, an event a failure, and an input the ids of actions",
        &[
            "clone-core/src/engine/api/action.rs",
            "clone-core/src/engine/api/event.rs",
            "clone-core/src/engine/api/input.rs",
        ],
    ),
    (
        "RegionMap keeps a tally of each of its chunks",
        &["clone-core/src/metadata/region_map.rs", "clone-core/src/metadata/region_map/tally.rs"],
    ),
    (
        "the steps of a repair fill the types of its result",
        &[
            "clone-core/src/repair.rs",
            "clone-core/src/repair/newest_commit.rs",
            "clone-core/src/repair/older_copies.rs",
            "clone-core/src/repair/search.rs",
        ],
    ),
    (
        "the comparison and its evidence share the names of the two sides",
        &["clone-core/src/repair/content.rs", "clone-core/src/repair/content/evidence.rs"],
    ),
    (
        "the transport re-exports its exporter, which starts exports",
        &["clone-daemon/src/export/fuse.rs", "clone-daemon/src/export/fuse/exporter.rs"],
    ),
    (
        "the server's connections share its state, and its exporter starts it",
        &[
            "clone-daemon/src/export/nbd.rs",
            "clone-daemon/src/export/nbd/connection.rs",
            "clone-daemon/src/export/nbd/exporter.rs",
        ],
    ),
    (
        "a reply is put together in files that share its message",
        &[
            "clone-daemon/src/export/nbd/reply.rs",
            "clone-daemon/src/export/nbd/reply/outbox.rs",
            "clone-daemon/src/export/nbd/reply/outgoing.rs",
        ],
    ),
    (
        "the transport re-exports its exporter, which starts exports",
        &["clone-daemon/src/export/ublk.rs", "clone-daemon/src/export/ublk/exporter.rs"],
    ),
    (
        "HostError is defined beside the host, and its parts return it",
        &[
            "clone-daemon/src/host.rs",
            "clone-daemon/src/host/served_clone.rs",
            "clone-daemon/src/host/slots.rs",
        ],
    ),
    (
        "the endpoint renders the text of the module that starts it",
        &["clone-daemon/src/metrics.rs", "clone-daemon/src/metrics/http.rs"],
    ),
    (
        "the pool takes the options of the source that holds it",
        &["clone-daemon/src/source/nbd.rs", "clone-daemon/src/source/nbd/pool.rs"],
    ),
    (
        "PinError is defined beside the pin, and reading an identity returns it",
        &[
            "clone-tools/src/common/pin.rs",
            "clone-tools/src/common/pin/identity.rs",
            "clone-tools/src/common/pin/local.rs",
        ],
    ),
    (
        "the layout of packs is defined beside the functions that read and write them",
        &[
            "clone-tools/src/pack/file.rs",
            "clone-tools/src/pack/file/likeness.rs",
            "clone-tools/src/pack/file/read.rs",
            "clone-tools/src/pack/file/write.rs",
        ],
    ),
    (
        "an array is built by a builder, which shares its layout",
        &["persistent-data/src/array.rs", "persistent-data/src/array/build.rs"],
    ),
    (
        "the operations of Btree are in files of their own, and all need Value",
        &[
            "persistent-data/src/btree.rs",
            "persistent-data/src/btree/build.rs",
            "persistent-data/src/btree/edit.rs",
            "persistent-data/src/btree/node.rs",
            "persistent-data/src/btree/path.rs",
            "persistent-data/src/btree/range.rs",
            "persistent-data/src/btree/sibling.rs",
            "persistent-data/src/btree/walk.rs",
        ],
    ),
    (
        "the module of the device traits re-exports the devices",
        &[
            "persistent-data/src/device.rs",
            "persistent-data/src/device/file.rs",
            "persistent-data/src/device/memory.rs",
        ],
    ),
    (
        "the images are filled with the bytes that data.rs names",
        &["tests/kernel/src/data.rs", "tests/kernel/src/images.rs"],
    ),
    (
        "a kernel starts machines, and a machine keeps its kernel",
        &["tests/kernel/src/kernel.rs", "tests/kernel/src/vm.rs"],
    ),
    (
        "the operations of a client are in files of their own, with its model",
        &[
            "tests/src/client.rs",
            "tests/src/client/inspect.rs",
            "tests/src/client/operations.rs",
            "tests/src/client/run.rs",
        ],
    ),
    (
        "a round of the simulation has parts that each see the whole round",
        &[
            "tests/src/engine_sim/late.rs",
            "tests/src/engine_sim/operation.rs",
            "tests/src/engine_sim/request.rs",
            "tests/src/engine_sim/round.rs",
            "tests/src/engine_sim/saboteur.rs",
            "tests/src/engine_sim/watch.rs",
            "tests/src/engine_sim/world.rs",
        ],
    ),
];
