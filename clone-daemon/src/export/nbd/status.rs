//! What is told of ranges ("Metadata querying").

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use clone_core::engine::ByteRange;

use crate::export::nbd::negotiation::Context;
use crate::export::volume::User;
use crate::nbd_protocol::{allocation, hydrated};

/// The most extents of a reply; a client asks again for the rest.
const EXTENTS_MAX: usize = 2048;

/// After so many stretches that were merged it is enough, too.
const STRETCHES_MAX: usize = 4 * EXTENTS_MAX;

/// After that time it is enough. A source that is far away may take long for each.
const PATIENCE: Duration = Duration::from_millis(50);

/// The extents, lengths and flags, that `range` begins with, of which there is one at least: only
/// that if `one` is true. None ends after the range, which is not empty and lies on the volume.
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
        let (flags, end) = stretch(user, context, &(at..range.end));
        let len = end.clamp(at + 1, range.end) - at;
        match add(&mut extents, len, flags, one) {
            ControlFlow::Continue(()) => at += len,
            ControlFlow::Break(()) => break,
        }
        if at >= range.end || began.elapsed() > PATIENCE {
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

/// The flags of what `range` begins with, and where that ends. What is not known is data, and not
/// hydrated: that is right for every range.
fn stretch(user: &User, context: Context, range: &ByteRange) -> (u32, u64) {
    let Some((is_hydrated, end)) = user.hydrated(range) else { return (0, range.end) };
    match context {
        Context::Hydrated => (if is_hydrated { hydrated::HYDRATED } else { 0 }, end),
        Context::Allocation => match user.stretch(range) {
            Ok(Some(stretch)) if stretch.zeroes => {
                (allocation::HOLE | allocation::ZERO, stretch.end)
            }
            Ok(Some(stretch)) => (0, stretch.end),
            Ok(None) | Err(_) => (0, end),
        },
    }
}
