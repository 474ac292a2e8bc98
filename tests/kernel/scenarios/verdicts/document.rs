//! The table of verdicts in `docs/repair.md`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::Judged;
use crate::context::Context;

const BEGIN: &str = "<!-- verdicts: begin -->\n";
const END: &str = "<!-- verdicts: end -->";

/// The release series of a kernel: `6.1` of `6.1.0-56-amd64`.
fn series(release: &str) -> String {
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// What a kernel said, without what differs from one machine or run to the next: numbers.
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

/// The one line that tells most: of what it died, or what went wrong first.
fn essence(said: &[String]) -> String {
    let bug = said.iter().find(|line| line.contains("BUG"));
    let Some(line) = bug.or_else(|| said.first()) else { return "nothing".to_owned() };
    let line = line.split_once(".c:").map_or(line.clone(), |(before, _)| format!("{before}.c"));
    format!("`{}`", without_numbers(&line).replace('`', "'").replace('|', "/"))
}

/// The rows: cases that came out the same share one.
fn table(judged: &[Judged]) -> String {
    let mut rows: Vec<((&str, String), Vec<&str>)> = Vec::new();
    for one in judged {
        let codes: Vec<String> = one.codes.iter().map(|code| format!("`{code}`")).collect();
        let codes = if codes.is_empty() { "none".to_owned() } else { codes.join(" ") };
        let verdict = one.verdict();
        let loud = !matches!(&*verdict, "harmless" | "refused" | "read-only");
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

/// The text of `docs/repair.md`.
pub(in crate::scenarios) fn text() -> Result<String> {
    std::fs::read_to_string(path()).context("docs/repair.md")
}

/// Holds the document against what was seen, or makes it say that.
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
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (lines(old), lines(&new));
    let lost = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let found = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    let changes: Vec<String> = lost.chain(found).collect();
    if !old.iter().any(|line| line.starts_with(&format!("Made with Linux {series},"))) {
        let changes = changes.join("\n");
        context.say(format!("docs/repair.md was made with another kernel:\n{changes}"));
        return Ok(());
    }
    ensure!(
        changes.is_empty(),
        "docs/repair.md says otherwise; UPDATE_GOLDEN=1 tests/kernel/run verdicts accepts it:\n{}",
        changes.join("\n")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{essence, series, without_numbers};

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
