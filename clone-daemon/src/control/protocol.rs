//! What is said on the control socket, in version [`VERSION`].
//!
//! Each line is one JSON object. A client sends a [`Request`]; the daemon answers with any number
//! of `{"v":1,"item":…}` and then `{"v":1,"end":true}`, or `{"v":1,"error":{…}}` in place of it.
//! Then the next request can come. What an item is depends on the verb: [`Item`].
//!
//! Within a version only fields are added that may be left out, and kinds of errors; whoever reads
//! passes over fields that it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The version that it speaks.
    pub v: u32,
    /// What is to be done.
    #[serde(flatten)]
    pub verb: Verb,
}

impl Request {
    /// In the version that is spoken here.
    pub fn new(verb: Verb) -> Self {
        Self { v: VERSION, verb }
    }
}

/// What is to be done, and what comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// [`Item::Clone`] of all clones, by name, or of one.
    Status {
        /// Which; all if there is none.
        name: Option<String>,
        /// Whether to commit before, so that it is current.
        flush: bool,
    },
    /// [`Item::Table`] of all clones, by name, or of one.
    Table {
        /// Which; all if there is none.
        name: Option<String>,
    },
    /// Gives a clone a message.
    Message {
        /// Which.
        name: String,
        /// What [`clone_core::engine::Command`] takes.
        message: String,
    },
    /// Brings a clone to rest, and commits.
    Suspend {
        /// Which.
        name: String,
    },
    /// Lets it go on.
    Resume {
        /// Which.
        name: String,
    },
    /// [`Item::Event`]: those of a clone with a number above `after`; waits until there is one.
    Wait {
        /// Which.
        name: String,
        /// A number of an event, or 0.
        after: u64,
    },
    /// [`Item::Event`]: those that are kept, of all clones or of one; then those that come.
    Events {
        /// Which; all if there is none, and also those that are created later.
        name: Option<String>,
        /// Whether to go on, until the connection or the clone ends.
        follow: bool,
    },
    /// Has a clone run from now on.
    Create {
        /// A line as in a clonetab.
        line: String,
    },
    /// Stops a clone.
    Remove {
        /// Which.
        name: String,
    },
    /// [`Item::Reloaded`]: reads the clonetab again.
    Reload,
    /// [`Item::Snapshot`]: all that is to be seen of a clone now.
    Snapshot {
        /// Which.
        name: String,
        /// The most cells that the map may have, 1 to [`CELLS_MAX`].
        cells: u32,
    },
}

/// The most cells that a map may have.
pub const CELLS_MAX: u32 = 8192;

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The version that is spoken.
    pub v: u32,
    /// A part of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// Whether it ends here, and all was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
    /// Why it ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

impl Reply {
    /// A part of an answer.
    pub fn item(item: Item) -> Self {
        Self { item: Some(item), ..Self::nothing() }
    }

    /// The end of an answer.
    pub fn end() -> Self {
        Self { end: true, ..Self::nothing() }
    }

    /// The end of an answer, and why.
    pub fn error(refusal: Refusal) -> Self {
        Self { error: Some(refusal), ..Self::nothing() }
    }

    fn nothing() -> Self {
        Self { v: VERSION, item: None, end: false, error: None }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

/// Bytes of a message at most; a longer one is cut.
const MESSAGE_MAX: usize = 8192;

impl Refusal {
    /// One with a message that is not too long.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: shortened(message.into(), MESSAGE_MAX) }
    }
}

/// `text`, or its beginning of at most `most` bytes.
pub(super) fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - 3));
        text.push('…');
    }
    text
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is none, or in another version.
    Request,
    /// There is no clone of that name.
    NoClone,
    /// The message is none.
    Message,
    /// The clone, or the daemon, could not do it.
    Failed,
    /// The clone was stopped meanwhile.
    Stopped,
    /// Too many are connected.
    Busy,
    /// The peer may not do that.
    Denied,
    /// What a later daemon says.
    #[serde(other)]
    Other,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A clone, as it stands.
    Clone(Box<CloneStatus>),
    /// A table line.
    Table {
        /// Whose.
        name: String,
        /// As dmsetup prints it.
        line: String,
    },
    /// Something that happened.
    Event(Event),
    /// What came of reading the clonetab again.
    Reloaded {
        /// Names of clones that run now, and did not before.
        added: Vec<String>,
        /// Names of those that do not any more.
        removed: Vec<String>,
        /// Names of those whose lines have changed, and which go on as they were.
        changed: Vec<String>,
        /// Names of those that could not be started or stopped, and why.
        failed: Vec<(String, String)>,
    },
    /// All that is to be seen of a clone.
    Snapshot(Box<Snapshot>),
}

