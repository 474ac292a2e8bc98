//! The messages on the control socket, in version [`VERSION`].
//!
//! Each line is one JSON object. A client sends a [`Request`]. The daemon answers with any number
//! of `{"v":1,"item":…}`, followed by `{"v":1,"end":true}` or, on failure, by
//! `{"v":1,"error":{…}}`. Then the client can send the next request. The verb determines the kind
//! of the items: [`Item`].
//!
//! Within a version, only optional fields and kinds of errors are added. A reader ignores fields
//! that it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The protocol version of the client.
    pub v: u32,
    /// The operation.
    #[serde(flatten)]
    pub verb: Verb,
}

impl Request {
    /// Creates a request in the current version.
    pub fn new(verb: Verb) -> Self {
        Self { v: VERSION, verb }
    }
}

/// The operations and their answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// Returns [`Item::Clone`] for one clone, or for all, by name.
    Status {
        /// The clone; all if `None`.
        name: Option<String>,
        /// True to commit first, so that the status is current.
        flush: bool,
    },
    /// Returns [`Item::Table`] for one clone, or for all, by name.
    Table {
        /// The clone; all if `None`.
        name: Option<String>,
    },
    /// Sends a message to a clone.
    Message {
        /// The clone.
        name: String,
        /// The text of a [`clone_core::engine::Command`].
        message: String,
    },
    /// Suspends a clone and commits its metadata.
    Suspend {
        /// The clone.
        name: String,
    },
    /// Resumes a clone.
    Resume {
        /// The clone.
        name: String,
    },
    /// Returns [`Item::Event`] for the events of a clone with a number above `after`. Waits until
    /// there is at least one.
    Wait {
        /// The clone.
        name: String,
        /// The number of an event, or 0.
        after: u64,
    },
    /// Returns [`Item::Event`] for all stored events of one clone or of all; then for new ones.
    Events {
        /// The clone; if `None`, all clones, including those created later.
        name: Option<String>,
        /// True to continue with new events until the connection or the clone ends.
        follow: bool,
    },
    /// Creates a clone and starts to serve it.
    Create {
        /// A line in the format of a clonetab.
        line: String,
    },
    /// Stops a clone.
    Remove {
        /// The clone.
        name: String,
    },
    /// Reads the clonetab again and returns [`Item::Reloaded`].
    Reload,
    /// Returns [`Item::Snapshot`], the complete current state of a clone.
    Snapshot {
        /// The clone.
        name: String,
        /// The maximum number of cells of the map, 1 to [`CELLS_MAX`].
        cells: u32,
    },
}

/// The maximum number of cells of a map.
pub const CELLS_MAX: u32 = 8192;

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The protocol version of the daemon.
    pub v: u32,
    /// A part of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// True if the answer ends here and the request succeeded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
    /// The error, if the answer ends here because the request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

impl Reply {
    /// Creates a part of an answer.
    pub fn item(item: Item) -> Self {
        Self { item: Some(item), ..Self::nothing() }
    }

    /// Creates the end of a successful answer.
    pub fn end() -> Self {
        Self { end: true, ..Self::nothing() }
    }

    /// Creates the end of a failed answer.
    pub fn error(refusal: Refusal) -> Self {
        Self { error: Some(refusal), ..Self::nothing() }
    }

    fn nothing() -> Self {
        Self { v: VERSION, item: None, end: false, error: None }
    }
}

/// The reason why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind, for programs.
    pub kind: ErrorKind,
    /// The message, for people.
    pub message: String,
}

/// The maximum length of a message in bytes; longer ones are cut.
const MESSAGE_MAX: usize = 8192;

impl Refusal {
    /// Creates a refusal. A message that is too long is cut.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: shortened(message.into(), MESSAGE_MAX) }
    }
}

/// Returns `text`, cut to at most `most` bytes.
pub(super) fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - 3));
        text.push('…');
    }
    text
}

/// The kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is invalid, or of another version.
    Request,
    /// No clone has that name.
    NoClone,
    /// The message for the clone is invalid.
    Message,
    /// The clone or the daemon failed to do it.
    Failed,
    /// The clone was stopped in the meantime.
    Stopped,
    /// There are too many connections.
    Busy,
    /// The peer has no permission.
    Denied,
    /// A kind that a later daemon has added.
    #[serde(other)]
    Other,
}

/// Creates a part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// The status of a clone.
    Clone(Box<CloneStatus>),
    /// A table line.
    Table {
        /// The name of the clone.
        name: String,
        /// The line in the format of dmsetup.
        line: String,
    },
    /// An event.
    Event(Event),
    /// The result of reading the clonetab again.
    Reloaded {
        /// The names of clones that were started.
        added: Vec<String>,
        /// The names of clones that were stopped.
        removed: Vec<String>,
        /// The names of clones whose lines have changed; they continue with the old ones.
        changed: Vec<String>,
        /// The names of clones that could not be started or stopped, with the reasons.
        failed: Vec<(String, String)>,
    },
    /// The complete state of a clone.
    Snapshot(Box<Snapshot>),
}

