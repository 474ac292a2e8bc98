//! The plan of a run, derived from a seed: the clone, its source, its users and the events.

use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::wire::ReplyFormat;

/// The focus of a run. Seeds take turns, so that a few of them cover all themes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// A file source, and random events.
    Plain,
    /// Records reads, so that all of them bypass the fast path.
    Record,
    /// Direct I/O, and users who write to the same blocks.
    Direct,
    /// A web server that fails and sends wrong responses.
    Web,
    /// A slow NBD server.
    SlowNbd,
    /// An NBD server that fails now and then.
    FailingNbd,
    /// The file system of the destination is too small.
    SmallDisk,
    /// A file by FUSE.
    Fuse,
    /// Another program truncates the destination.
    Truncated,
    /// Clients that use up the shared memory.
    Hogs,
    /// Regions that take minutes to copy at the configured rate.
    LargeRegions,
    /// The source stops responding, and then the daemon must stop.
    Stalled,
    /// The clone is removed while it is suspended, resumed and slow.
    Removed,
    /// Users never pause, not even at the end.
    Busy,
    /// The disk has a volatile cache, and power is lost.
    PowerCut,
    /// A flush of the destination fails.
    FailedFlush,
}

const THEMES: [Theme; 18] = [
    Theme::Plain,
    Theme::Record,
    Theme::Direct,
    Theme::Web,
    Theme::Removed,
    Theme::SmallDisk,
    Theme::Truncated,
    Theme::Hogs,
    Theme::Fuse,
    Theme::SlowNbd,
    Theme::LargeRegions,
    Theme::Busy,
    Theme::Stalled,
    Theme::FailingNbd,
    Theme::PowerCut,
    Theme::Web,
    Theme::FailedFlush,
    Theme::PowerCut,
];

/// The kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    File,
    /// This percentage of requests gets a wrong response.
    Web {
        trouble: u32,
    },
    /// Each read takes this long; this percentage fails.
    Nbd {
        delay_ms: u64,
        trouble: u32,
    },
}

/// The location of metadata and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In memory, if there is such a file system.
    Memory,
    /// In the directory for temporary files.
    Disk,
    /// The destination is on a file system of this many bytes.
    Small(u64),
    /// On a disk that can lose power. A flush takes between half of this time and all of it.
    Volatile { flush_ms: u64 },
}

/// An event in the life of a clone and its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// kill -9, and loss of power if the disk supports it.
    Kill,
    /// The next flush of the destination fails; later the daemon is killed or stopped.
    FailFlush,
    /// SIGTERM.
    Term,
    /// SIGSTOP, and SIGCONT after a while.
    Stop,
    /// The clone is removed and created again.
    Remove,
    /// Two controllers remove the clone at the same time.
    RemoveTwice,
    /// The clone is replaced with a new clone of the same source.
    Renew,
    /// The source begins to fail, or stops failing.
    Trouble,
}

