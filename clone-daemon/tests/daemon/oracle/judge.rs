//! Checks replies against the model.

use clone_daemon::nbd_protocol::{self, allocation, command, errno, flag, hydrated};

use super::model::{Force, Mismatch};
use super::run::{Known, Mark, Run};
use super::user::{Asked, Doing, name};
use super::wire::What;

/// Checks the reply to a request and records what it reveals about the clone.
pub(super) fn judge(run: &Run, asked: &Asked, mark: Mark) -> Result<(), String> {
    let what = name(asked.request.command);
    run.tally.add(what, 1);
    let error = asked.parts.iter().find_map(|part| match part {
        What::Error(error, told) => Some((*error, told.as_str())),
        _ => None,
    });
    let mut known = run.known();
    match error {
        Some((error, told)) => {
            failed(&mut known, asked);
            drop(known);
            run.tally.add(&format!("{what} failed with error {error}"), 1);
            let is_slow = asked.request.flags & flag::FAST_ZERO != 0 && error == errno::ENOTSUP;
            match is_slow || run.excuses(asked.request.command, error, mark) {
                true => Ok(()),
                false => Err(format!("it failed with error {error} ({told}) without a reason")),
            }
        }
        None => succeeded(run, &mut known, asked),
    }
}

fn failed(known: &mut Known, asked: &Asked) {
    match asked.doing {
        Doing::Read(moment) | Doing::Status(moment) => known.model.end_read(moment),
        Doing::Change(write, _) => known.model.end(write, Force::Partial, false),
        Doing::Flush(_) | Doing::Cache => {}
    }
}

fn succeeded(run: &Run, known: &mut Known, asked: &Asked) -> Result<(), String> {
    match asked.doing {
        Doing::Read(moment) => {
            let read = read(run, known, asked, moment);
            known.model.end_read(moment);
            read
        }
        Doing::Status(moment) => {
            let status = status(known, asked, moment);
            known.model.end_read(moment);
            status
        }
        Doing::Change(write, force) => {
            known.model.end(write, force, asked.request.flags & flag::FUA != 0);
            Ok(())
        }
        Doing::Flush(moment) => {
            known.model.flush(moment);
            Ok(())
        }
        Doing::Cache => Ok(()),
    }
}

fn read(run: &Run, known: &mut Known, asked: &Asked, moment: u64) -> Result<(), String> {
    let mut pieces: Vec<(u64, u64, Option<&[u8]>)> = Vec::new();
    for part in &asked.parts {
        match part {
            What::Data(offset, data) => pieces.push((*offset, data.len() as u64, Some(data))),
            What::Hole(offset, length) => pieces.push((*offset, *length, None)),
            What::Done => {}
            What::Error(..) | What::Extents(..) => return Err(format!("{part:?} is no data")),
        }
    }
    if asked.request.flags & flag::DF != 0 && pieces.len() > 1 {
        return Err(format!("{} chunks in place of one", pieces.len()));
    }
    pieces.sort_by_key(|(offset, ..)| *offset);
    let mut at = asked.request.offset;
    for (offset, length, data) in pieces {
        if offset != at {
            return Err(format!("a chunk of {length} bytes at {offset}, and {at} is next"));
        }
        let zeroes;
        let data = match data {
            Some(data) => data,
            None => {
                zeroes = vec![0; length as usize];
                &zeroes
            }
        };
        known.model.read(offset, data, moment).map_err(|Mismatch(told)| told)?;
        at += length;
    }
    if at != asked.request.offset + asked.request.length {
        return Err(format!("the data end at {at}"));
    }
    run.tally.add("bytes compared", asked.request.length);
    Ok(())
}

fn status(known: &mut Known, asked: &Asked, moment: u64) -> Result<(), String> {
    let end = asked.request.offset + asked.request.length;
    // Then regions that were not committed are reverted.
    let is_lossy = known.model.is_lossy;
    for part in &asked.parts {
        let What::Extents(context, extents) = part else { continue };
        let mut at = asked.request.offset;
        let is_one = asked.request.flags & flag::REQ_ONE != 0;
        if extents.is_empty() || is_one && extents.len() > 1 {
            return Err(format!("{} extents of {context}", extents.len()));
        }
        for &(length, flags) in extents {
            let range = at..at + length;
            if length == 0 || range.end > end {
                return Err(format!("an extent {range:?} of {context}, with {end} as the end"));
            }
            at = range.end;
            let has = |flag: u32| flags & u64::from(flag) != 0;
            if context == nbd_protocol::BASE_ALLOCATION {
                if has(allocation::ZERO) {
                    let zeroes = known.model.zeroes(&range, moment);
                    zeroes.map_err(|Mismatch(told)| format!("{range:?} is no zeroes: {told}"))?;
                }
                continue;
            }
            let now = known.model.advance();
            if !is_lossy {
                known.hydrated.told(&range, has(hydrated::HYDRATED), moment, now)?;
            }
        }
    }
    Ok(())
}

impl Run {
    /// Returns whether a reply may be cut off in the middle.
    pub(super) fn may_cut(&self) -> bool {
        self.excuses(command::READ, errno::EIO, self.gate.mark())
    }
}
