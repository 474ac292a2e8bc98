//! Formats the output of `clonectl`, for people and for scripts.

use std::io::{self, Write};

use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_core::size::human;
use clone_tools::common::units::Share;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::control::protocol::{CloneStatus, Event};

/// Writes one JSON document on a line.
pub(super) fn json(to: &mut dyn Write, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    writeln!(to)
}

/// Writes status or table lines in the format of dmsetup: preceded by the clone's name, except with
/// `alone`, when one clone was requested by name.
pub(super) fn lines<'a>(
    to: &mut dyn Write,
    lines: impl Iterator<Item = (&'a str, &'a str)>,
    alone: bool,
) -> io::Result<()> {
    let mut none = true;
    for (name, line) in lines {
        none = false;
        match alone {
            true => writeln!(to, "{}", plain(line))?,
            false => writeln!(to, "{}: {}", plain(name), plain(line))?,
        }
    }
    // The message of dmsetup.
    if none && !alone { writeln!(to, "No devices found") } else { Ok(()) }
}

/// Writes a table of clones, one per line.
pub(super) fn list(to: &mut dyn Write, clones: &[CloneStatus]) -> io::Result<()> {
    let head = ["NAME", "SIZE", "HYDRATED", "STATE", "EVENT", "EXPORTS"].map(str::to_owned);
    let rows = clones.iter().map(|clone| {
        [
            plain(&clone.name),
            size(clone.size_bytes),
            Share { part: clone.hydrated_regions, whole: clone.regions }.to_string(),
            state(clone).to_owned(),
            clone.event_nr.to_string(),
            plain(&clone.exports.join(" ")),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 6] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let cells: Vec<String> = cells.collect();
        writeln!(to, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Returns the state of a clone in one or two words.
pub(super) fn state(clone: &CloneStatus) -> &'static str {
    match (&*clone.state, clone.mode.as_deref()) {
        ("running", Some("ro")) => "read-only",
        ("running", _) if clone.suspended => "suspended",
        ("running", _) if clone.complete => "complete",
        ("running", _) if clone.settings.hydration => "hydrating",
        ("running", _) => "not hydrating",
        ("fail", _) => "failed",
        _ => "error",
    }
}

/// Writes an event for people.
pub(super) fn event(to: &mut dyn Write, event: &Event) -> io::Result<()> {
    let Event { name, number, text, .. } = event;
    writeln!(to, "{} {} {number} {}", time(event.time), plain(name), plain(text))
}

/// Writes the result of reading the clonetab again: clones that were started, were stopped, and
/// continue although their lines have changed.
pub(super) fn reloaded(to: &mut dyn Write, named: &[Vec<String>; 3]) -> io::Result<()> {
    let whats = ["started", "stopped", "changed in the clonetab, and continues as it was"];
    for (names, what) in named.iter().zip(whats) {
        for name in names {
            writeln!(to, "{}: {what}", plain(name))?;
        }
    }
    if named.iter().all(Vec::is_empty) { writeln!(to, "nothing has changed") } else { Ok(()) }
}

/// Formats seconds since 1970 as `2026-11-23T02:30:00Z`.
pub(super) fn time(seconds: f64) -> String {
    // The cast saturates.
    let time = OffsetDateTime::from_unix_timestamp(seconds as i64);
    let told = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    told.unwrap_or_else(|| "?".to_owned())
}

/// Formats bytes for people.
pub(super) fn size(bytes: u64) -> String {
    if bytes < SECTOR_SIZE {
        format!("{bytes} B")
    } else {
        human(Sectors(bytes / SECTOR_SIZE)).to_string()
    }
}

/// Replaces control characters, which could move the cursor of a terminal: some text comes from
/// remote servers.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{CloneStatus, event, lines, list, state, time};
    use crate::control::protocol::{Event, Set};

    fn clone(name: &str) -> CloneStatus {
        CloneStatus {
            name: name.into(),
            size_bytes: 1 << 30,
            state: "running".into(),
            mode: Some("rw".into()),
            hydrated_regions: 1,
            regions: 8,
            event_nr: 3,
            exports: vec!["nbd+unix:///disk?socket=/run/x".into()],
            ..CloneStatus::default()
        }
    }

    fn text(write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_have_names_before_them_unless_one_clone_was_asked_for() {
        let two = [("a", "0 8 clone"), ("b", "0 16 clone")];
        assert_eq!(text(|to| lines(to, two.into_iter(), false)), "a: 0 8 clone\nb: 0 16 clone\n");
        assert_eq!(text(|to| lines(to, two[..1].iter().copied(), false)), "a: 0 8 clone\n");
        assert_eq!(text(|to| lines(to, two[..1].iter().copied(), true)), "0 8 clone\n");
        assert_eq!(text(|to| lines(to, [].into_iter(), false)), "No devices found\n");
    }

    #[test]
    fn a_list_has_columns() {
        let told = text(|to| list(to, &[clone("disk"), clone("a-longer-name")]));
        let expected = "\
NAME           SIZE   HYDRATED  STATE          EVENT  EXPORTS
disk           1 GiB  12.50 %   not hydrating  3      nbd+unix:///disk?socket=/run/x
a-longer-name  1 GiB  12.50 %   not hydrating  3      nbd+unix:///disk?socket=/run/x
";
        assert_eq!(told, expected);
    }

    #[test]
    fn the_state_is_the_worst_that_is_to_be_said() {
        let hydrates = Set { hydration: true, ..Set::default() };
        let mut clone = CloneStatus { settings: hydrates, ..clone("a") };
        assert_eq!(state(&clone), "hydrating");
        clone.complete = true;
        assert_eq!(state(&clone), "complete");
        clone.suspended = true;
        assert_eq!(state(&clone), "suspended");
        clone.mode = Some("ro".into());
        assert_eq!(state(&clone), "read-only");
        clone.state = "fail".into();
        assert_eq!(state(&clone), "failed");
    }

    #[test]
    fn an_event_is_a_line_whatever_a_server_said() {
        let happened = Event {
            name: "disk".into(),
            number: 7,
            time: 1_800_000_000.9,
            what: "failed".into(),
            text: "the clone has failed: source: \u{1b}[2J\nboo".into(),
            details: std::collections::BTreeMap::new(),
        };
        let expected =
            "2027-01-15T08:00:00Z disk 7 the clone has failed: source: \u{fffd}[2J\u{fffd}boo\n";
        assert_eq!(text(|to| event(to, &happened)), expected);
        assert_eq!((time(f64::NAN), time(1e300)), ("1970-01-01T00:00:00Z".into(), "?".into()));
    }
}
