//! Sets of regions as runs: half-open, ascending, with a gap between any two.

use clone_core::geometry::RegionRange;

/// Sorts `runs` and joins those that touch.
pub fn joined(mut runs: Vec<RegionRange>) -> Vec<RegionRange> {
    runs.sort_unstable_by_key(|run| run.start);
    let mut joined: Vec<RegionRange> = Vec::new();
    for run in runs.into_iter().filter(|run| !run.is_empty()) {
        match joined.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => joined.push(run),
        }
    }
    joined
}

/// Returns the regions in `a`, in `b`, or in both.
pub fn union(a: &[RegionRange], b: &[RegionRange]) -> Vec<RegionRange> {
    joined([a, b].concat())
}

/// Returns the regions in `a` that are not in `b`.
pub fn minus(a: &[RegionRange], b: &[RegionRange]) -> Vec<RegionRange> {
    let mut left = Vec::new();
    let mut taken = b.iter().peekable();
    for run in a {
        let mut start = run.start;
        while taken.next_if(|other| other.end <= start).is_some() {}
        while start < run.end {
            let gap = match taken.peek() {
                Some(other) if other.start < run.end => start..other.start.max(start),
                _ => start..run.end,
            };
            start = taken.peek().map_or(run.end, |other| other.end).max(gap.end);
            left.extend((!gap.is_empty()).then_some(gap));
            if start < run.end {
                taken.next();
            }
        }
    }
    left
}

/// Returns the part of `runs` that lies in `range`.
pub fn within(runs: &[RegionRange], range: &RegionRange) -> Vec<RegionRange> {
    let cut = runs.iter().map(|run| run.start.max(range.start)..run.end.min(range.end));
    cut.filter(|run| run.start < run.end).collect()
}

/// Returns the number of regions.
pub fn count(runs: &[RegionRange]) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum()
}

#[cfg(test)]
mod tests {
    use clone_core::geometry::RegionRange;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::{count, joined, minus, union, within};
    use crate::hydration::runs_of;

    /// Two random sets of the same 100 regions, from sparse to dense.
    fn sets(seed: u64) -> [Vec<bool>; 2] {
        let mut rng = StdRng::seed_from_u64(seed);
        [(); 2].map(|()| {
            let chance: f64 = rng.random();
            (0..100).map(|_| rng.random_bool(chance)).collect()
        })
    }

    #[test]
    fn sets_of_runs_behave_as_sets_of_regions() {
        for seed in 0..2000 {
            let [a, b] = sets(seed);
            let each = |keep: fn(bool, bool) -> bool| -> Vec<RegionRange> {
                let both = a.iter().zip(&b);
                runs_of(&both.map(|(&a, &b)| keep(a, b)).collect::<Vec<bool>>())
            };
            let (a_runs, b_runs) = (runs_of(&a), runs_of(&b));
            assert_eq!(minus(&a_runs, &b_runs), each(|a, b| a && !b), "seed {seed}");
            assert_eq!(union(&a_runs, &b_runs), each(|a, b| a || b), "seed {seed}");
            for range in b_runs {
                let inside: Vec<bool> =
                    (0..).zip(&a).map(|(region, &a)| a && range.contains(&region)).collect();
                assert_eq!(within(&a_runs, &range), runs_of(&inside), "seed {seed}");
            }
            assert_eq!(count(&a_runs), a.iter().filter(|&&a| a).count() as u64);
        }
    }

    #[test]
    fn runs_that_touch_become_one() {
        assert_eq!(joined(vec![5..7, 0..2, 2..3, 9..9, 6..8]), [0..3, 5..8]);
    }
}
