//! Progress bars on the terminal for long work.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clone_core::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::common::reporter::Reporter;

/// The time after which a bar appears. Shorter work shows none.
pub(crate) const PROGRESS_DELAY: Duration = Duration::from_millis(500);

/// A progress bar on stderr. It has no thread of its own: the calls that advance it draw it.
#[derive(Debug)]
pub struct Bar {
    /// `None` if the bar is hidden.
    started: Option<Instant>,
    label: &'static str,
    total: AtomicU64,
    done: AtomicU64,
    shown: OnceLock<ProgressBar>,
}

/// Does `work` with a bar called `label`, which is gone when this returns.
pub fn with_bar<T>(label: &'static str, quiet: bool, work: impl FnOnce(&Bar) -> T) -> T {
    let bar = Bar::new(label, quiet);
    let result = work(&bar);
    bar.finish();
    result
}

impl Reporter<'_> {
    /// Does `work` [with a bar](with_bar), which is hidden with `--quiet`.
    pub fn with_bar<T>(&self, label: &'static str, work: impl FnOnce(&Bar) -> T) -> T {
        with_bar(label, self.is_quiet(), work)
    }
}

impl Bar {
    /// Creates a bar. It is hidden if `quiet` is set or stderr is not a terminal.
    pub fn new(label: &'static str, quiet: bool) -> Self {
        let started = (!quiet && io::stderr().is_terminal()).then(Instant::now);
        Self {
            started,
            label,
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            shown: OnceLock::new(),
        }
    }

    /// Clears the bar, so that the next message starts on a line of its own.
    pub fn finish(self) {
        if let Some(bar) = self.shown.get() {
            bar.finish_and_clear();
        }
    }

    fn show(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %  {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.with_style(style).with_message(self.label)
    }
}

impl Progress for Bar {
    fn set_total(&self, blocks: u64) {
        self.total.store(blocks, Ordering::Relaxed);
    }

    fn advance(&self, blocks: u64) {
        let done = self.done.fetch_add(blocks, Ordering::Relaxed) + blocks;
        let total = self.total.load(Ordering::Relaxed);
        if total > 0 && self.started.is_some_and(|started| started.elapsed() >= PROGRESS_DELAY) {
            let bar = self.shown.get_or_init(|| self.show());
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

/// A reader that advances a bar by bytes.
#[derive(Debug)]
pub struct Watched<'a, R> {
    inner: R,
    bar: &'a Bar,
}

impl<'a> Watched<'a, File> {
    /// Wraps a file and uses its length as the total. The length of a pipe is unknown, so that its
    /// bar never appears.
    pub fn file(file: File, bar: &'a Bar) -> Self {
        if let Ok(metadata) = file.metadata() {
            bar.set_total(metadata.len());
        }
        Self { inner: file, bar }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.bar.advance(read as u64);
        Ok(read)
    }
}
