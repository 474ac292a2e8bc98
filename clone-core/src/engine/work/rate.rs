//! The hydration rate limit, a token bucket.

use std::time::Duration;

/// Time whose worth of bytes may be copied at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// A limit in bytes per second.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct Rate {
    per_second: Option<u64>,
    /// Time at which the rate covers all bytes copied so far.
    paid_at: Duration,
}

impl Rate {
    /// Sets the limit in bytes per second, from now on; `None` and 0 mean no limit.
    pub(in crate::engine) fn set(&mut self, per_second: Option<u64>) {
        *self = Self { per_second: per_second.filter(|&rate| rate > 0), paid_at: Duration::ZERO };
    }

    /// Charges `bytes` that are being copied from now on.
    pub(in crate::engine) fn spend(&mut self, now: Duration, bytes: u64) {
        if self.per_second.is_some() {
            let cost = self.cost(bytes);
            self.paid_at = self.paid_at.max(now.saturating_sub(BURST)).saturating_add(cost);
        }
    }

    /// Refunds `bytes` that were charged but not copied.
    pub(in crate::engine) fn refund(&mut self, bytes: u64) {
        self.paid_at = self.paid_at.saturating_sub(self.cost(bytes));
    }

    fn cost(&self, bytes: u64) -> Duration {
        let Some(per_second) = self.per_second else { return Duration::ZERO };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the time from which a copy may begin.
    pub(in crate::engine) fn ready_at(&self) -> Duration {
        self.paid_at
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quickcheck::quickcheck;

    use super::{BURST, Rate};

    #[test]
    fn without_a_limit_all_is_ready_at_once() {
        let mut rate = Rate::default();
        rate.spend(Duration::from_secs(1), u64::MAX);
        assert_eq!(rate.ready_at(), Duration::ZERO);
        rate.set(Some(0));
        rate.spend(Duration::from_secs(1), u64::MAX);
        assert_eq!(rate.ready_at(), Duration::ZERO);
    }

    quickcheck! {
        fn what_is_copied_stays_within_rate_and_burst(
            per_second: u32,
            pieces: Vec<(u32, u16)>
        ) -> bool {
            let per_second = u64::from(per_second).max(1);
            let mut rate = Rate::default();
            rate.set(Some(per_second));
            let (mut now, mut before_last) = (Duration::from_secs(1), 0u128);
            let begin = now;
            for (bytes, pause_ms) in pieces {
                now = rate.ready_at().max(now + Duration::from_millis(pause_ms.into()));
                let allowed = (now - begin + BURST).as_nanos() * u128::from(per_second);
                // Rounding loses up to a nanosecond for each piece.
                if before_last * 1_000_000_000 > allowed + 1000 * u128::from(per_second) {
                    return false;
                }
                rate.spend(now, bytes.into());
                before_last += u128::from(bytes);
            }
            true
        }
    }
}
