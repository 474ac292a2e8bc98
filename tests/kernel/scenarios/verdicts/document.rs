//! The table of verdicts in `docs/repair.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::Judged;
use crate::context::Context;

const BEGIN: &str = "<!-- verdicts: begin -->\n";
const END: &str = "<!-- verdicts: end -->";

/// Returns the release series of a kernel: `6.1` of `6.1.0-56-amd64`.
fn series(release: &str) -> String {
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Removes the numbers from a kernel message, because they differ between machines and runs.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        let end = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
        let part_of_a_word = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '-';
        text += before;
        text += if before.ends_with(part_of_a_word) { &from[..end] } else { "N" };
        rest = &from[end..];
    }
    text + rest
}

/// Returns the most informative line: the cause of the crash, or the first error.
fn essence(said: &[String]) -> String {
    let bug = said.iter().find(|line| line.contains("BUG"));
    let Some(line) = bug.or_else(|| said.first()) else { return "nothing".to_owned() };
    let line = line.split_once(".c:").map_or(line.clone(), |(before, _)| format!("{before}.c"));
    format!("`{}`", without_numbers(&line).replace('`', "'").replace('|', "/"))
}

/// Returns the rows of the table. Cases with the same result share a row.
fn table(judged: &[Judged]) -> String {
    let mut rows: Vec<((&str, String), Vec<&str>)> = Vec::new();
    for one in judged {
        let codes: Vec<String> = one.codes.iter().map(|code| format!("`{code}`")).collect();
        let codes = if codes.is_empty() { "none".to_owned() } else { codes.join(" ") };
        let verdict = one.verdict();
        let loud = !matches!(&*verdict, "harmless" | "refused" | "commit fails");
        let verdict = if loud { format!("**{verdict}**") } else { verdict };
        let rest = format!("{codes} | {} | {verdict} | {}", one.severity, essence(&one.said));
        match rows.iter_mut().find(|(key, _)| *key == (one.about, rest.clone())) {
            Some((_, names)) => names.push(one.name),
            None => rows.push(((one.about, rest), vec![one.name])),
        }
    }
    let mut text = "| damage | codes | `clone_check` | kernel | what it said |\n".to_owned();
    text += "|---|---|---|---|---|\n";
    for ((about, rest), names) in rows {
        text += &format!("| {about}: {} | {rest} |\n", names.join("; "));
    }
    text
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/repair.md")
}

/// Returns the text of `docs/repair.md`.
pub(in crate::scenarios) fn text() -> Result<String> {
    std::fs::read_to_string(path()).context("docs/repair.md")
}

/// Compares the document with the results, or updates it.
pub(super) fn compare(context: &Context<'_>, judged: &[Judged]) -> Result<()> {
    let document = text()?;
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| {
        let (old, after) = rest.split_once(END)?;
        Some((before, old, after))
    });
    let (before, old, after) = parts.context("docs/repair.md has no marks of the table")?;
    let series = series(&context.kernel.release()?);
    let made_with = format!("Made with Linux {series}, of {} damages.\n\n", judged.len());
    let new = format!("{made_with}{}", table(judged));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return Ok(std::fs::write(path(), [before, BEGIN, &new, END, after].concat())?);
    }
    let begin = format!("Made with Linux {series},");
    let same_series = old.lines().any(|line| line.starts_with(&begin));
    // Messages of a kernel may change their order or be suppressed. Its behaviour may not change.
    let verdicts = changes(&verdicts(old), &verdicts(&new));
    ensure!(
        verdicts.is_empty() || !same_series,
        "docs/repair.md says otherwise; UPDATE_GOLDEN=1 tests/kernel/run verdicts accepts it:\n{}",
        verdicts.join("\n")
    );
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    let words = changes(&lines(old), &lines(&new));
    if !words.is_empty() {
        let words = words.join("\n    ");
        context.say(format!("not in the words of docs/repair.md:\n    {words}"));
    }
    Ok(())
}

/// Returns the lines that are in one of two sets only, marked as in a patch.
fn changes(old: &BTreeSet<String>, new: &BTreeSet<String>) -> Vec<String> {
    let lost = old.difference(new).map(|line| format!("- {line}"));
    lost.chain(new.difference(old).map(|line| format!("+ {line}"))).collect()
}

/// Returns the rows of a table without the kernel's messages, one for each damage.
fn verdicts(table: &str) -> BTreeSet<String> {
    let mut verdicts = BTreeSet::new();
    for row in table.lines() {
        let Some((row, _)) = row.strip_suffix(" |").and_then(|row| row.rsplit_once(" | ")) else {
            continue;
        };
        let (damages, verdict) = row.split_once(" | ").unwrap_or((row, ""));
        let (about, names) = damages.split_once(": ").unwrap_or((damages, ""));
        for name in names.split("; ") {
            verdicts.insert(format!("{about}: {name} | {verdict}"));
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::{changes, essence, series, verdicts, without_numbers};

    #[test]
    fn another_verdict_is_told_and_another_message_is_not() {
        let old = verdicts("| bits: one; two | `code` | fatal | refused | `said` |\n");
        let same = verdicts(
            "| bits: one | `code` | fatal | refused | `said` |\n\
             | bits: two | `code` | fatal | refused | nothing |\n",
        );
        assert!(changes(&old, &same).is_empty());
        let other = verdicts("| bits: one; two | `code` | fatal | harmless | `said` |\n");
        assert_eq!(changes(&old, &other).len(), 4);
    }

    #[test]
    fn what_differs_between_runs_is_not_shown() {
        assert_eq!(series("6.1.0-56-amd64"), "6.1");
        let said = "clone: 254:2: csum 12 != wanted 3, sm2, error = -84";
        assert_eq!(without_numbers(said), "clone: N:N: csum N != wanted N, sm2, error = -84");
        let said = ["first".to_owned(), "kernel BUG at drivers/md/dm-bufio.c:1644!".to_owned()];
        assert_eq!(essence(&said), "`kernel BUG at drivers/md/dm-bufio.c`");
        assert_eq!(essence(&said[..1]), "`first`");
        assert_eq!(essence(&[]), "nothing");
    }
}
