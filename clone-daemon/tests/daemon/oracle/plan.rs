//! What a seed decides: the clone, its source, who uses it, and what befalls it.

use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::wire::Style;

/// What a run is mainly about. Seeds take turns, so that few of them have all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// A file, and whatever comes.
    Plain,
    /// All reads take the long way.
    Record,
    /// Past the page cache, and users who write to the same blocks.
    Direct,
    /// A web server that fails and lies.
    Web,
    /// An NBD server that is slow.
    SlowNbd,
    /// An NBD server that fails now and then.
    FailingNbd,
    /// The destination is on a file system that is too small.
    SmallDisk,
    /// A file by FUSE.
    Fuse,
    /// The destination is cut off by somebody else.
    Truncated,
    /// Clients that take all the memory that is shared.
    Hogs,
    /// Regions that take minutes at the rate that is set.
    LargeRegions,
    /// The source does not answer any more, and the daemon is to end.
    Stalled,
    /// The clone is removed while it is suspended, resumed and slow.
    Removed,
    /// Users never rest, not even at the end.
    Busy,
    /// The disk has a cache, and the power goes.
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

/// Where the source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    File,
    /// Of a hundred requests so many get something else than they should.
    Web {
        trouble: u32,
    },
    /// Each read takes so long; of a hundred so many fail.
    Nbd {
        delay_ms: u64,
        trouble: u32,
    },
}

/// Where metadata and destination are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In memory, where there is such a file system.
    Memory,
    /// Where temporary files are.
    Disk,
    /// The destination is on a file system with so many bytes.
    Small(u64),
    /// On a disk that can lose power, and whose flushes take half of that to all of it.
    Volatile { flush_ms: u64 },
}

/// What befalls a clone and its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// kill -9, and the power goes if the disk can lose it.
    Kill,
    /// The next flush of the destination fails; some time later the daemon is killed.
    FailFlush,
    /// SIGTERM.
    Term,
    /// SIGSTOP, and SIGCONT after a while.
    Stop,
    /// Removed and created again.
    Remove,
    /// Removed by two at the same time.
    RemoveTwice,
    /// Another clone of the same source in its place.
    Renew,
    /// The source begins to fail, or ends to.
    Trouble,
}

/// Weights of the kinds of requests, as [`super::user`] names them.
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
    /// Bytes of the clone.
    pub(super) size: u64,
    pub(super) region: u64,
    /// Of its line in the clonetab.
    pub(super) options: Vec<String>,
    /// Of the daemon.
    pub(super) arguments: Vec<&'static str>,
    pub(super) origin: Origin,
    pub(super) place: Place,
    /// A connection each.
    pub(super) users: Vec<Style>,
    pub(super) fuse_users: u32,
    pub(super) hogs: u32,
    /// The most requests under way on a connection.
    pub(super) depth: usize,
    /// Most requests are not longer.
    pub(super) length_max: u64,
    /// Half of the requests begin there.
    pub(super) hot: Range<u64>,
    pub(super) mix: Mix,
    /// A discard of what is not hydrated reads as anything.
    pub(super) discards_are_unknown: bool,
    pub(super) suspends: bool,
    pub(super) messages: bool,
    pub(super) events: Vec<Event>,
    /// Nobody reads what the daemon has to say.
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
        // Not a whole number of regions, or of blocks; rather small, so that users meet.
        let size = (random.random_range(1..=6) << 20) + 512 * random.random_range(1..=63);
        let hot = random.random_range(0..size - 70_000);
        let styles = [Style::Simple, Style::Structured, Style::Structured, Style::Extended];
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
        // Each run leaves some kinds out, so that what they would hide comes to light.
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

    /// Past the page cache: that takes whole blocks of the file system.
    fn go_direct(&mut self) {
        self.set("direct");
        self.size -= self.size % 4096;
    }

    /// Puts `option` in the place of another one of that name.
    fn set(&mut self, option: &str) {
        let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
        self.options.retain(|old| name(old) != name(option));
        self.options.push(option.to_owned());
    }

    /// The page cache would be in the way of a disk that loses power, and so would direct I/O.
    fn without_direct(&mut self) {
        self.options.retain(|option| option != "direct");
    }

    /// A source that takes so long for each read. Regions are not so small that copying all of them
    /// takes minutes.
    fn slow_down(&mut self, delay_ms: u64) {
        self.origin = Origin::Nbd { delay_ms, trouble: 0 };
        self.region = self.region.max(64 << 10);
        let region = self.region;
        self.set(&format!("region-size={region}"));
    }

    /// Clients take all the memory that requests share.
    fn take_all_memory(&mut self) {
        // Each of them may have 64 MiB, and all together 256.
        self.hogs = 9;
        self.size = (33 << 20) + 4096;
        self.region = 1 << 20;
        self.set("region-size=1048576");
        self.set("hydrate_on_read=off");
        self.set("hydration_rate=4M");
        (self.suspends, self.messages) = (false, false);
        self.length_max = 500_000;
        self.users = vec![Style::Structured; 3];
        self.events.clear();
    }

    fn heed_theme(&mut self, random: &mut StdRng) {
        match self.theme {
            Theme::Plain => {}
            Theme::Record => self.set("record=record"),
            Theme::Direct => {
                self.go_direct();
                self.options.retain(|option| option != "record=record");
                // What else could go wrong is for others.
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
                // A file that is in use keeps its clone from being removed.
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
                // So long that whoever has heard of one asks for the next one before another ends,
                // on a busy machine too.
                self.place = Place::Volatile { flush_ms: 60 };
                self.without_direct();
                // It becomes complete at the end, while users write and flush.
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

    /// What its world adds to the time that anything may take: a copy of each region, one by one.
    pub(super) fn delay(&self) -> Duration {
        match self.origin {
            Origin::Nbd { delay_ms, .. } => {
                Duration::from_millis(delay_ms * self.size.div_ceil(self.region))
            }
            Origin::File | Origin::Web { .. } => Duration::ZERO,
        }
    }

    /// Whether requests that need the source may fail.
    pub(super) fn source_fails(&self) -> bool {
        matches!(self.origin, Origin::Web { trouble: 1.. } | Origin::Nbd { trouble: 1.., .. })
    }
}