/// A clone, as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneStatus {
    /// What it is called.
    pub name: String,
    /// The kernel's status line, `<start> <length> clone …`.
    pub status: String,
    /// Where it is served.
    pub exports: Vec<String>,
    /// Bytes of it.
    pub size_bytes: u64,
    /// Bytes of a region.
    pub region_bytes: u64,
    /// `running`, `fail` or `error`.
    pub state: String,
    /// `rw` or `ro`; `None` unless it is running.
    pub mode: Option<String>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Whether every region is hydrated.
    pub complete: bool,
    /// Regions that are hydrated; 0 if it has failed.
    pub hydrated_regions: u64,
    /// All regions.
    pub regions: u64,
    /// Regions that are being copied.
    pub hydrating_regions: u64,
    /// Blocks of metadata in use, 4096 bytes each.
    pub metadata_used_blocks: u64,
    /// All blocks of metadata.
    pub metadata_total_blocks: u64,
    /// Regions that could not be copied.
    pub set_aside_regions: u64,
    /// The number of the last event; 0 if there was none.
    pub event_nr: u64,
    /// What is set.
    pub settings: Set,
}

/// What is set on a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Whether it copies in the background.
    pub hydration: bool,
    /// Whether discards go to the destination.
    pub discard_passdown: bool,
    /// Regions that may be under way in the background.
    pub hydration_threshold: u32,
    /// Regions in one copy.
    pub hydration_batch_size: u32,
    /// Bytes a second that may be copied in the background; `None` for no limit.
    pub hydration_rate: Option<u64>,
    /// Whether reads hydrate.
    pub hydrate_on_read: bool,
    /// Failures in a row after which hydration stops; 0 for never.
    pub max_failures: u32,
}

/// Something that happened to a clone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Which clone.
    #[serde(rename = "clone")]
    pub name: String,
    /// The first of a clone since it was started is 1, and each is one more than the one before.
    pub number: u64,
    /// When, in seconds since 1970, UTC.
    pub time: f64,
    /// What, in one word: `finished`, `read_only`, `failed`, `hydration_stopped`,
    /// `source_changed`, `limit_reached`, `suspended`, `resumed`.
    pub what: String,
    /// The same for people.
    pub text: String,
    /// More about it: `device` and `reason` of a failure, `failures` in a row, `start` and `end` in
    /// bytes of what was to be copied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

/// All that is to be seen of a clone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// How it stands.
    #[serde(flatten)]
    pub clone: CloneStatus,
    /// What is cloned, as the table line calls it.
    pub source: String,
    /// When this was taken, in microseconds since some beginning that does not change.
    pub micros: u64,
    /// Bytes read from the source in order to copy them.
    pub fetched_bytes: u64,
    /// Bytes of copies written to the destination.
    pub copied_bytes: u64,
    /// Bytes of copies that are zeroes, and were not written as such.
    pub zeroed_bytes: u64,
    /// Bytes read from the source for users alone.
    pub source_read_bytes: u64,
    /// Commits that were begun.
    pub commits: u64,
    /// Requests that are under way.
    pub in_flight: u64,
    /// What users have asked for, by the names of [`crate::export::stats::Kind`].
    pub requests: BTreeMap<String, Requests>,
    /// Regions in a cell of the map, a power of two.
    pub cell_regions: u64,
    /// The map, a digit for each cell: `0` if none of its regions is hydrated, `9` if all are, and
    /// else `1` to `8`, the more the higher.
    pub cells: String,
    /// The last events, the oldest first.
    pub events: Vec<Event>,
}

/// Requests of a kind, since the clone was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// How many were answered.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Their latencies, added up, in microseconds.
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
