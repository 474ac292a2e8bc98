//! Explains to people which content could be there.

use std::ops::Range;

use super::{Force, Model, Moment, NEVER, Version};
use crate::oracle::content::Value;

impl Model {
    /// Explains why the byte at `offset` cannot be there. It is in a segment in which a read found
    /// `data`.
    pub(super) fn explain(
        &self,
        offset: u64,
        range: &Range<u64>,
        data: &[u8],
        versions: &[Version],
        submitted: Moment,
    ) -> String {
        let at = (offset - range.start) as usize;
        let found: Vec<String> = data[at..].iter().take(16).map(|b| format!("{b:02x}")).collect();
        let durable = self.durable_from(versions);
        let may = versions.iter().filter(|version| self.may_return(version, durable, submitted));
        let may: Vec<String> = may.map(|version| self.told(version)).collect();
        let dead = versions.iter().filter(|version| !self.may_return(version, durable, submitted));
        let dead: Vec<String> = dead.map(|version| self.told(version)).collect();
        let author = self.content.author(offset, data[at]);
        let mut wrong = 0;
        for (offset, byte) in (offset..range.end).zip(&data[at..]) {
            let author = self.content.author(offset, *byte);
            let fits = versions.iter().any(|version| {
                self.may_return(version, durable, submitted)
                    && self.writes[version.write as usize].value == author
            });
            wrong += usize::from(!fits);
        }
        let whose = match author {
            Value::Zeroes => "it is zero".to_owned(),
            Value::Source => "it is the source's".to_owned(),
            Value::Tag(_) | Value::Unknown => match self.last_write_of(author, offset) {
                Some(told) => format!("it is that of {told}"),
                None => "no write to this offset has such a byte".to_owned(),
            },
        };
        format!(
            "at offset {offset} (sector {}, {} of it), in a segment {range:?}, the read that was \
             submitted at {submitted} and ends at {} found {}…, {wrong} wrong bytes or more: \
             {whose}.\n  may be: {}\n  not any more: {}\n  flushed up to {}, interrupted at {}",
            offset / 512,
            offset % 512,
            self.now,
            found.join(" "),
            may.join("; "),
            dead.join("; "),
            self.flushed,
            self.interrupted,
        )
    }

    /// Returns the last write of a value to an offset.
    fn last_write_of(&self, value: Value, offset: u64) -> Option<String> {
        let all = self.writes.iter().enumerate().rev();
        let mut of = all.filter(|(_, write)| write.value == value && write.range.contains(&offset));
        of.next().map(|(id, _)| self.told_write(id))
    }

    fn told(&self, version: &Version) -> String {
        let seen = match version.seen {
            NEVER => String::new(),
            seen => format!(", seen at {seen}"),
        };
        let dead = match version.dead {
            NEVER => String::new(),
            dead => format!(", replaced by {dead}"),
        };
        format!("{}{seen}{dead}", self.told_write(version.write as usize))
    }

    fn told_write(&self, id: usize) -> String {
        let write = &self.writes[id];
        let ended = match write.ended {
            NEVER => "under way".to_owned(),
            ended => format!("ended at {ended}"),
        };
        let partial = if write.force == Force::Partial { ", in part" } else { "" };
        let durable = if write.durable { ", durable" } else { "" };
        format!(
            "write {id} of user {} ({:?}, {:?}, submitted at {}, {ended}{partial}{durable})",
            write.by, write.value, write.range, write.submitted
        )
    }
}