/// The status of a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneStatus {
    /// The name of the clone.
    pub name: String,
    /// The kernel's status line, `<start> <length> clone …`.
    pub status: String,
    /// The addresses at which it is served.
    pub exports: Vec<String>,
    /// The size of the clone in bytes.
    pub size_bytes: u64,
    /// The size of a region in bytes.
    pub region_bytes: u64,
    /// `running`, `fail` or `error`.
    pub state: String,
    /// `rw` or `ro`; `None` unless `state` is `running`.
    pub mode: Option<String>,
    /// True if the clone is suspended.
    pub suspended: bool,
    /// True if every region is hydrated.
    pub complete: bool,
    /// The number of hydrated regions; 0 if the clone has failed.
    pub hydrated_regions: u64,
    /// The number of all regions.
    pub regions: u64,
    /// The number of regions that are being copied.
    pub hydrating_regions: u64,
    /// The number of metadata blocks in use, 4096 bytes each.
    pub metadata_used_blocks: u64,
    /// The number of all metadata blocks.
    pub metadata_total_blocks: u64,
    /// The number of failed regions.
    pub set_aside_regions: u64,
    /// The number of the last event; 0 if there was none.
    pub event_nr: u64,
    /// The settings.
    pub settings: Set,
}

/// The settings of a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// True if the clone copies in the background.
    pub hydration: bool,
    /// True if discards are passed to the destination.
    pub discard_passdown: bool,
    /// The maximum number of regions in flight in the background.
    pub hydration_threshold: u32,
    /// The maximum number of regions in one copy.
    pub hydration_batch_size: u32,
    /// The maximum background copy rate in bytes per second; `None` for no limit.
    pub hydration_rate: Option<u64>,
    /// True if reads hydrate the regions that they read.
    pub hydrate_on_read: bool,
    /// The number of consecutive failures after which hydration stops; 0 for never.
    pub max_failures: u32,
}

/// An event of a clone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The name of the clone.
    #[serde(rename = "clone")]
    pub name: String,
    /// The number of the event. Each start of the clone begins with 1; numbers are consecutive.
    pub number: u64,
    /// The time in seconds since 1970, UTC.
    pub time: f64,
    /// The kind in one word: `finished`, `read_only`, `flush_failed`, `failed`,
    /// `hydration_stopped`, `source_changed`, `limit_reached`, `suspended`, `resumed`, `other`.
    pub what: String,
    /// The description for people.
    pub text: String,
    /// Details: `device` and `reason` of a failure; `failures`, the number of consecutive failures;
    /// `start` and `end`, the failed range in bytes (half-open).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

/// The complete state of a clone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The status.
    #[serde(flatten)]
    pub clone: CloneStatus,
    /// The source as given in the table line.
    pub source: String,
    /// The time of the snapshot, in microseconds since an arbitrary fixed point.
    pub micros: u64,
    /// Bytes read from the source to be copied.
    pub fetched_bytes: u64,
    /// Bytes written to the destination by copies.
    pub copied_bytes: u64,
    /// Bytes of copies that are zero and were not written as data.
    pub zeroed_bytes: u64,
    /// Bytes read from the source only for user requests.
    pub source_read_bytes: u64,
    /// The number of commits started.
    pub commits: u64,
    /// The number of user requests in flight.
    pub in_flight: u64,
    /// What users have asked for, by the names of [`crate::export::stats::Kind`].
    pub requests: BTreeMap<String, Requests>,
    /// The number of regions in a cell of the map, a power of two.
    pub cell_regions: u64,
    /// The map, one digit per cell: `0` if no region is hydrated, `9` if all are, and otherwise `1`
    /// to `8` by the hydrated share.
    pub cells: String,
    /// The last events, the oldest first.
    pub events: Vec<Event>,
}

/// The user requests of one kind, since the clone was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// The number of completed requests.
    pub count: u64,
    /// Their total size in bytes.
    pub bytes: u64,
    /// The number of failed requests.
    pub failed: u64,
    /// The sum of their latencies in microseconds.
    pub micros: u64,
}

#[cfg(test)]
mod tests {
    use super::{ErrorKind, Item, Refusal, Reply, Request, Verb};

    #[test]
    fn requests_and_replies_are_lines_that_do_not_change() {
        let text = r#"{"v":1,"verb":"wait","name":"disk","after":3}"#;
        let request = Request::new(Verb::Wait { name: "disk".into(), after: 3 });
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        let reload = r#"{"v":1,"verb":"reload"}"#;
        assert_eq!(serde_json::to_string(&Request::new(Verb::Reload)).unwrap(), reload);
        assert_eq!(serde_json::to_string(&Reply::end()).unwrap(), r#"{"v":1,"end":true}"#);
        let error = Reply::error(Refusal::new(ErrorKind::NoClone, "none"));
        let text = r#"{"v":1,"error":{"kind":"no_clone","message":"none"}}"#;
        assert_eq!(serde_json::to_string(&error).unwrap(), text);
        let table = Item::Table { name: "a".into(), line: "0 8 clone".into() };
        let text = r#"{"v":1,"item":{"table":{"name":"a","line":"0 8 clone"}}}"#;
        assert_eq!(serde_json::to_string(&Reply::item(table)).unwrap(), text);
    }

    #[test]
    fn what_a_later_daemon_adds_is_passed_over() {
        let text = r#"{"v":1,"error":{"kind":"new","message":"x","more":1},"also":[]}"#;
        let reply: Reply = serde_json::from_str(text).unwrap();
        assert_eq!(reply.error.unwrap().kind, ErrorKind::Other);
    }

    #[test]
    fn a_message_is_cut_where_a_character_ends() {
        let refusal = Refusal::new(ErrorKind::Failed, "ä".repeat(10_000));
        assert!(refusal.message.len() <= 8192 && refusal.message.ends_with("ä…"));
    }
}
