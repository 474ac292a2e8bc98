//! The bitset roots that a recovery looked at.

use clone_core::repair::{Candidate, Verdict};

use super::Teller;
use crate::figures::Counted;
use crate::report::Talk;

/// Tells of the candidates: how many there are, or all about them.
pub(super) fn list_candidates(teller: &Teller<'_>, candidates: &[Candidate]) {
    if teller.talk != Talk::Verbose {
        if candidates.len() > 1 {
            let roots = Counted(candidates.len() as u64, "possible root");
            teller.say(format_args!("{roots} of the bitset were looked at (--verbose lists them)"));
        }
        return;
    }
    if !candidates.is_empty() {
        teller.say("possible roots of the bitset:");
        teller.say(row(
            "root block",
            "array blocks",
            "missing",
            "hydrated",
            "space map",
            "verdict",
        ));
    }
    for candidate in candidates {
        let vouched_for = if candidate.vouched_for { "agrees" } else { "none agrees" };
        let figures =
            [candidate.root.0, candidate.array_blocks, candidate.missing, candidate.hydrated];
        let [root, array_blocks, missing, hydrated] = figures.map(|figure| figure.to_string());
        let verdict = in_words(candidate.verdict);
        teller.say(row(&root, &array_blocks, &missing, &hydrated, vouched_for, verdict));
    }
}

fn row(
    root: &str,
    array_blocks: &str,
    missing: &str,
    hydrated: &str,
    vouched_for: &str,
    verdict: &str,
) -> String {
    format!(
        "  {root:>10} {array_blocks:>12} {missing:>7} {hydrated:>10}  {vouched_for:<11}  {verdict}"
    )
}

fn in_words(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        None => "taken",
        Some(Verdict::Older) => "older: it lacks some of what is hydrated elsewhere",
        Some(Verdict::Tie) => {
            "a tie: it may be newer than the one taken, so regions in which they differ are lost"
        }
        Some(_) => "not taken",
    }
}
