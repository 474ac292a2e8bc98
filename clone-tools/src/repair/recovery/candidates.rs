//! Lists the bitset roots that a recovery examined.

use std::fmt::Display;

use clone_core::repair::{Candidate, Verdict};

use crate::common::reporter::{Reporter, Verbosity};
use crate::common::units::Counted;

/// Reports the number of candidates, or with `--verbose` all details.
pub(super) fn list_candidates(reporter: &Reporter<'_>, candidates: &[Candidate]) {
    if reporter.verbosity != Verbosity::Verbose {
        if candidates.len() > 1 {
            let roots = Counted(candidates.len() as u64, "possible root");
            reporter
                .say(format_args!("{roots} of the bitset were examined (--verbose lists them)"));
        }
        return;
    }
    table(candidates).into_iter().for_each(|line| reporter.say(line));
}

/// Returns a table of the candidates, one per line, below two lines of headings.
fn table(candidates: &[Candidate]) -> Vec<String> {
    if candidates.is_empty() {
        return Vec::new();
    }
    let headings = ["root block", "array blocks", "missing", "hydrated"];
    let headings = row(headings, "space map", "verdict");
    let mut lines = vec!["possible roots of the bitset:".to_owned(), headings];
    for candidate in candidates {
        let figures =
            [candidate.root.0, candidate.array_blocks, candidate.missing, candidate.hydrated];
        let space_map = if candidate.is_counted { "agrees" } else { "none agrees" };
        lines.push(row(figures, space_map, in_words(candidate.verdict)));
    }
    lines
}

fn row<T: Display>(figures: [T; 4], space_map: &str, verdict: &str) -> String {
    let [root, array_blocks, missing, hydrated] = figures;
    format!(
        "  {root:>10} {array_blocks:>12} {missing:>7} {hydrated:>10}  {space_map:<11}  {verdict}"
    )
}

fn in_words(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        None => "taken",
        Some(Verdict::Older) => "older: it lacks regions that are hydrated in others",
        Some(Verdict::Tie) => {
            "a tie: it may be newer than the one taken, so regions in which they differ are lost"
        }
        Some(Verdict::Contradiction) => "not taken: it and others lack regions of each other",
        Some(_) => "not taken",
    }
}

#[cfg(test)]
mod tests {
    use clone_core::repair::{Candidate, Verdict};
    use persistent_data::BlockNr;

    use super::table;

    #[test]
    fn the_columns_of_the_table_are_straight() {
        let candidate = |root, missing, is_counted, verdict| {
            let (array_blocks, hydrated) = (5 - missing, 32576);
            let root = BlockNr(root);
            Candidate { root, array_blocks, missing, hydrated, is_counted, verdict }
        };
        let candidates = [
            candidate(23, 0, true, None),
            candidate(4_000_000, 1, false, Some(Verdict::Tie)),
            candidate(7, 0, false, Some(Verdict::Older)),
        ];
        let lines = table(&candidates);
        let expected = [
            "possible roots of the bitset:",
            "  root block array blocks missing   hydrated  space map    verdict",
            "          23            5       0      32576  agrees       taken",
            "     4000000            4       1      32576  none agrees  a tie: ",
            "           7            5       0      32576  none agrees  older: ",
        ];
        assert_eq!(lines.len(), expected.len());
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}");
        }
        assert!(table(&[]).is_empty());
    }
}