/// Weights of the request kinds; see [`super::user`] for their names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mix {
    pub(super) read: u32,
    pub(super) write: u32,
    pub(super) flush: u32,
    pub(super) trim: u32,
    pub(super) zeroes: u32,
    pub(super) cache: u32,
    pub(super) status: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) theme: Theme,
    /// Size of the clone in bytes.
    pub(super) size: u64,
    pub(super) region: u64,
    /// Options of its clonetab line.
    pub(super) options: Vec<String>,
    /// Arguments of the daemon.
    pub(super) arguments: Vec<&'static str>,
    pub(super) origin: Origin,
    pub(super) place: Place,
    /// One connection each.
    pub(super) users: Vec<ReplyFormat>,
    pub(super) fuse_users: u32,
    pub(super) hogs: u32,
    /// Maximum number of requests in flight on a connection.
    pub(super) depth: usize,
    /// Maximum length of most requests, in bytes.
    pub(super) length_max: u64,
    /// Range in which half of the requests begin.
    pub(super) hot: Range<u64>,
    pub(super) mix: Mix,
    /// True if a discarded region that is not hydrated may read as anything.
    pub(super) discards_are_unknown: bool,
    pub(super) suspends: bool,
    pub(super) messages: bool,
    pub(super) events: Vec<Event>,
    /// True if the log of the daemon cannot be written.
    pub(super) is_mute: bool,
    pub(super) duration_ms: u64,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let theme = THEMES[(seed % THEMES.len() as u64) as usize];
        let mut plan = Self::usual(seed, theme, &mut random);
        plan.heed_theme(&mut random);
        plan
    }

    fn usual(seed: u64, theme: Theme, random: &mut StdRng) -> Self {
        let region = 4096_u64 << random.random_range(0..=8);
        // Not a multiple of the region or block size; small, so that users overlap.
        let size = (random.random_range(1..=6) << 20) + 512 * random.random_range(1..=63);
        let hot = random.random_range(0..size - 70_000);
        let styles = [
            ReplyFormat::Simple,
            ReplyFormat::Structured,
            ReplyFormat::Structured,
            ReplyFormat::Extended,
        ];
        let mut events = vec![];
        for (event, chance) in [
            (Event::Kill, 0.4),
            (Event::Term, 0.4),
            (Event::Stop, 0.3),
            (Event::Remove, 0.3),
            (Event::Renew, 0.5),
        ] {
            if random.random_bool(chance) {
                events.push(event);
            }
        }
        // Each run omits some kinds, since they could hide errors of others.
        let mut weight = |most: u32| if random.random_bool(0.8) { most } else { 0 };
        let mix = Mix {
            read: 40,
            write: 30,
            flush: weight(4),
            trim: weight(8),
            zeroes: weight(8),
            cache: weight(3),
            status: weight(5),
        };
        let users = random.random_range(3..=5);
        let has_one_style = random.random_bool(0.4);
        let style = styles[random.random_range(0..4)];
        let mut style = || if has_one_style { style } else { styles[random.random_range(0..4)] };
        let users = (0..users).map(|_| style()).collect();
        let mut plan = Self {
            seed,
            theme,
            size,
            region,
            options: Vec::new(),
            arguments: Vec::new(),
            origin: Origin::File,
            place: if random.random_bool(0.7) { Place::Memory } else { Place::Disk },
            users,
            fuse_users: 0,
            hogs: 0,
            depth: 1 << random.random_range(0..=6),
            length_max: [2_000, 20_000, 120_000][random.random_range(0..3)],
            hot: hot..hot + 70_000,
            mix,
            discards_are_unknown: false,
            suspends: random.random_bool(0.6),
            messages: random.random_bool(0.6),
            events,
            is_mute: random.random_bool(0.05),
            duration_ms: random.random_range(1000..2500),
        };
        plan.tune(random);
        plan
    }

    fn tune(&mut self, random: &mut StdRng) {
        self.options.push(format!("region-size={}", self.region));
        let rates = ["64k", "512k", "4M", "0"];
        match random.random_range(0..6) {
            0 => self.options.push("no_hydration".into()),
            rate @ 1..5 => self.options.push(format!("hydration_rate={}", rates[rate - 1])),
            _ => {}
        }
        if random.random_bool(0.2) {
            let (threshold, batch) = (random.random_range(1..9), random.random_range(1..9));
            self.options.push(format!("hydration_threshold={threshold}"));
            self.options.push(format!("hydration_batch_size={batch}"));
        }
        if random.random_bool(0.4) {
            let switch = if random.random() { "on" } else { "off" };
            self.options.push(format!("hydrate_on_read={switch}"));
        }
        if random.random_bool(0.15) {
            self.options.push("no_discard_passdown".into());
        }
        if random.random_bool(0.1) {
            self.options.push("discard_zeroes=off".into());
            self.discards_are_unknown = true;
        }
        if random.random_bool(0.15) {
            self.options.push("record=record".into());
        }
        if random.random_bool(0.15) {
            self.go_direct();
        }
    }

    /// Uses direct I/O, which requires whole blocks of the file system.
    fn go_direct(&mut self) {
        self.set("direct");
        self.size -= self.size % 4096;
    }

    /// Sets an option, replacing an earlier one of the same name.
    fn set(&mut self, option: &str) {
        let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
        self.options.retain(|old| name(old) != name(option));
        self.options.push(option.to_owned());
    }

    /// Removes the option `direct`: on a disk that loses power, neither the page cache nor direct
    /// I/O may come between the daemon and the disk.
    fn without_direct(&mut self) {
        self.options.retain(|option| option != "direct");
    }

    /// Uses a source with this delay per read. Small regions are avoided, since copying all of them
    /// would take minutes.
    fn slow_down(&mut self, delay_ms: u64) {
        self.origin = Origin::Nbd { delay_ms, trouble: 0 };
        self.region = self.region.max(64 << 10);
        let region = self.region;
        self.set(&format!("region-size={region}"));
    }

    /// Lets clients use up the memory that requests share.
    fn take_all_memory(&mut self) {
        // Each may have 64 MiB, all together 256 MiB.
        self.hogs = 9;
        self.size = (33 << 20) + 4096;
        self.region = 1 << 20;
        self.set("region-size=1048576");
        self.set("hydrate_on_read=off");
        self.set("hydration_rate=4M");
        (self.suspends, self.messages) = (false, false);
        self.length_max = 500_000;
        self.users = vec![ReplyFormat::Structured; 3];
        self.events.clear();
    }

    fn heed_theme(&mut self, random: &mut StdRng) {
        match self.theme {
            Theme::Plain => {}
            Theme::Record => self.set("record=record"),
            Theme::Direct => {
                self.go_direct();
                self.options.retain(|option| option != "record=record");
                // Other themes cover the remaining failures.
                self.suspends = false;
                self.length_max = 6000;
                self.place = Place::Disk;
            }
            Theme::Web => {
                self.origin = Origin::Web { trouble: random.random_range(5..40) };
                self.arguments = vec!["--source-timeout", "1", "--source-give-up", "3"];
                self.events.push(Event::Trouble);
            }
            Theme::SlowNbd => self.slow_down(30),
            Theme::FailingNbd => {
                self.origin = Origin::Nbd { delay_ms: 1, trouble: random.random_range(5..60) };
                self.arguments = vec!["--source-timeout", "1", "--source-give-up", "1"];
                self.events.push(Event::Trouble);
            }
            Theme::SmallDisk => self.place = Place::Small(self.size * 2 / 3),
            Theme::Fuse => {
                self.fuse_users = 4;
                self.users.truncate(1);
                // A file that is open prevents the removal of its clone.
                self.events.retain(|event| !matches!(event, Event::Remove | Event::Renew));
            }
            Theme::Truncated => {
                self.set("no_hydration");
                self.set("hydrate_on_read=off");
                (self.suspends, self.messages) = (false, false);
                self.mix.cache = 0;
                self.events.clear();
            }
            Theme::Hogs => self.take_all_memory(),
            Theme::LargeRegions => {
                self.size = (70 << 20) + 4096;
                self.region = 32 << 20;
                self.set("region-size=33554432");
                self.set("hydration_rate=256k");
                self.messages = false;
                self.events.clear();
            }
            Theme::Stalled => {
                self.origin = Origin::Web { trouble: 0 };
                self.arguments = vec!["--source-give-up", "600"];
                self.set("hydration_rate=0");
                self.suspends = true;
                self.events.clear();
            }
            Theme::Removed => {
                self.slow_down(200);
                self.suspends = true;
                self.set("hydration_rate=0");
                self.events = vec![Event::Remove, Event::RemoveTwice, Event::Renew];
            }
            Theme::Busy => {
                // Flushes take so long that a user who got a reply sends the next flush before
                // another one ends, on a busy machine too.
                self.place = Place::Volatile { flush_ms: 60 };
                self.without_direct();
                // The clone becomes complete at the end, while users write and flush.
                self.set("no_hydration");
                self.depth = random.random_range(2..=8);
                self.events.clear();
                (self.suspends, self.messages) = (false, false);
            }
            Theme::PowerCut | Theme::FailedFlush => {
                let flush_ms = if random.random() { 0 } else { random.random_range(1..8) };
                self.place = Place::Volatile { flush_ms };
                self.without_direct();
                self.mix.flush = 8;
                self.events.push(Event::Kill);
                self.events.extend([Event::Kill; 2]);
                if self.theme == Theme::FailedFlush {
                    self.events = vec![Event::FailFlush];
                }
            }
        }
    }

    /// Returns the time that the source adds to any operation: one copy of each region, in
    /// sequence.
    pub(super) fn delay(&self) -> Duration {
        match self.origin {
            Origin::Nbd { delay_ms, .. } => {
                Duration::from_millis(delay_ms * self.size.div_ceil(self.region))
            }
            Origin::File | Origin::Web { .. } => Duration::ZERO,
        }
    }

    /// Returns whether requests that need the source may fail.
    pub(super) fn source_fails(&self) -> bool {
        matches!(self.origin, Origin::Web { trouble: 1.. } | Origin::Nbd { trouble: 1.., .. })
    }
}
