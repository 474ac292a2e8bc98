//! The status of ranges ("Metadata querying").

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use clone_core::engine::ByteRange;

use crate::export::nbd::negotiation::Context;
use crate::export::volume::User;
use crate::nbd_protocol::{allocation, hydrated};

/// Maximum number of extents in a reply. A client asks again for the rest.
const EXTENTS_MAX: usize = 2048;

/// Maximum number of stretches that are looked up for a reply, including merged ones.
const STRETCHES_MAX: usize = 4 * EXTENTS_MAX;

/// Time limit for a reply. Each lookup can be slow if the source is distant.
const STATUS_BUDGET: Duration = Duration::from_millis(50);

/// Returns extents (lengths in bytes and flags) from the start of `range` on: at least one, and
/// only one if `one` is true. None extends past the end of the range. The range must not be empty,
/// and must lie on the volume.
pub(super) fn extents(
    user: &User,
    context: Context,
    range: &ByteRange,
    one: bool,
) -> Vec<(u64, u32)> {
    let began = Instant::now();
    let mut extents: Vec<(u64, u32)> = Vec::new();
    let mut at = range.start;
    for _ in 0..STRETCHES_MAX {
        let (flags, end) = extent(user, context, &(at..range.end));
        let len = end.clamp(at + 1, range.end) - at;
        match add(&mut extents, len, flags, one) {
            ControlFlow::Continue(()) => at += len,
            ControlFlow::Break(()) => break,
        }
        if at >= range.end || began.elapsed() > STATUS_BUDGET {
            break;
        }
    }
    extents
}

fn add(extents: &mut Vec<(u64, u32)>, len: u64, flags: u32, one: bool) -> ControlFlow<()> {
    let most = if one { 1 } else { EXTENTS_MAX };
    let is_full = extents.len() == most;
    match extents.last_mut() {
        Some(last) if last.1 == flags => last.0 += len,
        _ if is_full => return ControlFlow::Break(()),
        _ => extents.push((len, flags)),
    }
    ControlFlow::Continue(())
}

/// Returns the flags at the start of `range`, and the end of the extent with these flags in bytes.
/// A extent of unknown state is reported as data and not hydrated, which is always correct.
fn extent(user: &User, context: Context, range: &ByteRange) -> (u32, u64) {
    let Some((is_hydrated, end)) = user.hydrated(range) else { return (0, range.end) };
    match context {
        Context::Hydrated => (if is_hydrated { hydrated::HYDRATED } else { 0 }, end),
        Context::Allocation => match user.extent(range) {
            Ok(Some(extent)) if extent.zeroes => (allocation::HOLE | allocation::ZERO, extent.end),
            Ok(Some(extent)) => (0, extent.end),
            Ok(None) | Err(_) => (0, end),
        },
    }
}
